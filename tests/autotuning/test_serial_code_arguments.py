"""Check what serial code runs on: which graphs fit into memory and can be repeated, and which values are made for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.autotuning import serial_code
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.autotuning.synthetic_inputs import Layout, synthesize
from graphstreams.errors import Unmeasurable
from graphstreams.ir.kernels import Access, Kernel, KernelGraph
from graphstreams.ir.reading import Reading
from graphstreams.reading.dependences import StorageUse, dependences
from tests.support.sample_modules import captured, reading_of

MIB = 2**20


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))


def check_memory(reading: Reading, sizes: Mapping[str, int] | None = None) -> None:
    serial_code.check_memory(reading, sizes or {})


def kernel(name: str, reads: dict[str, int], writes: dict[str, int]) -> Kernel:
    read, written = (tuple(Access(s, sympy.Integer(b)) for s, b in part.items()) for part in (reads, writes))
    return Kernel(0, name, "pointwise", reads=read, writes=written)


def by_hand(inputs: dict[str, Any], kernels: Sequence[Kernel], sizes: dict[str, int] | None = None) -> Reading:
    """Return a reading with inputs for the storages that kernels name, and the dependences that follow from these."""
    graph = fx.Graph()
    storages = {}
    for name, value in inputs.items():
        node = graph.placeholder(name)
        node.meta["val"] = value
        storages[node] = name
    graph.output(())
    numbered = tuple(Kernel(**{**vars(k), "id": i}) for i, k in enumerate(kernels))
    touched = [StorageUse(tuple(a.storage for a in k.reads), tuple(a.storage for a in k.writes)) for k in numbered]
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
        serial_code.check_nothing_accumulates(reading)
        return
    with pytest.raises(Unmeasurable, match="from its own value"):
        serial_code.check_nothing_accumulates(reading)


@pytest.mark.parametrize(
    ("kernels", "needed"),
    [
        ([kernel("k", {"x": 64 * MIB}, {"t": 3 * MIB})], 3 * MIB),  # what is only read is there anyway
        ([kernel("j", {}, {"t": 3 * MIB}), kernel("k", {}, {"u": 2 * MIB})], 5 * MIB),  # all at once
        ([kernel("j", {}, {"t": 3 * MIB}), kernel("k", {}, {"t": 1 * MIB})], 3 * MIB),  # one buffer, written twice
        ([kernel("k", {}, {"x": 1024})], 64 * MIB),  # a copy of the whole input that is changed
    ],
)
def test_all_buffers_and_copies_have_to_fit_into_half_of_the_free_memory(
    kernels: list[Kernel], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = by_hand({"x": tensor(64 * MIB)}, kernels)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * needed, 10**12))
    check_memory(reading)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * needed - 8, 10**12))
    with pytest.raises(Unmeasurable, match=f"its buffers take {needed // MIB} MiB, more than 50% of the free memory"):
        check_memory(reading)


@pytest.mark.parametrize("assumptions", [{}, {"integer": True, "positive": True}], ids=["plain", "as Inductor has them"])
def test_dynamic_buffers_count_at_their_example_sizes(assumptions: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    size = Access("t", MIB * sympy.Symbol("s0", **assumptions))
    reading = by_hand({}, [Kernel(0, "k", "pointwise", writes=(size,))], {"s0": 7, "s1": 3})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (14 * MIB - 8, 10**12))
    with pytest.raises(Unmeasurable, match="its buffers take 7 MiB"):
        check_memory(reading)
    check_memory(reading, {"s0": 6})
    with pytest.raises(Unmeasurable, match="its buffers take 8 MiB"):
        check_memory(reading, {"s0": 8})


def test_the_buffers_of_a_real_graph_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the diamond: five results of 4 x 64 floats."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * 5 * 4 * 64 * 4, 10**12))
    check_memory(reading_of("diamond"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * 5 * 4 * 64 * 4 - 8, 10**12))
    with pytest.raises(Unmeasurable, match="its buffers take 0 MiB"):
        check_memory(reading_of("diamond"))


def test_the_buffers_of_a_real_dynamic_graph_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `sized`: two results of 40 x 64 floats, the rectified one of the first, and a sum of 64."""
    needed = (3 * 40 * 64 + 64) * 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * needed, 10**12))
    reading = captured("sized", dynamic=True).reading
    assert reading is not None and reading.kernels.sizes
    check_memory(reading)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * needed - 8, 10**12))
    with pytest.raises(Unmeasurable):
        check_memory(reading)


def arguments(values: dict[int, Any], written: str = "") -> list[Any]:
    """Return what the code is called with for x (2 x 3 floats), rows (two indices) and n, of which `written` is changed."""
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
def test_nothing_is_run_on_synthetic_values(missing: int) -> None:
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
    layout, five = code.layouts({"s0": 8})
    value = synthesize(json.loads(json.dumps(vars(layout))))
    assert (value.shape, value.dtype, synthesize(five)) == ((8, 3), torch.bfloat16, 5)


def test_a_graph_that_cannot_be_repeated_or_does_not_fit_gets_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    code = object.__new__(CompiledSerialGraph)
    code.reading = by_hand({"x": tensor(8)}, [kernel("k", {"x": 8}, {"x": 8})])
    with pytest.raises(Unmeasurable, match="from its own value"):
        code.layouts({})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**12))
    with pytest.raises(Unmeasurable, match="free memory"):
        arguments(known())
