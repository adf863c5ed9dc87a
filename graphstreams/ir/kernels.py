"""Define the plain data that every stage after reading works on: which kernels one compiled graph launches.

There is no torch here, because planning, pricing and reporting work on these types alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import sympy


class EdgeKind(str, Enum):
    """The reason why one kernel has to run after another."""

    RAW = "RAW"  # reads what the earlier kernel wrote
    WAR = "WAR"  # overwrites what the earlier kernel read
    WAW = "WAW"  # overwrites what the earlier kernel wrote
    ORDER = "order"  # no storage in common, but the program order has to stay


@dataclass(frozen=True)
class Access:
    """One storage that a kernel touches and how many bytes of it, as a sympy expression in the dynamic sizes.

    `part` names the only part of the storage that it touches. Two parts have no byte in common. Empty: any byte.
    """

    storage: str
    bytes: sympy.Expr
    part: str = ""


def value_of(expression: sympy.Expr | float, sizes: Mapping[str, int]) -> float:
    """Return a number of bytes, FLOPs or us for given dynamic sizes. Raises ValueError if one is missing."""
    known = sympy.sympify(expression)
    value = known.subs({symbol: sizes[str(symbol)] for symbol in known.free_symbols if str(symbol) in sizes})
    if value.free_symbols:
        raise ValueError(f"no example value for the dynamic size {min(map(str, value.free_symbols))!r}")
    return float(value)


@dataclass(frozen=True)
class LaunchWork:
    """What one launch of a kernel does, as far as its price depends on it. Numbers are expressions in the dynamic sizes."""

    kind: str  # as that of a kernel
    bytes: sympy.Expr  # read and written
    launches: int = 1  # more than one if the code of one operator has several, which share the work
    operator: str = ""  # the operator that it calls, such as "convolution"; empty if its code is generated
    dtype: str = ""  # of its arithmetic: "bfloat16", or "tfloat32" of float32 that is rounded to TF32
    flops: sympy.Expr = sympy.S.Zero
    inner: sympy.Expr = sympy.S.Zero  # how many products each result of a matrix product or a convolution adds up
    matrices: sympy.Expr = sympy.S.One  # of how many products it consists: the batch, or the groups of a convolution
    streamed: sympy.Expr = sympy.S.Zero  # bytes of the operands of a batch, those that its products share once for each
    vectors: sympy.Expr = sympy.S.Zero  # results of a batch of products of a matrix and a vector, if they are unaligned
    gathers: bool = False  # whether what it reads depends on indices that it reads first
    rearranged: bool = False  # whether a convolution's operands and result are copied into another layout
    narrow: bool = False  # whether a convolution has too few channels to load several at a time
    ranks: int = 1  # that take part in a collective, whose bytes are those of the message
    known_us: float = 0.0  # us that it was measured to take, if it was chosen by that; 0 of all others


@dataclass(frozen=True)
class Kernel:
    """A unit of planning: almost always one launch.

    Several launches are one unit if they are joined by a buffer that no value of the graph stands for
    (the two halves of a split reduction).
    """

    id: int  # its position in the serial graph's program order
    name: str  # the module it comes from, such as "indexer.wq_b", made unique
    kind: str  # "gemm", "pointwise", "reduction", "template", "extern", "collective", "wait" or "profile"
    nodes: tuple[str, ...] = ()  # names of the FX nodes whose values it realizes, in program order
    launches: tuple[str, ...] = ()  # what the serial wrapper launches for it, in order
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    flops: sympy.Expr = sympy.S.Zero
    dtype: str = ""  # of its arithmetic, such as "bfloat16"
    ops: tuple[str, ...] = ()  # the ATen operations inside
    work: tuple[LaunchWork, ...] = ()  # of each launch; empty if it is not known
    parameters: tuple[str, ...] = ()  # the module parameters and buffers that it reads
    exclusive: bool = False  # keeps its place against every other kernel
    exclusive_reason: str = ""  # why, if one of its nodes is the cause
    joined: str = ""  # why its launches are one unit, if there are several
    undeclared: str = ""  # the operator of another library that makes it exclusive, because nothing is declared of it
    allocates_output: bool = False  # its operator allocates what the graph returns
    collective: str = ""  # "start" if it starts a collective, "wait" if it waits for one
    group: str = ""  # name of the process group on whose stream the collective runs
    modules: tuple[str, ...] = ()  # expressions of the modules that what it computes stands in, such as "L['self'].a"
    pinned: int | None = None  # the stream that the user gave it; 0 is the caller's
    pinned_reason: str = ""  # what gave it that, such as "excluded by 'moe.*'"

    @property
    def on_caller(self) -> bool:
        """Whether it has to run on the caller's stream.

        What the graph returns must come from the memory of that stream. Whenever it is dropped, the next to get the block there
        is ordered behind all that was enqueued before; on an aux stream that holds at its fork only. Collectives and waits are
        there on every rank, so that they come in one order whatever each rank's plan is.
        """
        return self.exclusive or self.allocates_output or bool(self.collective) or self.pinned == 0

    @property
    def bound_stream(self) -> int | None:
        """The only stream that it may run on, 0 for the caller's; None if it may run on any."""
        return 0 if self.on_caller else self.pinned

    @property
    def why_on_caller(self) -> str:
        """Why it has to run on the caller's stream, as a part of a sentence; empty if it does not."""
        if self.collective:
            return "collectives, and the waits for them, stay there in the order of the serial code"
        if self.exclusive:
            reason = f" ({self.exclusive_reason})" if self.exclusive_reason else ""
            return f"it keeps its place against every other kernel{reason}"
        if self.allocates_output:
            return "its operator allocates what the graph returns"
        return self.pinned_reason if self.pinned == 0 else ""


