"""Check which of the user's settings are off on streams, which keep a graph serial, and what streams have to beat then."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

from graphstreams import backend
from graphstreams.inductor import fakes
from graphstreams.inductor.scheduler_nodes import most_saved_us
from graphstreams.inductor.settings import FIXED, settings_off, stream_settings, unusable_setting
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.pipeline import run, streamed_body
from graphstreams.pipeline.compilation import GraphCompilation, Progress
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.select_plan import gain_too_small
from graphstreams.reports.report import Report
from graphstreams.verification.wrapper.read import verify
from tests.support.autotune_choices import LongSums, choose
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs

UNUSABLE: list[tuple[str, Any]] = [
    ("nan_asserts", True),
    ("generate_intermediate_hooks", True),
    ("profile_bandwidth", True),
    ("triton.proton_profiling", True),
    ("triton.debug_sync_graph", True),
    ("triton.debug_sync_kernel", True),
    ("triton.debug_dump_kernel_inputs", {"a kernel's hash": 1}),
    ("triton.store_cubin", True),
    ("aot_inductor.debug_intermediate_value_printer", "2"),
    ("test_configs.track_memory_lifecycle", "log"),
    ("annotate_training", True),
    ("benchmark_kernel", True),
    ("fallback_by_default", True),
    ("selective_decompose", True),
    ("cpp_wrapper", True),
    ("fx_wrapper", True),
    ("cuda_backend", "halide"),
]
OFF: list[tuple[str, Any]] = [
    ("combo_kernels", True),
    ("memory_planning", True),
    ("max_autotune", True),
    ("max_autotune_gemm", True),
    ("benchmark_fusion", True),
    ("triton.multi_kernel", 1),
    ("multi_kernel_hints", [64]),
    ("incremental_autotune", True),
    ("triton.autotune_at_compile_time", True),
    ("profiler_mark_wrapper_call", True),
]


def planned(sample: str, settings: dict[str, Any], **options: Any) -> GraphCompilation:
    with config.patch(settings):
        (outcome,) = capture(*module_and_inputs(sample), "h200", {**FREE_EVENTS, **options})
    return outcome


def test_without_a_setting_nothing_is_off_and_nothing_keeps_a_graph_serial() -> None:
    assert (settings_off(), unusable_setting()) == ({}, "")


@pytest.mark.parametrize(("name", "value"), UNUSABLE)
def test_a_setting_that_streams_cannot_do_is_named(name: str, value: Any) -> None:
    with config.patch({name: value}):
        assert f"setting {name} is" in unusable_setting()


@pytest.mark.parametrize(("name", "value"), OFF)
def test_a_setting_that_is_off_on_streams_is_off_and_named(name: str, value: Any) -> None:
    with config.patch({name: value}):
        assert settings_off() == {name: value}
        with config.patch(stream_settings()):
            assert settings_off() == {}


def test_the_settings_of_streams_are_names_that_this_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(config._config, "incremental_autotune")
    assert "incremental_autotune" not in stream_settings()
    assert stream_settings().keys() >= FIXED.keys()


@pytest.mark.parametrize(("name", "value"), [("nan_asserts", True), ("cpp_wrapper", True), ("annotate_training", True)])
def test_with_such_a_setting_a_graph_stays_serial(name: str, value: Any) -> None:
    report = planned("three_arms", {name: value}).report
    assert (report.verdict, report.stage) == ("serial", "read")
    assert name in report.reason


def test_the_backend_names_the_setting_too() -> None:
    """Its wrapper class is never asked for if C++ is generated, so the pass has to say it."""
    module = captured("three_arms").reading
    assert module is not None
    with config.patch(cpp_wrapper=True):
        assert "cpp_wrapper" in backend._why_not(module.module, is_inference=True)


@pytest.mark.parametrize("name", ["memory_planning", "profiler_mark_wrapper_call"])
def test_the_serial_body_keeps_a_setting_that_is_off_on_streams(name: str) -> None:
    text = {"memory_planning": "alloc_from_pool", "profiler_mark_wrapper_call": "record_function"}[name]
    outcome = planned("norms", {name: True})
    assert outcome.report.verdict == "clean", outcome.report.reason
    streamed, serial = outcome.report.wrapper.split("def call_on_streams(")[1].split("return (", 1)
    assert text in serial and text not in streamed
    assert f"off on streams, on in the serial code: {name}=True" in outcome.report.notes


def test_kernels_without_unique_names_are_told_apart_by_their_variables() -> None:
    report = planned("norms", {"triton.unique_kernel_names": False}).report
    assert (report.verdict, report.own_kernels) == ("clean", captured("norms").report.own_kernels), report.reason


def test_tables_of_metrics_are_not_made_for_copies_of_a_graph() -> None:
    """The table of kernels fails for every kernel without size hints of a certain form (2.15.0)."""
    assert planned("norms", {"enabled_metric_tables": "kernel_metadata"}).report.verdict == "clean"


@pytest.mark.parametrize("name", ["max_autotune", "max_autotune_gemm", "benchmark_fusion", "freezing"])
def test_offline_nothing_is_run_and_the_report_says_so(name: str) -> None:
    report = planned("three_arms", {name: True}).report
    assert report.verdict == "clean", report.reason
    assert any(name in note and "nothing can be run" in note for note in report.notes)


class Sums(nn.Module):
    """Five sums over rows that nothing connects: combo kernels make one launch of them."""

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [x.sum(-1) for x in inputs]


def sums(settings: dict[str, Any], **options: Any) -> Report:
    rows = [torch.empty(128 + 64 * i, 8192) for i in range(5)]
    with config.patch(settings):
        (outcome,) = capture(Sums(), rows, "h200", {**FREE_EVENTS, **options})
    return outcome.report


def test_combo_kernels_are_what_a_predicted_plan_has_to_beat() -> None:
    """What one launch of all five takes can't be more than what streams take: both run them side by side."""
    alone, joined = sums({}), sums({"combo_kernels": True})
    assert (alone.verdict, alone.kernels_serial) == ("clean", 5), alone.reason
    assert joined.verdict == "serial" and joined.kernels_serial < 5
    assert "serial's combo kernels may save" in joined.reason


