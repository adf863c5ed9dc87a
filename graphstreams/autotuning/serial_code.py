"""Compiles the serial code of a graph, and runs it once on real inputs to get kernels that can be replayed.

Kernels are run thousands of times only if that changes nothing outside, and fits in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import networkx as nx
import torch
from torch import fx

from graphstreams.autotuning.cache_keys import launch_keys
from graphstreams.autotuning.cuda_graph import clones
from graphstreams.autotuning.matmul_precision import precisions
from graphstreams.autotuning.own_memory import repeatable_source
from graphstreams.autotuning.recorded_launches import by_kernel, record_launches
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.synthetic_inputs import Layout, concrete
from graphstreams.errors import Unmeasurable
from graphstreams.inductor import scheduler_nodes
from graphstreams.inductor.collective_operators import settings_for
from graphstreams.inductor.exclusivity import RESOURCE
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.opaque_objects import class_of_object
from graphstreams.inductor.settings import stream_settings
from graphstreams.ir.kernels import EdgeKind
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.verification.trace import PREPARATIONS, FinishStep, LaunchStep, StartStep
from graphstreams.verification.wrapper.read import read_wrapper

NOWHERE = -1  # the number of no kernel
MEMORY_SHARE = 0.5  # share of the device's free memory that buffers held for measuring may take


class CompiledSerialGraph:
    """The code that Inductor generates for a graph if nothing in it may depend on the order of the kernels."""

    def __init__(self, reading: Reading, serial: Lowered | None = None) -> None:
        """Take the code from `serial`, the graph as Inductor has lowered it, or generate it if plans may not hold there.

        Raises Unmeasurable if it has other launches than were read.
        """
        self.reading = reading
        source = repeatable_source(serial, reading) if serial is not None else ""
        if serial is not None and source:
            self.lowered = serial
        else:
            # With these settings no buffer is overwritten in place, which would hold another value in another order.
            settings = {**stream_settings(), **settings_for(reading.module)}
            self.lowered = lower(copy_graph(reading.module), generate_code=True, settings=settings, stores_shared=True)
        self.source = source or self.lowered.source
        self.kernels = _launched_kernels(self.lowered, reading)
        launches = _launch_steps(self.lowered, len(self.kernels))
        self.lines = [launch.line for launch in launches]
        self.collectives = [launch.line for launch in launches if isinstance(launch, StartStep | FinishStep)]

    def keys(self) -> list[str]:
        """Return what decides the time of each kernel, by kernel id."""
        constants = {name: _described(value) for name, value in self.lowered.graph.constants.items()}
        inputs = {**constants, **{node.name: _described(node.meta["val"]) for node in self._inputs()}}
        keys = launch_keys(self.lowered.source, self.lines, inputs)
        return ["\n".join(own) for own in by_kernel(keys, self.kernels, len(self.reading.kernels.kernels))]

    def arguments(self, values: Mapping[int, Any]) -> list[Any]:
        """Return what to call the code with: the real inputs `values`, by position, with copies of those that it changes.

        Raises Unmeasurable if running the code is not safe, or a tensor is not known: an index computed from synthetic values
        may be out of range, which on a GPU ends all work of the process.
        """
        check_repeatable(self.reading)
        check_memory(self.reading, {})
        return [_argument(node, values.get(i), self.reading) for i, node in enumerate(self._inputs())]

    def layouts(self, sizes: Mapping[str, int]) -> list[Any]:
        """Return the numbers and layouts of tensors to call the code with at other dynamic sizes than the example's.

        Raises Unmeasurable if running it is not safe.
        """
        check_repeatable(self.reading)
        check_nothing_accumulates(self.reading)
        check_memory(self.reading, sizes)
        return [_layout(node, sizes) for node in self._inputs()]

    def job(self, plan: Plan) -> dict[str, Any]:
        """Return what `worker.py` needs to time `plan`. Raises Unmeasurable if another process cannot have it."""
        if self.collectives:
            raise Unmeasurable("it holds a collective, which takes all ranks")
        constants = {name: value for name, value in self.lowered.graph.constants.items() if isinstance(value, torch.Tensor)}
        if len(constants) < len(self.lowered.graph.constants):
            raise Unmeasurable("the graph has constants that are no tensors")
        return {
            "source": self.source,
            "lines": self.lines,
            "constants": constants,
            "kernels": len(self.reading.kernels.kernels),
            "kernel_of_launch": self.kernels,
            "order": list(self.reading.kernel_order),
            "plan": plan.dumps(),
            "device": torch.cuda.current_device(),
            "precisions": precisions(),
        }

    def replayer(self, arguments: Sequence[Any]) -> KernelReplayer:
        """Compile the code, run it once on `arguments`, and return what it launched.

        Inputs that the graph updates from their own value are put back before each replay. Collectives and waits, which take
        all ranks, are left out of the run and of every replay.
        """
        accumulating = accumulating_inputs(self.reading)
        pairs = zip(self._inputs(), arguments, strict=True)
        updated = [argument for node, argument in pairs if self.reading.storages.get(node) in accumulating]
        restore = partial(torch._foreach_copy_, updated, clones(updated)) if updated else None
        with torch.no_grad():
            launches = record_launches(self.source, self.lines, self.lowered.graph.constants, arguments, self.collectives)
        return KernelReplayer(by_kernel(launches, self.kernels, len(self.reading.kernels.kernels)), restore)

    def _inputs(self) -> Sequence[fx.Node]:
        return list(self.reading.module.graph.find_nodes(op="placeholder"))


def _launched_kernels(lowered: Lowered, reading: Reading) -> list[int]:
    """Return the kernel of each launch. Their order need not be the one that was read, which may save memory."""
    found: list[int] = []
    launched: dict[int, list[str]] = {kernel.id: [] for kernel in reading.kernels.kernels}
    with lowered.active():
        for node in lowered.nodes:
            names = scheduler_nodes.launch_names(node)
            kernels = {reading.owners.get(name, NOWHERE) for name in node.get_buffer_names()} if names else set()
            for kernel, name in product(kernels, names):
                launched.setdefault(kernel, []).append(name)
                found.append(kernel)
    if len(found) != reading.launches:
        raise Unmeasurable(f"the serial code has {len(found)} launches where {reading.launches} were read")
    for read in reading.kernels.kernels:
        if Counter(launched[read.id]) != Counter(read.launches):
            raise Unmeasurable(f"the serial code has other launches for {read.name!r} than were read")
    return found


def _launch_steps(lowered: Lowered, launches: int) -> list[LaunchStep]:
    steps = read_wrapper(lowered.source).steps
    found = [step for step in steps if isinstance(step, LaunchStep) and step.name not in PREPARATIONS]
    if len(found) != launches:
        raise Unmeasurable(f"the serial code has {len(found)} launches where {launches} were read")
    return found


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return class_of_object(value) or str(concrete(value))
    layout = Layout.of(value)
    return f"{value.dtype} {list(layout.shape)} {list(layout.strides)}"


def _layout(node: fx.Node, sizes: Mapping[str, int]) -> Any:
    example = node.meta["val"]
    if isinstance(example, torch.Tensor):
        return Layout.of(example, sizes)
    return None if class_of_object(example) else concrete(example, sizes)  # no kernel uses such an object


def _argument(node: fx.Node, value: Any, reading: Reading) -> Any:
    layout = _layout(node, {})
    if not isinstance(layout, Layout):
        return layout
    if not isinstance(value, torch.Tensor) or Layout.of(value) != layout:
        raise Unmeasurable(f"the value of the input {node.name!r} is not known")
    written = {access.storage for kernel in reading.kernels.kernels for access in kernel.writes}
    changed = reading.storages.get(node) in written
    return layout.empty().copy_(value.detach()) if changed else value.detach()


def check_repeatable(reading: Reading) -> None:
    """Raise Unmeasurable unless the kernels always do the same, however often they are run."""
    if torch.cuda.is_current_stream_capturing():
        raise Unmeasurable("a CUDA graph is being captured")
    for kernel in reading.kernels.kernels:
        if kernel.exclusive:
            raise Unmeasurable(f"what {kernel.name!r} does when it is repeated is not known")
        if found := [access.storage for access in kernel.writes if access.storage.startswith(RESOURCE)]:
            raise Unmeasurable(f"{kernel.name!r} touches the {found[0]}, and what it does when it is repeated is not known")


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
