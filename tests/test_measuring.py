"""From a reading to kernels that can be measured, for a GPU that is not here: their code, their keys, and what is refused."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import sympy
import torch
from sample_modules import FREE_EVENTS, captured, lowered_serially, module_and_inputs, reading_of, serial_code
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.autotuning import serial_code as serial_code_module
from graphstreams.autotuning.benchmark_worker import REDUCTIONS, precisions, set_precisions
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.autotuning.synthetic_inputs import Layout, described, made
from graphstreams.errors import Unmeasurable
from graphstreams.ir.kernels import Access, Kernel, KernelGraph
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from graphstreams.reading.dependences import Touched, dependences

MIB = 2**20


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))


def check_memory(reading: Reading, sizes: Mapping[str, int] | None = None) -> None:
    serial_code_module._check_memory(reading, sizes or {})


def reading_of_function(function: Any, *inputs: Any, dynamic: bool | None = None) -> Reading:
    """How the graph of a module with the samples' projections is read."""
    module = type(module_and_inputs("diamond")[0])(function)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS, dynamic)
    assert outcome.reading is not None, outcome.report.reason
    return outcome.reading


def keys_of(reading: Reading) -> dict[str, str]:
    """The key of each kernel by its short name."""
    names = (kernel.name.rpartition(".")[2] for kernel in reading.kernels.kernels)
    return dict(zip(names, serial_code(reading).keys(), strict=True))


# --- the code


@functools.cache
def code_of(sample: str) -> CompiledSerialGraph:
    return serial_code(reading_of(sample))


@pytest.mark.parametrize("sample", ["diamond", "topk", "concatenation", "write_after_read", "two_writes"])
def test_each_line_launches_the_kernel_that_stands_in_the_order(sample: str) -> None:
    reading, code = reading_of(sample), code_of(sample)
    assert code.lines == sorted(set(code.lines))
    text, placed = code.lowered.source.splitlines(), []
    for line, kernel in zip(code.lines, reading.order, strict=True):
        call = ast.parse(text[line - 1].strip()).body[0].value  # type: ignore[attr-defined]
        name = re.sub(r"(_\d+)?(\.run)?$", "", ast.unparse(call.func)).replace("triton_per_", "triton_red_")
        assert name in reading.kernels.kernels[kernel].launches
        placed.append(kernel)
    assert {k: placed.count(k) for k in placed} == {k.id: len(k.launches) for k in reading.kernels.kernels}


def test_nothing_in_the_code_depends_on_the_order_of_the_kernels() -> None:
    """Inductor's own code for this graph works in place, and gives a kernel the buffer of an earlier one."""

    def chain(m: Any, x: Tensor) -> Any:
        return (m.wb(x).relu() @ x.t()).sin() @ x, m.wc(x)

    reading = reading_of_function(chain, torch.empty(64, 64))
    own = lowered_serially(reading.module).source
    assert "in_out_ptr" in own and "# reuse" in own
    source = serial_code(reading).lowered.source
    assert "in_out_ptr" not in source and "# reuse" not in source


def test_a_kernel_of_two_launches_has_the_keys_of_both() -> None:
    keys = keys_of(reading_of("split_reduction"))
    assert "extern_kernels.mm" in keys["wa"]
    assert keys["sum"].count(".run(") == 2


def test_equal_kernels_of_one_graph_have_one_key() -> None:
    keys = keys_of(reading_of("three_arms"))
    assert keys.keys() == {"wa", "wb", "wc"}
    assert len(set(keys.values())) == 1


def test_equal_kernels_of_two_graphs_have_equal_keys() -> None:
    """In the second graph they are other kernels, with other numbers, names and buffers in front of them."""

    def alone(m: Any, x: Tensor, y: Tensor) -> Any:
        return m.wa(x), y.softmax(-1)

    def behind(m: Any, y: Tensor, x: Tensor) -> Any:
        return y.sin().sum(0), m.wb(x), m.wc(x.sigmoid()), y.softmax(-1)

    x, y = torch.empty(4, 64), torch.empty(5, 32)
    one, other = keys_of(reading_of_function(alone, x, y)), keys_of(reading_of_function(behind, y, x))
    assert one["wa"] == other["wb"]
    (first,) = (key for name, key in one.items() if name != "wa")
    assert first in other.values()


