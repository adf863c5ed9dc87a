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
from graphstreams.graph.lowering import copy_graph, finish_post_grad_passes, lower
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


class Serial(Exception):
    """The graph stays serial. `verdict` is "serial" where there is nothing to gain, "refused" where a proof failed."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


@dataclass
class Outcome:
    """The report of a graph and, where its verdict is "clean", the rewritten module to run in its place."""

    report: Report
    module: fx.GraphModule | None = None
    reading: Reading | None = None
    _stage: str = field(default="", repr=False)


def run_stages(
    gm: fx.GraphModule, options: Options, name: str = "graph", input_names: Sequence[str] = (),
    device: Device | None = None, texts: bool = False,
) -> Outcome:  # fmt: skip
    """Put the kernels of `gm`, a post-grad inference graph, on streams.

    `input_names` are the source names of the graph's inputs, `device` the GPU to plan for (the one at hand by default).
    With `texts` the report holds readable code. Never raises for a graph that has to stay serial: the report says why.
    """
    outcome = Outcome(Report(name, "serial"))
    try:
        _stages(outcome, gm, options, input_names, device, texts)
    except (Serial, Unsupported) as stop:
        verdict = getattr(stop, "verdict", "serial")
        outcome.report = replace(outcome.report, verdict=verdict, reason=str(stop), stage=outcome._stage)
    except Exception as error:
        log.debug("stage %s failed", outcome._stage, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        outcome.report = replace(outcome.report, verdict="refused", reason=reason, stage=outcome._stage)
    if outcome.report.verdict != "clean":
        outcome.module = None
    return outcome


def _stages(
    outcome: Outcome, gm: fx.GraphModule, options: Options, input_names: Sequence[str], device: Device | None, texts: bool
) -> None:
    with _stage(outcome, "read"):
        reading = outcome.reading = _read(gm, outcome.report.name, input_names)
        serial = readable(reading.module) if texts else ""
        outcome.report = replace(
            outcome.report, kernels=reading.kernels, kernels_serial=reading.launches, graph_serial=serial
        )
        _check_tokens(gm, options)
    with _stage(outcome, "price"):
        device = device or device_at_hand()
        us = price(reading.kernels, device) if options.costs == "roofline" else price_from_profile(reading.kernels, options.costs)
        outcome.report = replace(outcome.report, device=device.name, us=tuple(us))
    with _stage(outcome, "plan"):
        event_us = device.event_us if options.event_us is None else options.event_us
        plan = plan_kernels(reading.kernels, us, options.streams, event_us)
        outcome.report = replace(outcome.report, plan=plan)
        check_plan(reading.kernels, plan)
        _check_gain(plan, options, 0, device)
    with _stage(outcome, "rewrite"):
        module = outcome.module = rewrite(reading, plan)
        streams = readable_regions(module, reading.kernels, plan) if texts else ""
        outcome.report = replace(outcome.report, graph_streams=streams)
    with _stage(outcome, "verify"):
        _verify(outcome, module, reading, plan)
        _check_gain(plan, options, outcome.report.kernels_streamed - outcome.report.kernels_serial, device)
        outcome.report = replace(outcome.report, verdict="clean")


@contextlib.contextmanager
def _stage(outcome: Outcome, stage: str) -> Iterator[None]:
    outcome._stage = stage
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = {**outcome.report.seconds, stage: time.perf_counter() - started}
        outcome.report = replace(outcome.report, seconds=seconds)
    log.debug("%s: %s took %.3f s", outcome.report.name, stage, seconds[stage])


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


def _verify(outcome: Outcome, module: fx.GraphModule, reading: Reading, plan: Plan) -> None:
    """Prove the code that Inductor generates for the rewritten graph. Raises Serial where it cannot be proved."""
    wrapper.register()
    lowered = lower(copy_graph(module), generate_code=True)
    with lowered.active():
        launches, named, unnamed = order.launch_count(lowered), order.lowered_steps(lowered), order.unnamed_steps(lowered)
    outcome.report = replace(outcome.report, wrapper=lowered.source, kernels_streamed=launches)
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
