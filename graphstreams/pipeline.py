"""The stages in order, for one graph: read, price, plan, rewrite, verify. Pure: the graph given is not changed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx
from torch._inductor import config

from graphstreams.costs.devices import Device, device_at_hand
from graphstreams.costs.footprint import Blocks, footprints
from graphstreams.costs.profile import price_from_profile
from graphstreams.costs.roofline import Roofline, price
from graphstreams.graph.kernels import KernelGraph
from graphstreams.graph.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.graph.memory import peak_memory
from graphstreams.graph.reading import Reading, read
from graphstreams.graph.support import Unsupported, token_count
from graphstreams.measuring import Unmeasurable
from graphstreams.options import Options
from graphstreams.planning.events import check_plan
from graphstreams.planning.paths import Assignment, Timing
from graphstreams.planning.plan import Plan
from graphstreams.planning.search import Space, search_on_simulator
from graphstreams.planning.simulation import EVENT_US, simulate
from graphstreams.planning.threshold import Threshold, confirm
from graphstreams.reports.dump import readable, readable_regions
from graphstreams.reports.report import Report
from graphstreams.rewriting import order, wrapper
from graphstreams.rewriting.regions import rewrite
from graphstreams.runtime.twin import Dispatch, size_source
from graphstreams.sizing import Fewer, Sizing, Tokens, dynamic_tokens, plan_for_fewer, sizing_of
from graphstreams.tuning import Tuner
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.wrapper import launch_order, read_wrapper

log = logging.getLogger("graphstreams")

# us that a wait across streams adds in a list schedule, which knows no contention: it stands for some of that too. Of 0.2 to
# 1.0 us the plans with 1.0 were best on one H200; the wait by itself takes 0.3 us (costs/data/h200.json).
LISTED_WAIT_US = 1.0
SLOWER = 1.03  # times what was played, from which on a note says that the generated code is slower
ALLOWED_MEMORY = 64 * 2**20  # bytes that a plan may always add to the serial graph's peak


class Serial(Exception):
    """The graph stays serial. `verdict` is "serial" where there is nothing to gain, "refused" where a proof failed."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


@dataclass
class Outcome:
    """The report of a graph and, unless it stays serial, the rewritten module to run in its place."""

    report: Report
    module: fx.GraphModule | None = None
    reading: Reading | None = None
    device: Device | None = None
    _stage: str = field(default="", repr=False)
    _example: int | None = None  # tokens of the call that is compiled, where each call chooses them
    _tuner: Tuner | None = field(default=None, repr=False)  # where this compile measures


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
    with _guarded(outcome):
        try:
            _stages(outcome, gm, options, input_names, texts, inputs, twin)
            if proof or outcome._tuner is not None:
                lowered = _generated(outcome)
                _prove(outcome, lowered, options)
                _check_speed(outcome, lowered, options)
        finally:
            _close_tuner(outcome)
    return outcome


def _generated(outcome: Outcome) -> Lowered:
    """The code that Inductor will generate for the rewritten module."""
    assert outcome.module is not None
    wrapper.register()
    with _stage(outcome, "verify"):
        copy = copy_graph(outcome.module)
        finish_post_grad_passes(copy)  # as Inductor will, on what the pass leaves
        return lower(copy, generate_code=True)


def prove(outcome: Outcome, lowered: Lowered, options: Options) -> Outcome:
    """The last stage for an outcome without proof: check the generated code. The verdict of its report is final."""
    with _guarded(outcome):
        _prove(outcome, lowered, options)
    return outcome


@contextlib.contextmanager
def _guarded(outcome: Outcome) -> Iterator[None]:
    """Turn whatever stops a stage into the report's verdict."""
    try:
        yield
    except (Serial, Unsupported) as stop:
        verdict = getattr(stop, "verdict", "serial")
        _stop(outcome, verdict, str(stop))
    except Exception as error:
        log.debug("stage %s failed", outcome._stage, exc_info=True)
        _stop(outcome, "refused", f"{type(error).__name__}: {error}")


def _stop(outcome: Outcome, verdict: str, reason: str) -> None:
    outcome.report = replace(outcome.report, verdict=verdict, reason=reason, stage=outcome._stage)
    outcome.module = None


def _note(outcome: Outcome, text: str) -> None:
    outcome.report = replace(outcome.report, notes=(*outcome.report.notes, text))


