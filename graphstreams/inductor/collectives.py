"""Find the collectives of a lowered graph, their waits, and what they touch in between.

A collective runs from its start to its wait on a stream of its process group. Inductor models that for two buffers: the wait
counts as a write of the output, and as a read of the first input, or of the one at the output's place. Here a wait reads all
that its collective reads, because only then is the collective done with it.
All functions are called inside `V.set_graph_handler` of the graph. Read in torch 2.15.0: `_inductor/ir.py` (_CollectiveKernel,
_WaitKernel), `_inductor/comms.py` (decide_global_ordering_of_comms, simple_overlap).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import sympy
import torch
from torch._inductor import ir
from torch._inductor.utils import get_dtype_size

from graphstreams.errors import Unsupported
from graphstreams.inductor.accesses import data_reads
from graphstreams.inductor.collective_operators import role, unknown_communication
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.scheduler_nodes import operator_of
from graphstreams.inductor.settings import moving_settings
from graphstreams.ir.alias_sets import AliasSets
from graphstreams.ir.kernels import KernelGraph
from graphstreams.messages import listed

ASSUMED_RANKS = 2


@dataclass(frozen=True)
class Collectives:
    """The collectives of a lowered graph, by the positions of their scheduler nodes."""

    roles: Mapping[int, str] = field(default_factory=dict)  # "start" or "wait"
    labels: Mapping[int, Hashable] = field(default_factory=dict)  # what each is called in every lowering of one graph
    reads: Mapping[int, frozenset[str]] = field(default_factory=dict)  # storages that the collectives of a wait read until then

    @property
    def order(self) -> tuple[Hashable, ...]:
        """The labels in the order of the code."""
        return tuple(self.labels[position] for position in sorted(self.labels))

    def pairs(self, order: Sequence[Hashable]) -> list[tuple[int, int]]:
        """Return the positions of each collective or wait and the next one, in an order of labels.

        Raises Unsupported if these are not the graph's.
        """
        position = {label: position for position, label in self.labels.items()}
        if sorted(map(repr, order)) != sorted(map(repr, position)):
            moving = moving_settings()
            cause = f", as {listed(moving)} may move them" if moving else ""
            raise Unsupported(f"the collectives of the serial code are not those that were read{cause}")
        return [(position[one], position[other]) for one, other in pairwise(order)]


def group_of(node: Any) -> str:
    """Return the name of the process group that a collective runs in, which is its last text beside tensors."""
    constants = (*node.node.constant_args, *node.node.kwargs.values())
    return next((value for value in reversed(constants) if isinstance(value, str)), "")


def group_size(name: str) -> int | None:
    """Return how many ranks a process group has; None if this process does not know it."""
    try:
        return int(torch.distributed.distributed_c10d._get_group_size_by_name(name))  # type: ignore[arg-type]
    except (AttributeError, RuntimeError, ValueError):
        return None


def ranks_of(node: Any) -> int:
    """Return how many ranks take part in a collective; ASSUMED_RANKS if its process group is not known here."""
    return group_size(group_of(node)) or ASSUMED_RANKS


def notes_on_groups(graph: KernelGraph) -> list[str]:
    """Return of which process groups of a graph's collectives the size is assumed, for the report's notes."""
    groups = sorted({kernel.group for kernel in graph.kernels if kernel.collective == "start"})
    unknown = [repr(name) for name in groups if group_size(name) is None]
    text = f"collectives of {', '.join(unknown)} are priced for {ASSUMED_RANKS} ranks: this process has no such process group"
    return [text] if unknown else []


def message_bytes(node: Any) -> sympy.Expr:
    """Return the bytes of a collective's message: all that it gathers, or else what it is given."""
    name = operator_of(node)._opname  # type: ignore[union-attr]
    given = [each for each in node.node.inputs if isinstance(each, ir.IRNode)]
    given = given[:1] if name.endswith("_out") else given
    sizes = (sympy.prod(each.get_size()) * get_dtype_size(each.get_dtype()) for each in given)
    return sympy.sympify(sum(sizes, sympy.S.Zero)) * (ranks_of(node) if name.startswith("all_gather") else 1)


def collectives_of(lowered: Lowered, storages: AliasSets) -> Collectives:
    """Return the collectives of a lowered graph.

    Raises Unsupported if one is not waited for in the graph, if a wait is for none of the graph, if one starts on memory that
    another still writes, or if something else reaches other ranks.
    """
    if reason := unknown_communication(lowered.nodes):
        raise Unsupported(reason)
    roles: dict[int, str] = {}
    labels: dict[int, Hashable] = {}
    reads: dict[int, frozenset[str]] = {}
    running: dict[str, tuple[int, int]] = {}  # storage that a collective writes -> its number, and the output's
    taken: dict[int, frozenset[str]] = {}  # number of a collective -> the storages that it reads
    for position, node in enumerate(lowered.nodes):
        if not (found := role(node)):
            continue
        roles[position] = found
        if found == "start":
            number = len(taken)
            labels[position] = number, str(operator_of(node))
            taken[number] = frozenset(storages.storage(dep.name) for dep in data_reads(node))
            for place, storage in enumerate(_written(node, storages)):
                if running.setdefault(storage, (number, place))[0] != number:
                    raise Unsupported(f"{operator_of(node)} starts on memory that another collective still writes")
        else:
            awaited = sorted(running.pop(storage) for storage in _written(node, storages) if storage in running)
            if not awaited:
                raise Unsupported(f"{node.get_name()} waits for a collective that the graph did not start, or a second time")
            labels[position] = tuple(awaited)
            reads[position] = frozenset().union(*(taken[number] for number, _ in awaited))
    if running:
        number = min(running.values())[0]
        position = next(position for position, label in labels.items() if isinstance(label, tuple) and label[0] == number)
        raise Unsupported(f"nothing in the graph waits for {operator_of(lowered.nodes[position])}")
    return Collectives(roles, labels, reads)


def _written(node: Any, storages: AliasSets) -> list[str]:
    """Return the storages that a collective writes, or that a wait is for, in order and without repeats.

    Inductor says of a collective with `out` that it writes its input too, which it does not.
    """
    made = [output.get_name() for output in getattr(node.node, "outputs", ()) or ()]
    changed = [name for output in node.get_outputs() for name in output.get_mutations()]
    found = dict.fromkeys(storages.storage(name) for name in (*made, *changed))
    if operator_of(node)._opname.endswith("_out"):  # type: ignore[union-attr]
        found.pop(storages.storage(node.node.inputs[0].get_name()), None)
    return list(found)
