"""Plan what a module or a function compiles to without running it, with or without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from graphstreams.errors import CannotPlan, GraphstreamsError
from graphstreams.files import make_folder
from graphstreams.inductor.compile import PostGradBackend, fresh_dynamo, given_settings, graph_name
from graphstreams.inductor.fakes import faked
from graphstreams.inductor.offline import offline, settings_that_run
from graphstreams.inductor.offline_operators import ShapesOfGraphs, TooManyValues, values_taken_for_one
from graphstreams.ir.devices import Device, device_at_hand, device_by_name
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.messages import shown, with_type
from graphstreams.options import Options
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.fast_kernels import use_fast_kernels
from graphstreams.pipeline.given_options import GivenOptions, read_options
from graphstreams.pipeline.kernel_variants import GivenGraph
from graphstreams.pipeline.placement import marks_of
from graphstreams.pipeline.publish import folder_in
from graphstreams.pipeline.run import run_stages
from graphstreams.pipeline.top_k import use_top_k_kernels
from graphstreams.reports.report import Report


def explain(
    module: Callable[..., Any],
    inputs: Any,
    target: str | Device | None = None,
    options: Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> Report:
    """What the backend would do with `module(*inputs)`: the plan, the rewritten graph, the proof, and why.

    `module` is a torch.nn.Module, a function or a method. `inputs` are a tuple or list of what it is called with, a dict of
    keyword arguments, or one tensor. Nothing runs: tensors may be on any device, "meta" included, and only their shapes,
    strides, dtypes and shared memory count. `target` is the GPU to plan for ("h200"), by default the one at hand. `options`
    are the backend's, with a mode and settings of Inductor among them; the report on each graph goes into the folder of `dump`.
    Of several graphs the report is on the one with most kernels, and its notes name the others.
    Raises OptionError for options that are none, ValueError for an unknown target and a `dump` that can't be written,
    RuntimeError without a target where there is no GPU, CannotPlan if `module` can't be called, `inputs` are something else, a
    tensor is not dense, or there is nothing to plan.
    """
    reports = explain_graphs(module, inputs, target, options, dynamic)
    most = largest(reports)
    others = [f"{number} ({each})" for number, each in enumerate(reports, 1) if each is not most]
    return replace(most, notes=(*most.notes, f"the call's other graphs: {'; '.join(others)}")) if others else most


def largest(reports: Sequence[Report]) -> Report:
    """Return the report on the graph with most launches."""
    return max(reports, key=lambda report: report.kernels_serial)


def explain_graphs(
    module: Callable[..., Any],
    inputs: Any,
    target: str | Device | None = None,
    options: GivenOptions | Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> list[Report]:
    """As `explain`, with the report on each graph, in the order in which they are compiled. Never empty.

    If there are several, their notes number them.
    """
    given = _given(options)
    if given.options.dump is not None:
        make_folder(Path(given.options.dump))
    found = [compilation.report for compilation in capture(module, inputs, target, given, dynamic)]
    if len(found) > 1:
        numbered = [f"graph {number} of {len(found)} that the call compiles" for number in range(1, len(found) + 1)]
        found = [replace(report, notes=(*report.notes, note)) for report, note in zip(found, numbered, strict=True)]
    if given.options.dump is not None:
        for report in found:
            report.save(folder_in(given.options.dump, report))
    return found


def capture(
    module: Callable[..., Any],
    inputs: Any,
    target: str | Device | None = None,
    options: GivenOptions | Options | Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> list[GraphCompilation]:
    """As `explain`, with every graph's GraphCompilation: its report, the rewritten module and what was read. Never empty."""
    _check_function(module)
    arguments = _arguments(inputs)
    given = _given(options)
    chosen = given.options
    device = _device(target)
    compilations: list[GraphCompilation] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapesOfGraphs())
    at_hand = torch.cuda.is_available() and device.name == torch.cuda.get_device_name(0)
    with given_settings(given.settings):
        notes = [] if at_hand else _settings_off()
    marked: list[MarkedModule] = []
    sizes: list[torch.SymInt] = []  # that are inputs of graphs

    def find_marks(gm: fx.GraphModule) -> None:
        marked[:] = marks_of(gm)

    def plan(gm: fx.GraphModule, names: list[str], _: Sequence[Any]) -> None:
        with unset_fake_temporarily():  # torch.compile lowers outside the mode too: a graph's constants are real
            use_top_k_kernels(gm, chosen, device)
            use_fast_kernels(GivenGraph(gm, chosen, graph_name(), input_names=names), at_hand=False)
            compilations.append(run_stages(gm, chosen, graph_name(), names, device, marked=tuple(marked)))
            sizes.extend(value for value in _values_of(gm) if isinstance(value, torch.SymInt))

    with (
        unset_fake_temporarily(),  # a caller's own
        torch.random.fork_rng(devices=[]),
        given_settings(given.settings),
        contextlib.nullcontext() if at_hand else offline(device),
        values_taken_for_one() as taken,
        faked(module, arguments, mode) as (called, fakes),
        mode,
        torch.no_grad(),
        fresh_dynamo(),
    ):
        try:
            compiled = torch.compile(called, backend=PostGradBackend(plan, find_marks), dynamic=dynamic)
            compiled(**fakes) if isinstance(fakes, dict) else compiled(*fakes)
        except (Exception, TooManyValues) as error:
            if not compilations and isinstance(error, TooManyValues):
                raise CannotPlan(str(error)) from None
            if not compilations or isinstance(error.__cause__, GraphstreamsError):
                raise
            notes.append(f"what the call does behind graph {len(compilations)} is not planned: {with_type(error)}")
    if not compilations:
        why = "it computes nothing on tensors, or torch.compile leaves that to Python (TORCH_LOGS=graph_breaks tells why)"
        raise CannotPlan(f"the module compiles to no graph: {why}")
    if dynamic and not sizes:
        notes.append("no size is dynamic, as was asked for: torch fixes sizes of 0 and 1; give inputs with larger ones")
    if taken:
        notes.append(f"values of tensors that Python reads, such as for an `if`: {len(taken)}, which were taken for 1 here")
    return [replace(each, report=replace(each.report, notes=(*each.report.notes, *notes))) for each in compilations]


