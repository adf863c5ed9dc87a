"""The stages in order, for one graph: read, price, plan, rewrite, verify. Pure: the graph given is not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx
from torch._inductor import config

from graphstreams.choosing import best_plan, check_gain, check_speed
from graphstreams.costs.devices import Device, device_at_hand
from graphstreams.graph.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.graph.memory import peak_memory
from graphstreams.graph.reading import Reading, read
from graphstreams.graph.support import token_count
from graphstreams.options import Options
from graphstreams.outcome import Outcome, Serial, close_tuner, guarded, note, stage
from graphstreams.reports.dump import readable, readable_regions
from graphstreams.reports.report import Report
from graphstreams.rewriting import order, wrapper
from graphstreams.rewriting.regions import rewrite
from graphstreams.runtime.allocator import unsuited
from graphstreams.runtime.streams import lacking
from graphstreams.sizing import dynamic_tokens
from graphstreams.token_plans import plan_for_tokens, streamed_part
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.wrapper import launch_order, read_bodies

ALLOWED_MEMORY = 64 * 2**20  # bytes that a plan may always add to the serial graph's peak


def run_stages(
    gm: fx.GraphModule, options: Options, name: str = "graph", input_names: Sequence[str] = (),
    device: Device | None = None, texts: bool = False, proof: bool = True, inputs: Sequence[Any] | None = None,
    twin: bool = False,
) -> Outcome:  # fmt: skip
    """Put the kernels of `gm`, a post-grad inference graph, on streams.

    `input_names` are the source names of the graph's inputs, `device` the GPU to plan for (the one at hand by default).
    With `inputs`, the real ones as far as they are known, kernels and plans may be run and measured on the GPU at hand.
    With `texts` the report holds readable code. Without `proof` the last stage is left to `prove`, on the code that Inductor
    generates anyway; until then the rewritten module must not run. With `twin` the caller compiles a serial twin where the
    report has a threshold; without, a dynamic number of tokens gets a guard. Never raises for a graph that has to stay
    serial: the report says why.
    """
    outcome = Outcome(Report(name, "serial"), device=device)
    with guarded(outcome):
        try:
            _stages(outcome, gm, options, input_names, texts, inputs, twin)
            if proof or outcome.times_code:
                lowered = _generated(outcome)
                _prove(outcome, lowered, options)
                check_speed(outcome, lowered, options)
        finally:
            close_tuner(outcome)
    return outcome


def prove(outcome: Outcome, lowered: Lowered, options: Options) -> Outcome:
    """The last stage for an outcome without proof: check the generated code. The verdict of its report is final."""
    with guarded(outcome):
        _prove(outcome, lowered, options)
    return outcome


def _stages(
    outcome: Outcome, gm: fx.GraphModule, options: Options, input_names: Sequence[str], texts: bool,
    inputs: Sequence[Any] | None, twin: bool,
) -> None:  # fmt: skip
    with stage(outcome, "read"):
        if reason := unsuited() or lacking(at_hand=outcome.device is None) or wrapper.foreign_generator():
            raise Serial("serial", reason)
        reading = outcome.reading = read_graph(gm, outcome.report.name, input_names)
        outcome.report = replace(
            outcome.report,
            kernels=reading.kernels,
            kernels_serial=reading.launches,
            memory_serial=reading.peak_memory,
        )
        _check_collectives(reading)
        if config.coordinate_descent_tuning:
            text = "coordinate_descent_tuning (part of max-autotune) turns matrix products of one row into multiply and sum"
            note(outcome, text)
        tokens = dynamic_tokens(gm) if twin else None
        if tokens is None:
            _check_tokens(gm, options)
    if texts:
        with stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_serial=readable(reading.module))
    outcome.device = outcome.device or device_at_hand()
    outcome.report = replace(outcome.report, device=outcome.device.name)
    if tokens is None:
        plan, dispatch = best_plan(outcome, reading, options, inputs), None
    else:
        plan, dispatch = plan_for_tokens(outcome, reading, options, inputs, tokens)
    with stage(outcome, "rewrite"):
        module = outcome.module = rewrite(reading, plan)
        if dispatch is not None:
            module.meta[wrapper.MARK] = replace(module.meta[wrapper.MARK], dispatch=dispatch.line)
    if texts:
        with stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_streams=readable_regions(module, reading.kernels, plan))


def read_graph(gm: fx.GraphModule, name: str, input_names: Sequence[str]) -> Reading:
    """The kernels of a post-grad graph, which is not changed."""
    module = copy_graph(gm)
    finish_post_grad_passes(module)
    return read(module, name, input_names, wrapper.plan_settings())


def _check_collectives(reading: Reading) -> None:
    for kernel in reading.kernels.kernels:
        if found := [launch for launch in kernel.launches if "_c10d_functional" in launch]:
            # Of several ranks each would need the same plan, and NCCL's kernels spin beside ours.
            raise Serial("serial", f"it holds a collective ({found[0]}): such graphs are not put on streams yet")


def _check_tokens(gm: fx.GraphModule, options: Options) -> None:
    if options.max_tokens is None:
        return
    tokens = token_count(gm)
    # For a dynamic size this comparison becomes a guard: another graph is compiled for the other side of it.
    if tokens is not None and tokens > options.max_tokens:
        raise Serial("serial", f"its first matrix product has {tokens} rows, more than max_tokens={options.max_tokens}")


def _generated(outcome: Outcome) -> Lowered:
    """The code that Inductor will generate for the rewritten module."""
    assert outcome.module is not None
    wrapper.register()
    with stage(outcome, "verify"), outcome.module.meta[wrapper.MARK].settings:
        copy = copy_graph(outcome.module)
        finish_post_grad_passes(copy)  # as Inductor will, on what the pass leaves
        return lower(copy, generate_code=True)


def _prove(outcome: Outcome, lowered: Lowered, options: Options) -> None:
    """Check the code generated for the rewritten graph. Raises Serial where it is not proved, or not worth its launches."""
    reading, plan, device = outcome.reading, outcome.report.plan, outcome.device
    assert reading is not None and plan is not None and device is not None
    with stage(outcome, "verify"):
        with lowered.active():
            launches, memory = order.launch_count(lowered), peak_memory(lowered)
            named, unnamed = order.lowered_steps(lowered), order.unnamed_steps(lowered)
        outcome.report = replace(outcome.report, wrapper=lowered.source, kernels_streamed=launches, memory_streamed=memory)
        traces = read_bodies(lowered.source)
        in_wrapper = order.without_names(launch_order(traces[0]))
        difference = order.first_difference(order.planned_steps(plan, reading.kernels), named)
        difference = difference or order.first_difference(unnamed, in_wrapper)
        races = tuple(str(race) for trace in traces for race in find_races(trace))
        outcome.report = replace(outcome.report, order_kept=not difference, races=races)
        if races:
            raise Serial("refused", f"the generated wrapper has {len(races)} races, the first: {races[0]}")
        if difference:
            raise Serial("refused", f"the generated wrapper does not keep the plan's order: {difference}")
        check_gain(outcome.report, options, launches - reading.launches, device)
        part = streamed_part(outcome)
        _check_memory(int(reading.peak_memory * part), int(memory * part), options)
    outcome.report = replace(outcome.report, verdict="clean")


def _check_memory(serial: int, streamed: int, options: Options) -> None:
    allowed = max(options.max_extra_memory * serial, ALLOWED_MEMORY)
    if streamed - serial > allowed:
        extra = (streamed - serial) / 2**20
        raise Serial("serial", f"it needs {extra:.0f} MiB more than serial; {allowed / 2**20:.0f} MiB are allowed")
