"""Every single mistake in the streams of real wrappers is found if data can change by it, and nothing else is refused."""

from __future__ import annotations

import pytest

from graphstreams.verification.happens_before import find_races
from tests.verification import mutants
from tests.verification.mutants import EQUIVALENT, KILLED, MISSED, STRICT, WRONG, sum_of
from tests.verification.reachability import Reachability

AT_LEAST = {**dict.fromkeys(mutants.LAYERS, 900), **dict.fromkeys(mutants.SMALL, 40)}  # mutants of each source


def test_there_are_two_thousand_mutants() -> None:
    assert sum(AT_LEAST.values()) >= 2000


@pytest.mark.parametrize("source", mutants.SOURCES)
def test_every_harmful_mutant_is_killed_and_no_harmless_one(source: str) -> None:
    """Run with -s to see the table of each source; `python tests/verification/mutants.py` prints the sums."""
    for trace in mutants.traces(source):
        assert find_races(trace) == []
        assert Reachability(trace).kinds() == set()
    counts = mutants.tally(source)
    print(f"\n{source}\n{mutants.table(counts)}")
    assert counts.total() >= AT_LEAST[source]
    assert (sum_of(MISSED, counts), sum_of(WRONG, counts)) == (0, 0), mutants.table(counts)
    # What the verifier asks for beyond what data needs, by taking an allocation for a use: less than one in fifty.
    assert sum_of(STRICT, counts) <= max(1, counts.total() // 50)
    # No event is superfluous: without any one of them, data can change.
    assert sum_of(KILLED, counts, "dropped") > 0
    assert sum_of(EQUIVALENT, counts, "dropped") == 0