@pytest.mark.parametrize(
    "x",
    [torch.empty(8, 64), torch.empty(64, 4).t(), torch.empty(4, 64, dtype=torch.float64)],
    ids=["shape", "strides", "dtype"],
)
def test_kernels_of_other_inputs_have_other_keys(x: Tensor) -> None:
    def both(m: Any, x: Tensor) -> Any:
        return m.wa(x.sin().float()), torch.topk(x, 2)

    one, other = (set(keys_of(reading_of_function(both, value)).values()) for value in (torch.empty(4, 64), x))
    assert len(one) == 3
    # The matrix product of a copy in float32 is the same one.
    assert len(one & other) == (1 if x.dtype == torch.float64 else 0)


def test_kernels_of_a_dynamic_graph_have_the_keys_of_its_example() -> None:
    def rows(m: Any, x: Tensor) -> Any:
        return m.wa(x).relu(), x.sum(0)

    keys = [keys_of(reading_of_function(rows, torch.empty(n, 64), dynamic=True)) for n in (40, 40, 24)]
    assert keys[0] == keys[1]
    assert all(key != keys[2][name] for name, key in keys[0].items())


def test_every_kernel_that_launches_has_a_key() -> None:
    for sample in ("diamond", "split_reduction", "two_writes", "write_after_read"):
        assert all(code_of(sample).keys())
        assert len(code_of(sample).keys()) == len(reading_of(sample).kernels.kernels)


def test_code_with_other_launches_than_were_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of("diamond")
    monkeypatch.setattr(Reading, "launches", property(lambda self: 9))
    with pytest.raises(Unmeasurable, match="5 launches where 9 were read"):
        serial_code(reading)


# --- what can be repeated


def test_a_graph_of_pure_kernels_can_be_repeated() -> None:
    for sample in ("diamond", "topk", "concatenation", "casts"):
        serial_code_module._check_repeatable(reading_of(sample))


@pytest.mark.parametrize("sample", ["write_after_read", "two_writes", "buffer_write"])
def test_a_write_of_computed_rows_into_a_cache_can_be_repeated(sample: str) -> None:
    serial_code_module._check_repeatable(reading_of(sample))


@pytest.mark.parametrize("sample", ["custom_mutation", "custom_function"])
def test_an_exclusive_kernel_cannot_be_repeated(sample: str) -> None:
    (exclusive,) = (kernel for kernel in captured(sample).reading.kernels.kernels if kernel.exclusive)
    with pytest.raises(Unmeasurable, match=rf"what '{exclusive.name}' does when it is repeated is not known"):
        serial_code_module._check_repeatable(reading_of(sample))


def test_an_input_that_is_counted_up_cannot_be_repeated() -> None:
    def count(m: Any, x: Tensor, position: Tensor) -> Any:
        position.add_(1)
        return m.wa(x), m.wb(x)

    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        serial_code_module._check_repeatable(reading_of_function(count, torch.empty(4, 64), torch.zeros(4, dtype=torch.int64)))


def test_nor_one_that_is_updated_through_an_intermediate_buffer() -> None:
    def updated(m: Any, x: Tensor, state: Tensor) -> Any:
        state.copy_(m.wa(state))
        return m.wb(x)

    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        serial_code_module._check_repeatable(reading_of_function(updated, torch.empty(4, 64), torch.empty(4, 64)))