def _stages(
    outcome: Outcome, gm: fx.GraphModule, options: Options, input_names: Sequence[str], texts: bool,
    inputs: Sequence[Any] | None, twin: bool,
) -> None:  # fmt: skip
    with _stage(outcome, "read"):
        reading = outcome.reading = read_graph(gm, outcome.report.name, input_names)
        outcome.report = replace(
            outcome.report,
            kernels=reading.kernels,
            kernels_serial=reading.launches,
            memory_serial=reading.peak_memory,
        )
        _check_collectives(reading)
        if config.coordinate_descent_tuning:
            note = "coordinate_descent_tuning (part of max-autotune) turns matrix products of one row into multiply and sum"
            _note(outcome, note)
        tokens = dynamic_tokens(gm) if twin else None
        if tokens is None:
            _check_tokens(gm, options)
    if texts:
        with _stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_serial=readable(reading.module))
    outcome.device = outcome.device or device_at_hand()
    outcome.report = replace(outcome.report, device=outcome.device.name)
    if tokens is None:
        plan, dispatch = _best_plan(outcome, reading, options, inputs), None
    else:
        plan, dispatch = _plan_for_tokens(outcome, reading, options, inputs, tokens)
    with _stage(outcome, "rewrite"):
        module = outcome.module = rewrite(reading, plan)
        if dispatch is not None:
            module.meta[wrapper.MARK] = replace(module.meta[wrapper.MARK], dispatch=dispatch.line)
    if texts:
        with _stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_streams=readable_regions(module, reading.kernels, plan))


def _best_plan(outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None) -> Plan:
    return _measured_plan(outcome, reading, options, inputs) or _predicted_plan(outcome, reading, options)


def _plan_for_tokens(
    outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None, tokens: Tokens
) -> tuple[Plan, Dispatch | None]:
    """The plan where each call chooses how many tokens there are, and for how many of them it runs."""
    outcome._example, fewer = tokens.example, None
    try:
        _check_example(outcome, reading, options, tokens)
        plan = _best_plan(outcome, reading, options, inputs)
    except Serial:
        if not outcome.report.us:
            raise
        # Fewer tokens may gain yet; this call, and others with as many, will run the serial twin.
        fewer = _plan_for_fewer(outcome, tokens, options)
        if fewer is None:
            raise
        plan = fewer.plan
    with _stage(outcome, "threshold"):
        threshold = _threshold(outcome, plan, fewer.sizing if fewer else None, tokens, options)
        if outcome._tuner is not None and options.max_tokens is None:
            threshold = confirm(threshold, lambda size: _measured_gain(outcome, plan, tokens, size), options.min_gain)
        outcome.report = replace(outcome.report, threshold=threshold)
        if threshold.largest == 0:
            raise Serial("serial", f"no number of tokens gains enough: {threshold.reason}")
        if threshold.largest is None and not threshold.smallest:
            return plan, None
        values = [node.meta.get("val") for node in reading.module.graph.find_nodes(op="placeholder")]
        return plan, Dispatch(size_source(threshold.symbol, values), threshold.largest, threshold.smallest)


def _threshold(outcome: Outcome, plan: Plan, sizing: Sizing | None, tokens: Tokens, options: Options) -> Threshold:
    try:
        return (sizing or _sizing(outcome, tokens, options)).threshold(plan, options)
    except ValueError as error:
        # Without the two curves there is the user's word, or no limit.
        return Threshold(str(tokens.size), options.max_tokens, (), f"not solved: {error}")


def _check_example(outcome: Outcome, reading: Reading, options: Options, tokens: Tokens) -> None:
    if options.max_tokens is not None and tokens.example > options.max_tokens:
        assert outcome.device is not None
        outcome.report = replace(outcome.report, us=tuple(price(reading.kernels, outcome.device)), costs="roofline")
        raise Serial("serial", f"there are {tokens.example} tokens, more than max_tokens={options.max_tokens}")


def _sizing(outcome: Outcome, tokens: Tokens, options: Options) -> Sizing:
    report, device = outcome.report, outcome.device
    assert device is not None and report.kernels is not None
    sizing = sizing_of(tokens, report.kernels, report.us, device, options.event_us)
    if report.plan is None or report.measurement is None:
        return sizing
    return sizing.corrected(report.plan, report.measurement.gain)


def _plan_for_fewer(outcome: Outcome, tokens: Tokens, options: Options) -> Fewer | None:
    def plan_at(kernels: KernelGraph, us: Sequence[float]) -> Plan:
        return replace(search_on_simulator(_space(outcome, kernels, us, options)), priority=options.priority or 0)

    try:
        fewer = plan_for_fewer(_sizing(outcome, tokens, options), options, _listed_wait_us(options), plan_at)
    except ValueError:  # how the times of the kernels grow is not known
        return None
    if fewer is not None:
        _close_tuner(outcome)
        count = fewer.sizing.tokens.example
        _note(outcome, f"planned for {count} tokens: {tokens.example}, of the call that was compiled, run serially")
        outcome.report = replace(outcome.report, plan=fewer.plan, us=fewer.us, measurement=None)
    return fewer


