"""What has to hold before a graph is planned, and the graph as Inductor lowers it."""

from __future__ import annotations

from torch import fx

from graphstreams.dynamic_shapes.crossover import token_count
from graphstreams.errors import StaySerial
from graphstreams.inductor.collective_operators import is_copied, start_in_place
from graphstreams.inductor.convolutions import has_biases, peel_biases
from graphstreams.inductor.lowering import copy_graph, finish_post_grad_passes
from graphstreams.inductor.settings import unusable_setting
from graphstreams.inductor.wrapper_registry import foreign_generator
from graphstreams.ir.devices import Device
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.runtime.allocator import unsupported_allocator
from graphstreams.runtime.streams import missing_stream_api


def unusable(device: Device | None) -> str:
    """Return what keeps every graph serial here; empty if nothing does."""
    no_api = missing_stream_api(at_hand=device is None)
    return unsupported_allocator() or no_api or unusable_setting() or foreign_generator()


def final_graph(gm: fx.GraphModule, finished: bool = False) -> fx.GraphModule:
    """Return the graph as it is read: a copy of it, or `gm` itself if it is `finished` and nothing in it has to be changed.

    It is finished if Inductor's last passes have run on it.
    """
    if finished and not has_biases(gm) and not any(map(is_copied, gm.graph.nodes)):
        return gm
    module = copy_graph(gm)
    if not finished:
        finish_post_grad_passes(module)
    peel_biases(module)
    start_in_place(module)
    return module


def notes_on_kernels(reading: Reading) -> list[str]:
    """Return why user-written Triton kernels keep their place, and which launches are one unit and why, for notes."""
    kernels = reading.kernels.kernels
    kept = [f"{k.name!r} keeps its place: {k.exclusive_reason}" for k in kernels if k.kind == "triton" and k.exclusive_reason]
    several = [k for k in kernels if len(k.launches) > 1 and k.joined]
    return kept + [f"{k.name!r} is a unit of {len(k.launches)} launches: {k.joined}" for k in several]


def check_tokens(gm: fx.GraphModule, options: Options) -> None:
    """Raise StaySerial if a graph of fixed sizes has more tokens than the user wants on streams."""
    if options.max_tokens is None:
        return
    tokens = token_count(gm)
    # For a dynamic size this comparison becomes a guard: another graph is compiled for the other side of it.
    if tokens is not None and tokens > options.max_tokens:
        raise StaySerial("serial", f"its first matrix product has {tokens} rows, more than max_tokens={options.max_tokens}")