def test_nor_two_that_are_updated_from_each_other() -> None:
    """Repeated twice, each is counted up."""

    def turns(m: Any, x: Tensor, first: Tensor, second: Tensor) -> Any:
        projected = m.wa(first)
        first.copy_(m.wb(second))
        second.copy_(projected)
        return m.wc(x)

    inputs = torch.empty(4, 64), torch.empty(4, 64), torch.empty(4, 64)
    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        serial_code_module._check_repeatable(reading_of_function(turns, *inputs))


def test_inputs_that_follow_from_each_other_in_one_direction_can_be_repeated() -> None:
    """A cache is filled from a state, and the state from the input."""

    def forwards(m: Any, x: Tensor, state: Tensor, cache: Tensor) -> Any:
        cache[:4] = m.wa(state)
        state.copy_(m.wb(x))
        return m.wc(cache)

    serial_code_module._check_repeatable(
        reading_of_function(forwards, torch.empty(4, 64), torch.empty(4, 64), torch.empty(8, 64))
    )


def test_nothing_is_repeated_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(Unmeasurable, match="a CUDA graph is being captured"):
        serial_code_module._check_repeatable(reading_of("diamond"))


# --- readings made by hand: kernels of storages, sizes in bytes


def kernel(name: str, reads: dict[str, int], writes: dict[str, int]) -> Kernel:
    read, written = (tuple(Access(s, sympy.Integer(b)) for s, b in part.items()) for part in (reads, writes))
    return Kernel(0, name, "pointwise", reads=read, writes=written)


def by_hand(inputs: dict[str, Any], kernels: Sequence[Kernel], sizes: dict[str, int] | None = None) -> Reading:
    """A reading with these inputs, by the storages that kernels name, and the dependences that follow from the storages."""
    graph = fx.Graph()
    storages = {}
    for name, value in inputs.items():
        node = graph.placeholder(name)
        node.meta["val"] = value
        storages[node] = name
    graph.output(())
    numbered = tuple(Kernel(**{**vars(k), "id": i}) for i, k in enumerate(kernels))
    touched = [Touched(tuple(a.storage for a in k.reads), tuple(a.storage for a in k.writes)) for k in numbered]
    kernel_graph = KernelGraph("by hand", numbered, dependences(touched), sizes or {})
    order = tuple(range(len(kernels)))
    return Reading(fx.GraphModule(torch.nn.Module(), graph), kernel_graph, (), (), (), order, 0, storages)


def tensor(size: int) -> Tensor:
    """Of that many bytes, without memory."""
    return torch.empty(size, dtype=torch.int8, device="meta")


@pytest.mark.parametrize(
    ("kernels", "repeatable"),
    [
        ([kernel("k", {"x": 8}, {"a": 8})], True),
        ([kernel("k", {"x": 8, "a": 0}, {"a": 8})], True),  # it names what it overwrites, and reads none of it
        ([kernel("k", {"a": 8}, {"a": 8})], False),
        ([kernel("j", {"a": 8}, {"t": 8}), kernel("k", {"t": 8}, {"a": 8})], False),
        ([kernel("j", {"a": 8}, {"t": 8}), kernel("j", {"t": 8}, {"u": 8}), kernel("k", {"u": 8}, {"a": 8})], False),
        ([kernel("j", {"a": 8}, {"t": 8}), kernel("k", {"x": 8}, {"a": 8})], True),  # read, then written with something else
        ([kernel("j", {"x": 8}, {"a": 8}), kernel("k", {"a": 8}, {"b": 8})], True),
        ([kernel("j", {"b": 8}, {"a": 8}), kernel("k", {"a": 8}, {"b": 8})], False),
        ([kernel("j", {"b": 8}, {"a": 8}), kernel("k", {"c": 8}, {"b": 8}), kernel("k", {"a": 8}, {"c": 8})], False),
        ([kernel("j", {"t": 8}, {"t": 8})], True),  # no input
    ],
)
def test_what_can_be_repeated_by_hand(kernels: list[Kernel], repeatable: bool) -> None:
    reading = by_hand({name: tensor(8) for name in "xabc"}, kernels)
    if repeatable:
        serial_code_module._check_repeatable(reading)
        return
    with pytest.raises(Unmeasurable, match="from its own value"):
        serial_code_module._check_repeatable(reading)


