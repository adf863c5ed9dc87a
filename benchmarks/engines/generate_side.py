"""One backend in one mode in `generate`: a copy of the model, its texts, and what a token of them took."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode_trace import summarize
from benchmarks.engines.generate_table import AGAIN, OURS, PLAIN
from benchmarks.workers import messages, one_line
from graphstreams.benchmark.results import reports_in
from graphstreams.benchmark.timing import summary

SETTLED = 8  # steps after which no CUDA graph is recorded
PROFILED = (SETTLED + 4, SETTLED + 12)  # steps between which the profiler runs
REPORTED = ("name", "verdict", "stage", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured",
            "differences", "notes", "seconds")  # fmt: skip
Prompt = Mapping[str, torch.Tensor]
Action = Callable[[], None]


class Clock:
    """A logits processor, called once a step, that notes the time at some steps when the GPU has nothing left to do."""

    def __init__(self, actions: Mapping[int, Action] | None = None, wait: Action = lambda: None) -> None:
        """`actions` are called at their steps. `wait` waits for the GPU."""
        self.step, self._actions, self._wait = 0, dict(actions or {}), wait
        self.at: dict[int, float] = {}  # step -> when, in s

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores as they are. Step 0 ends the prompt."""
        if self.step in (0, SETTLED) or self.step in self._actions:
            self._wait()
            self._actions.get(self.step, lambda: None)()
            self.at[self.step] = time.perf_counter()
        self.step += 1
        return scores

    def milliseconds(self, ended: float) -> tuple[float, float]:
        """Return ms a token over all steps and over the steady ones. `ended` is the time after the last."""
        steps = self.step - 1
        return 1e3 * (ended - self.at[0]) / steps, 1e3 * (ended - self.at[SETTLED]) / (steps - SETTLED)


@dataclass(frozen=True)
class Run:
    """What is the same for all sides."""

    tokens: int  # of a text
    device: str = "cuda"
    deterministic: bool = False  # whether all are compiled with Inductor's setting of that name


