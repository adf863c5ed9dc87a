"""Checks that the kernels of a graph can be run thousands of times: that this changes nothing outside, and fits in memory."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import torch

from graphstreams.autotuning.synthetic_inputs import concrete
from graphstreams.errors import Unmeasurable
from graphstreams.ir.kernels import EdgeKind
from graphstreams.ir.reading import Reading

MEMORY_SHARE = 0.25  # share of the device's free memory that buffers held for measuring may take


def check_repeatable(reading: Reading) -> None:
    """Raise Unmeasurable unless the kernels always do the same, however often they are run."""
    if torch.cuda.is_current_stream_capturing():
        raise Unmeasurable("a CUDA graph is being captured")
    for kernel in reading.kernels.kernels:
        if kernel.exclusive:
            raise Unmeasurable(f"what {kernel.name!r} does when it is repeated is not known")


def check_nothing_accumulates(reading: Reading) -> None:
    """Raise Unmeasurable if an input would have to be put back before each repetition."""
    accumulating = accumulating_inputs(reading)
    for kernel in reading.kernels.kernels:
        if any(access.storage in accumulating for access in kernel.writes):
            raise Unmeasurable(f"{kernel.name!r} updates an input of the graph from its own value")


def accumulating_inputs(reading: Reading) -> set[str]:
    """Return the storages of inputs whose new value depends on their own: cycles of the data flow over repetitions.

    Such an input may be an index that is counted up, and would lie behind the end of a tensor after some repetitions.
    """
    inputs = {storage for node, storage in reading.storages.items() if node.op == "placeholder"}
    flow = nx.DiGraph((edge.before, edge.after) for edge in reading.kernels.edges if edge.kind is EdgeKind.RAW)
    for kernel in reading.kernels.kernels:
        flow.add_edges_from((access.storage, kernel.id) for access in kernel.reads if access.bytes != 0)
        flow.add_edges_from((kernel.id, access.storage) for access in kernel.writes if access.storage in inputs)
    return inputs & {node for part in nx.strongly_connected_components(flow) if len(part) > 1 for node in part}


def check_memory(reading: Reading, other_sizes: Mapping[str, int]) -> None:
    """Raise Unmeasurable unless all that the kernels write, and copies of changed inputs, fits in memory at once."""
    sizes = {**reading.kernels.sizes, **other_sizes}
    largest: dict[str, float] = {}
    for kernel in reading.kernels.kernels:
        for access in kernel.writes:
            # By symbol, because a name would stand for another symbol, one without assumptions.
            size = float(access.bytes.subs({symbol: sizes[str(symbol)] for symbol in access.bytes.free_symbols}))
            largest[access.storage] = max(size, largest.get(access.storage, 0.0))
    for node, storage in reading.storages.items():
        value = node.meta.get("val")
        if node.op == "placeholder" and storage in largest and isinstance(value, torch.Tensor):
            largest[storage] = float(concrete(value.untyped_storage().nbytes(), other_sizes))
    # Of an input that is put back before each repetition there are two copies.
    twice = sum(largest.get(storage, 0.0) for storage in accumulating_inputs(reading))
    needed, free = sum(largest.values()) + twice, torch.cuda.mem_get_info()[0]
    if needed > MEMORY_SHARE * free:
        raise Unmeasurable(f"its buffers take {needed / 2**20:.0f} MiB, more than {MEMORY_SHARE:.0%} of the free memory")
