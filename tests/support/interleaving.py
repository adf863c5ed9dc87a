"""Run a rewritten graph on the CPU in any order that streams and events allow, in memory that is handed out again.

The host enqueues every step in graph order. It frees a block when it has enqueued the last use, and the allocator hands it
to the next allocation on the stream that allocated it, so values share bytes here as they would on a GPU. Then the streams
run: the head of any queue may be next, unless it waits for an event that has not been recorded. The caller's
stream writes the inputs first, and the caller reads outputs and mutated inputs as soon as that stream is done, whatever the
others still have to do.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from graphstreams.inductor.scheduling import IN_PLACE
from graphstreams.reading.eligibility import mutates
from graphstreams.testing.cpu_execution import OnCpu
from tests.support.enqueue_model import Pools, Step, contents, steps, storages, tensors

Choose = Callable[[Sequence[int]], int]  # picks, of the streams that can go on, the one that does
Result = tuple[list[Any], list[Any]]  # outputs and inputs, as the caller reads them

_POISON = 0xFF  # in every byte: NaN as any floating-point number, -1 as any signed integer


class Garbage(RuntimeError):
    """An operator refused what it read, which in the order of the host it accepts."""


def adversary(seed: int) -> Choose:
    """Return a random order in which some streams run far ahead of others, and which of them changes now and then."""
    generator = random.Random(seed)
    weight: dict[int, float] = {}

    def choose(runnable: Sequence[int]) -> int:
        if generator.random() < 0.1:
            weight.clear()
        weights = [weight.setdefault(stream, 10 ** generator.uniform(-3, 3)) for stream in runnable]
        return generator.choices(runnable, weights)[0]

    return choose


def execute(module: fx.GraphModule, inputs: Sequence[Any], choose: Choose) -> Result:
    """Return what the caller reads after one order of `module` on copies of `inputs` (CPU tensors and sizes)."""
    return Enqueued(module, inputs).run(choose)


def interleavings(module: fx.GraphModule, inputs: Sequence[Any], count: int, seed: int = 0) -> Iterator[Result | None]:
    """Yield the results of `count` random orders; None stands for one in which an operator refused what it read."""
    enqueued = Enqueued(module, inputs)
    for i in range(count):
        try:
            yield enqueued.run(adversary(seed + i))
        except Garbage:
            yield None


class Enqueued:
    """A graph as the host has enqueued it: the steps of each stream, and the block of each storage.

    A storage is known by its handle in one run of the graph in the host's order. The caller keeps the inputs that the
    graph mutates, and no other: those are freed behind their last use. With `pessimistic`, every kernel may allocate for
    itself and may get the block of an argument that nobody uses after it; without, only kernels whose values others use
    allocate, and they get what was freed before.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any], pessimistic: bool = True) -> None:
        self._inputs, self._pessimistic = inputs, pessimistic
        self._placeholders = module.graph.find_nodes(op="placeholder")
        self._output = module.graph.output_node()
        self._cpu = OnCpu(module, garbage_collect_values=False)
        copies = [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]
        with torch.no_grad():
            self._cpu.run(*copies)
        self._values = dict(self._cpu.env)
        self._pieces = self._written_in_place()
        self._kept = _mutated(self._values)
        self._arrival = Step(0)  # what the caller enqueued before: it writes the inputs
        self._steps = steps(module)
        self._pools = Pools()
        self._block: dict[int, int] = {}  # storage -> block
        self._home: dict[int, int] = {}  # storage -> the stream that allocated it
        self._allocate()

    def run(self, choose: Choose) -> Result:
        """Return what the caller reads in the order that `choose` picks. Raises Garbage if an operator refuses its input."""
        memory = [torch.full((size,), _POISON, dtype=torch.uint8) for size in self._pools.sizes]
        queues: dict[int, deque[Step]] = {0: deque([self._arrival])}
        for step in self._steps:
            queues.setdefault(step.stream, deque()).append(step)
        recorded: set[int | None] = {None}
        with torch.no_grad():
            while queues[0]:
                # Never empty: a wait is enqueued behind its record, so what was enqueued first of all that is left can run.
                runnable = [stream for stream, queue in sorted(queues.items()) if queue and queue[0].wait in recorded]
                step = queues[choose(runnable)].popleft()
                recorded.add(step.record)
                self._launch(step, memory)
            return self._read(memory)

    def _allocate(self) -> None:
        dying = self._dying()
        for node in (n for n in self._values if n.op in ("placeholder", "get_attr")):
            for storage, size in storages(self._values[node]).items():
                if storage not in self._block:
                    self._home[storage], self._block[storage] = 0, self._pools.new(size)
        for storage, size in self._shared().items():
            self._home[storage], self._block[storage] = 0, self._pools.new(size)
        used = {storage for dead in dying.values() for storage in dead}
        for place, step in enumerate(self._steps):
            made = {s: (n, size) for n in reversed(step.nodes) for s, size in storages(self._values[n]).items()}
            step.makes = {s: n for s, (n, _) in made.items() if s in used and s not in self._block}
            if step.makes or (step.nodes and self._pessimistic):
                step.poisons = self._pools.free(step.stream)
            if self._pessimistic:
                self._free(dying.get(place, ()))
            for storage in step.makes:
                self._home[storage] = step.stream
                self._block[storage] = self._pools.take(step.stream, made[storage][1])
            if not self._pessimistic:
                self._free(dying.get(place, ()))

    def _written_in_place(self) -> set[fx.Node]:
        """Return the pieces of concatenations that launch nothing, which are slices of them from here on."""
        found = set()
        for node in [node for node in self._values if node.meta.get(IN_PLACE)]:
            pieces, *rest = node.args
            sizes = [self._values[piece].shape[rest[0] if rest else 0] for piece in pieces]
            parts = self._values[node].split(sizes, *rest)
            self._values.update(zip(pieces, parts, strict=True))
            found.update(pieces)
        return found

    def _shared(self) -> dict[int, int]:
        """Return the storages of concatenations whose pieces several streams write, which are allocated from the start."""
        streams: dict[int, set[int]] = {}
        sizes: dict[int, int] = {}
        for step in self._steps:
            for node in self._pieces.intersection(step.nodes):
                for storage, size in storages(self._values[node]).items():
                    streams.setdefault(storage, set()).add(step.stream)
                    sizes[storage] = size
        return {storage: size for storage, size in sizes.items() if len(streams[storage]) > 1}

    def _dying(self) -> dict[int, list[int]]:
        """Return the storages whose last use is at each step; at -1 those that outlive the graph."""
        last: dict[int, int] = {}
        for place, step in enumerate(self._steps):
            last |= {storage: place for node in step.uses for storage in storages(self._values[node])}
        outlive = [*self._output.all_input_nodes, *(node for node in self._values if node.op == "get_attr")]
        last |= {storage: -1 for node in outlive for storage in storages(self._values[node])} | dict.fromkeys(self._kept, -1)
        dying: dict[int, list[int]] = {}
        for storage, place in last.items():
            dying.setdefault(place, []).append(storage)
        return dying

    def _free(self, dead: Iterable[int]) -> None:
        for storage in dead:
            self._pools.give(self._home[storage], self._block[storage])

    def _load(self, memory: list[torch.Tensor]) -> None:
        originals = zip(self._placeholders, self._inputs, strict=True)
        constants = ((n, value) for n, value in self._values.items() if n.op == "get_attr")
        for node, value in (*originals, *constants):
            for storage, tensor in zip(storages(self._values[node]), tensors(value), strict=True):
                memory[self._block[storage]].copy_(contents(tensor))

    def _launch(self, step: Step, memory: list[torch.Tensor]) -> None:
        if step is self._arrival:
            self._load(memory)
        for block in step.poisons:
            memory[block].fill_(_POISON)
        self._cpu.env = {node: self._placed(node, memory) for node in step.uses}
        try:
            for node in step.nodes:
                in_place = node.meta.get(IN_PLACE, False)
                self._cpu.env[node] = self._placed(node, memory) if in_place else self._cpu.run_node(node)
                if node in self._pieces:
                    self._placed(node, memory).copy_(self._cpu.env[node])
        except (IndexError, RuntimeError) as error:
            raise Garbage(f"{step.nodes[0].name}: {error}") from error
        for storage, node in step.makes.items():
            if node in self._pieces:
                continue
            for planned, made in zip(tensors(self._values[node]), tensors(self._cpu.env[node]), strict=True):
                if storage in storages(planned):
                    written = contents(made)
                    memory[self._block[storage]][: written.numel()].copy_(written)

    def _placed(self, node: fx.Node, memory: list[torch.Tensor]) -> Any:
        """Return the node's value as it lies in memory now, whoever wrote there last."""

        def place(value: torch.Tensor) -> torch.Tensor:
            block = self._block.get(value.untyped_storage()._cdata)
            if block is None:
                return value
            empty = torch.empty(0, dtype=value.dtype)
            return empty.set_(memory[block].untyped_storage(), value.storage_offset(), value.shape, value.stride())

        return tree_map_only(torch.Tensor, place, self._values[node])

    def _read(self, memory: list[torch.Tensor]) -> Result:
        def read(node: fx.Node) -> Any:
            return tree_map_only(torch.Tensor, torch.clone, self._placed(node, memory))

        kept = [not self._kept.isdisjoint(storages(self._values[node])) for node in self._placeholders]
        pairs = zip(self._placeholders, self._inputs, kept, strict=True)
        outputs: Any = fx.map_arg(self._output.args[0], read)
        return list(outputs), [read(node) if keep else value for node, value, keep in pairs]


def _mutated(values: dict[fx.Node, Any]) -> set[int]:
    """Return storages that some node writes in place."""
    found: set[int] = set()
    for node in filter(mutates, values):
        schema = getattr(node.target, "_schema", None)
        arguments = zip(schema.arguments, node.args, strict=False) if schema else ((None, n) for n in node.all_input_nodes)
        written = [
            a for s, a in arguments if isinstance(a, fx.Node) and (s is None or (s.alias_info and s.alias_info.is_write))
        ]
        found.update(storage for argument in written for storage in storages(values[argument]))
    return found