@pytest.mark.parametrize(
    ("kernels", "needed"),
    [
        ([kernel("k", {"x": 64 * MIB}, {"t": 3 * MIB})], 3 * MIB),  # what is only read is there anyway
        ([kernel("j", {}, {"t": 3 * MIB}), kernel("k", {}, {"u": 2 * MIB})], 5 * MIB),  # all at once
        ([kernel("j", {}, {"t": 3 * MIB}), kernel("k", {}, {"t": 1 * MIB})], 3 * MIB),  # one buffer, written twice
        ([kernel("k", {}, {"x": 1024})], 64 * MIB),  # a copy of the whole input that is changed
    ],
)
def test_all_buffers_and_copies_have_to_fit_into_a_quarter_of_the_free_memory(
    kernels: list[Kernel], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = by_hand({"x": tensor(64 * MIB)}, kernels)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * needed, 10**12))
    check_memory(reading)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * needed - 8, 10**12))
    with pytest.raises(Unmeasurable, match=f"its buffers take {needed // MIB} MiB, more than 25% of the free memory"):
        check_memory(reading)


@pytest.mark.parametrize("assumptions", [{}, {"integer": True, "positive": True}], ids=["plain", "as Inductor has them"])
def test_dynamic_buffers_count_at_their_example_sizes(assumptions: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    size = Access("t", MIB * sympy.Symbol("s0", **assumptions))
    reading = by_hand({}, [Kernel(0, "k", "pointwise", writes=(size,))], {"s0": 7, "s1": 3})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (28 * MIB - 8, 10**12))
    with pytest.raises(Unmeasurable, match="its buffers take 7 MiB"):
        check_memory(reading)
    check_memory(reading, {"s0": 6})
    with pytest.raises(Unmeasurable, match="its buffers take 8 MiB"):
        check_memory(reading, {"s0": 8})


def test_the_buffers_of_a_real_graph_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the diamond: five results of 4 x 64 floats."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 5 * 4 * 64 * 4, 10**12))
    check_memory(reading_of("diamond"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 5 * 4 * 64 * 4 - 8, 10**12))
    with pytest.raises(Unmeasurable, match="its buffers take 0 MiB"):
        check_memory(reading_of("diamond"))


