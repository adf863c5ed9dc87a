"""Check that every single mistake in the streams of real wrappers is found if it matters, and nothing else is refused."""

from __future__ import annotations

import pytest

from graphstreams.verification.races import UNORDERED, AccessSite
from graphstreams.verification.trace import RecordStep, WaitStep
from graphstreams.verification.vector_clocks import Race, find_races
from graphstreams.verification.wrapper.read import read_wrapper
from tests.support import mutants
from tests.support.mutants import EQUIVALENT, KILLED, MISSED, STRICT, WRONG, sum_of
from tests.support.reachability import Reachability

# Mutants of each source, at least.
SHARES = {**dict.fromkeys(mutants.LAYERS, 900), **dict.fromkeys(mutants.SMALL, 40)}


def test_there_are_two_thousand_mutants() -> None:
    assert list(SHARES) == mutants.SOURCES
    assert sum(SHARES.values()) >= mutants.AT_LEAST >= 2000


@pytest.mark.parametrize("source", mutants.SOURCES)
def test_every_harmful_mutant_is_killed_and_no_harmless_one(source: str) -> None:
    """Run with -s to see the table of each source; `PYTHONPATH=examples python -m tests.support.mutants` prints the sums."""
    for trace in mutants.traces(source):
        assert find_races(trace) == []
        assert Reachability(trace).kinds() == set()
    counts = mutants.tally(source)
    print(f"\n{source}\n{mutants.table(counts)}")
    assert counts.total() >= SHARES[source]
    assert source in mutants.SMALL or all(counts[kind, KILLED] for kind in mutants.KINDS)
    assert (sum_of(MISSED, counts), sum_of(WRONG, counts)) == (0, 0), mutants.table(counts)
    # What the verifier asks for beyond what data needs, by taking an allocation for a use: less than one in fifty.
    assert sum_of(STRICT, counts) <= max(1, counts.total() // 50)
    # No event is superfluous: without any one of them, data can change.
    assert sum_of(KILLED, counts, mutants.DROPPED) > 0
    assert sum_of(EQUIVALENT, counts, mutants.DROPPED) == 0


@pytest.mark.parametrize("source", mutants.SMALL[:3])
def test_harm_is_judged_without_the_verifier(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that accepts everything misses what was killed, one that refuses everything accepts nothing harmless."""
    before = mutants.tally(source)
    monkeypatch.setattr(mutants, "find_races", lambda _: [])
    blind = mutants.tally(source)
    monkeypatch.setattr(mutants, "find_races", lambda _: [Race(UNORDERED, NOWHERE, NOWHERE, "")])
    anxious = mutants.tally(source)
    for kind in mutants.KINDS:
        assert blind[kind, MISSED] == before[kind, KILLED]
        assert blind[kind, EQUIVALENT] == before[kind, EQUIVALENT] + before[kind, STRICT]
        assert anxious[kind, EQUIVALENT] == anxious[kind, MISSED] == 0
    assert sum_of(MISSED, blind) > 0
    assert sum_of(WRONG, anxious) >= sum_of(EQUIVALENT, before) > 0


NOWHERE = AccessSite(0, "", 0, "", "")


@pytest.mark.parametrize("source", mutants.SMALL[:3])
def test_a_dropped_step_is_what_is_read_of_a_wrapper_without_its_line(source: str) -> None:
    """So a mutant of a trace stands for a wrapper."""
    code = mutants.outcome_of(source).report.wrapper
    lines, trace = code.splitlines(), read_wrapper(code)
    dropped = {mutants.RECORD, mutants.WAIT, mutants.FORK, mutants.JOIN}
    found = [mutant for mutant in mutants.mutants(trace) if mutant.kind in dropped]
    assert len(found) == sum(isinstance(step, RecordStep | WaitStep) for step in trace.steps) > 0
    for mutant in found:
        without = "\n".join([*lines[: mutant.step.line - 1], "", *lines[mutant.step.line :]])
        assert read_wrapper(without) == mutant.trace
        assert find_races(mutant.trace)
