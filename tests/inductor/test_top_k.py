"""Check top-k in a graph: what is replaced, by which launches, and what stays as aten has it."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.numbers import int_oo

from graphstreams.inductor.own_kernels import NOTES
from graphstreams.inductor.top_k import described, replace_top_k
from graphstreams.kernels.top_k import Choice, Form, OneProgram, SeveralPrograms, TopK

TOPK = torch.ops.aten.topk.default
LAUNCH = torch.ops.higher_order.triton_kernel_wrapper_functional
FORM = OneProgram(8)


def fake(*shape: Any, strides: tuple[int, ...] | None = None, device: str = "cuda:0") -> Tensor:
    """Return a tensor of a device that need not be there."""
    mode = FakeTensorMode()
    empty = torch.empty(shape, device="meta") if strides is None else torch.empty_strided(shape, strides, device="meta")
    return FakeTensor(mode, empty, torch.device(device))


def dynamic(*shape: int) -> Tensor:
    """Return a tensor of the CPU whose sizes are not fixed."""
    return FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(shape), static_shapes=False)


def graph_with(value: Tensor, *args: Any, **kwargs: Any) -> tuple[fx.GraphModule, fx.Node]:
    """Return a graph of one call of `aten.topk` and the call. The graph returns indices and values."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = value
    call = graph.call_function(TOPK, (x, *args), kwargs)
    shape = (*value.shape[:-1], args[0])
    results = [value.new_empty(shape, dtype=dtype) for dtype in (value.dtype, torch.int64)]
    call.meta.update(val=tuple(results), stack_trace="where it stands")
    values, indices = (graph.call_function(operator.getitem, (call, index)) for index in (0, 1))
    graph.output((indices, values))
    return fx.GraphModule(torch.nn.Module(), graph), call


def replaced(form: Any, value: Tensor, *args: Any, **kwargs: Any) -> tuple[fx.GraphModule, list[str]]:
    gm, _ = graph_with(value, *args, **kwargs)
    return gm, replace_top_k(gm, lambda top_k: Choice(form, "it was asked for"))


def launches_of(gm: fx.GraphModule) -> list[fx.Node]:
    return gm.graph.find_nodes(op="call_function", target=LAUNCH)


def function_of(node: fx.Node) -> tuple[str, int]:
    """Return the name of the kernel that a node launches, and its warps."""
    tuned = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
    (only,) = tuned.configs
    return tuned.fn.__name__, only.num_warps


def test_one_program_a_row_is_one_node() -> None:
    gm, notes = replaced(FORM, fake(2, 5000), 10, -1, True, False)
    assert not gm.graph.find_nodes(op="call_function", target=TOPK)
    (node,) = launches_of(gm)
    assert function_of(node) == ("top_k_row", 8)
    assert node.kwargs["grid"] == [(2, 1, 1)] and node.kwargs["tensors_to_clone"] == ["values", "indices"]
    given = node.kwargs["kwargs"]
    assert (given["n"], given["k"], given["row_stride"], given["stride"]) == (5000, 10, 5000, 1)
    assert notes == ["top-k 'topk_default' is replaced: it was asked for"] and gm.meta[NOTES] == tuple(notes)


def test_several_programs_a_row_are_three_nodes_that_hand_their_buffers_on() -> None:
    gm, _ = replaced(SeveralPrograms(warps=(4, 8, 16)), fake(131_072), 2048, sorted=False)
    nodes = launches_of(gm)
    assert [function_of(node) for node in nodes] == [("top_k_bounds", 4), ("top_k_count", 8), ("top_k_write", 16)]
    bounds, count, write = (node.kwargs["kwargs"] for node in nodes)
    assert count["bounds"].args == (nodes[0], "bounds") and count["listed"].args == (nodes[0], "listed")
    assert write["listed"].args == (nodes[1], "listed") and write["counts"].args == (nodes[1], "counts")
    assert bounds["x"] is count["x"] is write["x"]


def test_the_results_are_atens_in_shape_type_and_order() -> None:
    gm, _ = replaced(FORM, fake(2, 3, 1000), 7, -1, False, False)
    indices, values = gm.graph.output_node().args[0]
    assert indices.args[1] == "indices" and values.args[1] == "values"
    found = [(tuple(node.meta["val"].shape), node.meta["val"].dtype, node.meta["stack_trace"]) for node in (indices, values)]
    assert found == [((2, 3, 7), torch.int64, "where it stands"), ((2, 3, 7), torch.float32, "where it stands")]
    (node,) = launches_of(gm)
    assert node.kwargs["grid"] == [(6, 1, 1)] and node.kwargs["kwargs"]["largest"] is False


