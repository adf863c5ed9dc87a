"""Say once, in one line of the log, what became of each graph, and keep it: `verdicts_of` returns all of this process.

Every wrapper of a graph that graphstreams has seen, also of one that stays serial, carries its verdict and a call of
`announce`, which runs when the wrapper is loaded. The process that compiled the graph has said the verdict, so it says nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")

IMPORT = "from graphstreams.runtime.verdicts import announce as _announce"
NAME = "GRAPHSTREAMS"
CAPTURE_IT = 'to have that, compile with mode="reduce-overhead", or capture the calls with torch.cuda.graph'


@dataclass(frozen=True)
class Verdict:
    """The outcome for one graph, as its wrapper carries it. Times are in us; 0 stands for one that is not known."""

    name: str
    verdict: str  # as in Report
    stage: str = ""
    reason: str = ""
    streams: int = 1
    serial_us: float = 0.0  # one replay of a CUDA graph
    streamed_us: float = 0.0
    measured: bool = False  # whether these two were measured; else they are predicted
    collectives: bool = False  # whether there are some, whose times are always predicted
    direct: bool = False  # whether the streams also run when the host launches the kernels
    direct_serial_us: float = 0.0  # a call that the host launches, as measured
    direct_us: float = 0.0
    kernels_serial: int = 0  # launches
    kernels_streamed: int = 0
    sizes: str = ""  # for which sizes streams run, if a call's size chooses
    report_key: str = ""  # under which the report is kept if the graph is; empty if it can't be in a cache
    plan_file: str = ""  # the file that the plan is from, if it was given
    module: str = ""  # the name that torch.compile was given, else the class of the module; no wrapper carries it
    from_cache: bool = False  # whether another process has compiled the graph

    @property
    def lines(self) -> list[str]:
        """The lines of a wrapper that carry the verdict."""
        return [IMPORT, f"{NAME} = {json.dumps(asdict(self))!r}", f"_announce({NAME})"]

    def digest(self, more: str) -> str:
        """Return a short hash of the verdict and of `more`."""
        return hashlib.sha256(f"{more}\n{json.dumps(asdict(self))}".encode()).hexdigest()[:32]

    @property
    def speedup(self) -> float:
        """How many times as fast as serially the graph is in a CUDA graph; 1 if that is not known."""
        return self.serial_us / self.streamed_us if self.streamed_us else 1.0

    def __str__(self) -> str:
        name = f"{self.module}: {self.name}" if self.module else self.name
        found = " (from a cache)" if self.from_cache else ""
        if self.verdict != "clean":
            return f"{name} runs serially: {self.stage or 'the pass'}: {self.reason}{found}"
        source = "measured" + ", but for collectives" * self.collectives if self.measured else "predicted"
        times = f"{_us(self.streamed_us)} us instead of {_us(self.serial_us)} in a CUDA graph ({source})"
        sizes = f" for {self.sizes}" if self.sizes else ""
        launches = f"{self.kernels_streamed} launches, serial {self.kernels_serial}"
        given = f" as {self.plan_file} has them" if self.plan_file else ""
        return f"{name}: {self.streams} streams{given}{sizes}, {times}, {self._direct()}; {launches}{found}"

    def _direct(self) -> str:
        if not self.direct:
            return "serial when launched directly"
        if not self.direct_us:
            return "on streams when launched directly too"
        return f"{_us(self.direct_us)} us instead of {_us(self.direct_serial_us)} launched directly (measured)"


@dataclass(frozen=True)
class Loaded:
    """The verdicts of wrappers that were loaded: of those that came from a cache, and of those that this process knew."""

    cached: list[Verdict] = field(default_factory=list)
    known: list[Verdict] = field(default_factory=list)


class _Told(threading.local):
    """The verdicts that one thread has loaded since `listening` began, the module it compiles, and a reference to whom it tells
    what it loads.
    """

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.module = ""
        self.hearer: Callable[[], Callable[[Verdict], None] | None] = lambda: None


_told = _Told()
_said: list[Verdict] = []  # of this process, in order
_known: set[str] = set()  # as wrappers have them: those that this process has compiled, or said


def verdicts_of(name: str | None = None) -> list[Verdict]:
    """Return the verdict on each graph of this process in the order in which they were compiled, or loaded from a cache.

    `name` picks those of one module, or those of graphs with that name.
    """
    return [verdict for verdict in list(_said) if name is None or name in (verdict.module, verdict.name)]


def compiled(verdict: Verdict) -> None:
    """Note that this process compiled the graph itself, so that `announce` does not say its verdict again."""
    _known.add(json.dumps(asdict(verdict)))


def say(verdict: Verdict, captured: bool = False) -> None:
    """Keep a verdict, and log it in one line.

    The line is a warning if the graph runs serially, and if nothing that is known of captures it in a CUDA graph. `captured`
    says that something does.
    """
    verdict = replace(verdict, module=verdict.module or _told.module)
    _said.append(verdict)
    level, text = (logging.INFO if verdict.verdict == "clean" else logging.WARNING), str(verdict)
    if verdict.verdict == "clean" and not verdict.direct and not captured and not captures_graphs():
        level, text = logging.WARNING, f"{text}; {CAPTURE_IT}"
    log.log(level, "graphstreams: %s", on_rank(text))


def keep_for(verdict: Verdict, module: str) -> None:
    """Keep a verdict that this process has told of for a module too that has the same graph. Nothing is logged."""
    first = next((each for each in _said if replace(each, module="", from_cache=False) == verdict), verdict)
    if (told := replace(first, module=module)) not in _said:
        _said.append(told)


def announce(text: str) -> None:
    """Say the verdict `text`, which is JSON, of a wrapper that was loaded, unless this process has compiled or said it."""
    verdict, known = Verdict(**json.loads(text)), text in _known
    if not known:
        _known.add(text)
        say(replace(verdict, from_cache=True))
    if _told.loaded is not None:
        (_told.loaded.known if known else _told.loaded.cached).append(verdict)
    if (hearer := _told.hearer()) is not None:
        hearer(verdict)


def tell(hearer: Callable[[Verdict], None]) -> None:
    """Call a method with each verdict of a wrapper that this thread loads, until another one is given or its object is gone."""
    _told.hearer = weakref.WeakMethod(hearer)


@contextlib.contextmanager
def listening(module: str = "") -> Iterator[Loaded]:
    """Collect the verdicts of the wrappers that this thread loads inside the context.

    `module` is the name of what is compiled in it.
    """
    before = _told.loaded, _told.module
    _told.loaded, _told.module = Loaded(), module
    try:
        yield _told.loaded
    finally:
        _told.loaded, _told.module = before


def captures_graphs() -> bool:
    """Return whether Inductor captures what it compiles in CUDA graphs, as in the mode "reduce-overhead"."""
    from torch._inductor import config

    return bool(config.triton.cudagraphs)


def _us(us: float) -> str:
    return f"{us:.0f}" if us >= 100 else f"{us:.1f}"
