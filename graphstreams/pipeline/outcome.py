"""What the stages make of one graph, how long each takes, and what becomes of a graph that one of them stops."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import fx

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.errors import StaySerial, Unsupported
from graphstreams.ir.devices import Device
from graphstreams.ir.reading import Reading
from graphstreams.reports.report import Report

log = logging.getLogger("graphstreams")


@dataclass
class Outcome:
    """The report of a graph and, unless it stays serial, the rewritten module that its streamed body is generated from."""

    report: Report
    module: fx.GraphModule | None = None
    reading: Reading | None = None
    device: Device | None = None
    stage: str = field(default="", repr=False)  # that runs, or ran last
    example: int | None = None  # tokens of the call that is compiled, where each call chooses them
    added: tuple[tuple[int, int], ...] = ()  # lines that the report's wrapper has more than the serial one, by place
    tuner: Autotuner | None = field(
        default=None, repr=False
    )  # where the times come from it, from this compile or an earlier one

    @property
    def times_code(self) -> bool:
        """Whether the code generated for a measured plan is timed: where no earlier compile has done so."""
        measured = self.report.measurement
        return self.tuner is not None and measured is not None and not (measured.from_disk and measured.compiled_us)


@contextlib.contextmanager
def guarded(outcome: Outcome) -> Iterator[None]:
    """Within this context nothing is raised: what stops a stage becomes the report's verdict, and there is no module."""
    try:
        yield
    except (StaySerial, Unsupported) as stop:
        verdict = getattr(stop, "verdict", "serial")
        _stop(outcome, verdict, str(stop))
    except Exception as error:
        log.debug("stage %s failed", outcome.stage, exc_info=True)
        _stop(outcome, "refused", f"{type(error).__name__}: {error}")


def _stop(outcome: Outcome, verdict: str, reason: str) -> None:
    outcome.report = replace(outcome.report, verdict=verdict, reason=reason, stage=outcome.stage)
    outcome.module = None


@contextlib.contextmanager
def stage(outcome: Outcome, name: str) -> Iterator[None]:
    """Within this context the stage `name` runs. The report gets its seconds, added to those it already took."""
    outcome.stage = name
    started = time.perf_counter()
    try:
        yield
    finally:
        before = outcome.report.seconds
        taken = before.get(name, 0.0) + time.perf_counter() - started
        outcome.report = replace(outcome.report, seconds={**before, name: taken})
    log.debug("%s: %s took %.3f s", outcome.report.name, name, time.perf_counter() - started)


def note(outcome: Outcome, text: str) -> None:
    """Add a line to the report's notes."""
    outcome.report = replace(outcome.report, notes=(*outcome.report.notes, text))


def close_autotuner(outcome: Outcome) -> None:
    """Give back what measuring took."""
    if outcome.tuner is not None:
        outcome.tuner.close()
        outcome.tuner = None
