"""Check that expressions in dynamic sizes become nodes that compute them, and that no guard is added."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphstreams.inductor.size_nodes import SizeNodes, expressions, value_of


def graph_of_sizes() -> tuple[fx.Graph, list[Any], ShapeEnv]:
    """Return a graph with two sizes and a tensor of them as inputs, a sum of both, and a number that a kernel computes."""
    shape_env = ShapeEnv()
    mode = FakeTensorMode(shape_env=shape_env)
    tensor = mode.from_tensor(
        torch.empty(4, 6), symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
    )
    rows, columns = tensor.shape
    graph = fx.Graph()
    for name, value in (("rows", rows), ("columns", columns), ("x", tensor)):
        graph.placeholder(name).meta["val"] = value
    one, other, x = graph.nodes
    both = graph.call_function(operator.add, (one, other))
    both.meta["val"] = rows + columns
    computed = graph.call_function(torch.relu, (x,))
    computed.meta["val"] = tensor
    read = graph.call_function(torch.ops.aten.sym_size.int, (computed, 0))
    read.meta["val"] = rows * 7
    graph.output((both, read))
    return graph, [rows.node.expr, columns.node.expr], shape_env


@pytest.mark.parametrize(("of", "expected"), [
    (lambda s, t: sympy.Integer(5), 5),
    (lambda s, t: s, 3),
    (lambda s, t: s**3, 27),
    (lambda s, t: 2 * s * t**2, 2 * 3 * 121),
    (lambda s, t: s * t + 4 * s + 1, 3 * 11 + 12 + 1),
    (lambda s, t: s + t, 14),
])  # fmt: skip
def test_a_polynomial_is_computed_from_the_inputs(of: Any, expected: int) -> None:
    graph, symbols, shape_env = graph_of_sizes()
    before, numbers = list(shape_env.guards), SizeNodes(graph)
    expression = sympy.sympify(of(*symbols))
    assert numbers.can_tell(expression)
    found = numbers.node(expression)
    assert expressions([value_of(found)]) == (expression,)
    assert numbers.node(expression) == found
    graph.output_node().args = (found,)
    graph.lint()
    assert fx.Interpreter(fx.GraphModule({}, graph)).run(3, 11, torch.ones(3, 11)) == expected
    assert list(shape_env.guards) == before


def test_what_the_graph_computes_already_gets_no_node() -> None:
    graph, (s, t), _ = graph_of_sizes()
    before = len(graph.nodes)
    assert SizeNodes(graph).node(s + t).target is operator.add  # type: ignore[union-attr]
    assert len(graph.nodes) == before


def test_numbers_that_the_graph_computes_late_are_moved_to_where_all_may_use_them() -> None:
    graph, (s, t), _ = graph_of_sizes()
    _, other, _, both, computed, *_ = graph.nodes
    computed.append(both)  # behind a kernel
    with graph.inserting_after(both):
        product = graph.call_function(operator.mul, (both, other))
    product.meta["val"] = both.meta["val"] * other.meta["val"]
    numbers = SizeNodes(graph)
    found = [numbers.node((s + t) * t), numbers.node(s + t + 1), numbers.node(s + t)]
    assert found[0] is product and found[2] is both
    order = list(graph.nodes)
    assert all(isinstance(node, fx.Node) and order.index(node) < order.index(computed) for node in found)
    graph.lint()


def test_what_is_no_polynomial_or_comes_from_a_kernel_cannot_be_told() -> None:
    graph, (s, _), _ = graph_of_sizes()
    numbers = SizeNodes(graph)
    assert not numbers.can_tell(sympy.floor(s / 2))
    assert not numbers.can_tell(sympy.Symbol("s99", integer=True))
    assert 7 * s not in numbers._known  # of a computed tensor's size
