"""Check which plans, times and thread blocks are found on disk by the next compile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

from graphstreams.autotuning import cache_keys
from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.planning.list_schedule import plan_kernels
from tests.support.autotuner import DIAMOND, H200, US, Code, graph_of, make_autotuner, own_code, reading_of


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Code]:
    return own_code(tmp_path, monkeypatch)


PLAN = replace(plan_kernels(DIAMOND, US, 3, 0.5), priority=-2)
MEASURED = Measurement(20.0, 15.0, 15.5, tried=32, plans=((14.5, 15.0), (16.25, 18.5)))


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_nothing_is_kept_at_first(code: type[Code]) -> None:
    assert make_autotuner().load_cached() is None
    assert code.replayers == []


def test_a_plan_that_was_kept_is_found_by_the_next_compile(tmp_path: Path) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    assert cached(tmp_path)  # beside Inductor's own caches
    assert make_autotuner().load_cached() == (US, PLAN, replace(MEASURED, from_disk=True))


def test_an_earlier_plan_is_replaced() -> None:
    other = plan_kernels(DIAMOND, US, 1)
    make_autotuner().save(US, PLAN, MEASURED)
    make_autotuner().save([2.0, 4.0, 10.0, 2.0], other, replace(MEASURED, tried=1))
    assert make_autotuner().load_cached() == ([2.0, 4.0, 10.0, 2.0], other, replace(MEASURED, tried=1, from_disk=True))


@pytest.mark.parametrize("options", [{"streams": 2}, {"event_us": 0.5}, {"search": 8}, {"priority": -1}])
def test_under_other_options_for_the_search_there_is_none(options: dict[str, Any]) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner(**options).load_cached() is None


def test_strides_and_settings_of_inductor_and_of_products_make_another_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product with a weight in the other layout has the same kernel graph; another precision runs other kernels."""

    def reading(*strides: int) -> Reading:
        module = fx.GraphModule(torch.nn.Module(), fx.Graph())
        module.graph.placeholder("w").meta["val"] = torch.empty_strided((4, 4), strides, device="meta")
        module.graph.output(())
        return replace(reading_of(DIAMOND), module=module)

    def kept(*strides: int) -> bool:
        return Autotuner(reading(*strides), H200, Options(), {}).load_cached() is not None

    Autotuner(reading(4, 1), H200, Options(), {}).save(US, PLAN, MEASURED)
    assert (kept(4, 1), kept(1, 4)) == (True, False)
    with torch._inductor.config.patch(max_autotune_gemm_backends="TRITON"):
        assert not kept(4, 1)
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    try:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not before
        assert not kept(4, 1)
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before
    monkeypatch.setattr(cache_keys, "source_hash", lambda: b"another version of this package")
    assert not kept(4, 1)


@triton.jit
def _one(x):
    tl.store(x, 1)


@triton.jit
def _two(x):
    tl.store(x, 2)


def _tuned(kernel: Any, warps: int) -> Any:
    return triton.autotune(configs=[triton.Config({}, num_warps=warps)], key=[])(kernel)