@pytest.mark.parametrize("largest", [True, False])
def test_a_sorted_result_is_the_launches_result_sorted_and_its_indices_gathered(largest: bool) -> None:
    gm, _ = replaced(FORM, fake(2, 3, 1000), 7, -1, largest)
    indices, values = gm.graph.output_node().args[0]
    (sort,) = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.sort.default)
    (launch,) = launches_of(gm)
    assert sort.args[0].args == (launch, "values") and sort.args[1:] == (-1, largest)
    assert (values.target, values.args) == (operator.getitem, (sort, 0))
    assert indices.target is torch.ops.aten.gather.default
    of_launch, dimension, order = indices.args
    assert of_launch.args == (launch, "indices") and dimension == -1 and order.args == (sort, 1)
    found = [(tuple(node.meta["val"].shape), node.meta["val"].dtype, node.meta["stack_trace"]) for node in (indices, values)]
    assert found == [((2, 3, 7), torch.int64, "where it stands"), ((2, 3, 7), torch.float32, "where it stands")]


def test_a_top_k_is_sorted_unless_it_is_told_otherwise() -> None:
    for args, is_sorted in (((4,), True), ((4, -1, True, True), True), ((4, -1, True, False), False)):
        found = described(graph_with(fake(2, 100), *args)[1])
        assert isinstance(found, TopK) and found.sorted is is_sorted


def test_inductor_is_told_the_strides_that_the_kernel_is_given() -> None:
    gm, _ = replaced(FORM, fake(4, 100, strides=(300, 2)), 7, sorted=False)
    (node,) = launches_of(gm)
    given = node.kwargs["kwargs"]
    assert (given["row_stride"], given["stride"]) == (300, 2)
    _, told = node.meta["eager_input_vals"]
    assert told["kwargs"]["x"].stride() == (300, 2) and told["kwargs"]["n"] == 100


@pytest.mark.parametrize(
    ("shape", "strides", "row_stride"),
    [((8, 100), (1, 8), 1), ((2, 3, 100), (900, 300, 1), 300), ((1, 3, 100), (7, 300, 1), 300), ((5, 1, 100), (0, 9, 1), 0)],
)
def test_rows_may_lie_anywhere_at_one_distance(shape: tuple[int, ...], strides: tuple[int, ...], row_stride: int) -> None:
    _, node = graph_with(fake(*shape, strides=strides), 4, sorted=False)
    found = described(node)
    assert isinstance(found, TopK) and found.row_stride == row_stride


@pytest.mark.parametrize(
    ("value", "args", "reason"),
    [
        (fake(2, 100), (4, 0, True, False), "not along the last dimension"),
        (fake(2, 3, 100, strides=(1000, 300, 1)), (4, -1, True, False), "not the same distance apart"),
        (dynamic(2, 100), (4, -1, True, False), "the number of its rows depends on data"),  # no input tells it
    ],
)
def test_what_the_kernels_cannot_do_stays_with_a_reason(value: Tensor, args: tuple[Any, ...], reason: str) -> None:
    _, node = graph_with(value, *args)
    assert reason in str(described(node))


@pytest.mark.parametrize("form", [FORM, SeveralPrograms()], ids=["one", "shared"])
def test_the_number_of_rows_may_be_dynamic(form: Form) -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC])
    known = mode.from_tensor(torch.empty(3, 5000, device="meta"), symbolic_context=context)
    value = FakeTensor(mode, torch.empty_strided(known.shape, (5000, 1), device="meta"), torch.device("cuda:0"))
    gm, _ = graph_with(value, 7, sorted=False)
    x = gm.graph.find_nodes(op="placeholder")[0]
    with gm.graph.inserting_before(x):
        size = gm.graph.placeholder("s0")
    size.meta["val"] = known.shape[0]
    guards = len(mode.shape_env.guards)  # type: ignore[union-attr]
    replace_top_k(gm, lambda top_k: Choice(form, "it was asked for"))
    assert all(node.kwargs["grid"][0][0] is size for node in launches_of(gm))
    empties = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.empty_strided.default)
    assert all(node.args[0][0] is size for node in empties) and len(empties) == (2 if form is FORM else 7)
    assert len(mode.shape_env.guards) == guards  # type: ignore[union-attr]


def with_lengths(least: int, most: int | None, rows: int = 2, row_stride: int | None = None) -> tuple[fx.GraphModule, Any]:
    """Return a graph of a top-k of 4 of rows whose length is an input of it, and that length.

    The length is bounded as by guards of Dynamo's. The rows are contiguous, or at a fixed distance.
    """
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env)
    context = StatelessSymbolicContext([DimDynamic.STATIC, DimDynamic.DYNAMIC])
    known = mode.from_tensor(torch.empty(rows, 5000, device="meta"), symbolic_context=context)
    length = known.shape[1]
    env.constrain_symbol_range(length.node.expr, least, int_oo if most is None else most)  # type: ignore[union-attr]
    strides = (length if row_stride is None else row_stride, 1)
    value = FakeTensor(mode, torch.empty_strided(known.shape, strides, device="meta"), torch.device("cuda:0"))
    gm, _ = graph_with(value, 4, sorted=False)
    with gm.graph.inserting_before(gm.graph.find_nodes(op="placeholder")[0]):
        gm.graph.placeholder("length").meta["val"] = length
    return gm, length