@dataclass
class Side:
    """One backend in one mode, with a copy of the model."""

    backend: str
    mode: str
    model: Any
    config: Any  # of transformers: how to compile
    dump: Path
    samples: dict[str, list[float]] = field(default_factory=lambda: {"all": [], "steady": []})  # ms a token
    texts: list[list[int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # what the package logged
    record: dict[str, Any] = field(default_factory=dict)


def sharing(model: Any) -> Any:
    """Return a copy of a model that has the same weights and buffers."""
    return copy.deepcopy(model, {id(value): value for value in [*model.parameters(), *model.buffers()]})


def compile_config(backend: str, mode: str, run: Run) -> Any:
    """Return how transformers compiles a side."""
    from transformers import CompileConfig

    from graphstreams import graphstreams

    chosen: Any = graphstreams if backend == OURS else PLAIN
    if run.deterministic:
        settings = {**torch._inductor.list_mode_options(mode), "deterministic": True}
        config = CompileConfig(backend=chosen, mode=None, options={"inductor": settings} if backend == OURS else settings)
    else:
        config = CompileConfig(backend=chosen, mode=mode)
    if run.device == "cpu":
        config._compile_all_devices = True
    return config


def text_of(side: Side, prompt: Prompt, tokens: int, clock: Clock) -> list[int]:
    """Return the tokens that follow a prompt, greedily."""
    from transformers import LogitsProcessorList

    arguments: dict[str, Any] = {"do_sample": False, "cache_implementation": "static", "max_new_tokens": tokens}
    processors = LogitsProcessorList([clock])
    found = side.model.generate(**prompt, compile_config=side.config, logits_processor=processors, **arguments)
    return [int(token) for token in found[0, -tokens:].cpu()]


def first_difference(some: Sequence[int], others: Sequence[int]) -> int | None:
    """Return the place of the first token that differs; None if the texts are equal."""
    if list(some) == list(others):
        return None
    pairs = enumerate(zip(some, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(some), len(others)))


def warm_up(side: Side, prompt: Prompt, run: Run) -> None:
    """Compile a side and generate twice, noting what the package logs. An error is kept as the record's "failed"."""
    from torch._dynamo.utils import counters

    gc.collect()  # to free the garbage of one compile in the next makes that one's guards slower
    started = time.perf_counter()
    before = dict(counters["inductor"]), dict(counters["stats"])
    reserved = torch.cuda.memory_reserved() if run.device == "cuda" else 0
    try:
        with messages(side.said), dumping(side):
            for _ in range(2):
                text_of(side, prompt, run.tokens, Clock(wait=waiting(run.device)))
    except Exception as error:
        side.record["failed"] = one_line(f"{type(error).__name__}: {error}", 400)
        logging.getLogger("benchmarks").exception("%s, %s", side.backend, side.mode)
    side.record["seconds"] = round(time.perf_counter() - started, 1)
    side.record["graphs"] = counters["stats"]["unique_graphs"] - before[1].get("unique_graphs", 0)
    side.record["cudagraph_skips"] = counters["inductor"]["cudagraph_skips"] - before[0].get("cudagraph_skips", 0)
    if run.device == "cuda":
        side.record["reserved_mib"] = round((torch.cuda.memory_reserved() - reserved) / 2**20, 1)
    side.record["reports"] = short_reports(side.dump) if side.backend == OURS else []
    side.record["said"] = side.said


def short_reports(directory: Path) -> list[dict[str, Any]]:
    """Return what each report says in short."""
    return [{name: report.get(name) for name in REPORTED} for report in reports_in(directory).values()]


@contextmanager
def dumping(side: Side) -> Any:
    """Let the package write its reports to the side's folder in this context, because a mode leaves no room for options."""
    os.environ["GRAPHSTREAMS_DUMP"] = str(side.dump)
    try:
        yield
    finally:
        del os.environ["GRAPHSTREAMS_DUMP"]


def waiting(device: str) -> Callable[[], None]:
    """Return a function that waits for the device."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def time_text(side: Side, prompt: Prompt, run: Run) -> None:
    """Generate one text and keep its times."""
    wait = waiting(run.device)
    clock = Clock(wait=wait)
    text = text_of(side, prompt, run.tokens, clock)
    wait()
    for name, ms in zip(side.samples, clock.milliseconds(time.perf_counter()), strict=True):
        side.samples[name].append(ms)
    side.texts.append(text)


def profile(side: Side, prompt: Prompt, run: Run) -> dict[str, Any]:
    """Return the profile of some steady steps of one text."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if run.device == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds):  # only graphs that are recorded after its first use show their kernels
        torch.zeros(1, device=run.device)
    profiler = torch.profiler.profile(activities=kinds)
    first, last = PROFILED
    clock = Clock({first: profiler.start, last: profiler.stop}, waiting(run.device))
    recorded: list[int] = []  # the step at the end of each capture of a CUDA graph
    hook = torch.cuda.graphs.register_graph_capture_end_hook(lambda _: recorded.append(clock.step))
    text_of(side, prompt, max(run.tokens, last + 2), clock)
    hook.remove()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found = summarize(json.loads(path.read_text()), last - first)
    return {"graphs recorded in the text": len(recorded), "last recorded at step": max(recorded, default=0), **found}


def told_of(side: Side) -> dict[str, Any]:
    """Return a side's record with its times in ms a token."""
    times = {name: summary(own) for name, own in side.samples.items() if len(own) > 1}
    return {"mode": side.mode, "backend": side.backend, **side.record, "ms": times}


def compared(sides: Sequence[Side]) -> dict[str, Any]:
    """Return, by backend, how many texts are those of plain Inductor and where the first of the others differs."""
    texts = {side.backend: side.texts for side in sides}
    found = {}
    for backend in (OURS, AGAIN):
        if PLAIN in texts and backend in texts:
            places = [first_difference(*pair) for pair in zip(texts[PLAIN], texts[backend], strict=True)]
            differing = [place for place in places if place is not None]
            equal = len(places) - len(differing)
            found[backend] = {"texts": len(places), "equal": equal, "first": min(differing, default=None)}
    return found
