"""Make every single mistake in the streams of a trace, and judge it by the verifier and by reachability.

`PYTHONPATH=examples python -m tests.support.mutants` prints the table.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import deepseek_v32

from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.trace import CALLER, AllocateStep, FreeStep, LaunchStep, RecordStep, Step, Trace, WaitStep
from graphstreams.verification.vector_clocks import find_races
from graphstreams.verification.wrapper.read import read_wrapper
from tests.support.concatenations import CASES
from tests.support.random_graphs import generated, random_plan
from tests.support.reachability import Reachability
from tests.support.sample_modules import FREE_EVENTS, captured

LAYERS = {f"V3.2 layer, {tokens} tokens": tokens for tokens in (1, 16)}
SMALL = [
    "diamond", "three_arms", "write_after_read", "two_writes", "topk", "concatenation", "split_reduction", "norms",
    "base_of_written_view", "returned", "a pointwise piece",
]  # fmt: skip
SOURCES = [*LAYERS, *SMALL]
RANDOM_PLANS = {True: 8, False: 3}  # of a layer, of a small module
AT_LEAST = 2000  # mutants in all


# --- traces


@functools.cache
def outcome_of(source: str) -> GraphCompilation:
    """Return what the stages make of a source's graph."""
    if source in CASES:
        make, inputs = CASES[source]
        return capture(make(), inputs(), "h200", FREE_EVENTS)[0]
    if source in SMALL:
        return captured(source)
    config = deepseek_v32.Config(tokens=LAYERS[source], tp=8)
    module, inputs = deepseek_v32.build(config, "meta"), deepseek_v32.example_inputs(config, "meta")
    # The graph is lowered again, when torch has forgotten the Triton kernels that top-k would be.
    (outcome,) = capture(module, inputs, "h200", {"min_gain": 0.0, "streams": 2, "top_k": False})
    return outcome


def captured_trace(reading: Reading, plan: Plan) -> Trace:
    """Return the trace of the wrapper that Inductor generates for the graph rewritten to a plan."""
    return read_wrapper(generated(reading, rewrite(reading, plan)).source)


@functools.cache
def traces(source: str) -> tuple[Trace, ...]:
    """Return the traces of the planner's plans of a source on two and three streams, and of random ones on up to four."""
    outcome = outcome_of(source)
    reading, us = outcome.reading, outcome.report.us
    assert reading is not None
    count = RANDOM_PLANS[source in LAYERS]
    plans = [plan_kernels(reading.kernels, us, streams) for streams in (2, 3)]
    plans += [random_plan(reading.kernels, random.Random(seed)) for seed in range(count)]
    return tuple(captured_trace(reading, plan) for plan in dict.fromkeys(plans))


# --- mutants


@dataclass(frozen=True)
class Mutant:
    """A trace with one mistake: its kind, and the step that it was made at."""

    kind: str
    step: Step
    trace: Trace


def mutants(trace: Trace) -> Iterator[Mutant]:
    """Yield all mutants of a trace."""
    for make in (
        _without_events,
        _without_records,
        _without_waits,
        _early_frees,
        _late_waits,
        _moved_launches,
        _early_allocations,
    ):
        for kind, step, steps in make(trace.steps):
            yield Mutant(kind, step, replace(trace, steps=tuple(steps)))


EVENT, RECORD, WAIT, FORK, JOIN = DROPPED = tuple(f"{what} dropped" for what in ("event", "record", "wait", "fork", "join"))
LIFETIME, SWAPPED = "lifetime extension dropped", "wait swapped with its consumer"
MOVED, MOVED_ALL = "kernel moved to another stream", "kernel and its memory moved"
UNFORKED = "allocation ahead of its fork"
KINDS = (*DROPPED, LIFETIME, SWAPPED, MOVED, MOVED_ALL, UNFORKED)

Changed = Iterator[tuple[str, Step, Sequence[Step]]]


def _without_events(steps: Sequence[Step]) -> Changed:
    """Drop a record and all waits for it."""
    for record in (s for s in steps if isinstance(s, RecordStep)):
        yield EVENT, record, [s for s in steps if getattr(s, "event", None) != record.event]


def _without_records(steps: Sequence[Step]) -> Changed:
    """Drop a record. Its waits stay, for what an earlier call recorded."""
    for i, step in enumerate(steps):
        if isinstance(step, RecordStep):
            yield RECORD, step, [*steps[:i], *steps[i + 1 :]]


def _without_waits(steps: Sequence[Step]) -> Changed:
    """Drop a wait. An aux stream's first is its fork, and the caller's last for an aux stream is that stream's join."""
    recorded = {s.event: s.stream for s in steps if isinstance(s, RecordStep)}
    waits = {i: s for i, s in enumerate(steps) if isinstance(s, WaitStep)}
    forks = {s.stream: i for i, s in reversed(waits.items()) if s.stream != CALLER}
    joins = {recorded[s.event]: i for i, s in waits.items() if s.stream == CALLER}
    for i, step in waits.items():
        kind = FORK if i in forks.values() else JOIN if i in joins.values() else WAIT
        yield kind, step, [*steps[:i], *steps[i + 1 :]]