def test_the_source_and_the_warps_of_a_users_kernel_make_another_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph has a number for the kernel, which another process may give to another one."""
    module = fx.GraphModule(torch.nn.Module(), fx.Graph())
    module.graph.call_function(torch.ops.higher_order.triton_kernel_wrapper_mutation, (), {"kernel_idx": 0})
    module.graph.output(())

    def key(kernel: Any) -> str:
        monkeypatch.setattr(kernel_side_table, "id_to_kernel", {0: kernel})
        return cache_keys.plan_key(replace(reading_of(DIAMOND), module=module), Options())

    assert len({key(kernel) for kernel in (_one, _two, _tuned(_one, 4), _tuned(_one, 8), _tuned(_two, 8))}) == 5
    assert key(_one) == key(_one)


def test_the_constants_of_a_users_kernel_make_another_graph_and_their_numbers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = {0: {"kind": tl.float32}, 1: {"kind": tl.float16}, 2: {"kind": tl.float32}}
    monkeypatch.setattr(kernel_side_table, "id_to_kernel", dict.fromkeys(range(3), _one))
    monkeypatch.setattr(kernel_side_table, "constant_args", constants)

    def key(number: int) -> str:
        module = fx.GraphModule(torch.nn.Module(), fx.Graph())
        given: dict[str, Any] = {"kernel_idx": number, "constant_args_idx": number}
        module.graph.call_function(torch.ops.higher_order.triton_kernel_wrapper_mutation, (), given)
        module.graph.output(())
        return cache_keys.plan_key(replace(reading_of(DIAMOND), module=module), Options())

    assert key(0) == key(2) != key(1)


@pytest.mark.parametrize("options", [{"min_gain": 0.5}, {"strict": True}, {"dump": "somewhere"}])
def test_options_that_do_not_concern_the_search_do_not_count(options: dict[str, Any]) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner(**options).load_cached() is not None


def test_for_another_device_there_is_none() -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner(device=DEVICES["b200"]).load_cached() is None


@pytest.mark.parametrize(
    "graph",
    [
        graph_of(4, [(0, 1), (0, 2), (1, 3)]),
        graph_of(5, [(0, 1), (0, 2), (1, 3), (2, 3)]),
        replace(DIAMOND, kernels=(replace(DIAMOND.kernels[0], flops=7), *DIAMOND.kernels[1:])),
        replace(DIAMOND, sizes={"s0": 4}),
    ],
    ids=["edges", "kernels", "work", "sizes"],
)
def test_for_another_graph_there_is_none(graph: KernelGraph) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner(graph).load_cached() is None


def test_the_same_graph_under_another_name_has_the_same_plan() -> None:
    """AOTAutograd calls the first graph of a process 0_inference and the next one, recompiled or not, 1_inference."""
    make_autotuner(replace(DIAMOND, name="0_inference")).save(US, replace(PLAN, name="0_inference"), MEASURED)
    kept = make_autotuner(replace(DIAMOND, name="1_inference")).load_cached()
    assert kept is not None and kept[1] == replace(PLAN, name="1_inference")


@pytest.mark.parametrize("content", ["", "{", "7", "[]", "{}", '{"plan": 3, "us": [], "measurement": {}}', "\0"])
def test_a_broken_file_is_none_and_is_replaced(content: str, tmp_path: Path) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    (file,) = cached(tmp_path)
    file.write_text(content)
    assert make_autotuner().load_cached() is None
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner().load_cached() is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tried": 32', '"found": 32'),  # fields of another version
        ('"tried": 32', '"tried": 32, "colour": "red"'),
        ('\\"streamed_us\\"', '\\"shadow_us\\"'),
        ('"us": [1.0', '"us": ["one"'),
        ('"us": [1.0', '"ms": [1.0'),
    ],
)
def test_a_file_of_another_version_is_none(old: str, new: str, tmp_path: Path) -> None:
    make_autotuner().save(US, PLAN, MEASURED)
    (file,) = cached(tmp_path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert make_autotuner().load_cached() is None


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, placements=PLAN.placements[:3]),  # a kernel is missing
        plan_kernels(graph_of(5), [1.0] * 5),  # one is unknown
        replace(PLAN, events=PLAN.events[1:]),  # the short side does not wait for its input
    ],
)
def test_a_plan_that_does_not_fit_the_graph_is_none(plan: Plan) -> None:
    make_autotuner().save(US, plan, MEASURED)
    assert make_autotuner().load_cached() is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "graphstreams").write_text("not a folder")
    make_autotuner().save(US, PLAN, MEASURED)
    assert make_autotuner().load_cached() is None
    assert make_autotuner().times() == [1.0, 2.0, 3.0, 4.0]


def test_times_are_measured_once_in_serial_order_and_then_known(code: type[Code]) -> None:
    order = [1, 0, 0, 3, 2]  # the serial code's, with two launches of k0
    for _ in range(2):
        assert Autotuner(reading_of(DIAMOND, order), H200, Options(), {}).times() == [1.0, 2.0, 3.0, 4.0]
    (replay,) = code.replayers
    assert replay.measured == [[1, 0, 3, 2]]


def test_kernels_known_from_another_graph_keep_their_times(code: type[Code]) -> None:
    code.keys_of = ["a", "b"]
    assert make_autotuner(graph_of(2)).times() == [1.0, 2.0]
    code.keys_of, code.us = ["x", "b", "y", "a"], {0: 70.0, 1: 80.0, 2: 90.0, 3: 100.0}
    assert make_autotuner().times() == [70.0, 2.0, 90.0, 1.0]
    code.keys_of = ["y", "x"]
    assert make_autotuner(graph_of(2)).times() == [90.0, 70.0]
    assert len(code.replayers) == 2


def test_where_all_kernels_are_known_nothing_is_compiled_or_run(code: type[Code]) -> None:
    make_autotuner().times()
    code.keys_of, code.error = ["d", "c", "a", "a"], RuntimeError("must not run")
    assert make_autotuner().times() == [4.0, 3.0, 1.0, 1.0]


def test_a_kernel_without_launches_takes_no_time_and_is_not_looked_up(code: type[Code]) -> None:
    code.keys_of = ["a", "", "c", "d"]
    assert Autotuner(reading_of(DIAMOND, [0, 2, 3]), H200, Options(), {}).times() == [1.0, 0.0, 3.0, 4.0]
    assert code.replayers[0].measured == [[0, 2, 3]]


def test_another_device_has_times_of_its_own(code: type[Code]) -> None:
    make_autotuner().times()
    code.us = {i: 50.0 for i in range(4)}
    assert make_autotuner(device=DEVICES["b200"]).times() == [50.0] * 4


def test_a_time_that_is_broken_on_disk_is_measured_again(code: type[Code], tmp_path: Path) -> None:
    make_autotuner().times()
    for file in cached(tmp_path):
        if file.read_text() == "3.0":
            file.write_text('"three"')
    code.us = {i: 50.0 for i in range(4)}
    assert make_autotuner().times() == [1.0, 2.0, 50.0, 4.0]


def test_what_cannot_be_replayed_raises(code: type[Code]) -> None:
    code.error = RuntimeError("planted")
    with pytest.raises(RuntimeError, match="planted"):
        make_autotuner().times()


def test_blocks_are_asked_for_once_and_then_known(code: type[Code]) -> None:
    expected = {0: [(1, 132), (7, 264)], 1: [(2, 132), (7, 264)], 2: [(3, 132), (7, 264)], 3: []}
    for _ in range(2):
        assert make_autotuner().blocks() == expected
    (replay,) = code.replayers
    assert replay.asked == [0, 1, 2, 3]
    code.keys_of = ["x", "a", "d", "c"]
    assert make_autotuner().blocks() == {0: expected[0], 1: expected[0], 2: [], 3: expected[2]}
    assert code.replayers[1].asked == [0]


def test_blocks_and_times_of_a_kernel_are_kept_apart() -> None:
    assert make_autotuner().blocks()[0] == [(1, 132), (7, 264)]
    assert make_autotuner().times()[0] == 1.0
    assert make_autotuner().blocks()[0] == [(1, 132), (7, 264)]


def test_a_kernel_without_launches_has_no_blocks(code: type[Code]) -> None:
    code.keys_of = ["a", "", "c", "d"]
    assert make_autotuner().blocks()[1] == []
    assert code.replayers[0].asked == [0, 2, 3]
