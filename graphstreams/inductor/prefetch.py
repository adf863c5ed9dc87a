"""Add prefetches of weights to a post-grad graph: launches that bring a weight into the L2 cache before its product reads it.

Inductor generates a plain launch for each, which is read, planned and proved like every other kernel. It reads an input that
no kernel of the graph writes, and writes four bytes a program. These bytes have to leave the graph: Inductor drops a kernel
whose results nobody reads, and a consumer in the graph would wait for the prefetch, or would be a kernel more. So the function
that is compiled returns empty tensors (`place`) beside its results, and each prefetch takes one of them.

The product does not wait for its prefetch, and what a plan gains by one is not modelled. It starts behind what its launch reads
an element of, and not before; where it goes from there the search decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass

from graphstreams.inductor.own_kernels import launch_program, stored
from graphstreams.kernels.prefetch import ALIGNMENT, Prefetch, kernel, program, supports

Behind = Literal["start", "product", "top-k"]
PLACE = torch.float32  # what a prefetch by loads writes, an element a program

_aten = torch.ops.aten
# The position of the weight among the arguments. Grouped products, which read parts of theirs only, are not among them.
_WEIGHTS = {
    _aten.mm.default: 1, _aten.bmm.default: 1, _aten.addmm.default: 2, _aten._scaled_mm.default: 1,
    _aten._scaled_mm_v2.default: 1,
}  # fmt: skip
_VIEWS = {_aten.permute.default, _aten.t.default, _aten.transpose.int}


@dataclass(frozen=True)
class Rule:
    """Which weights are prefetched, how, and from when on.

    `most` are the bytes that are prefetched of a weight at most, and only weights of `least` bytes are. Each prefetch starts
    with the graph ("start"), behind the last product of such a weight that its own product depends on ("product"), or beside
    the last top-k between these two ("top-k"; weights without one are not prefetched). `form` is one by loads.
    """

    form: Prefetch
    most: int
    least: int = 8_000_000
    behind: Behind = "product"


@dataclass(frozen=True)
class Wanted:
    """A product, the input that it reads as its weight, and the value behind which that is prefetched, None for none."""

    product: fx.Node
    weight: fx.Node
    after: fx.Node | None


def place(form: Prefetch, device: torch.device) -> torch.Tensor:
    """Return an empty tensor for a prefetch of this form to write, which the compiled function has to return."""
    return torch.empty(form.programs, dtype=PLACE, device=device)


class PrefetchPass(CustomInferenceAwareGraphPass):  # type: ignore[misc]
    """A `post_grad_custom_post_pass` that adds prefetches by a rule. `added` counts those of the last graph."""

    def __init__(self, rule: Rule | None) -> None:
        """With None the graph stays as it is. Raises ValueError for a form that can't be planned."""
        if rule is not None and rule.form.instruction != "load":
            raise ValueError(f"only prefetches by loads can be planned, not {rule.form}")
        self.rule, self.added = rule, 0

    def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
        """Add prefetches to a graph. Raises ValueError if it returns too few places."""
        assert graph.owning_module is not None
        if self.rule is not None:
            self.added = len(add_prefetches(graph.owning_module, self.rule))

    def uuid(self) -> None:
        """Keep graphs out of Inductor's caches."""


def add_prefetches(gm: fx.GraphModule, rule: Rule) -> list[Wanted]:
    """Add a prefetch for each weight that `rule` wants, and return what was wanted.

    Raises ValueError if the graph returns fewer empty tensors of a form's size than that.
    """
    wanted, places = wanted_by(gm.graph, rule), list(_places(gm.graph, rule.form))
    if len(wanted) > len(places):
        raise ValueError(f"{len(wanted)} weights are to be prefetched, and the graph returns {len(places)} places to write")
    for number, empty in enumerate(places if wanted else ()):
        if number < len(wanted):
            written = _add(gm.graph, wanted[number], rule)
        empty.replace_all_uses_with(written)  # those that are left over are the last one's
        gm.graph.erase_node(empty)
    gm.graph.lint()
    gm.recompile()
    return wanted