def test_the_buffers_of_a_real_dynamic_graph_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `sized`: two results of 40 x 64 floats, the rectified one of the first, and a sum of 64."""
    needed = (3 * 40 * 64 + 64) * 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * needed, 10**12))
    reading = captured("sized", dynamic=True).reading
    assert reading is not None and reading.kernels.sizes
    check_memory(reading)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * needed - 8, 10**12))
    with pytest.raises(Unmeasurable):
        check_memory(reading)


# --- arguments


def arguments(values: dict[int, Any], written: str = "") -> list[Any]:
    """What the code is called with for inputs x (2 x 3 floats), rows (two indices) and n, of which `written` is changed."""
    inputs = {"x": torch.empty(2, 3), "rows": torch.empty(2, dtype=torch.int64), "n": 5}
    reading = by_hand(inputs, [kernel("k", {}, {written or "t": 24})])
    code = object.__new__(CompiledSerialGraph)
    code.reading = reading
    return code.arguments(values)


def test_real_inputs_are_used_as_they_are_and_those_that_change_are_copied() -> None:
    x = torch.randn(2, 3)
    read, written = arguments({**known(), 0: x})[0], arguments({**known(), 0: x}, written="x")[0]
    assert read.data_ptr() == x.data_ptr()
    assert written.data_ptr() != x.data_ptr()
    assert torch.equal(written, x)
    written.zero_()
    assert x.any()


def test_parameters_lose_their_gradients() -> None:
    assert not arguments({**known(), 0: torch.nn.Parameter(torch.randn(2, 3))})[0].requires_grad


def known() -> dict[int, Any]:
    return {0: torch.randn(2, 3), 1: torch.tensor([1, 0])}


def test_a_number_needs_no_value() -> None:
    assert arguments(known())[2] == 5


@pytest.mark.parametrize("missing", [0, 1])
def test_nothing_is_run_on_made_up_values(missing: int) -> None:
    """An index computed from them might be out of range."""
    values = known()
    del values[missing]
    with pytest.raises(Unmeasurable, match=f"the value of the input '{('x', 'rows')[missing]}' is not known"):
        arguments(values)


@pytest.mark.parametrize("value", [torch.randn(3, 2).t(), torch.randn(4, 3), torch.zeros(2, 3, dtype=torch.int32), 7, None])
def test_a_value_that_does_not_fit_is_none(value: Any) -> None:
    with pytest.raises(Unmeasurable, match="the value of the input 'x' is not known"):
        arguments({**known(), 0: value})


def test_layouts_at_other_sizes_are_plain_data() -> None:
    """Of a tensor with 2 rows, and of the number 5: what is dynamic takes the sizes given, what is not stays."""
    shape_env = ShapeEnv()
    rows = shape_env.create_symintnode(sympy.Symbol("s0", integer=True, positive=True), hint=2)
    with FakeTensorMode(shape_env=shape_env):
        x = torch.empty(rows, 3, dtype=torch.bfloat16)
    code = object.__new__(CompiledSerialGraph)
    code.reading = by_hand({"x": x, "n": 5}, [kernel("k", {}, {"t": 24})])
    assert code.layouts({"s0": 8}) == [Layout((8, 3), (3, 1), "bfloat16", "cpu"), 5]
    layout, five = (made(json.loads(json.dumps(described(each)))) for each in code.layouts({"s0": 8}))
    assert (layout.shape, layout.dtype, five) == ((8, 3), torch.bfloat16, 5)


def test_a_graph_that_cannot_be_repeated_or_does_not_fit_gets_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    code = object.__new__(CompiledSerialGraph)
    code.reading = by_hand({"x": tensor(8)}, [kernel("k", {"x": 8}, {"x": 8})])
    with pytest.raises(Unmeasurable, match="from its own value"):
        code.arguments({})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**12))
    with pytest.raises(Unmeasurable, match="free memory"):
        arguments(known())


# --- what another process needs

SETTINGS = ("fp32_precision", "allow_fp16_accumulation", *REDUCTIONS)


@pytest.fixture
def own_precisions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Precisions are this test's own: what it sets is taken back."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    before, matmul = precisions(), torch.backends.cuda.matmul
    yield
    matmul.fp32_precision = "none"  # before torch is asked what does not go with another value
    set_precisions(before)
    assert precisions() == before and all(hasattr(matmul, name) for name in SETTINGS)


def job_of(sample: str) -> dict[str, Any]:
    plan = captured(sample).report.plan
    assert plan is not None
    return code_of(sample).job(plan)


def set_anew() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def set_as_ever() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_accumulation = True


@pytest.mark.usefixtures("own_precisions")
@pytest.mark.parametrize("settings", [set_anew, set_as_ever, lambda: None], ids=["anew", "as ever", "default"])
def test_another_process_allows_what_this_one_does(settings: Any) -> None:
    start, matmul = precisions(), torch.backends.cuda.matmul
    settings()
    job, here = job_of("diamond"), {name: getattr(matmul, name) for name in SETTINGS}
    matmul.fp32_precision = "none"
    set_precisions(start)
    set_precisions(json.loads(json.dumps(job["precisions"])))
    assert {name: getattr(matmul, name) for name in SETTINGS} == here
    assert precisions() == job["precisions"]


@pytest.mark.usefixtures("own_precisions")
def test_precisions_set_by_the_newer_attributes_alone_are_read() -> None:
    set_anew()
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    assert job_of("diamond")["precisions"]["fp32_precision"] == "tf32"