@dataclass(frozen=True)
class Edge:
    """A dependence: `after` may start only once `before` has ended. Both are kernel ids, before < after."""

    before: int
    after: int
    kind: EdgeKind
    storage: str = ""


@dataclass(frozen=True)
class Background:
    """The kernels that leave their stream at once and run on another one: collectives, of which those of a group take turns.

    What only has to come after the start of one, whether it has ended or not, is `issued` after it.
    """

    groups: Mapping[int, str] = field(default_factory=dict)  # kernel id -> process group
    issued: Mapping[int, frozenset[int]] = field(default_factory=dict)  # kernel id -> kernels that come after its start

    def awaited(self, kernel: int, predecessors: Sequence[int]) -> Sequence[int]:
        """Return the predecessors of a kernel of which it needs the end."""
        if not self.groups:
            return predecessors
        return [before for before in predecessors if kernel not in self.issued.get(before, ())]


@dataclass(frozen=True)
class KernelGraph:
    """The kernels of one graph in program order (kernels[i].id == i), and every dependence between them."""

    name: str
    kernels: tuple[Kernel, ...]
    edges: tuple[Edge, ...]
    sizes: dict[str, int] = field(default_factory=dict)  # example values of the dynamic sizes

    def pinned_streams(self) -> frozenset[int]:
        """Return the streams, other than the caller's, that kernels are bound to. No plan may give them another number."""
        return frozenset(kernel.bound_stream for kernel in self.kernels if kernel.bound_stream)

    def has_collectives(self) -> bool:
        """Return whether a kernel starts a collective, which takes all ranks to run."""
        return any(kernel.collective for kernel in self.kernels)

    def background(self) -> Background:
        """Return what of the graph runs beside its own stream."""
        groups = {kernel.id: kernel.group for kernel in self.kernels if kernel.collective == "start"}
        issued: dict[int, set[int]] = {start: set() for start in groups}
        for edge in self.edges if groups else ():
            if edge.before in groups and edge.kind is EdgeKind.ORDER:
                issued[edge.before].add(edge.after)
        for edge in self.edges if groups else ():
            if edge.before in groups and edge.kind is not EdgeKind.ORDER:
                issued[edge.before].discard(edge.after)
        return Background(groups, {start: frozenset(after) for start, after in issued.items()})

    def predecessors(self) -> list[list[int]]:
        """Return the kernel ids that each kernel directly depends on, ascending, without repeats."""
        return _adjacency(len(self.kernels), ((e.after, e.before) for e in self.edges))

    def successors(self) -> list[list[int]]:
        """Return the kernel ids that directly depend on each kernel, ascending, without repeats."""
        return _adjacency(len(self.kernels), ((e.before, e.after) for e in self.edges))


def _adjacency(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    found: list[set[int]] = [set() for _ in range(count)]
    for source, target in pairs:
        found[source].add(target)
    return [sorted(targets) for targets in found]
