"""Run a graph with the plan of a file, in place of one that is chosen: a part of the recipe.

Such a plan goes the way of any other: it is rewritten, lowered, proved, and measured where plans are. That it gains is not
asked, because whoever gives it has decided. If it can't be used, a warning says why, and the graph goes on as without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.errors import StaySerial, Unsupported
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import TokenRange
from graphstreams.messages import with_type
from graphstreams.pipeline.compilation import Progress
from graphstreams.pipeline.plan_files import GivenPlan, plan_for
from graphstreams.pipeline.select_plan import PlanChoice, PlanSource, Prices, Task, gain_too_small
from graphstreams.planning.given_plan import with_times
from graphstreams.planning.modelled_plan import simulated_wait_us
from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")


@dataclass(frozen=True)
class PlanAsGiven:
    """A plan that is not chosen, with times from a source of plans, and measured if `autotuner` is given."""

    source: PlanSource
    plan: Plan
    tokens: TokenRange | None = None  # for which it runs, if that is given too
    autotuner: Autotuner | None = None

    def price(self, task: Task) -> Prices:
        """Return the time of each kernel as the source does."""
        return self.source.price(task)

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan with its times, whatever it gains."""
        if prices.cached:
            return PlanChoice(*prices.cached, tokens=self.tokens)
        kernels, wait_us = task.reading.kernels, simulated_wait_us(task.options)
        blocks = self.autotuner.blocks() if self.autotuner else None
        priority = self.plan.priority if task.options.priority is None else task.options.priority
        plan = replace(with_times(self.plan, kernels, prices.us, task.device, wait_us, blocks), priority=priority)
        if self.autotuner is None:
            return PlanChoice(plan, tokens=self.tokens)
        _, measurement = self.autotuner.benchmark.fastest([plan])
        if kernels.has_collectives():  # no generated code will be timed
            self.autotuner.save(prices.us, plan, measurement)
        return PlanChoice(plan, measurement, tokens=self.tokens)


def run_given_plan(progress: Progress, task: Task, attempt: Callable[[GivenPlan], None]) -> bool:
    """Call `attempt` with what a file has for the graph, if it is a plan, and return whether that plan runs.

    Raises StaySerial if the file keeps the graph serial, and with the option `strict` if the plan is not used.
    """
    if not task.options.plan:
        return False
    with progress.stage("plan"):
        found = plan_for(task.reading.kernels, task.options.plan, task.options.streams)
        if found.rival:
            progress.note(f"{found.rival} is for this graph too, and says otherwise than {found.path}, which comes first")
        if found.serial:
            raise StaySerial("serial", f"its plan, {found.path}, keeps it serial")
    if found.plan is not None:
        start = progress.report
        progress.tell(plan_file=found.path)
        try:
            attempt(found)
        except Exception as error:
            log.debug("%s: the plan of %s failed", start.name, found.path, exc_info=True)
            reason = str(error) if isinstance(error, StaySerial | Unsupported) else with_type(error)
            found = replace(found, plan=None, refused=f"{found.path}: {reason}")
            seconds = progress.report.seconds
            progress.keep(report=replace(start, seconds=seconds), module=None, added=())
        else:
            _note_gain(progress, task)
            return True
    _tell(progress, task, found)
    return False


def _note_gain(progress: Progress, task: Task) -> None:
    """Note if a plan would not have been chosen."""
    report = progress.report
    assert report.plan is not None
    if reason := gain_too_small(report.plan, report.measurement, task.options, task.device):
        progress.note(f"the plan runs because {report.plan_file} has it: {reason}")


def _tell(progress: Progress, task: Task, found: GivenPlan) -> None:
    name = on_rank(progress.report.name)
    if found.others:
        text = f"no plan that was given is its own; the nearest is {found.others}"
        level = logging.INFO if found.several else logging.WARNING
    else:
        text, level = f"the plan that was given is not used: {found.refused}", logging.WARNING
        if task.options.strict:
            with progress.stage("plan"):
                raise StaySerial("refused", text)
    progress.note(text)
    log.log(level, "graphstreams: %s: %s", name, text)
