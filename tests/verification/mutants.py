"""Every single mistake in the streams of a trace, and what the verifier and reachability say of each.

python tests/verification/mutants.py prints the table.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import deepseek_v32
from sample_modules import captured

from graphstreams.explaining import capture
from graphstreams.graph.reading import Reading
from graphstreams.pipeline import Outcome
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.plan import Plan
from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.trace import CALLER, Allocate, Free, Launch, Record, Step, Trace, Wait
from graphstreams.verification.wrapper import read_wrapper
from tests.verification.random_graphs import generated, random_plan
from tests.verification.reachability import Reachability

LAYERS = {f"V3.2 layer, {tokens} tokens": tokens for tokens in (1, 16)}
SMALL = [
    "diamond", "three_arms", "write_after_read", "two_writes", "topk", "concatenation", "split_reduction", "norms",
    "base_of_written_view",
]  # fmt: skip
SOURCES = [*LAYERS, *SMALL]
RANDOM_PLANS = {True: 8, False: 3}  # of a layer, of a small module


# --- traces


@functools.cache
def outcome_of(source: str) -> Outcome:
    """What the stages make of a source's graph."""
    if source in SMALL:
        return captured(source)
    config = deepseek_v32.Config(tokens=LAYERS[source], tp=8)
    module, inputs = deepseek_v32.build(config, "meta"), deepseek_v32.example_inputs(config, "meta")
    (outcome,) = capture(module, inputs, "h200", {"min_gain": 0.0, "streams": 2})
    return outcome


def captured_trace(reading: Reading, plan: Plan) -> Trace:
    """The trace of the wrapper that Inductor generates for the graph rewritten to a plan."""
    return read_wrapper(generated(reading, rewrite(reading, plan)).source)


@functools.cache
def traces(source: str) -> tuple[Trace, ...]:
    """Of the planner's plans of a source on two and three streams, and of random plans on up to four."""
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
    """All of them."""
    for kind in (_without_records, _without_waits, _early_frees, _late_waits, _moved_launches):
        for name, step, steps in kind(trace.steps):
            yield Mutant(name, step, replace(trace, steps=tuple(steps)))


Changed = Iterator[tuple[str, Step, Sequence[Step]]]


def _without_records(steps: Sequence[Step]) -> Changed:
    """A wait for an event that is not recorded in this call waits for nothing: it goes too."""
    for record in (s for s in steps if isinstance(s, Record)):
        yield "record dropped", record, [s for s in steps if getattr(s, "event", None) != record.event]


def _without_waits(steps: Sequence[Step]) -> Changed:
    recorded = {s.event: s.stream for s in steps if isinstance(s, Record)}
    waits = [i for i, s in enumerate(steps) if isinstance(s, Wait)]
    first = {steps[i].stream: i for i in reversed(waits)}
    last = {recorded[steps[i].event]: i for i in waits if steps[i].stream == CALLER}  # type: ignore[attr-defined]
    for i in waits:
        fork = steps[i].stream != CALLER and first[steps[i].stream] == i
        name = "fork wait dropped" if fork else "join wait dropped" if i in last.values() else "other wait dropped"
        yield name, steps[i], [*steps[:i], *steps[i + 1 :]]


def _early_frees(steps: Sequence[Step]) -> Changed:
    """A lifetime ends behind the storage's last use in the order of the host, as Python's `del` would have it."""
    for i, step in enumerate(steps):
        if isinstance(step, Free):
            uses = [j for j, s in enumerate(steps) if isinstance(s, Launch) and step.storage in (*s.reads, *s.writes)]
            if uses and any(not isinstance(s, Free) for s in steps[uses[-1] + 1 : i]):
                end = uses[-1] + 1
                yield "lifetime cut", step, [*steps[:end], step, *steps[end:i], *steps[i + 1 :]]


def _late_waits(steps: Sequence[Step]) -> Changed:
    for i, step in enumerate(steps):
        if isinstance(step, Wait):
            nexts = [j for j, s in enumerate(steps) if j > i and isinstance(s, Launch) and s.stream == step.stream]
            if nexts:
                end = nexts[0] + 1
                yield "wait behind its launch", step, [*steps[:i], *steps[i + 1 : end], step, *steps[end:]]


def _moved_launches(steps: Sequence[Step]) -> Changed:
    streams = {s.stream for s in steps if isinstance(s, Launch)}
    for i, launch in enumerate(steps):
        if isinstance(launch, Launch):
            own = _own_memory(steps, i)
            for stream in sorted(streams - {launch.stream}):
                yield "launch moved", launch, _on(stream, steps, {i})
                if own:
                    yield "launch and its memory moved", launch, _on(stream, steps, {i, *own})


def _own_memory(steps: Sequence[Step], position: int) -> list[int]:
    """The allocations of what the launch is the first to use."""
    launch = steps[position]
    assert isinstance(launch, Launch)
    earlier = {name for s in steps[:position] if isinstance(s, Launch) for name in (*s.reads, *s.writes)}
    own = {*launch.reads, *launch.writes} - earlier
    return [j for j, s in enumerate(steps[:position]) if isinstance(s, Allocate) and s.storage in own]


def _on(stream: int, steps: Sequence[Step], positions: set[int]) -> list[Step]:
    return [replace(s, stream=stream) if i in positions else s for i, s in enumerate(steps)]


# --- verdicts

KILLED, EQUIVALENT, STRICT, MISSED, WRONG = VERDICTS = ("killed", "equivalent", "strict", "missed", "wrong")


def verdict(mutant: Mutant) -> str:
    """What `find_races` does, judged by reachability.

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
    """How many mutants of a source's traces there are of each kind and verdict."""
    return Counter((m.kind, verdict(m)) for trace in traces(source) for m in mutants(trace))


def sum_of(verdict: str, counts: Counter[tuple[str, str]], part_of_kind: str = "") -> int:
    """How many mutants have the verdict, of the kinds whose name has that part."""
    return sum(n for (kind, v), n in counts.items() if v == verdict and part_of_kind in kind)


def table(counts: Counter[tuple[str, str]]) -> str:
    """One line a kind, and the sums."""
    kinds = dict.fromkeys(kind for kind, _ in counts)
    rows = {kind: [counts[kind, v] for v in VERDICTS] for kind in kinds}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [f"{'':30}{'mutants':>10}" + "".join(f"{v:>12}" for v in VERDICTS)]
    lines += [f"{kind:30}{sum(row):>10}" + "".join(f"{n:>12}" for n in row) for kind, row in rows.items()]
    return "\n".join(lines)


def main() -> int:
    """Print the table of all sources; exit status 1 if a mutant is missed or wrongly refused."""
    total: Counter[tuple[str, str]] = Counter()
    for source in SOURCES:
        counts = tally(source)
        print(f"{source}: {sum(counts.values())}", flush=True)
        total += counts
    print(table(total))
    return int(any(v in (MISSED, WRONG) for _, v in total))


if __name__ == "__main__":
    raise SystemExit(main())
