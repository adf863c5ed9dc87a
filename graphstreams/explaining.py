"""Plan a module's graph without running it, with or without a GPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.backend import _graph_name, _input_names
from graphstreams.costs.devices import Device, device_at_hand, device_by_name
from graphstreams.graph.offline import fake_cuda, faked_parameters, has_gpu, offline, settings_that_time
from graphstreams.options import Options
from graphstreams.outcome import Outcome, note
from graphstreams.pipeline import run_stages
from graphstreams.reports.report import Report
from graphstreams.rewriting.execution import equal_bits, run_on_cpu


class CannotPlan(ValueError):
    """What was given to `explain` is nothing that it plans."""


def explain(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    target: str | Device | None = None,
    options: Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> Report:
    """What the backend would do with `module(*inputs)`: the plan, the rewritten graph, the proof, and why.

    Nothing runs: tensors may be on any device, "meta" included, and only their shapes, strides and dtypes count. `target` is
    the GPU to plan for ("h200"), by default the one at hand. Of several graphs the report is on the one with most kernels.
    Raises ValueError for an unknown target, RuntimeError without a target where there is no GPU, CannotPlan if `module` is no
    module, `inputs` no tuple or list, or there is nothing to plan.
    """
    outcomes = capture(module, inputs, target, options, dynamic)
    if not outcomes:
        raise CannotPlan("the module compiles to no graph: it computes nothing on tensors")
    return max(outcomes, key=lambda outcome: outcome.report.kernels_serial).report


def capture(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    target: str | Device | None = None,
    options: Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> list[Outcome]:
    """As `explain`, with every graph's Outcome: its report, the rewritten module and what was read."""
    _check_module(module)
    _check_inputs(inputs)
    chosen = options if isinstance(options, Options) else Options.from_dict(options)
    device = device_by_name(target) if isinstance(target, str) else target or device_at_hand()
    outcomes: list[Outcome] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    at_hand = has_gpu() and device.name == torch.cuda.get_device_name(0)
    off = [] if at_hand else settings_that_time()
    with contextlib.nullcontext() if at_hand else offline(device), faked_parameters(module, mode):
        fakes = [fake_cuda(v, mode) if isinstance(v, torch.Tensor) else v for v in inputs]

        def plan(gm: fx.GraphModule, names: list[str], _: Sequence[Any]) -> None:
            outcomes.append(run_stages(gm, chosen, _graph_name(), names, device, texts=True))
            if off:
                note(outcomes[-1], f"off, for without that GPU nothing can be timed: {', '.join(off)}")

        backend = PostGradBackend(plan)
        with mode, torch.no_grad(), _fresh_dynamo():
            torch.compile(module, backend=backend, dynamic=dynamic)(*fakes)
    return outcomes


def _check_module(module: Any) -> None:
    if isinstance(module, torch.nn.Module):
        return
    if isinstance(module, type):
        what = f"the class {module.__name__}; make one of it first"
    elif callable(module):
        what = "a function or a method; write a module whose forward calls it"
    else:
        what = f"a value of type {type(module).__name__}"
    raise CannotPlan(f"only a torch.nn.Module can be planned, not {what}")


def _check_inputs(inputs: Any) -> None:
    if isinstance(inputs, tuple | list):
        return
    if isinstance(inputs, Mapping):
        what = "a dict: inputs can't be given by keyword yet, but in the order of the forward"
    elif isinstance(inputs, torch.Tensor):
        what = "one tensor; (tensor,) is a tuple of one"
    else:
        what = f"a value of type {type(inputs).__name__}"
    raise CannotPlan(f"the example inputs have to be a tuple or a list, not {what}")


class PostGradBackend:
    """A backend that hands on each graph as it is after Inductor's post-grad passes, and computes without Inductor's code."""

    def __init__(self, visit: Callable[[fx.GraphModule, list[str], Sequence[Any]], None]) -> None:
        """`visit` gets the graph, and of the compiled function's inputs the names in the source and the values."""
        self.visit = visit

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        names = _input_names(gm)

        def inner(graph: fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Any:
            return self._after_post_grad(graph, inputs, names, example_inputs)

        # A graph from AOTAutograd's cache would never come here.
        with torch._functorch.config.patch(enable_autograd_cache=False):
            return compile_fx(gm, example_inputs, inner_compile=inner)

    def _after_post_grad(self, gm: fx.GraphModule, inputs: Sequence[Any], names: list[str], values: Sequence[Any]) -> Any:
        from torch._dynamo.utils import detect_fake_mode
        from torch._inductor import compile_fx
        from torch._inductor.virtualized import V

        eager = copy.copy(gm.graph)
        module = fx.GraphModule(gm, eager)
        # As codegen_and_compile of _inductor/compile_fx.py does, up to its custom post-grad pass.
        compile_fx.view_to_reshape(gm)
        with torch.no_grad(), V.set_fake_mode(detect_fake_mode(inputs) or compile_fx.fake_tensor_prop(gm, inputs)):
            compile_fx.fake_tensor_prop(gm, inputs)
            compile_fx._recursive_record_original_output_strides(gm)
            compile_fx._recursive_post_grad_passes(gm, is_inference=True)
            self.visit(gm, names, values)

        def run(arguments: list[Any]) -> Any:
            return module.forward(*arguments)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


@contextlib.contextmanager
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def equal_on_cpu(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    target: str | Device = "h200",
    options: Options | Mapping[str, Any] | None = None,
) -> list[bool]:
    """Whether each graph of `module(*inputs)`, rewritten for `target`, computes on the CPU what it computed before.

    `module` and `inputs` are real, on the CPU. Outputs and mutated inputs are compared bit by bit. A graph that is not
    rewritten does not count. Raises ValueError where none is.
    """
    recorded: list[Sequence[Any]] = []

    def record(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        recorded.append([v.clone() if isinstance(v, torch.Tensor) else v for v in example_inputs])
        return gm.forward

    copies = [v.clone() if isinstance(v, torch.Tensor) else v for v in inputs]
    with torch.no_grad(), _fresh_dynamo():
        # Of a copy, for a module may write its own buffers.
        torch.compile(copy.deepcopy(module), backend=record)(*copies)
    outcomes = capture(module, inputs, target, options)
    if len(outcomes) != len(recorded):
        raise ValueError(f"{len(recorded)} graphs on the CPU, {len(outcomes)} on the GPU: they cannot be compared")
    results = [_same_numbers(outcome, values) for outcome, values in zip(outcomes, recorded, strict=True) if outcome.module]
    if not results:
        raise ValueError(f"nothing was rewritten: {outcomes[0].report.reason}")
    return results


def _same_numbers(outcome: Outcome, values: Sequence[Any]) -> bool:
    assert outcome.module is not None and outcome.reading is not None
    results = []
    for module in (outcome.reading.module, outcome.module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results.append(run_on_cpu(module, values))
    serial, streamed = results
    return all(equal_bits(one, other) for one, other in zip(serial, streamed, strict=True))