def plan_by_hand(serial_us: float, streamed_us: float) -> Plan:
    return Plan("by hand", 2, (), (), serial_us, streamed_us, streamed_us, streamed_us, ())


def refused(plan: Plan, lost: int, joined_us: float) -> bool:
    return bool(gain_too_small(plan, None, Options(), DEVICES["h200"], lost, joined_us))


def test_what_serial_saves_by_joining_is_taken_from_the_gain() -> None:
    # Kernels of 5, 4 and 3 us in one launch, two of 2 us in another: all but the longest of each, 7 and 2 us, may be saved.
    assert most_saved_us([{0, 1, 2}, {3, 4}], [5.0, 4.0, 3.0, 2.0, 2.0, 9.0]) == 9.0
    assert most_saved_us([], [5.0]) == 0.0
    plan = plan_by_hand(40.0, 30.0)
    assert not refused(plan, 0, 0.0) and not refused(plan, 0, 9.0)  # 30 of 31 us: 3 % are left
    assert refused(plan, 0, 9.5)  # 30 of 30.5 us: less than 2 %
    assert refused(plan, 0, 40.0)
    launch = DEVICES["h200"].launch_us
    assert refused(plan, int(8.0 / launch) + 1, 2.0)


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "triton_mm")


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "decompose_k")


def measured(monkeypatch: pytest.MonkeyPatch, inductor_us: float) -> None:
    """Let the streamed code be measured to take 30 us, and the serial code `inductor_us`."""
    compare = run._compare

    def with_measurement(progress: Progress, *args: Any) -> None:
        progress.tell(measurement=Measurement(40.0, 30.0, compiled_us=30.0, inductor_us=inductor_us))
        compare(progress, *args)

    monkeypatch.setattr(run, "_compare", with_measurement)


def long_sums(settings: dict[str, Any] | None = None) -> Report:
    with config.patch(settings or {}):
        (outcome,) = capture(LongSums(), (torch.empty(32, 16384, dtype=torch.bfloat16),), "h200", FREE_EVENTS)
    return outcome.report