def _measured_gain(outcome: Outcome, plan: Plan, tokens: Tokens, size: int) -> float | None:
    """The share of the serial time that `plan` saves at another number of tokens, None where that cannot be measured."""
    low, high = tokens.limits
    if outcome._tuner is None or not tokens.size.is_Symbol or not low <= size <= high:
        return None
    return outcome._tuner.gain_at(plan, {str(tokens.size): size})


def _close_tuner(outcome: Outcome) -> None:
    if outcome._tuner is not None:
        outcome._tuner.close()
        outcome._tuner = None


def _predicted_plan(outcome: Outcome, reading: Reading, options: Options) -> Plan:
    assert outcome.device is not None
    with _stage(outcome, "price"):
        model = Roofline(outcome.device)
        us = price_from_profile(reading.kernels, options.profile) if options.profile else model.prices(reading.kernels)
        outcome.report = replace(outcome.report, us=tuple(us), costs=options.profile or str(model))
    with _stage(outcome, "plan"):
        plan = search_on_simulator(_space(outcome, reading.kernels, us, options))
        plan = replace(plan, priority=options.priority or 0)
        outcome.report = replace(outcome.report, plan=plan)
        check_plan(reading.kernels, plan)
        _check_gain(outcome.report, options, 0, outcome.device)
    return plan


def _measured_plan(outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None) -> Plan | None:
    """The plan from measured times, None where nothing can be measured; the report says why."""
    if inputs is None or options.costs not in ("auto", "measured"):
        return None
    assert outcome.device is not None
    tuner = Tuner(reading, outcome.device, options, inputs_by_position(reading.module, inputs))
    try:
        return _tuned_plan(outcome, reading, options, tuner)
    except Serial:
        raise
    except Exception as error:
        log.debug("measuring failed", exc_info=True)
        outcome._tuner = tuner
        _close_tuner(outcome)
        reason = str(error) if isinstance(error, Unmeasurable) else f"{type(error).__name__}: {error}"
        _note(outcome, f"kernels were not measured: {reason}")
        outcome.report = replace(outcome.report, us=(), plan=None, measurement=None)
        return None


def _tuned_plan(outcome: Outcome, reading: Reading, options: Options, tuner: Tuner) -> Plan:
    assert outcome.device is not None
    with _stage(outcome, "price"):
        kept = tuner.kept()
        outcome._tuner = None if kept else tuner
        us = kept[0] if kept else tuner.times()
        outcome.report = replace(outcome.report, us=tuple(us), costs="measured")
    with _stage(outcome, "plan"):
        if kept:
            _, plan, measurement = kept
        else:
            space = _space(outcome, reading.kernels, us, options, tuner.blocks())
            plan, measurement = tuner.search(space) if options.search else tuner.without_search(space)
            if plan.streams == 1 or measurement.gain < options.min_gain:
                tuner.keep(us, plan, measurement)  # the next compile need not find out again
        outcome.report = replace(outcome.report, plan=plan, measurement=measurement)
        check_plan(reading.kernels, plan)
        _check_gain(outcome.report, options, 0, outcome.device)
    return plan


def _space(
    outcome: Outcome, graph: KernelGraph, us: Sequence[float], options: Options, blocks: Mapping[int, Blocks] | None = None
) -> Space:
    """The plans to choose from, with a simulator that knows what kernels cost side by side."""
    device = outcome.device
    assert device is not None
    predecessors, taken = graph.predecessors(), footprints(graph, us, device, blocks)
    simulated_us = EVENT_US if options.event_us is None else options.event_us

    def simulated(assignment: Assignment) -> Timing:
        # In a CUDA graph the first kernels of all streams wait for nothing.
        return simulate(assignment, predecessors, us, taken, simulated_us, fork_us=0.0)

    return Space(graph, us, options.streams, _listed_wait_us(options), simulated, simulated_us)


def _listed_wait_us(options: Options) -> float:
    return LISTED_WAIT_US if options.event_us is None else options.event_us


