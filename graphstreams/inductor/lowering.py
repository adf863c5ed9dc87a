"""Lower a copy of a graph as Inductor would, and ask how it stores the graph's values.

Read in torch 2.15.0: `_inductor/graph.py` (GraphLowering), `_inductor/scheduler.py` (Scheduler), `_inductor/memory.py`
(prepare_planning_info, estimate_peak_memory), `_inductor/fx_passes/post_grad.py` (post_grad_passes),
`_inductor/compile_fx.py` (codegen_and_compile).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor import config, config_comms, ir
from torch._inductor.debug import DebugContext
from torch._inductor.fx_passes import post_grad, reinplace
from torch._inductor.fx_utils import FakeTensorUpdater
from torch._inductor.graph import GraphLowering
from torch._inductor.lowering import maybe_layout_constraints
from torch._inductor.memory import estimate_peak_memory, prepare_planning_info
from torch._inductor.scheduler import Scheduler
from torch._inductor.virtualized import V
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils._ordered_set import OrderedSet

from graphstreams.inductor.concatenation_kinds import as_noted, store_as_noted
from graphstreams.inductor.foreach import ForeachScheduler
from graphstreams.inductor.ir_values import same_buffers, without_boxes
from graphstreams.inductor.settings import settings_alone
from graphstreams.inductor.stored_operands import store_if_copied


@dataclass(frozen=True)
class Lowered:
    """A lowered graph: Inductor's own object with its scheduler, and the IR value of each FX node."""

    graph: GraphLowering
    values: dict[fx.Node, Any]
    source: str = ""  # the wrapper, if code was generated
    stores_shared: bool = False  # whether no operator has a copy to itself of what several read

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which Inductor answers questions about this graph's nodes."""
        return V.set_graph_handler(self.graph)

    @property
    def nodes(self) -> list[Any]:
        """The fused scheduler nodes, in the order in which code is generated for them."""
        return self.graph.scheduler.nodes


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """Return a copy with nodes and metadata of its own, which shares tensors and submodules with `gm`."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(gm.graph, copied)
    output = graph.output(result)
    output.meta = dict(gm.graph.output_node().meta)
    copy = _LazyGraphModule(gm, graph)  # whose code is written if somebody asks for it
    copy.meta = dict(gm.meta)
    return copy


def finish_post_grad_passes(gm: fx.GraphModule) -> None:
    """Run on `gm` the passes that Inductor runs after the custom post-grad pass and before it lowers.

    Re-inplacing and the decomposition of functionalized mutations take graph order for time order, so they must see the
    serial order. When Inductor runs these passes again, they find nothing to do.
    """
    for _ in range(3):
        before = str(gm.graph)
        _last_passes(gm)
        # A second write to one input is re-inplaced only after the first one.
        if str(gm.graph) == before:
            break
    gm.recompile()
    gm.graph.lint()


def _last_passes(gm: fx.GraphModule) -> None:
    updater = FakeTensorUpdater(gm)
    post_grad.stable_topological_sort(gm.graph)
    post_grad.move_constructors_to_gpu(gm.graph)
    updater.incremental_update()
    _deduplicate_waits(gm)
    reinplace.reinplace_inplaceable_ops(updater, gm.graph)
    post_grad.fix_auto_functionalized_dtype_views(gm.graph)
    post_grad.decompose_triton_kernel_wrapper_functional(gm.graph)
    post_grad.decompose_auto_functionalized(gm.graph)


def _deduplicate_waits(gm: fx.GraphModule) -> None:
    """Keep the first of several waits for one collective, as Inductor does in every graph; 2.14 does not."""
    operator = getattr(torch.ops._c10d_functional, "wait_tensor", None)
    first: dict[Any, fx.Node] = {}  # by what is awaited; a wait gives its argument, so it stands for that
    for node in list(gm.graph.nodes):
        if operator is None or node.target is not operator.default:
            continue
        if (earlier := first.setdefault(node.args[0], node)) is not node:
            node.replace_all_uses_with(earlier)
            gm.graph.erase_node(node)
        else:
            first[node] = node


class _Recorder(GraphLowering):
    """A GraphLowering that keeps the value of every node of the top-level graph.

    With `stores_shared` a value that several operators read, one of which asks for a layout, is stored once. Inductor makes a
    copy of its own for each such operator (`constrain_to_fx_strides`), of which no node of the graph knows.

    Inductor moves a constant of the CPU once for each kernel that reads it. Of those copies `constants` has, one is used.
    """

    def __init__(
        self, *args: Any, stores_shared: bool = False, constants: Mapping[str, torch.Tensor] | None = None,
        scheduler: type[Scheduler] = ForeachScheduler, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        self._stores_shared, self._moved, self._scheduler = stores_shared, constants or {}, scheduler
        self.recorded: dict[fx.Node, Any] = {}
        self.all_stored = True  # whether nothing was, or would have been, stored for `stores_shared`

    def run_node(self, n: fx.Node) -> object:
        if maybe_layout_constraints(n.target):  # type: ignore[arg-type]
            for shared in (node for node in n.all_input_nodes if len(node.users) > 1):
                if isinstance(value := self.env[shared], ir.TensorBox):
                    self.all_stored = self.all_stored and storage_name(value) is not None
                    if self._stores_shared:
                        value.realize()
        with as_noted(n):
            value = super().run_node(n)
        store_if_copied(n, value)
        if n.graph is self.module.graph:
            self.recorded[n] = value
        return value

    def call_function(self, target: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        value = super().call_function(target, args, kwargs)
        store_as_noted(self.current_node, value)  # before Inductor chooses a layout
        return value

    def propagate_mutation(self, fx_node: fx.Node, *ways: Any) -> None:
        """Copy what a node has written to a copy back to what was copied.

        Inductor makes Triton's IR of each launch of a user's kernel a second time to see what that could be. It is not made for
        a launch that was given no copies.
        """
        old, new = ways[1].get("kwargs"), ways[3].get("kwargs")
        if fx_node.target is torch.ops.higher_order.triton_kernel_wrapper_mutation and same_buffers(old, new):
            return
        super().propagate_mutation(fx_node, *ways)

    def constant_name(self, name: str, device_override: torch.device | None) -> str:
        if device_override is not None and self.constants[name] is self._moved.get(name):
            copies = re.compile(rf"{re.escape(name)}_{device_override.type}{device_override.index or 0}(_\d+)?")
            if found := next(filter(copies.fullmatch, self._moved), None):
                self.constants[found] = self._moved[found]
                self.allocated_constant_name[found] = self.allocated_constant_name[name]
                return found
        return super().constant_name(name, device_override)

    def _update_scheduler(self) -> None:
        with config.patch("triton.store_cubin", False):
            self.scheduler = self._scheduler(self.operations)


def lower(
    gm: fx.GraphModule, generate_code: bool = False, settings: dict[str, Any] | None = None,
    inputs_to_check: Sequence[int] | None = None, stores_shared: bool = False,
    constants: Mapping[str, torch.Tensor] | None = None, scheduler: type[Scheduler] = ForeachScheduler,
) -> Lowered:  # fmt: skip
    """Lower `gm` as Inductor would, and build its scheduler and, with `generate_code`, the source of its wrapper.

    Nothing is compiled or run. `settings` are Inductor's settings for this lowering alone. `inputs_to_check` are the positions
    of the inputs that the code copies if they are misaligned. With `stores_shared` operators that ask for a layout share what
    they read, instead of having a copy each. `constants` are those of another lowering of the same graph, by name, whose copies
    on a GPU are used.
    """
    with _scoped(settings or {}):
        inputs, graph = _recorder(gm, stores_shared=stores_shared, constants=constants, scheduler=scheduler)
        if inputs_to_check is not None:
            graph.inputs_to_check = inputs_to_check
        with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
            graph.run(*inputs)
            source = ""
            if generate_code:
                source = graph.codegen()[0].value
            else:
                graph.init_wrapper_code()
                graph._update_scheduler()
    return Lowered(graph, graph.recorded, source, stores_shared or graph.all_stored)


def lower_to_buffers(gm: fx.GraphModule) -> _Recorder:
    """Lower `gm` as `lower` does with `stores_shared`, but build no scheduler. Layouts may be undecided."""
    with _scoped({}):
        inputs, graph = _recorder(gm, stores_shared=True)
        with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
            graph.run(*inputs)
    return graph


def _recorder(gm: fx.GraphModule, **ways: Any) -> tuple[list[Any], _Recorder]:
    inputs = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
    shape_env = getattr(V.fake_mode, "shape_env", None)
    return inputs, _Recorder(gm, example_inputs=inputs, shape_env=shape_env, is_inference=True, **ways)


@contextlib.contextmanager
def _scoped(settings: dict[str, Any]) -> Iterator[None]:
    counters = torch._dynamo.utils.counters["inductor"]
    before = counters.copy()
    # Debug dumps and tables belong to the graph that Inductor compiles, not to copies of it.
    quiet = {**settings, "trace.enabled": False, "enabled_metric_tables": "", **settings_alone()}
    # Nor may a copy wait for other ranks, which may not lower one.
    estimates = config_comms.patch(  # type: ignore[attr-defined]
        {"runtime_estimations_align_across_all_distributed_ranks": False}
    )
    with config.patch(quiet), estimates, V.set_debug_handler(DebugContext()):
        yield
    counters.clear()
    counters.update(before)


def storage_name(value: Any) -> str | None:
    """Return the buffer that holds this IR value or the value that it is a view of; None if that is not realized."""
    stored = _without_views(value)
    return stored.get_name() if isinstance(stored, ir.Buffer) else None


def _without_views(value: Any) -> Any:
    while isinstance(value, ir.MutableBox | ir.BaseView):
        value = value.data
    return value


def stored_strides(lowered: Lowered, node: fx.Node) -> tuple[int, ...]:
    """Return the strides of the buffer that holds a value; empty if they are not fixed numbers, or if an operator decides."""
    stored = _without_views(lowered.values[node])
    if isinstance(stored, ir.Buffer):  # the scheduler decided the layout of the buffer that it has, of this name
        stored = lowered.graph.try_get_buffer(stored.get_name()) or stored
    layout = getattr(stored, "layout", None) if isinstance(stored, ir.Buffer) else None
    if type(layout) is not ir.FixedLayout or not all(isinstance(s, int | sympy.Integer) for s in layout.stride):
        return ()
    return tuple(int(stride) for stride in layout.stride)


def is_early_view(lowered: Lowered, node: fx.Node) -> bool:
    """Return whether the value is a view that Inductor took before its base was stored, so that readers go through it."""
    value = without_boxes(lowered.values.get(node))
    return isinstance(value, ir.BaseView) and not isinstance(value, ir.ReinterpretView)


def peak_memory(lowered: Lowered, from_start: Collection[str] = ()) -> int:
    """Return the most bytes of buffers alive at once, at the example sizes. Inputs, which the caller holds, do not count.

    The buffers `from_start` are allocated before anything runs.
    """
    scheduler = lowered.graph.scheduler
    outputs = OrderedSet(lowered.graph.get_output_names())
    buffers, fused = scheduler.name_to_buf, scheduler.name_to_fused_node
    peak, freeable = prepare_planning_info(lowered.nodes, buffers, fused, OrderedSet(), outputs)
    if from_start:
        _, alive = estimate_peak_memory(lowered.nodes, freeable, outputs)
        for position, node in enumerate(lowered.nodes):
            for name in node.get_buffer_names().intersection(from_start):
                alive[:position] = [size + buffers[name].mpi_buffer.size_alloc for size in alive[:position]]
        peak = max(alive)
    return int(peak)
