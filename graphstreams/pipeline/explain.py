"""Plan a module's graph without running it, with or without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from graphstreams.errors import CannotPlan
from graphstreams.inductor.compile import PostGradBackend, fresh_dynamo, graph_name
from graphstreams.inductor.offline import fake_cuda, faked_parameters, offline, settings_that_run
from graphstreams.ir.devices import Device, device_at_hand, device_by_name
from graphstreams.options import Options
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.run import run_stages
from graphstreams.reports.report import Report


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
    compilations = capture(module, inputs, target, options, dynamic)
    if not compilations:
        raise CannotPlan("the module compiles to no graph: it computes nothing on tensors")
    return max(compilations, key=lambda found: found.report.kernels_serial).report


def capture(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    target: str | Device | None = None,
    options: Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> list[GraphCompilation]:
    """As `explain`, with every graph's GraphCompilation: its report, the rewritten module and what was read."""
    _check_module(module)
    _check_inputs(inputs)
    chosen = options if isinstance(options, Options) else Options.from_dict(options)
    device = device_by_name(target) if isinstance(target, str) else target or device_at_hand()
    compilations: list[GraphCompilation] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    at_hand = torch.cuda.is_available() and device.name == torch.cuda.get_device_name(0)
    off = [] if at_hand else settings_that_run()
    with contextlib.nullcontext() if at_hand else offline(device), faked_parameters(module, mode):
        fakes = pytree.tree_map_only(torch.Tensor, lambda value: fake_cuda(value, mode), list(inputs))

        def plan(gm: fx.GraphModule, names: list[str], _: Sequence[Any]) -> None:
            found = run_stages(gm, chosen, graph_name(), names, device, texts=True)
            if off:
                text = f"off, for without that GPU nothing can be run: {', '.join(off)}"
                found = replace(found, report=replace(found.report, notes=(*found.report.notes, text)))
            compilations.append(found)

        backend = PostGradBackend(plan)
        with mode, torch.no_grad(), fresh_dynamo():
            torch.compile(module, backend=backend, dynamic=dynamic)(*fakes)
    return compilations


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