def inputs_by_position(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[int, Any]:
    """The real inputs of a post-grad graph by position, where AOTAutograd tells which of the compiled function's they are."""
    found = {}
    for position, node in enumerate(module.graph.find_nodes(op="placeholder")):
        index = getattr(node.meta.get("desc"), "idx", None)
        if index is not None and index < len(inputs):
            found[position] = inputs[index]
    return found


@contextlib.contextmanager
def _stage(outcome: Outcome, stage: str) -> Iterator[None]:
    outcome._stage = stage
    started = time.perf_counter()
    try:
        yield
    finally:
        before = outcome.report.seconds
        taken = before.get(stage, 0.0) + time.perf_counter() - started
        outcome.report = replace(outcome.report, seconds={**before, stage: taken})
    log.debug("%s: %s took %.3f s", outcome.report.name, stage, time.perf_counter() - started)


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


def _check_gain(report: Report, options: Options, lost_fusions: int, device: Device) -> None:
    plan, measured = report.plan, report.measurement
    assert plan is not None
    if plan.streams == 1:
        raise Serial("serial", "its kernels form one chain, or no placement on several streams is faster")
    if measured is not None:
        if measured.gain < options.min_gain:
            what = "generated code's" if measured.compiled_us else "plan's"
            text = f"the {what} measured gain is {measured.gain:.1%}, less than min_gain={options.min_gain:.1%}"
            raise Serial("serial", text)
        return
    # Each launch that the serial graph did not have costs at least the shortest kernel.
    gain = 1 - (plan.streamed_us + max(0, lost_fusions) * device.launch_us) / plan.serial_us
    if gain < options.min_gain:
        lost = f", {lost_fusions} launches more than serial counted in" if lost_fusions > 0 else ""
        raise Serial("serial", f"the predicted gain is {gain:.1%}{lost}, less than min_gain={options.min_gain:.1%}")


def _check_speed(outcome: Outcome, lowered: Lowered, options: Options) -> None:
    """Time the generated code, and keep the plan where it is as fast as its kernels were when they were played."""
    report, tuner = outcome.report, outcome._tuner
    if tuner is None:
        return
    assert report.measurement is not None and report.plan is not None and outcome.device is not None
    with _stage(outcome, "measure"):
        measured = tuner.check(lowered, report.measurement)
        tuner.keep(report.us, report.plan, measured)
        outcome.report = replace(report, measurement=measured)
        _check_gain(outcome.report, options, 0, outcome.device)
    if measured.compiled_us > SLOWER * measured.played_us:
        note = f"the generated code took {measured.compiled_us:.1f} us, its kernels as played {measured.played_us:.1f} us"
        _note(outcome, note)


def _check_memory(serial: int, streamed: int, options: Options) -> None:
    allowed = max(options.max_extra_memory * serial, ALLOWED_MEMORY)
    if streamed - serial > allowed:
        extra = (streamed - serial) / 2**20
        raise Serial("serial", f"it needs {extra:.0f} MiB more than serial; {allowed / 2**20:.0f} MiB are allowed")


def _streamed_part(outcome: Outcome) -> float:
    """The largest number of tokens that runs on streams, as a part of the example's: so much less memory is held."""
    threshold = outcome.report.threshold
    if threshold is None or not threshold.largest or outcome._example is None:
        return 1.0
    return min(1.0, threshold.largest / outcome._example)


def _prove(outcome: Outcome, lowered: Lowered, options: Options) -> None:
    """Check the code generated for the rewritten graph. Raises Serial where it is not proved, or not worth its launches."""
    reading, plan, device = outcome.reading, outcome.report.plan, outcome.device
    assert reading is not None and plan is not None and device is not None
    with _stage(outcome, "verify"):
        with lowered.active():
            launches, memory = order.launch_count(lowered), peak_memory(lowered)
            named, unnamed = order.lowered_steps(lowered), order.unnamed_steps(lowered)
        outcome.report = replace(outcome.report, wrapper=lowered.source, kernels_streamed=launches, memory_streamed=memory)
        trace = read_wrapper(lowered.source)
        in_wrapper = order.without_names(launch_order(trace))
        difference = order.first_difference(order.planned_steps(plan, reading.kernels), named)
        difference = difference or order.first_difference(unnamed, in_wrapper)
        races = tuple(str(race) for race in find_races(trace))
        outcome.report = replace(outcome.report, order_kept=not difference, races=races)
        if races:
            raise Serial("refused", f"the generated wrapper has {len(races)} races, the first: {races[0]}")
        if difference:
            raise Serial("refused", f"the generated wrapper does not keep the plan's order: {difference}")
        _check_gain(outcome.report, options, launches - reading.launches, device)
        part = _streamed_part(outcome)
        _check_memory(int(reading.peak_memory * part), int(memory * part), options)
    outcome.report = replace(outcome.report, verdict="clean")
