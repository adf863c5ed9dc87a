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
from graphstreams.ir.plan import FORK, JOIN, Event, Plan
from graphstreams.ir.reading import Reading, Region
from graphstreams.reading.eligibility import mutates
from graphstreams.rewriting.lifetimes import held_values


def rewrite(reading: Reading, plan: Plan) -> fx.GraphModule:
    """Return a new module that computes what `reading.module` does, with the plan's streams and events in its graph.

    Raises RewriteError if the plan does not fit the graph.
    """
    if sorted(p.kernel for p in plan.placements) != list(range(len(reading.regions))):
        raise RewriteError("the plan is for other kernels than the graph has")
    builder = _Builder(reading, plan)
    builder.module.meta[REWRITTEN] = RewriteInfo(len(plan.events), plan.priority)
    builder.prologue()
    for placement in plan.placements:
        builder.region(reading.regions[placement.kernel], placement.stream)
    builder.join()
    builder.finish()
    return builder.module


class _Builder:
    """The new graph while it grows."""

    def __init__(self, reading: Reading, plan: Plan) -> None:
        self.reading, self.plan = reading, plan
        self.module = fx.GraphModule(reading.module, fx.Graph())
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
        self.written = {a.storage for k in reading.kernels.kernels for a in k.writes}
        self.behind: dict[int, Event] = {e.after: e for e in plan.events}
        self.before: dict[int, list[Event]] = {}
        for event in plan.events:
            for wait in event.waits:
                self.before.setdefault(wait.kernel, []).append(event)

    def prologue(self) -> None:
        """Append the inputs, the numbers that the host computes, and the fork."""
        for node in (*self.reading.module.graph.find_nodes(op="placeholder"), *self.reading.host):
            self._copy(node, 0)
        if FORK in self.behind:
            first = next((n for n in self._tensors(self.latest.values()) if n.op == "placeholder"), None)
            if first is None:
                raise RewriteError("the graph has no tensor input to fork from")
            self._record(self.behind[FORK], [first])

    def region(self, region: Region, stream: int) -> None:
        """Append the waits before a region, then its nodes, then the record after it."""
        for event in self.before.get(region.kernel, ()):
            self._wait(event, stream)
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
        if region.kernel in self.behind:
            if not targets:
                name = self.reading.kernels.kernels[region.kernel].name
                raise RewriteError(f"kernel {name!r} has no value to record behind")
            self._record(self.behind[region.kernel], list(targets.values()))

    def _realize(self, targets: dict[fx.Node, fx.Node]) -> None:
        """Append the point at which values are stored, in the order and with the layouts of the serial graph."""
        realized = self.reading.realized
        listed = sorted(targets, key=lambda old: realized[old].position if old in realized else inf)
        if values := self._tensors(targets[old] for old in listed):
            strides = {targets[old]: realized[old].strides for old in listed if old in realized}
            stream_ops.force_realize(self.module, values, strides)

    def join(self) -> None:
        """Append the waits of the caller's stream for all others, and a later use of what has to be held until then."""
        for event in self.before.get(JOIN, ()):
            self._wait(event, 0)
        # A use of a piece decides where it is, so a concatenation that no kernel reads comes before.
        left = [place for place, node in enumerate(self.reading.epilogue, 1) if node in self.reading.concatenations]
        self._copy_epilogue(self.reading.epilogue[: max(left, default=0)])
        self._hold(JOIN, 0, self.joined)

    def _hold(self, kernel: int, stream: int, waits: list[fx.Node]) -> None:
        """Append, after `waits` on the stream, a use of the values that are held until right before `kernel`, or JOIN."""
        values = self._tensors(self.latest[v] for v in self.held.get(kernel, ()) if v in self.latest)
        if values:
            # The waits alone: a buffer that is a dependency would have one more use, and no kernel could write it in place.
            self.last[stream] = stream_ops.extend_lifetimes(self.module, self.plan.events[-1].id, stream, waits, values)

    def finish(self) -> None:
        """Append what is between the regions' values and the outputs, and the outputs."""
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

    def _wait(self, event: Event, stream: int) -> None:
        node = self._ordered(stream_ops.wait(event.id, stream), stream, [self.recorded[event.id]])
        if stream == 0:
            self.joined.append(node)

    def _record(self, event: Event, dependencies: list[fx.Node]) -> None:
        self.recorded[event.id] = self._ordered(stream_ops.record(event.id, event.stream), event.stream, dependencies)

    def _ordered(self, operation: stream_ops.Operation, stream: int, dependencies: list[fx.Node]) -> fx.Node:
        """Append a stream operation that comes after all that its stream has so far."""
        before = [self.last[stream]] if stream in self.last else []
        made = self.since.pop(stream, {}).values()
        self.last[stream] = stream_ops.ordered(self.module, operation, list(dict.fromkeys([*before, *dependencies, *made])))
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
