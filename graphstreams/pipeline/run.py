"""The stages in order, for one graph: read, price, plan, rewrite, join, verify, measure. The graph given is not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from graphstreams.dynamic_shapes.tokens import dynamic_tokens, token_count
from graphstreams.errors import CannotJoin, StaySerial
from graphstreams.inductor import conformance, wrapper_codegen
from graphstreams.inductor.joined_launches import joined_kernels, most_saved_us, subgraph_count, template_count
from graphstreams.inductor.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.inductor.memory import peak_memory
from graphstreams.inductor.settings import changes_kernels, multiplies_rows, settings_off, stream_settings, unusable_setting
from graphstreams.inductor.streamed_code import streamed_code
from graphstreams.ir.devices import Device, device_at_hand
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.outcome import Outcome, close_autotuner, guarded, note, stage
from graphstreams.pipeline.select_plan import best_plan, check_gain, check_speed
from graphstreams.pipeline.select_token_range import plan_for_tokens, streamed_part
from graphstreams.reading.reader import read
from graphstreams.reports.dump import readable, readable_regions
from graphstreams.reports.report import Report
from graphstreams.rewriting.agreement import disagreement, matching_outputs
from graphstreams.rewriting.kernel_differences import kernel_differences
from graphstreams.rewriting.regions import rewrite
from graphstreams.rewriting.two_bodies import Host, find_host, join
from graphstreams.runtime.allocator import unsupported_allocator
from graphstreams.runtime.dispatch import Dispatch, cannot_settle, sizes_of
from graphstreams.runtime.streams import missing_stream_api
from graphstreams.verification.vector_clocks import find_races
from graphstreams.verification.wrapper.read import launch_order, read_bodies

ALLOWED_MEMORY = 64 * 2**20  # bytes that a plan may always add to the serial graph's peak
DIRECT_GAIN = 0.02  # share of the serial time that streams have to save in direct calls to run there: noise is below it


def run_stages(
    gm: fx.GraphModule, options: Options, name: str = "graph", input_names: Sequence[str] = (),
    device: Device | None = None, texts: bool = False, inputs: Sequence[Any] | None = None, serial: Lowered | None = None,
) -> Outcome:  # fmt: skip
    """Put the kernels of `gm`, a post-grad inference graph, on streams, in a body beside the serial one.

    `input_names` are the source names of the graph's inputs, `device` the GPU to plan for (the one at hand by default).
    With `inputs`, the real ones as far as they are known, kernels and plans may be run and measured on the GPU at hand.
    With `texts` the report holds readable code. `serial` is the graph as Inductor has lowered it, with its wrapper; without it
    `gm` is lowered here, after the passes that Inductor runs behind the custom post-grad pass.
    Never raises for a graph that has to stay serial: the report says why.
    """
    outcome = Outcome(Report(name, "serial"), device=device)
    with guarded(outcome):
        try:
            _stages(outcome, gm, options, input_names, texts, inputs, serial)
        finally:
            close_autotuner(outcome)
    return outcome


def _stages(
    outcome: Outcome, gm: fx.GraphModule, options: Options, input_names: Sequence[str], texts: bool,
    inputs: Sequence[Any] | None, serial: Lowered | None,
) -> None:  # fmt: skip
    with stage(outcome, "read"):
        if (
            reason := unsupported_allocator()
            or missing_stream_api(at_hand=outcome.device is None)
            or unusable_setting()
            or wrapper_codegen.foreign_generator()
        ):
            raise StaySerial("serial", reason)
        final = _final_graph(gm, finished=serial is not None)
        reading = outcome.reading = read(final, outcome.report.name, input_names, stream_settings())
        _check_collectives(reading)
        for kernel in reading.kernels.kernels:
            if kernel.kind == "triton" and kernel.exclusive_reason:
                note(outcome, f"{kernel.name!r} keeps its place: {kernel.exclusive_reason}")
        serial = serial or lower(copy_graph(final), generate_code=True)
        with serial.active():
            launches = conformance.launch_count(serial)
        outcome.report = replace(
            outcome.report, kernels=reading.kernels, kernels_serial=launches, memory_serial=reading.peak_memory,
            wrapper=serial.source,
        )  # fmt: skip
        host = _host_of(serial)
        _note_settings(outcome)
        tokens = dynamic_tokens(final)
        if tokens is None:
            _check_tokens(final, options)
    if texts:
        with stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_serial=readable(reading.module))
    outcome.device = outcome.device or device_at_hand()
    outcome.report = replace(outcome.report, device=outcome.device.name)
    if tokens is None:
        plan, dispatch = best_plan(outcome, reading, options, inputs), Dispatch()
    else:
        plan, dispatch = plan_for_tokens(outcome, reading, options, inputs, tokens, _sizes(host, final))
    with stage(outcome, "rewrite"):
        module = outcome.module = rewrite(reading, plan)
        module.meta[wrapper_codegen.MARK] = replace(module.meta[wrapper_codegen.MARK], aligned=host.aligned)
    if texts:
        with stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_streams=readable_regions(module, reading.kernels, plan))
    with stage(outcome, "lower"):
        streamed = streamed_code(module)
    finish(outcome, serial, streamed, host, dispatch, options)


def finish(outcome: Outcome, serial: Lowered, streamed: Lowered, host: Host, dispatch: Dispatch, options: Options) -> None:
    """Join the two bodies, prove the text, time it if the plan was measured, and prove the text that runs.

    Raises StaySerial if it is not proved or not worth it.
    """
    if not (timed := outcome.times_code):
        source = _as_it_runs(outcome, serial, streamed, host, dispatch)
    else:  # the streamed body runs however it is called
        source = _joined(outcome, serial, streamed, host, Dispatch(direct=True), settled=False)
    _prove(outcome, source, streamed)
    _compare(outcome, serial, streamed, options)
    if timed:
        check_speed(outcome, source, serial, options)
        source = _as_it_runs(outcome, serial, streamed, host, dispatch)
        _prove(outcome, source, streamed)
    outcome.report = replace(outcome.report, verdict="clean", wrapper=source)


def _as_it_runs(outcome: Outcome, serial: Lowered, streamed: Lowered, host: Host, dispatch: Dispatch) -> str:
    """The wrapper with both bodies, of which direct calls run the streamed one if that was measured to gain."""
    outcome.report = replace(outcome.report, direct=_gains_directly(outcome))
    return _joined(outcome, serial, streamed, host, replace(dispatch, direct=outcome.report.direct))


def _gains_directly(outcome: Outcome) -> bool:
    """Whether the streamed body also runs if the host launches the kernels: only a measurement says so, and for one size."""
    measured = outcome.report.measurement
    sized = outcome.example is not None  # each call chooses its number of tokens, and with fewer the host may be what counts
    return not sized and measured is not None and (measured.direct_gain or 0.0) >= DIRECT_GAIN


def _joined(outcome: Outcome, serial: Lowered, streamed: Lowered, host: Host, dispatch: Dispatch, settled: bool = True) -> str:
    """The wrapper with both bodies; with `settled` as it is to run, with what was decided."""
    with stage(outcome, "verify"):
        assert outcome.reading is not None
        if difference := disagreement(serial, streamed, outcome.reading.mutated):
            raise StaySerial("refused", difference)
        try:
            outputs = matching_outputs(serial, streamed, host)
            told = outcome.report.as_verdict("clean").lines if settled else []
            joined = join(serial.source, streamed.source, host, dispatch.condition, outputs, settled, told)
        except CannotJoin as reason:
            raise StaySerial("refused", str(reason)) from None
        if joined.own_kernels and (why := cannot_settle()):
            raise StaySerial("serial", f"{joined.own_kernels} kernels only run on streams, and {why}")
        outcome.added, outcome.report = joined.added, replace(outcome.report, own_kernels=joined.own_kernels)
        return joined.source


def _unusable(device: Device | None) -> str:
    """Return what keeps every graph serial here; empty if nothing does."""
    return (
        unsupported_allocator()
        or missing_stream_api(at_hand=device is None)
        or unusable_setting()
        or wrapper_codegen.foreign_generator()
    )


def _final_graph(gm: fx.GraphModule, finished: bool) -> fx.GraphModule:
    """A copy of the graph as Inductor lowers it."""
    module = copy_graph(gm)
    if not finished:
        finish_post_grad_passes(module)
    return module


def read_graph(gm: fx.GraphModule, name: str, input_names: Sequence[str]) -> Reading:
    """Return the kernels of a post-grad graph, which is not changed."""
    return read(_final_graph(gm, finished=False), name, input_names, stream_settings())


def _host_of(serial: Lowered) -> Host:
    try:
        host = find_host(serial.source)
    except CannotJoin as reason:
        with serial.active():
            raise StaySerial("serial", f"{reason}{conformance.where_cut(serial)}; each of them stays serial") from None
    with serial.active():
        cut = conformance.where_cut(serial) if host.name != "call" else ""
    if cut:
        raise StaySerial("serial", f"Inductor keeps a part of it out of its CUDA graph{cut}; the rest stays serial")
    return host


def _sizes(host: Host, module: fx.GraphModule) -> dict[str, str]:
    """The Python that reads each dynamic size from the list that `host` is called with."""
    values = {node.name: node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")}
    return sizes_of([values.get(name, name) for name in host.inputs])


def _note_settings(outcome: Outcome) -> None:
    if off := settings_off():
        bits = "; bits may differ between calls that run streams and calls that don't" if changes_kernels() else ""
        note(outcome, f"off on streams, on in the serial code: {', '.join(off)}{bits}")
    if multiplies_rows():
        text = "coordinate_descent_tuning (part of max-autotune) turns matrix products of one row into multiply and sum"
        note(outcome, text)


def _check_collectives(reading: Reading) -> None:
    for kernel in reading.kernels.kernels:
        if found := [launch for launch in kernel.launches if "_c10d_functional" in launch]:
            # Of several ranks each would need the same plan, and NCCL's kernels spin beside ours.
            raise StaySerial("serial", f"it holds a collective ({found[0]}): such graphs are not put on streams yet")


def _check_tokens(gm: fx.GraphModule, options: Options) -> None:
    if options.max_tokens is None:
        return
    tokens = token_count(gm)
    # For a dynamic size this comparison becomes a guard: another graph is compiled for the other side of it.
    if tokens is not None and tokens > options.max_tokens:
        raise StaySerial("serial", f"its first matrix product has {tokens} rows, more than max_tokens={options.max_tokens}")


def _prove(outcome: Outcome, source: str, streamed: Lowered) -> None:
    """Check the text with both bodies. Raises StaySerial if it has a race or another order than the plan."""
    reading, plan = outcome.reading, outcome.report.plan
    assert reading is not None and plan is not None
    with stage(outcome, "verify"):
        outcome.report = replace(outcome.report, wrapper=source)
        with streamed.active():
            named, unnamed = conformance.lowered_steps(streamed), conformance.unnamed_steps(streamed)
        bodies = read_bodies(source)
        in_wrapper = conformance.without_names(launch_order(bodies[0]))
        difference = conformance.first_difference(conformance.planned_steps(plan, reading.kernels), named)
        difference = difference or conformance.first_difference(unnamed, in_wrapper)
        races = tuple(str(race) for body in bodies for race in find_races(body))
        outcome.report = replace(outcome.report, order_kept=not difference, races=races)
        if races:
            raise StaySerial("refused", f"the generated wrapper has {len(races)} races, the first: {races[0]}")
        if difference:
            raise StaySerial("refused", f"the generated wrapper does not keep the plan's order: {difference}")


def _compare(outcome: Outcome, serial: Lowered, streamed: Lowered, options: Options) -> None:
    """Compare the launches and the memory of the two bodies. Raises StaySerial if the streamed one is not worth them."""
    with stage(outcome, "verify"):
        with streamed.active():
            launches, memory = conformance.launch_count(streamed), peak_memory(streamed)
        differences = kernel_differences(serial.source, streamed.source)
        outcome.report = replace(
            outcome.report, kernels_streamed=launches, memory_streamed=memory, differences=differences
        )  # fmt: skip
        _check_rival(outcome, serial, streamed, launches, options)
        part = streamed_part(outcome)
        _check_memory(int(outcome.report.memory_serial * part), int(memory * part), options)


def _check_rival(outcome: Outcome, serial: Lowered, streamed: Lowered, launches: int, options: Options) -> None:
    """Raise Serial if the serial code, with the user's settings, may be no slower. `launches` are the streamed code's."""
    report, device = outcome.report, outcome.device
    assert report.kernels is not None and device is not None
    with serial.active():
        joined, templates, split = joined_kernels(serial, report.kernels), template_count(serial), subgraph_count(serial)
    with streamed.active():
        templates -= template_count(streamed)
    chosen = [f"templates for {templates} of the serial code's kernels"] * (templates > 0)
    chosen += [f"a split along K (decompose_k) for {split} of the serial code's products"] * (split > 0)
    if report.measurement is None and chosen:
        text = f"max-autotune chose {' and '.join(chosen)}, which streams go without"
        raise StaySerial("serial", f"{text}; nothing was measured, and how long they take can't be predicted")
    lost = launches - report.kernels_serial - sum(len(kernels) - 1 for kernels in joined)
    check_gain(report, options, lost, device, most_saved_us(joined, report.us) if report.us else 0.0)


def _check_memory(serial: int, streamed: int, options: Options) -> None:
    allowed = max(options.max_extra_memory * serial, ALLOWED_MEMORY)
    if streamed - serial > allowed:
        extra = (streamed - serial) / 2**20
        raise StaySerial("serial", f"it needs {extra:.0f} MiB more than serial; {allowed / 2**20:.0f} MiB are allowed")