def _early_frees(steps: Sequence[Step]) -> Changed:
    """End a lifetime behind the storage's last use in the order of the host, as Python's `del` does."""
    for i, step in enumerate(steps):
        if isinstance(step, FreeStep):
            uses = [j for j, s in enumerate(steps) if isinstance(s, LaunchStep) and step.storage in (*s.reads, *s.writes)]
            if uses and any(not isinstance(s, FreeStep) for s in steps[uses[-1] + 1 : i]):
                end = uses[-1] + 1
                yield LIFETIME, step, [*steps[:end], step, *steps[end:i], *steps[i + 1 :]]


def _late_waits(steps: Sequence[Step]) -> Changed:
    for i, step in enumerate(steps):
        if isinstance(step, WaitStep):
            nexts = [j for j, s in enumerate(steps) if j > i and isinstance(s, LaunchStep) and s.stream == step.stream]
            if nexts:
                end = nexts[0] + 1
                yield SWAPPED, step, [*steps[:i], *steps[i + 1 : end], step, *steps[end:]]


def _moved_launches(steps: Sequence[Step]) -> Changed:
    """Move a launch to each other stream, without the memory that it is the first to use, and with it."""
    streams = {s.stream for s in steps if isinstance(s, LaunchStep)}
    for i, launch in enumerate(steps):
        if isinstance(launch, LaunchStep):
            own = _own_memory(steps, i)
            for stream in sorted(streams - {launch.stream}):
                yield MOVED, launch, _on(stream, steps, {i})
                if own:
                    yield MOVED_ALL, launch, _on(stream, steps, {i, *own})


def _early_allocations(steps: Sequence[Step]) -> Changed:
    """Move the first allocation of each aux stream right ahead of the wait that forks the stream."""
    for stream in sorted({s.stream for s in steps if isinstance(s, AllocateStep)} - {CALLER}):
        fork = next((i for i, s in enumerate(steps) if isinstance(s, WaitStep) and s.stream == stream), len(steps))
        first = next(i for i, s in enumerate(steps) if isinstance(s, AllocateStep) and s.stream == stream)
        if fork < first:
            yield UNFORKED, steps[first], [*steps[:fork], steps[first], *steps[fork:first], *steps[first + 1 :]]


def _own_memory(steps: Sequence[Step], position: int) -> list[int]:
    """Return the allocations of what the launch is the first to use."""
    launch = steps[position]
    assert isinstance(launch, LaunchStep)
    earlier = {name for s in steps[:position] if isinstance(s, LaunchStep) for name in (*s.reads, *s.writes)}
    own = {*launch.reads, *launch.writes} - earlier
    return [j for j, s in enumerate(steps[:position]) if isinstance(s, AllocateStep) and s.storage in own]


def _on(stream: int, steps: Sequence[Step], positions: set[int]) -> list[Step]:
    return [replace(s, stream=stream) if i in positions else s for i, s in enumerate(steps)]


# --- verdicts

KILLED, EQUIVALENT, STRICT, MISSED, WRONG = VERDICTS = ("killed", "equivalent", "strict", "missed", "wrong")


def verdict(mutant: Mutant) -> str:
    """Return what `find_races` does, judged by reachability.

    Killed: data could change, and it is refused. Equivalent: harmless, and accepted. Missed: data could change, and it is
    accepted. Strict: harmless, and refused because an allocation is taken to use its block at once, or to get one that
    its stream has just used. Wrong: refused for a kind of race that is not there by any opinion.
    """
    found, opinion = {race.kind for race in find_races(mutant.trace)}, Reachability(mutant.trace)
    if not found <= opinion.kinds():
        return WRONG
    if opinion.lost():
        return KILLED if found else MISSED
    return STRICT if found else EQUIVALENT


def tally(source: str) -> Counter[tuple[str, str]]:
    """Return how many mutants of a source's traces there are of each kind and verdict."""
    return Counter((m.kind, verdict(m)) for trace in traces(source) for m in mutants(trace))


def sum_of(verdict: str, counts: Counter[tuple[str, str]], kinds: Sequence[str] = KINDS) -> int:
    """Return how many mutants of these kinds have the verdict."""
    return sum(counts[kind, verdict] for kind in kinds)


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return a table with a line for each kind, and the sums."""
    rows = {kind: [counts[kind, v] for v in VERDICTS] for kind in KINDS}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [f"{'':32}{'mutants':>8}" + "".join(f"{v:>12}" for v in VERDICTS)]
    lines += [f"{kind:32}{sum(row):>8}" + "".join(f"{n:>12}" for n in row) for kind, row in rows.items()]
    return "\n".join(lines)


def main() -> int:
    """Print the table of all sources; exit status 1 if a mutant is missed or wrongly refused, or there are too few."""
    total: Counter[tuple[str, str]] = Counter()
    for source in SOURCES:
        counts = tally(source)
        print(f"{source}: {counts.total()} mutants of {len(traces(source))} wrappers", flush=True)
        total += counts
    print(f"\n{table(total)}\n\n{verdict.__doc__}")
    print(f"{total.total()} mutants (at least {AT_LEAST}), {sum_of(MISSED, total)} missed, {sum_of(WRONG, total)} wrong")
    return int(total.total() < AT_LEAST or sum_of(MISSED, total) + sum_of(WRONG, total) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
