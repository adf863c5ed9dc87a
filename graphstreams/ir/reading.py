"""TODO."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from graphstreams.ir.kernels import KernelGraph


@dataclass(frozen=True)
class Region:
    """The FX nodes of one kernel. `nodes` are in graph order; `inputs` come from elsewhere; `targets` are what others use."""

    kernel: int
    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    targets: tuple[fx.Node, ...]


@dataclass(frozen=True)
class RealizedValue:
    """How Inductor stored a value: as which of its operations, counted from 0, and with which strides."""

    position: int
    strides: tuple[int, ...]  # empty where the operation decides, or sizes are dynamic
    views: tuple[fx.Node, ...] = ()  # that were taken before it was stored, in graph order


@dataclass(frozen=True)
class Reading:
    """A graph as kernels: the plain data, and which FX nodes of `module` stand behind each kernel."""

    module: fx.GraphModule
    kernels: KernelGraph
    regions: tuple[Region, ...]
    host: tuple[fx.Node, ...]  # numbers that the host computes from sizes
    epilogue: tuple[fx.Node, ...]  # what stands between the regions' values and the graph's outputs
    order: tuple[int, ...]  # the kernel of each launch of the serial code, in its order
    peak_memory: int  # bytes of buffers alive at once
    storages: dict[fx.Node, str]  # storage of each input and target, as the kernels' accesses name it
    mutated: tuple[str, ...] = ()  # the graph's inputs that it changes
    realized: dict[fx.Node, RealizedValue] = field(default_factory=dict)  # of targets that have a buffer of their own

    @property
    def kernel_order(self) -> list[int]:
        """Kernel ids in the order in which the serial code first launches something for them."""
        return list(dict.fromkeys(self.order))

    @property
    def launches(self) -> int:
        """How many launches the serial code makes."""
        return len(self.order)
