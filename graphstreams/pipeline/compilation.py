"""What becomes of one graph, and what is known of it while the recipe runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from graphstreams.errors import StaySerial, Unsupported
from graphstreams.ir.reading import Reading
from graphstreams.messages import with_type
from graphstreams.reports.report import Report
from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")

LONG_S = 1.0  # a stage that takes longer gets lines of the log
REPEAT_S = 10.0  # after which a stage that still runs gets another one
DOES = {  # what the stages do, for a line of the log
    "read": "reads the kernels that Inductor will launch",
    "price": "finds out what each kernel takes",
    "plan": "tries plans",
    "threshold": "finds out for which sizes streams gain",
    "rewrite": "puts kernels on streams in the graph",
    "report": "writes the graph as readable code",
    "lower": "lets Inductor generate the code for streams",
    "verify": "proves the code free of races",
    "measure": "times the code beside Inductor's",
}


@contextmanager
def _said_while_it_runs(graph: str, stage: str) -> Iterator[None]:
    """Log what a stage does while the context lasts: once it has taken long, and now and then after that."""
    if not log.isEnabledFor(logging.INFO):
        yield
        return
    ended = threading.Event()

    def say() -> None:
        taken, pause = 0.0, LONG_S
        while not ended.wait(pause):
            taken, pause = taken + pause, REPEAT_S
            log.info("graphstreams: %s: %s has taken %.0f s so far: it %s", graph, stage, taken, DOES.get(stage, "goes on"))

    thread = threading.Thread(target=say, name="graphstreams progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class GraphCompilation:
    """The report of a graph and, unless it stays serial, the rewritten module that its streamed body is generated from."""

    report: Report
    module: fx.GraphModule | None = None
    reading: Reading | None = None
    added: tuple[tuple[int, int], ...] = ()  # lines that the report's wrapper has more than the serial one, by place


class Progress:
    """A GraphCompilation in the making. Only the recipe writes to it; the stages return values."""

    def __init__(self, name: str) -> None:
        """Start with a report that knows the graph's name alone."""
        self.compilation = GraphCompilation(Report(name, "serial"))
        self._stage = ""  # the one that runs, or ran last

    @property
    def report(self) -> Report:
        """The report so far."""
        return self.compilation.report

    def keep(self, **fields: Any) -> None:
        """Set fields of the compilation."""
        self.compilation = replace(self.compilation, **fields)

    def tell(self, **fields: Any) -> None:
        """Set fields of the report."""
        self.keep(report=replace(self.report, **fields))

    def note(self, *texts: str) -> None:
        """Add lines to the report's notes."""
        self.tell(notes=(*self.report.notes, *texts))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the stage `name` within this context. The report gets its seconds, added to those it already took.

        Once it has taken over a second, a line of the log says what it does, and when it ends another one what it took.
        """
        self._stage = name
        started = time.perf_counter()
        try:
            with _said_while_it_runs(on_rank(self.report.name), name):
                yield
        finally:
            taken = time.perf_counter() - started
            before = self.report.seconds
            self.tell(seconds={**before, name: before.get(name, 0.0) + taken})
            level = logging.INFO if taken > LONG_S else logging.DEBUG
            log.log(level, "graphstreams: %s: %s took %.1f s", on_rank(self.report.name), name, taken)

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """Raise nothing out of this context: what stops a stage becomes the report's verdict, and there is no module."""
        try:
            yield
        except (StaySerial, Unsupported) as stop:
            self._stop(getattr(stop, "verdict", "serial"), str(stop))
        except Exception as error:
            log.debug("stage %s failed", self._stage, exc_info=True)
            self._stop("refused", with_type(error))

    def _stop(self, verdict: str, reason: str) -> None:
        self.tell(verdict=verdict, reason=reason, stage=self._stage)
        self.keep(module=None)