def _values_of(gm: fx.GraphModule) -> list[Any]:
    return [node.meta.get("val") for node in gm.graph.find_nodes(op="placeholder")]


def _given(options: GivenOptions | Options | Mapping[str, Any] | None) -> GivenOptions:
    if isinstance(options, GivenOptions):
        return options
    return GivenOptions(options, {}) if isinstance(options, Options) else read_options(options)


def _device(target: str | Device | None) -> Device:
    if target is not None and not isinstance(target, str | Device):
        raise ValueError(f"the target is the name of a GPU, such as 'h200', or a Device, not {shown(target)}")
    return device_by_name(target) if isinstance(target, str) else target or device_at_hand()


def _settings_off() -> list[str]:
    off = settings_that_run()
    return [f"off, for without that GPU nothing can be run: {', '.join(off)}"] if off else []


def _check_function(function: Any) -> None:
    if isinstance(function, type):
        kind = f"the class {function.__name__}; make one of it first"
    elif not callable(function):
        kind = f"a value of type {type(function).__name__}"
    else:
        return
    raise CannotPlan(f"only a module, a function or a method can be planned, not {kind}")


def _arguments(inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    """Return what the call takes, in order or by keyword."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if isinstance(inputs, tuple | list):
        return tuple(inputs)
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return dict(inputs)
    kind = "a dict whose keys are no names" if isinstance(inputs, Mapping) else f"a value of type {type(inputs).__name__}"
    raise CannotPlan(f"the example inputs have to be a tuple or a list, a dict of keyword arguments or one tensor, not {kind}")