@pytest.mark.parametrize("row_stride", [None, 9000], ids=["contiguous", "slices"])
@pytest.mark.parametrize("form", [OneProgram(16), SeveralPrograms()], ids=["one", "shared"])
def test_launches_take_a_dynamic_length_as_an_argument(form: Form, row_stride: int | None) -> None:
    gm, length = with_lengths(4096, 8192, row_stride=row_stride)
    env = length.node.shape_env
    guards, asked = len(env.guards), []
    replace_top_k(gm, lambda top_k: asked.append(top_k) or Choice(form, "it was asked for"))
    assert [(each.shortest, each.length, each.size) for each in asked] == [(4096, 8192, length)]
    size = gm.graph.find_nodes(op="placeholder")[0]
    for node in launches_of(gm):
        given = node.kwargs["kwargs"]
        assert given["n"] is size and given["row_stride"] == (size if row_stride is None else 9000)
        assert node.meta["eager_input_vals"][1]["kwargs"]["n"] is length
    grids = [(2, 1, 1)] if isinstance(form, OneProgram) else [(2, 32, 1)] * 3
    assert [node.kwargs["grid"] for node in launches_of(gm)] == [[grid] for grid in grids]
    assert len(env.guards) == guards


def test_a_length_without_a_greatest_stays_atens_and_the_reason_has_its_least() -> None:
    gm, _ = with_lengths(4096, None)
    notes = replace_top_k(gm, lambda top_k: Choice(FORM, "it was asked for"))
    assert gm.graph.find_nodes(op="call_function", target=TOPK)
    assert notes == [
        "top-k 'topk_default' stays as aten has it: its rows have 4096 elements or more without a greatest length, and a form "
        "is for one; torch._dynamo.mark_dynamic with min and max, or an `if` on the length, tells one"
    ]


def test_a_length_that_no_input_tells_stays_atens() -> None:
    gm, _ = with_lengths(4096, 8192)
    gm.graph.erase_node(gm.graph.find_nodes(op="placeholder")[0])
    (call,) = gm.graph.find_nodes(op="call_function", target=TOPK)
    assert described(call) == "the length of its rows, or the distance between them, depends on data"


def test_rows_of_several_dimensions_may_have_a_dynamic_length() -> None:
    gm, length = with_lengths(4096, 8192)
    (call,) = gm.graph.find_nodes(op="call_function", target=TOPK)
    x = call.args[0]
    x.meta["val"] = x.meta["val"].unsqueeze(0).expand(1, 2, length)
    found = described(call)
    assert isinstance(found, TopK) and (found.rows, found.size) == (2, length)
    assert str(found.row_stride) == str(length)
    x.meta["val"] = torch.empty_strided((3, 2, length), (4 * length, length, 1), device="meta")
    assert described(call) == "its rows are not the same distance apart"


def test_a_number_of_rows_that_no_input_tells_stays_atens() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC])
    known = mode.from_tensor(torch.empty(3, 5000, device="meta"), symbolic_context=context)
    value = FakeTensor(mode, torch.empty_strided(known.shape, (5000, 1), device="meta"), torch.device("cuda:0"))
    _, call = graph_with(value, 7, sorted=False)
    assert described(call) == "the number of its rows depends on data"


def test_inductor_has_to_keep_the_inputs_strides() -> None:
    with config.patch(triton_kernel_default_layout_constraint="flexible_layout"):
        gm, notes = replaced(FORM, fake(2, 5000), 10, sorted=False)
    assert not launches_of(gm) and "triton_kernel_default_layout_constraint" in notes[0]


def test_a_form_that_is_not_chosen_leaves_the_graph_as_it_is() -> None:
    gm, notes = replaced(None, fake(2, 5000), 10, sorted=False)
    assert gm.graph.find_nodes(op="call_function", target=TOPK)
    assert notes == ["top-k 'topk_default' stays as aten has it: it was asked for"]


def test_the_cpus_top_k_is_none_of_ours() -> None:
    gm, notes = replaced(FORM, fake(2, 5000, device="cpu"), 10, sorted=False)
    assert gm.graph.find_nodes(op="call_function", target=TOPK) and not notes and NOTES not in gm.meta


def test_if_a_replacement_fails_the_graph_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no more room")

    monkeypatch.setattr("graphstreams.inductor.own_kernels._launch", fails)
    gm, notes = replaced(FORM, fake(2, 4096), 16, -1, True, False)
    assert notes == ["every top-k stays as aten has it: RuntimeError: no more room; please report it"]
    assert not launches_of(gm) and gm.meta[NOTES] == tuple(notes)
    (call,) = gm.graph.find_nodes(op="call_function", target=TOPK)
    assert call.meta["stack_trace"] == "where it stands" and len(list(gm.graph.nodes)) == 5
    gm.graph.lint()
