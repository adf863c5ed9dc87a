"""Rewrite a graph into one region of FX nodes per kernel, in the plan's order, each on its stream.

Nodes that Inductor inlines are copied into every region that uses them, so that each region lowers to the kernel that the
serial graph has. Only values that some kernel realizes cross regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

import torch
from torch import fx

from graphstreams.errors import RewriteError
from graphstreams.inductor import stream_ops
from graphstreams.inductor.scheduling import IN_PLACE, KERNEL
from graphstreams.inductor.wrapper_lines import RewriteInfo
from graphstreams.inductor.wrapper_registry import REWRITTEN
from graphstreams.ir.plan import JOIN, Plan
from graphstreams.ir.reading import Reading, Region
from graphstreams.reading.eligibility import mutates
from graphstreams.rewriting.event_comments import event_comments
from graphstreams.rewriting.lifetimes import held_values


def rewrite(reading: Reading, plan: Plan) -> fx.GraphModule:
    """Return a new module that computes what `reading.module` does, with the plan's streams and events in its graph.

    Raises RewriteError if the plan does not fit the graph.
    """
    if sorted(p.kernel for p in plan.placements) != list(range(len(reading.regions))):
        raise RewriteError("the plan is for other kernels than the graph has")
    builder = _Builder(reading, plan)
    builder.module.meta[REWRITTEN] = RewriteInfo(
        len(plan.events), plan.priority, comments=event_comments(plan, reading.kernels)
    )
    for step, number, stream in plan.steps():
        if step == "record":
            builder.record(number, stream)
        elif step == "wait":
            builder.wait(number, stream)
        else:
            builder.region(reading.regions[number], stream)
    builder.finish()
    return builder.module


class _Builder:
    """The new graph while it grows, from the inputs and the numbers that the host computes."""

    def __init__(self, reading: Reading, plan: Plan) -> None:
        self.reading, self.plan = reading, plan
        self.module = stream_ops.empty_module(reading.module)
        self.module.meta = dict(reading.module.meta)
        self.graph = self.module.graph
        self.latest: dict[fx.Node, fx.Node] = {}  # old node -> the latest new node that stands for its value
        self.early: set[fx.Node] = set()  # old views that were copied into the region of their base
        self.recorded: dict[int, fx.Node] = {}  # event -> its record
        self.last: dict[int, fx.Node] = {}  # per stream, its last record or wait
        self.since: dict[int, dict[fx.Node, fx.Node]] = {}  # per stream, what was made since and not yet read there
        self.joined: list[fx.Node] = []  # waits of the caller's stream
        self.returned: dict[fx.Node, fx.Node] = {}  # old nodes between the regions' values and the outputs -> new ones
        self.held = held_values(reading, plan)
        self.region_before: Region | None = None  # the last one that was appended
        for node in (*reading.module.graph.find_nodes(op="placeholder"), *reading.host):
            self._copy(node, 0)

    def wait(self, event: int, stream: int) -> None:
        """Append a wait of a stream for an event."""
        node = self._ordered(stream_ops.WAIT, event, stream, [self.recorded[event]])
        if stream == 0:
            self.joined.append(node)

    def record(self, event: int, stream: int) -> None:
        """Append the record of an event, behind the values of the region before it; the fork is behind an input."""
        if self.region_before is None:
            values = [node for node in self._tensors(self.latest.values()) if node.op == "placeholder"][:1]
            missing = "the graph has no tensor input to fork from"
        else:
            values = [self.latest[old] for old in self.region_before.targets]
            name = self.reading.kernels.kernels[self.region_before.kernel].name
            missing = f"kernel {name!r} has no value to record behind"
        if not values:
            raise RewriteError(missing)
        self.recorded[event] = self._ordered(stream_ops.RECORD, event, stream, values)

    def region(self, region: Region, stream: int) -> None:
        """Append the nodes of a region."""
        self.region_before = region
        self._hold(region.kernel, stream, [self.last[stream]] if stream in self.last else [])
        inside: dict[fx.Node, fx.Node] = {}
        own: set[fx.Node] = set()  # nodes that the region computes itself, so that it takes views of them itself too
        for node in region.nodes:
            if mutates(node):
                # In the serial graph the region's values are stored before the mutation.
                self._realize({old: inside[old] for old in region.targets if old in inside})
            if self._stands(node) or (node in self.early and own.isdisjoint(node.all_input_nodes)):
                inside[node] = self.latest[node]
            else:
                own.add(node)
                self._copy(node, stream, inside, region.kernel)
        targets = {old: inside[old] for old in region.targets}
        self.latest.update(targets)
        self.latest.update({old: inside[old] for old in region.nodes if old in self.reading.concatenations})
        for view in (view for old in targets if old in self.reading.realized for view in self.reading.realized[old].views):
            self._copy(view, stream)
            self.early.add(view)
        self._realize(targets)
        # A dependency counts as a use, after which no kernel writes the buffer in place. Readers need none to come later.
        since = self.since.get(stream, {})
        self.since[stream] = {**{old: new for old, new in since.items() if old not in region.inputs}, **targets}

    def _realize(self, targets: dict[fx.Node, fx.Node]) -> None:
        """Append the point at which values are stored, in the order and with the layouts of the serial graph."""
        realized = self.reading.realized
        listed = sorted(targets, key=lambda old: realized[old].position if old in realized else inf)
        if values := self._tensors(targets[old] for old in listed):
            strides = {targets[old]: realized[old].strides for old in listed if old in realized}
            stream_ops.force_realize(self.module, values, strides)

    def _hold(self, kernel: int, stream: int, waits: list[fx.Node]) -> None:
        """Append, after `waits` on the stream, a use of the values that are held until right before `kernel`, or JOIN."""
        values = self._tensors(self.latest[v] for v in self.held.get(kernel, ()) if v in self.latest)
        if values:
            # The waits alone: a buffer that is a dependency would have one more use, and no kernel could write it in place.
            self.last[stream] = stream_ops.extend_lifetimes(self.module, self.plan.events[-1].id, stream, waits, values)

    def finish(self) -> None:
        """Append a use of what is held until the join, what is between the regions' values and the outputs, and the outputs."""
        # A use of a piece decides where it is, so a concatenation that no kernel reads comes before.
        left = [place for place, node in enumerate(self.reading.epilogue, 1) if node in self.reading.concatenations]
        self._copy_epilogue(self.reading.epilogue[: max(left, default=0)])
        self._hold(JOIN, 0, self.joined)
        self._copy_epilogue(self.reading.epilogue)
        old = self.reading.module.graph.output_node()
        result = fx.map_arg(old.args[0], lambda n: self.returned.get(n) or self._value(n))
        self.graph.output(result).meta = dict(old.meta)
        self.graph.lint()
        self.module.recompile()

    def _copy_epilogue(self, nodes: Sequence[fx.Node]) -> None:
        """Append those of the nodes between values and outputs that are not there yet."""
        for node in nodes:
            if node not in self.early and node not in self.returned and not self._stands(node):
                self._copy(node, 0, self.returned)

    def _ordered(self, operation: torch._ops.OpOverload, event: int, stream: int, dependencies: list[fx.Node]) -> fx.Node:
        """Append a stream operation that comes after all that its stream has so far."""
        before = [self.last[stream]] if stream in self.last else []
        made = self.since.pop(stream, {}).values()
        self.last[stream] = stream_ops.ordered(
            self.module, operation, event, stream, list(dict.fromkeys([*before, *dependencies, *made]))
        )
        return self.last[stream]

    def _copy(
        self, node: fx.Node, stream: int, inside: dict[fx.Node, fx.Node] | None = None, kernel: int | None = None
    ) -> None:
        def argument(old: fx.Node) -> fx.Node:
            return inside[old] if inside is not None and old in inside else self._value(old)

        if node.op == "get_attr" and not hasattr(self.module, str(node.target)):
            setattr(self.module, str(node.target), getattr(self.reading.module, str(node.target)))
        new = self.graph.node_copy(node, argument)
        new.meta = dict(node.meta)
        stream_ops.set_stream(new, stream)
        if kernel is not None:
            new.meta[KERNEL] = kernel
        if node in self.reading.concatenations:
            new.meta[IN_PLACE] = True
        (self.latest if inside is None else inside)[node] = new

    def _stands(self, node: fx.Node) -> bool:
        """Return whether a node is a concatenation that an earlier region has made for all that read it."""
        return node in self.reading.concatenations and node in self.latest

    def _value(self, old: fx.Node) -> fx.Node:
        if old not in self.latest and old.op == "get_attr":
            self._copy(old, 0)
        return self.latest[old]

    def _tensors(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        return [n for n in dict.fromkeys(nodes) if isinstance(n.meta.get("val"), torch.Tensor)]