@pytest.mark.usefixtures("split")
def test_a_serial_body_of_products_split_along_k_is_proved_but_not_judged_by_modelled_times() -> None:
    report = long_sums()
    streamed, serial = report.wrapper.split("def call_on_streams(")[1].split("return (", 1)
    assert "extern_kernels.mm(" in streamed and "decompose_k" not in streamed
    assert len(re.findall(r"\(buf\d+,\) = decompose_k_mm_\w+\(decompose_k_mm_\w+_args\)", serial)) == 2
    assert verify(report.wrapper) == [] and report.races == () and report.order_kept
    assert report.verdict == "serial"
    assert "a split along K (decompose_k) for 2 of the serial code's products" in report.reason
    assert "nothing was measured" in report.reason
    assert any("max_autotune_gemm=True; bits may differ" in note for note in report.notes)


@pytest.mark.usefixtures("split")
def test_each_launch_of_a_split_product_counts() -> None:
    """Two of each, one of which adds the parts up, and what follows each: on streams that is one product, and the same."""
    report = long_sums()
    assert (report.kernels_serial, report.kernels_streamed) == (6, 4)
    assert sum("extern_kernels.mm" in each and "its bits may differ" in each for each in report.differences) == 2
    gone = [each for each in report.differences if "is launched by the serial code and not on streams" in each]
    assert [each.split()[0] for each in gone] == ["extern_kernels.bmm_dtype", "triton_poi_fused_mm_t_0"] * 2
    assert len(report.differences) == 6


@pytest.mark.usefixtures("split")
def test_streams_beside_split_products_run_where_they_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 36.0)
    report = long_sums()
    assert report.verdict == "clean", report.reason
    assert "decompose_k" in report.wrapper and "call_on_streams" in report.wrapper


@pytest.mark.usefixtures("split")
def test_split_products_run_where_they_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 29.0)
    report = long_sums()
    assert report.verdict == "serial" and "generated code's measured gain is -3.4%" in report.reason, report.reason


@pytest.mark.usefixtures("split")
def test_the_serial_body_of_split_products_is_inductors(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 36.0)
    seen: list[str] = []
    find_host = streamed_body.find_host
    monkeypatch.setattr(streamed_body, "find_host", lambda source: seen.append(source) or find_host(source))
    for settings, host in (({}, "call"), ({"triton.cudagraphs": True}, "partition_0")):
        report = long_sums(settings)
        assert report.verdict == "clean", report.reason
        before, after = functions(seen[-1]), functions(report.wrapper)
        assert sum(name.startswith("decompose_k") for name in before) == 2
        changed = {name for name, text in after.items() if before.get(name) != text}
        assert changed == {"call_on_streams", host}


@pytest.mark.usefixtures("split")
def test_products_of_a_dynamic_size_are_split_along_k_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a size is bounded, Inductor may split: its function is then given the size by its name."""
    measured(monkeypatch, 36.0)
    on_gpu = fakes.dense_fake

    def bounded(value: Tensor, *others: Any) -> Tensor:
        made = on_gpu(value, *others)
        if not isinstance(value, torch.nn.Parameter):
            torch._dynamo.mark_dynamic(made, 0, min=2, max=64)
        return made

    monkeypatch.setattr(fakes, "dense_fake", bounded)
    report = long_sums()
    assert report.verdict == "clean", report.reason
    assert re.search(r"decompose_k_\w+_args = \[s\d+, ", report.wrapper)


@pytest.mark.usefixtures("split")
def test_kernels_are_not_read_from_code_with_a_subgraph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of streams choose none; without them there would be kernels that can't be placed one by one."""
    monkeypatch.setattr(run, "stream_settings", dict)
    report = long_sums()
    assert (report.verdict, report.stage) == ("serial", "read")
    assert "Inductor runs a graph of several kernels for" in report.reason and "mm" in report.reason


@pytest.mark.usefixtures("templates")
def test_a_serial_body_of_templates_is_proved_but_not_judged_by_modelled_times() -> None:
    report = planned("diamond", {}).report
    assert "triton_tem_fused" in report.wrapper.split("def call(")[1]
    assert "call_on_streams" in report.wrapper and verify(report.wrapper) == [] and report.races == ()
    assert report.verdict == "serial" and "max-autotune chose templates for" in report.reason
    assert any("bits may differ between calls that run streams and calls that don't" in note for note in report.notes)


@pytest.mark.usefixtures("templates")
def test_streams_beside_templates_run_where_they_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 36.0)
    report = planned("diamond", {}).report
    assert report.verdict == "clean", report.reason
    assert "extern_kernels.mm" in report.wrapper and "triton_tem_fused" in report.wrapper


