"""From a graph that was read to its plan: kernels are priced, measured where they can be, and the best plan is chosen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from typing import Any

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.costs.profile import price_from_profile
from graphstreams.costs.roofline import Roofline
from graphstreams.errors import StaySerial, Unmeasurable
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.outcome import Outcome, close_autotuner, note, stage
from graphstreams.planning.local_search import search_on_simulator
from graphstreams.planning.modelled_plan import plan_space, simulated_plan
from graphstreams.planning.paths import bottom_levels
from graphstreams.planning.synchronization import check_plan
from graphstreams.reading.naming import inputs_by_position
from graphstreams.reports.report import Report

log = logging.getLogger("graphstreams")

TWO_PLANS = 2_000  # kernels of a graph up to which there is a plan for modelled times beside that for measured ones
SLOWER = 1.03  # times what was played, from which on a note says that the generated code is slower


def best_plan(outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None) -> Plan:
    """The plan for the sizes of the call that is compiled, put into the report with the kernels' prices.

    With `inputs`, the real ones as far as they are known, it is a measured one where the GPU at hand can run the kernels.
    Raises StaySerial where it gains less than `options.min_gain`.
    """
    return _measured_plan(outcome, reading, options, inputs) or _predicted_plan(outcome, reading, options)


def _measured_plan(outcome: Outcome, reading: Reading, options: Options, inputs: Sequence[Any] | None) -> Plan | None:
    """The plan from measured times, None where nothing can be measured; the report says why."""
    if inputs is None or options.costs not in ("auto", "measured"):
        return None
    assert outcome.device is not None
    try:
        outcome.tuner = Autotuner(reading, outcome.device, options, inputs_by_position(reading.module, inputs))
        return _tuned_plan(outcome, reading, options, outcome.tuner)
    except StaySerial:
        raise
    except Exception as error:
        log.debug("measuring failed", exc_info=True)
        close_autotuner(outcome)
        reason = str(error) if isinstance(error, Unmeasurable) else f"{type(error).__name__}: {error}"
        note(outcome, f"kernels were not measured: {reason}")
        if options.costs == "measured":
            log.warning("%s: kernels were not measured, their times are modelled: %s", outcome.report.name, reason)
        outcome.report = replace(outcome.report, us=(), plan=None, measurement=None)
        return None


def _tuned_plan(outcome: Outcome, reading: Reading, options: Options, tuner: Autotuner) -> Plan:
    assert outcome.device is not None
    with stage(outcome, "price"):
        kept = tuner.kept()
        us = kept[0] if kept else tuner.times()
        outcome.report = replace(outcome.report, us=tuple(us), costs="measured")
    with stage(outcome, "plan"):
        if kept:
            _, plan, measurement = kept
        else:
            _check_parallel(reading.kernels, us, options)
            space = plan_space(reading.kernels, us, outcome.device, options, tuner.blocks())
            first = [search_on_simulator(space)]
            if len(us) <= TWO_PLANS:
                modelled = Roofline(outcome.device).prices(reading.kernels)
                first.append(simulated_plan(reading.kernels, modelled, outcome.device, options))
            plan, measurement = tuner.search(space, first) if options.search else tuner.without_search(first)
            if plan.streams == 1 or measurement.gain < options.min_gain:
                tuner.keep(us, plan, measurement)  # the next compile need not find out again
        outcome.report = replace(outcome.report, plan=plan, measurement=measurement)
        check_plan(reading.kernels, plan)
        check_gain(outcome.report, options, 0, outcome.device)
    return plan


def _check_parallel(graph: KernelGraph, us: Sequence[float], options: Options) -> None:
    """Raise Serial where no plan can gain enough, for side by side no kernel gets faster."""
    serial, longest = fsum(us), max(bottom_levels(graph.successors(), us), default=0.0)
    if longest > (1 - options.min_gain) * serial:
        share = 1 - longest / serial if serial else 0.0
        text = f"its longest path of kernels leaves {share:.1%} of the serial time to gain"
        raise StaySerial("serial", f"{text}, less than min_gain={options.min_gain:.1%}")


def _predicted_plan(outcome: Outcome, reading: Reading, options: Options) -> Plan:
    assert outcome.device is not None
    with stage(outcome, "price"):
        model = Roofline(outcome.device)
        us = price_from_profile(reading.kernels, options.profile) if options.profile else model.prices(reading.kernels)
        outcome.report = replace(outcome.report, us=tuple(us), costs=options.profile or str(model))
    with stage(outcome, "plan"):
        plan = simulated_plan(reading.kernels, us, outcome.device, options)
        outcome.report = replace(outcome.report, plan=plan)
        check_plan(reading.kernels, plan)
        check_gain(outcome.report, options, 0, outcome.device)
    return plan


def check_gain(report: Report, options: Options, lost_fusions: int, device: Device, joined_us: float = 0.0) -> None:
    """Raise Serial where the report's plan gains less than `options.min_gain`, measured where it was, else predicted.

    `lost_fusions` is how many launches more than the serial code the plan's code has, but for those that the serial code joins
    into one (combo kernels); those save it at most `joined_us` us. With a measurement neither counts.
    """
    plan, measured = report.plan, report.measurement
    assert plan is not None
    if plan.streams == 1:
        chain = "its kernels form one chain, or no placement on several streams is faster"
        raise StaySerial("serial", "the option streams is 1" if options.streams == 1 else chain)
    if measured is not None:
        if measured.gain < options.min_gain:
            what = "generated code's" if measured.compiled_us else "plan's"
            text = f"the {what} measured gain is {measured.gain:.1%}, less than min_gain={options.min_gain:.1%}"
            raise StaySerial("serial", text)
        return
    # Each launch that the serial graph did not have costs at least the shortest kernel.
    streamed_us, serial_us = plan.streamed_us + max(0, lost_fusions) * device.launch_us, plan.serial_us - joined_us
    gain = 1 - streamed_us / serial_us if serial_us > 0 else 0.0
    if gain < options.min_gain:
        lost = f", {lost_fusions} launches more than serial counted in" if lost_fusions > 0 else ""
        lost += f", {joined_us:.1f} us that serial's combo kernels may save counted in" if joined_us > 0 else ""
        raise StaySerial("serial", f"the predicted gain is {gain:.1%}{lost}, less than min_gain={options.min_gain:.1%}")


def check_speed(outcome: Outcome, source: str, serial: Lowered, options: Options) -> None:
    """Time the code that was generated, proved and joined with the serial code, and keep what came out for the next compile.

    Raises StaySerial if the code gains less than `options.min_gain`. A note says if it is slower than its kernels were.
    """
    report, tuner = outcome.report, outcome.tuner
    assert tuner is not None and report.measurement is not None and report.plan is not None and outcome.device is not None
    with stage(outcome, "measure"):
        measured = tuner.check(source, serial, report.measurement)
        tuner.keep(report.us, report.plan, measured)
        outcome.report = replace(report, measurement=measured)
        check_gain(outcome.report, options, 0, outcome.device)
    if measured.compiled_us > SLOWER * measured.played_us:
        text = f"the generated code took {measured.compiled_us:.1f} us, its kernels as played {measured.played_us:.1f} us"
        note(outcome, text)
