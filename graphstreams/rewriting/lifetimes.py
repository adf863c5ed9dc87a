"""Choose until when the values that several streams touch have to stay alive.

As soon as the host frees a block, the allocator may give it to the next allocation on the stream that allocated it. So a value
that a second stream reads may be freed only once the allocating stream has waited for that read, by whatever event does that
first. After the join that holds for every stream, because the caller's stream has waited for all work and the next call forks
from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from graphstreams.ir.kernels import value_of
from graphstreams.ir.plan import JOIN, Plan
from graphstreams.ir.reading import Reading

Clock = Mapping[int, int]  # by stream, how many of its kernels are known to be done


def held_values(reading: Reading, plan: Plan) -> dict[int, list[fx.Node]]:
    """Return the values, inputs of the graph too, in storages that several streams touch, by where each may be freed.

    The key is the kernel right before which the allocating stream has waited for all that touch the storage, or JOIN. Storages
    count, not values: an operator in place may put a value of another stream into memory that the stream of the first value
    allocated. Values are in graph order. Those on the CPU are held up to the JOIN and come last there, because Inductor leaves
    the device guard for them.
    """
    touched: dict[str, list[tuple[int, int]]] = {  # storage -> (stream, how many kernels of that stream include the one there)
        storage: [(0, 0)] for node, storage in reading.storages.items() if node.op == "placeholder"
    }
    kernels = reading.kernels.kernels
    counts: dict[int, int] = defaultdict(int)
    for placement in plan.placements:
        counts[placement.stream] += 1
        for access in (*kernels[placement.kernel].reads, *kernels[placement.kernel].writes):
            touched.setdefault(access.storage, []).append((placement.stream, counts[placement.stream]))
    for storage, kernels_of_pieces in reading.divided.items():
        if len({placement.stream for placement in plan.placements if placement.kernel in kernels_of_pieces}) > 1:
            touched[storage].insert(0, (0, 0))  # the caller's stream allocates it ahead of the fork
    shared = {storage: uses for storage, uses in touched.items() if len({stream for stream, _ in uses}) > 1}
    ends = _ends(plan, shared)
    for node in reading.concatenations.intersection(reading.epilogue):
        ends.pop(reading.storages[node], None)  # it is made behind the join
    held: dict[int, list[fx.Node]] = defaultdict(list)
    for node in sorted(reading.storages, key=lambda node: (_on_cpu(node), node)):
        if reading.storages[node] in shared:
            held[JOIN if _on_cpu(node) else ends.get(reading.storages[node], JOIN)].append(node)
    return dict(held)


@dataclass(frozen=True)
class HeldValue:
    """A value that a kernel makes and that stays alive until other streams are done with it. Kernels are ids."""

    kernel: int
    bytes: float  # at the example sizes
    held_for: frozenset[int]  # kernels of other streams that touch it


def largest_held(reading: Reading, plan: Plan, wanted: float) -> list[HeldValue]:
    """Return the largest values that are held for other streams, largest first, until they make up `wanted` bytes.

    The graph's inputs, which the caller holds, do not count.
    """
    inputs = {storage for node, storage in reading.storages.items() if node.op == "placeholder"}
    held = {reading.storages[node] for nodes in held_values(reading, plan).values() for node in nodes} - inputs
    touched: dict[str, list[int]] = defaultdict(list)  # storage -> the kernels that touch it, in the plan's order
    size: dict[str, float] = defaultdict(float)
    for placement in plan.placements:
        kernel = reading.kernels.kernels[placement.kernel]
        for access in (*kernel.reads, *kernel.writes):
            if access.storage in held:
                touched[access.storage].append(kernel.id)
                size[access.storage] = max(size[access.storage], value_of(access.bytes, reading.kernels.sizes))
    stream, found, total = plan.stream_of(), list[HeldValue](), 0.0
    for storage in sorted(touched, key=lambda name: (-size[name], name)):
        if total >= wanted:
            break
        first, *others = touched[storage]
        held_for = frozenset(kernel for kernel in others if stream[kernel] != stream[first])
        found.append(HeldValue(first, size[storage], held_for))
        total += size[storage]
    return found


def _ends(plan: Plan, uses: Mapping[str, list[tuple[int, int]]]) -> dict[str, int]:
    """Return, for each storage, the first kernel with a wait on the allocating stream behind all uses, if there is one.

    The allocating stream is that of the first use. What an event waits for is counted as in a vector clock.
    """
    clocks: dict[int, dict[int, int]] = defaultdict(dict)
    recorded: dict[int, Clock] = {}
    pending: dict[int, set[str]] = defaultdict(set)
    for storage, own in uses.items():
        pending[own[0][0]].add(storage)
    ends: dict[str, int] = {}
    waited = False
    for step, number, stream in plan.steps():
        clock = clocks[stream]
        if step == "record":
            recorded[number] = dict(clock)
        elif step == "wait":
            clock.update({other: max(clock.get(other, 0), count) for other, count in recorded[number].items()})
        else:
            if waited:
                done = {s for s in pending[stream] if all(clock.get(other, 0) >= count for other, count in uses[s])}
                ends.update(dict.fromkeys(done, number))
                pending[stream] -= done
            clock[stream] = clock.get(stream, 0) + 1
        waited = step == "wait"
    return ends


def _on_cpu(node: fx.Node) -> bool:
    """Return whether a value is on the CPU, such as a float that is an input of a graph with dynamic shapes."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"
