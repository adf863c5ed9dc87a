"""Write expressions in dynamic sizes into an FX graph, as numbers that the host computes from the graph's inputs.

Nothing is compared, so no guard is added. Read in torch 2.15.0: `_inductor/ir.py` (convert_shape_to_inductor),
`fx/experimental/sym_node.py` (SymNode.expr).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any

import sympy
import torch
from torch import fx

Size = int | fx.Node  # a number, or the node that computes it


def expressions(sizes: Iterable[Any]) -> tuple[sympy.Expr, ...]:
    """Return sizes, ints or SymInts, as expressions."""
    return tuple(size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size) for size in sizes)


class SizeNodes:
    """The numbers that a graph is given or computes from those, and new nodes for what can be computed from them."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        inputs = graph.find_nodes(op="placeholder")
        self._behind = inputs[-1] if inputs else None
        self._in_front = set(inputs)  # nodes that all others may use

    @functools.cached_property
    def _known(self) -> dict[sympy.Expr, fx.Node]:
        """What is known without running a kernel. The whole graph is looked through, and not at all for fixed sizes."""
        known: dict[sympy.Expr, fx.Node] = {}
        host = set(self._graph.find_nodes(op="placeholder"))
        for node in self._graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and (node in host or host.issuperset(node.all_input_nodes)):
                host.add(node)
                known.setdefault(value.node.expr, node)
        return known

    def can_tell(self, expression: sympy.Expr) -> bool:
        """Return whether `node` takes an expression: a polynomial in numbers of the graph."""
        if isinstance(expression, sympy.Integer) or expression in self._known:
            return True
        if isinstance(expression, sympy.Pow):
            return expression.exp.is_Integer and expression.exp > 0 and self.can_tell(expression.base)
        return isinstance(expression, sympy.Add | sympy.Mul) and all(map(self.can_tell, expression.args))

    def node(self, expression: sympy.Expr) -> Size:
        """Return what computes an expression that `can_tell` is true of: a number or a node. All are behind the inputs."""
        if isinstance(expression, sympy.Integer):
            return int(expression)
        if expression not in self._known:
            self._known[expression] = self._computed(expression)
        self._hoist(self._known[expression])
        return self._known[expression]

    def _hoist(self, node: Size) -> None:
        """Move a number that the graph computes somewhere, with what it is computed from, behind the inputs."""
        if not isinstance(node, fx.Node) or node in self._in_front:
            return
        for operand in node.all_input_nodes:
            self._hoist(operand)
        assert self._behind is not None
        self._behind.append(node)
        self._put_behind(node)

    def _put_behind(self, node: fx.Node) -> None:
        self._behind = node
        self._in_front.add(node)

    def _computed(self, expression: sympy.Expr) -> fx.Node:
        if isinstance(expression, sympy.Pow):
            return self._together(operator.mul, [self.node(expression.base)] * int(expression.exp))
        terms = [self.node(term) for term in expression.args]
        return self._together(operator.add if isinstance(expression, sympy.Add) else operator.mul, terms)

    def _together(self, function: Any, terms: list[Size]) -> fx.Node:
        result = functools.reduce(functools.partial(self._call, function), terms)
        assert isinstance(result, fx.Node)  # sympy adds and multiplies plain numbers itself
        return result

    def _call(self, function: Any, one: Size, other: Size) -> Size:
        if isinstance(one, int) and isinstance(other, int):
            return int(function(one, other))
        assert self._behind is not None
        with self._behind.graph.inserting_after(self._behind):
            node = self._behind.graph.call_function(function, (one, other))
        node.meta["val"] = function(value_of(one), value_of(other))
        self._put_behind(node)
        return node


def value_of(size: Size) -> Any:
    """Return a number, or the SymInt of the node that computes it."""
    return size.meta["val"] if isinstance(size, fx.Node) else size