@torch.library.custom_op("graphstreams_tests::not_in_graphs", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def not_in_graphs(x: Tensor) -> Tensor:
    return x.clone()


@not_in_graphs.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Cut(nn.Module):
    """Two products in front of something in the middle, and two behind it."""

    def __init__(self, middle: Any) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        self.middle = middle

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        a, b, c, d = self.linears
        middle = self.middle(a(x) + b(x), *more)
        return c(middle), d(middle)


def under_cudagraphs(module: nn.Module, *more: Tensor, dynamic: bool | None = None, **options: Any) -> Report:
    with config.patch({"triton.cudagraphs": True}):
        (outcome,) = capture(module, (torch.empty(40, 64), *more), "h200", {**FREE_EVENTS, **options}, dynamic)
    return outcome.report


def test_a_graph_that_inductor_cuts_stays_serial_and_the_operator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    find_host = streamed_body.find_host
    monkeypatch.setattr(streamed_body, "find_host", lambda source: seen.append(source) or find_host(source))
    report = under_cudagraphs(Cut(lambda x, *_: not_in_graphs(x)))
    assert report.verdict == "serial" and "2 CUDA graphs" in report.reason and "not_in_graphs" in report.reason
    told = backend._with_verdict(seen[0], report)[0]
    assert functions(told) == functions(seen[0]) and "partition_1" in functions(told)


def functions(source: str) -> dict[str, str]:
    """Return the text of each function of a wrapper, methods too."""
    return {node.name: ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}


def _rows(x: Tensor, *_: Tensor) -> Tensor:
    return x + x[(x[:, 0] > 0).nonzero().squeeze(1)].sum(0)


def test_a_size_that_depends_on_data_is_named() -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        report = under_cudagraphs(Cut(_rows))
    assert report.verdict == "serial" and "'nonzero' (aten.nonzero.default in " in report.reason


def test_a_number_on_the_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of one number that stays on the CPU: it is copied to the GPU, which no CUDA graph holds."""
    on_gpu = fakes.dense_fake
    monkeypatch.setattr(fakes, "dense_fake", lambda v, mode, known: on_gpu(v, mode, known) if v.dim() else mode.from_tensor(v))
    report = under_cudagraphs(Cut(lambda x, scale: x * scale), torch.tensor(2.0))
    assert report.verdict == "serial" and "it also computes on 'cpu' (" in report.reason and "device_put" in report.reason


def test_a_graph_without_a_cut_is_streamed_inside_its_one_partition() -> None:
    report = under_cudagraphs(Cut(lambda x: torch.relu(x)))
    assert report.verdict == "clean", report.reason
    assert "if _runs_on_streams(args, False):" in report.wrapper.split("def partition_0(args):")[1]


@pytest.mark.parametrize("end", ["slice", "size"])
def test_under_cudagraphs_a_size_that_no_kernel_needs_is_the_callers(end: str) -> None:
    """As in a decoder that keeps the length of its cache as a number: kernels do not take it, and the graph returns of it."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: Tensor, cache: Tensor, length: int) -> Any:
            return self.a(x), self.b(x).relu(), x[:, :length] if end == "slice" else 2 * cache.shape[0]

    with config.patch({"triton.cudagraphs": True}):
        (outcome,) = capture(Sized(), (torch.empty(4, 64), torch.empty(5), 7), "h200", FREE_EVENTS, dynamic=True)
    assert outcome.report.verdict == "clean", outcome.report.reason


def test_under_cudagraphs_the_size_is_read_from_the_partitions_own_arguments() -> None:
    """The graph's arguments are the parameters, the size and the rows in another order than the partition's."""
    report = under_cudagraphs(Cut(lambda x: torch.relu(x)), dynamic=True, max_tokens=100)
    assert report.verdict == "clean", report.reason
    partition = functions(report.wrapper)["partition_0"]
    place = re.search(r"_runs_on_streams\(args, False, '(.*?)'", partition)
    assert place is not None, partition[:500]
    (unpacked,) = re.findall(r"^    (.*), = args$|^    (.*) = args$", partition, re.MULTILINE)
    names = max(unpacked).split(", ")
    sized = names[int(re.findall(r"inputs\[(\d+)\]", place[1])[0])]
    assert sized == "s77" or ".shape[0]" in place[1], (names, place[1])
