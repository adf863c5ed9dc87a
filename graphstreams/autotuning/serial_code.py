"""From a graph that was read to kernels that can be played: its serial code, loaded and run once on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import sympy
import torch
from torch import fx

from graphstreams.autotuning.benchmark_worker import precisions
from graphstreams.autotuning.cache_keys import launch_keys
from graphstreams.autotuning.recorded_launches import by_kernel, record_launches
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.synthetic_inputs import Layout
from graphstreams.errors import Unmeasurable
from graphstreams.inductor import scheduler_nodes
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.settings import stream_settings
from graphstreams.ir.kernels import EdgeKind
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.verification.trace import PREPARATIONS, Launch
from graphstreams.verification.wrapper.read import read_wrapper

MEMORY_SHARE = 0.25  # of the free memory of the device, that buffers held for measuring may take


class CompiledSerialGraph:
    """The code that Inductor generates for a graph that was read, with nothing that depends on the order of its kernels."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        # Nor may a buffer be overwritten in place, which in another order holds another value.
        self.lowered = lower(copy_graph(reading.module), generate_code=True, settings=stream_settings())
        self.lines = _launch_lines(self.lowered, reading)

    def keys(self) -> list[str]:
        """What decides the time of each kernel, by kernel id."""
        constants = {name: _described(value) for name, value in self.lowered.graph.constants.items()}
        inputs = {**constants, **{node.name: _described(node.meta["val"]) for node in self._inputs()}}
        keys = launch_keys(self.lowered.source, self.lines, inputs)
        return ["\n".join(own) for own in by_kernel(keys, self.reading.order, len(self.reading.kernels.kernels))]

    def arguments(self, values: Mapping[int, Any]) -> list[Any]:
        """What to call the code with. `values` are the graph's real inputs by position; those that it changes are copied.

        Raises Unmeasurable where running the code is not safe, also where a tensor is not known: an index computed from made-up
        values may be out of range, which on a GPU ends all work of the process.
        """
        _check_repeatable(self.reading)
        _check_memory(self.reading, {})
        return [_argument(node, values.get(i), self.reading) for i, node in enumerate(self._inputs())]

    def layouts(self, sizes: Mapping[str, int]) -> list[Any]:
        """The numbers and layouts of tensors to call the code with where dynamic sizes are other than the example's.

        Raises Unmeasurable where running it is not safe.
        """
        _check_repeatable(self.reading)
        _check_memory(self.reading, sizes)
        return [_layout(node, sizes) for node in self._inputs()]

    def job(self, plan: Plan) -> dict[str, Any]:
        """What `runtime/child.py` needs to measure `plan`. Raises Unmeasurable where another process cannot have it."""
        constants = {name: value for name, value in self.lowered.graph.constants.items() if isinstance(value, torch.Tensor)}
        if len(constants) < len(self.lowered.graph.constants):
            raise Unmeasurable("the graph has constants that are no tensors")
        return {
            "source": self.lowered.source,
            "lines": self.lines,
            "constants": constants,
            "kernels": len(self.reading.kernels.kernels),
            "kernel_of_launch": list(self.reading.order),
            "order": list(self.reading.kernel_order),
            "plan": plan.dumps(),
            "device": torch.cuda.current_device(),
            "precisions": precisions(),
        }

    def player(self, arguments: Sequence[Any]) -> KernelReplayer:
        """Compile the code, run it once on `arguments`, and keep what it launched."""
        with torch.no_grad():
            launches = record_launches(self.lowered.source, self.lines, self.lowered.graph.constants, arguments)
        return KernelReplayer(by_kernel(launches, self.reading.order, len(self.reading.kernels.kernels)))

    def _inputs(self) -> Sequence[fx.Node]:
        return list(self.reading.module.graph.find_nodes(op="placeholder"))


