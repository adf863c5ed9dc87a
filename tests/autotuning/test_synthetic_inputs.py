"""Check that synthetic inputs have the layout asked for, and leave the caller's random numbers alone."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from graphstreams.autotuning.synthetic_inputs import Layout, synthesize, synthetic_inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.float8_e4m3fn])
def test_a_tensor_is_made_from_its_description(dtype: torch.dtype) -> None:
    layout = Layout.of(torch.empty_strided((2, 3), (1, 2), dtype=dtype))
    value = synthesize(json.loads(json.dumps(vars(layout))))
    assert (tuple(value.shape), value.stride(), value.dtype, str(value.device)) == ((2, 3), (1, 2), dtype, "cpu")


def test_floats_are_random_and_always_the_same_and_integers_are_zero() -> None:
    before = torch.get_rng_state()
    first, second = (Layout((2, 3), (3, 1), "float32", "cpu").synthesize() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all() and first.unique().numel() == 6
    assert not Layout((4,), (1,), "int64", "cpu").synthesize().any()


def test_numbers_stay_what_they_are() -> None:
    assert [synthesize(number) for number in (7, 0.5, True)] == [7, 0.5, True]


def test_a_layout_tells_its_bytes() -> None:
    assert Layout((2, 3), (8, 1), "bfloat16", "cpu").bytes == 2 * 11
    assert Layout((0, 3), (3, 1), "float32", "cpu").bytes == 0


def graph(operator: Any) -> fx.GraphModule:
    """Return a graph that calls `operator` with two of the function's three inputs, the last one first."""
    made = fx.Graph()
    last, first = made.placeholder("last"), made.placeholder("first")
    made.output((made.call_function(operator, (last, first)),))
    for node, index, shape in ((last, 2, (4, 8)), (first, 0, (8,))):
        node.meta = {"val": torch.empty(shape), "desc": SimpleNamespace(idx=index)}
    return fx.GraphModule({}, made)


@torch.library.custom_op("graphstreams_synthetic::scaled", mutates_args=())
def scaled(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * scale


def test_inputs_are_made_in_the_order_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**20, 2**20))
    first, unknown, last = synthetic_inputs(graph(torch.ops.aten.mul.Tensor))
    assert (first.shape, unknown, last.shape) == ((8,), None, (4, 8))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (600, 2**20))
    assert synthetic_inputs(graph(torch.ops.aten.mul.Tensor)) == []


def test_no_inputs_are_made_for_operators_that_are_not_declared_as_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**20, 2**20))
    module, name = graph(torch.ops.graphstreams_synthetic.scaled.default), "graphstreams_synthetic::scaled"
    assert synthetic_inputs(module) == []
    assert synthetic_inputs(module, ((name, ("cache",)),)) == []
    assert len(synthetic_inputs(module, ((name, ()),))) == 3
