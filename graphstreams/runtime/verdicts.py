"""Log the verdict on a graph again when its code is loaded from a cache.

Every wrapper of a graph that graphstreams has seen, also of one that stays serial, carries its verdict and a call of
`announce`, which runs when the wrapper is loaded. The process that compiled the graph knows the verdict, so it logs nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")

IMPORT = "from graphstreams.runtime.verdicts import announce as _announce"
NAME = "GRAPHSTREAMS"


@dataclass(frozen=True)
class Verdict:
    """The outcome for one graph, as its wrapper carries it."""

    name: str
    verdict: str  # as in Report
    stage: str = ""
    reason: str = ""
    streams: int = 1
    speedup: float = 1.0  # of the streamed body in a CUDA graph: the measured one if there is one, else the predicted one
    direct: bool = False  # whether the streams also run when the host launches the kernels

    @property
    def lines(self) -> list[str]:
        """The lines of a wrapper that carry the verdict."""
        return [IMPORT, f"{NAME} = {json.dumps(asdict(self))!r}", f"_announce({NAME})"]

    def __str__(self) -> str:
        if self.verdict != "clean":
            return f"{self.name} runs serially: {self.stage or 'the pass'}: {self.reason}"
        where = "always" if self.direct else "in CUDA graphs"
        return f"{self.name} runs on {self.streams} streams {where}, {self.speedup:.2f}x"


class _Told(threading.local):
    """The verdicts that one thread has compiled, and those it has loaded since `listening` began."""

    def __init__(self) -> None:
        self.compiled: set[str] = set()
        self.loaded: list[Verdict] | None = None


_told = _Told()


def compiled(verdict: Verdict) -> None:
    """Note that this thread compiled the graph itself, so that `announce` does not log its verdict."""
    _told.compiled.add(json.dumps(asdict(verdict)))


def announce(text: str) -> None:
    """Log the verdict `text`, which is JSON, of a wrapper that was loaded from a cache."""
    if text in _told.compiled:
        return
    verdict = Verdict(**json.loads(text))
    log.log(logging.INFO if verdict.verdict == "clean" else logging.WARNING, "%s (from a cache)", on_rank(str(verdict)))
    if _told.loaded is not None:
        _told.loaded.append(verdict)


@contextlib.contextmanager
def listening() -> Iterator[list[Verdict]]:
    """Collect the verdicts of the wrappers that this thread loads from a cache inside the context."""
    before, _told.loaded = _told.loaded, []
    try:
        yield _told.loaded
    finally:
        _told.loaded = before
