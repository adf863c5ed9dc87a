"""Define what is read of a graph: its kernels, and the FX nodes behind each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from graphstreams.ir.kernels import KernelGraph


@dataclass(frozen=True)
class Region:
    """The FX nodes of one kernel."""

    kernel: int
    nodes: tuple[fx.Node, ...]  # in graph order
    inputs: tuple[fx.Node, ...]  # of other kernels, or of the graph
    targets: tuple[fx.Node, ...]  # nodes that other kernels or the graph's outputs use


def owners(regions: Sequence[Region]) -> dict[str, int]:
    """Return the kernel of each node that a region holds. A node in several is of the one that realizes it, or the first."""
    found: dict[str, int] = {}
    for region in regions:
        for node in region.nodes:
            found.setdefault(node.name, region.kernel)
    found.update({node.name: region.kernel for region in regions for node in region.targets})
    return found


@dataclass(frozen=True)
class RealizedValue:
    """How Inductor stores a value."""

    position: int  # of the operation that stores it, counted from 0
    strides: tuple[int, ...]  # empty if the operation decides, or sizes are dynamic
    views: tuple[fx.Node, ...] = ()  # taken before it is stored, in graph order


@dataclass(frozen=True)
class Reading:
    """A graph as kernels: the plain data, and the FX nodes of `module` behind each kernel."""

    module: fx.GraphModule
    kernels: KernelGraph
    regions: tuple[Region, ...]
    host: tuple[fx.Node, ...]  # numbers that the host computes from sizes
    epilogue: tuple[fx.Node, ...]  # what stands between the regions' values and the graph's outputs
    order: tuple[int, ...]  # the kernel of each launch of the serial code, in its order
    peak_memory: int  # bytes of buffers alive at once
    storages: dict[fx.Node, str]  # of each input and target, as the kernels' accesses name it
    held_memory: int = 0  # bytes of the inputs and constants, weights included
    mutated: tuple[str, ...] = ()  # the graph's inputs that it changes
    realized: dict[fx.Node, RealizedValue] = field(default_factory=dict)  # targets that have a buffer of their own
    concatenations: frozenset[fx.Node] = frozenset()  # that launch nothing, and are in the region of each kernel that reads one
    divided: dict[str, frozenset[int]] = field(default_factory=dict)  # storages of concatenations: the kernels of their pieces
    owners: dict[str, int] = field(default_factory=dict)  # the kernel that makes each buffer
    of_serial: bool = False  # read from the lowering of the serial code, whose launches are these

    @property
    def kernel_order(self) -> list[int]:
        """The kernel ids in the order in which the serial code first launches something for them."""
        return list(dict.fromkeys(self.order))

    @property
    def launches(self) -> int:
        """How many launches the serial code makes."""
        return len(self.order)