def load_call(source: str, constants: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    """Return the function of a wrapper, compiled and loaded. It takes the list of the graph's inputs and empties it."""
    module = ModuleType("graphstreams_wrapper")
    exec(compile(source, "<wrapper>", "exec"), module.__dict__)
    vars(module).update(constants)
    return module.call  # type: ignore[no-any-return]


def _launch_lines(lowered: Lowered, reading: Reading) -> list[int]:
    steps = read_wrapper(lowered.source).steps
    lines = [step.line for step in steps if isinstance(step, Launch) and step.name not in PREPARATIONS]
    with lowered.active():
        count = sum(scheduler_nodes.launch_count(node) for node in lowered.nodes)
    if not len(lines) == count == reading.launches:
        raise Unmeasurable(f"the serial code has {len(lines)} launches where {reading.launches} were read")
    return lines


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return str(_number(value))
    shape, strides = ([_number(size) for size in sizes] for sizes in (value.shape, value.stride()))
    return f"{value.dtype} {shape} {strides}"


def _number(size: Any, sizes: Mapping[str, int] | None = None) -> Any:
    """The number that a size stands for in the example, or with other values for some dynamic sizes."""
    if not isinstance(size, torch.SymInt | torch.SymFloat):
        return size
    if not sizes or not isinstance(size, torch.SymInt):
        return size.node.hint
    expression, shape_env = size.node.expr, size.node.shape_env
    assert shape_env is not None
    known = {s: sizes.get(str(s), shape_env.backed_var_to_val.get(s)) for s in expression.free_symbols}
    return int(expression.xreplace({symbol: sympy.Integer(value) for symbol, value in known.items()}))


def _argument(node: fx.Node, value: Any, reading: Reading) -> Any:
    layout = _layout(node, {})
    if not isinstance(layout, Layout):
        return layout
    if not isinstance(value, torch.Tensor) or not _fits(value, node.meta["val"], layout):
        raise Unmeasurable(f"the value of the input {node.name!r} is not known")
    written = {access.storage for kernel in reading.kernels.kernels for access in kernel.writes}
    changed = reading.storages.get(node) in written
    return _copy(value.detach(), layout) if changed else value.detach()


def _layout(node: fx.Node, sizes: Mapping[str, int]) -> Any:
    example = node.meta["val"]
    if not isinstance(example, torch.Tensor):
        return _number(example, sizes)
    shape, strides = (tuple(_number(size, sizes) for size in of) for of in (example.shape, example.stride()))
    return Layout.of(example, shape, strides)


def _fits(value: torch.Tensor, example: torch.Tensor, layout: Layout) -> bool:
    same = value.dtype == example.dtype and value.device == example.device
    return same and tuple(value.shape) == layout.shape and tuple(value.stride()) == layout.strides


def _copy(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    return torch.empty_strided(layout.shape, layout.strides, dtype=value.dtype, device=value.device).copy_(value)


def _check_repeatable(reading: Reading) -> None:
    """Kernels are run thousands of times: that must change nothing outside, and always do the same."""
    if torch.cuda.is_current_stream_capturing():
        raise Unmeasurable("a CUDA graph is being captured")
    for kernel in reading.kernels.kernels:
        if kernel.exclusive:
            raise Unmeasurable(f"what {kernel.name!r} does when it is repeated is not known")
    updates = _updates(reading)
    sources: dict[str, set[str]] = {}  # inputs that the new value of an input depends on, after any number of repetitions
    for _, storage, behind in updates:
        sources.setdefault(storage, set()).update(behind)
    for middle, earlier in sources.items():
        for found in sources.values():
            if middle in found:
                found |= earlier
    for name, storage, _ in updates:
        if storage in sources[storage]:
            # It might count an index up until that lies behind the end of a tensor.
            raise Unmeasurable(f"{name!r} updates an input of the graph from its own value")


def _updates(reading: Reading) -> list[tuple[str, str, set[str]]]:
    """Each kernel that writes an input of the graph, with that input and all inputs that its results depend on."""
    inputs = {storage for node, storage in reading.storages.items() if node.op == "placeholder"}
    givers: dict[int, list[int]] = {}
    for edge in reading.kernels.edges:
        if edge.kind is EdgeKind.RAW:
            givers.setdefault(edge.after, []).append(edge.before)
    behind: list[set[str]] = []
    updates = []
    for kernel in reading.kernels.kernels:
        own = {access.storage for access in kernel.reads if access.bytes != 0} & inputs
        behind.append(own.union(*(behind[giver] for giver in givers.get(kernel.id, ()))))
        updates += [(kernel.name, access.storage, behind[-1]) for access in kernel.writes if access.storage in inputs]
    return updates


def _check_memory(reading: Reading, other_sizes: Mapping[str, int]) -> None:
    """All that the kernels write stays allocated at once, copies of changed inputs included."""
    sizes = {**reading.kernels.sizes, **other_sizes}
    largest: dict[str, float] = {}
    for kernel in reading.kernels.kernels:
        for access in kernel.writes:
            # By symbol, for a name would stand for another symbol, one without assumptions.
            size = float(access.bytes.subs({symbol: sizes[str(symbol)] for symbol in access.bytes.free_symbols}))
            largest[access.storage] = max(size, largest.get(access.storage, 0.0))
    for node, storage in reading.storages.items():
        value = node.meta.get("val")
        if node.op == "placeholder" and storage in largest and isinstance(value, torch.Tensor):
            largest[storage] = float(_number(value.untyped_storage().nbytes(), other_sizes))
    needed, free = sum(largest.values()), torch.cuda.mem_get_info()[0]
    if needed > MEMORY_SHARE * free:
        raise Unmeasurable(f"its buffers take {needed / 2**20:.0f} MiB, more than {MEMORY_SHARE:.0%} of the free memory")
