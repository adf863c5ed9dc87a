"""The stages in order, for one graph: read, price, plan, rewrite, verify. Pure: the graph given is not changed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from graphstreams.costs.devices import Device, device_at_hand
from graphstreams.costs.profile import price_from_profile
from graphstreams.costs.roofline import price
from graphstreams.graph.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.graph.memory import peak_memory
from graphstreams.graph.reading import Reading, read
from graphstreams.graph.support import Unsupported, token_count
from graphstreams.options import Options
from graphstreams.planning.events import check_plan
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.plan import Plan
from graphstreams.reports.dump import readable, readable_regions
from graphstreams.reports.report import Report
from graphstreams.rewriting import order, wrapper
from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.wrapper import launch_order, read_wrapper

log = logging.getLogger("graphstreams")

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


def run_stages(
    gm: fx.GraphModule, options: Options, name: str = "graph", input_names: Sequence[str] = (),
    device: Device | None = None, texts: bool = False, proof: bool = True,
) -> Outcome:  # fmt: skip
    """Put the kernels of `gm`, a post-grad inference graph, on streams.

    `input_names` are the source names of the graph's inputs, `device` the GPU to plan for (the one at hand by default).
    With `texts` the report holds readable code. Without `proof` the last stage is left to `prove`, on the code that Inductor
    generates anyway; until then the rewritten module must not run. Never raises for a graph that has to stay serial: the
    report says why.
    """
    outcome = Outcome(Report(name, "serial"), device=device)
    with _guarded(outcome):
        _stages(outcome, gm, options, input_names, texts)
        if proof:
            assert outcome.module is not None
            wrapper.register()
            with _stage(outcome, "verify"):
                copy = copy_graph(outcome.module)
                finish_post_grad_passes(copy)  # as Inductor will, on what the pass leaves
                lowered = lower(copy, generate_code=True)
            _prove(outcome, lowered, options)
    return outcome


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


def _stages(outcome: Outcome, gm: fx.GraphModule, options: Options, input_names: Sequence[str], texts: bool) -> None:
    with _stage(outcome, "read"):
        reading = outcome.reading = _read(gm, outcome.report.name, input_names)
        outcome.report = replace(
            outcome.report,
            kernels=reading.kernels,
            kernels_serial=reading.launches,
            memory_serial=reading.peak_memory,
        )
        _check_tokens(gm, options)
    if texts:
        with _stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_serial=readable(reading.module))
    with _stage(outcome, "price"):
        device = outcome.device = outcome.device or device_at_hand()
        profile = None if options.costs == "roofline" else options.costs
        us = price_from_profile(reading.kernels, profile) if profile else price(reading.kernels, device)
        outcome.report = replace(outcome.report, device=device.name, us=tuple(us))
    with _stage(outcome, "plan"):
        event_us = device.event_us if options.event_us is None else options.event_us
        plan = plan_kernels(reading.kernels, us, options.streams, event_us)
        outcome.report = replace(outcome.report, plan=plan)
        check_plan(reading.kernels, plan)
        _check_gain(plan, options, 0, device)
    with _stage(outcome, "rewrite"):
        module = outcome.module = rewrite(reading, plan, options.priority)
    if texts:
        with _stage(outcome, "report"):
            outcome.report = replace(outcome.report, graph_streams=readable_regions(module, reading.kernels, plan))


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


def _read(gm: fx.GraphModule, name: str, input_names: Sequence[str]) -> Reading:
    module = copy_graph(gm)
    finish_post_grad_passes(module)
    return read(module, name, input_names, wrapper.plan_settings())


def _check_tokens(gm: fx.GraphModule, options: Options) -> None:
    if options.max_tokens is None:
        return
    tokens = token_count(gm)
    # For a dynamic size this comparison becomes a guard: another graph is compiled for the other side of it.
    if tokens is not None and tokens > options.max_tokens:
        raise Serial("serial", f"its first matrix product has {tokens} rows, more than max_tokens={options.max_tokens}")


def _check_gain(plan: Plan, options: Options, lost_fusions: int, device: Device) -> None:
    if plan.streams == 1:
        raise Serial("serial", "its kernels form one chain, or no placement on several streams is faster")
    # Each launch that the serial graph did not have costs at least the shortest kernel.
    gain = 1 - (plan.streamed_us + max(0, lost_fusions) * device.launch_us) / plan.serial_us
    if gain < options.min_gain:
        lost = f", {lost_fusions} launches more than serial counted in" if lost_fusions > 0 else ""
        raise Serial("serial", f"the predicted gain is {gain:.1%}{lost}, less than min_gain={options.min_gain:.1%}")


def _check_memory(serial: int, streamed: int, options: Options) -> None:
    allowed = max(options.max_extra_memory * serial, ALLOWED_MEMORY)
    if streamed - serial > allowed:
        extra = (streamed - serial) / 2**20
        raise Serial("serial", f"it needs {extra:.0f} MiB more than serial; {allowed / 2**20:.0f} MiB are allowed")


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
        _check_gain(plan, options, launches - reading.launches, device)
        _check_memory(reading.peak_memory, memory, options)
    outcome.report = replace(outcome.report, verdict="clean")