def wanted_by(graph: fx.Graph, rule: Rule) -> list[Wanted]:
    """Return the products whose weights a rule wants to have prefetched, in graph order."""
    products = {node: weight for node in graph.nodes if (weight := _weight(node)) is not None and _is_wanted(weight, rule)}
    seen: dict[fx.Node, frozenset[fx.Node]] = {}  # the products and top-k that a node depends on
    position = {node: number for number, node in enumerate(graph.nodes)}
    found = []
    for node in graph.nodes:
        above = frozenset().union(*(seen[each] | {each} & _marks(each, products) for each in node.all_input_nodes))
        seen[node] = above
        if node not in products:
            continue
        last = max(above & products.keys(), key=position.__getitem__, default=None)
        between = [each for each in above - products.keys() if last is None or last in seen[each]]
        top_k = max(between, key=position.__getitem__, default=None)
        if rule.behind == "start":
            found.append(Wanted(node, products[node], None))
        elif rule.behind == "product":
            found.append(Wanted(node, products[node], last))
        elif top_k is not None:
            found.append(Wanted(node, products[node], top_k.all_input_nodes[0]))
    return found


def _add(graph: fx.Graph, wanted: Wanted, rule: Rule) -> fx.Node:
    """Add a prefetch, and return what it writes."""
    after = wanted.weight
    if wanted.after is not None:
        with graph.inserting_after(wanted.after):  # where other launches that read it find it
            after = stored(graph, wanted.after)
    with graph.inserting_before(wanted.product):
        work = program(_size(wanted.weight, rule), rule.form, wanted.weight.meta["val"].element_size())
        operands, shapes = {"x": wanted.weight, "after": after}, {"out": (rule.form.programs,)}
        return launch_program(graph, wanted.product, work, operands, kernel, 0.0, shapes)["out"]


def _marks(node: fx.Node, products: dict[fx.Node, fx.Node]) -> set[fx.Node]:
    return {node} if node in products or node.target is _aten.topk.default else set()


def _weight(node: fx.Node) -> fx.Node | None:
    """Return the input of the graph that a product reads as its weight and nobody writes; None if there is none."""
    if node.target not in _WEIGHTS or len(node.args) <= _WEIGHTS[node.target]:  # type: ignore[index]
        return None
    weight: Any = node.args[_WEIGHTS[node.target]]  # type: ignore[index]
    while weight.target in _VIEWS:
        weight = weight.args[0]
    return weight if weight.op == "placeholder" and not any(_writes(user, weight) for user in weight.users) else None


def _writes(user: fx.Node, weight: fx.Node) -> bool:
    """Return whether a node writes a value or may write it. Writes through views of an input count as its own are not seen."""
    if user.op != "call_function":
        return user.op != "output"
    if user.target in _VIEWS:
        return any(_writes(each, user) for each in user.users)
    return not isinstance(user.target, torch._ops.OpOverload) or user.target._schema.is_mutable


def _is_wanted(weight: fx.Node, rule: Rule) -> bool:
    value = weight.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.device.type != "cuda" or not value.is_contiguous():
        return False
    return all(isinstance(size, int) for size in value.shape) and (
        value.numel() * value.element_size() >= max(rule.least, ALIGNMENT) and supports(_size(weight, rule), rule.form)
    )


def _size(weight: fx.Node, rule: Rule) -> int:
    value = weight.meta["val"]
    return int(min(value.numel() * value.element_size(), rule.most))


def _places(graph: fx.Graph, form: Prefetch) -> Iterator[fx.Node]:
    """Yield the empty tensors that a graph returns and uses for nothing else, if a prefetch of this form may write them."""
    for node in graph.output_node().all_input_nodes:
        value = node.meta.get("val")
        fits = value is not None and tuple(value.shape) == (form.programs,) and value.dtype == PLACE
        if fits and node.target is _aten.empty.memory_format and len(node.users) == 1:
            yield node
