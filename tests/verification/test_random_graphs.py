"""Random graphs under random plans: every order gives serial's bits, the code is proved, and what is broken is refused."""

from __future__ import annotations

import random

import pytest

from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.interleaving import adversary, interleavings
from graphstreams.verification.wrapper import verify
from tests.verification import random_graphs as graphs

CHUNKS = [range(start, start + 5) for start in range(0, 50, 5)]
PLANS, ORDERS = 14, 5  # of each graph, of each plan


@pytest.mark.parametrize("seeds", CHUNKS, ids=str)
def test_orders_give_serial_bits(seeds: range) -> None:
    """In all 700 plans in 3500 orders, less those of the graphs that stay serial, about one in eight."""
    cases = [case for seed in seeds for case in graphs.cases(seed, PLANS)]
    assert len(cases) >= PLANS
    for case in cases:
        module = rewrite(case.reading, case.plan)
        for order, found in enumerate(interleavings(module, case.inputs, ORDERS, case.seed)):
            assert graphs.same_bits(case.expected, found), f"{case}, order {order}"


@pytest.mark.parametrize("seeds", CHUNKS[::2], ids=str)
def test_code_is_proved(seeds: range) -> None:
    """The code for one plan of each graph has no race and keeps the plan's order."""
    for seed in seeds:
        for case in graphs.cases(seed, 1):
            report = graphs.proved(case.reading, case.plan, rewrite(case.reading, case.plan))
            assert report.verdict == "clean", f"{case}: {report.reason}"


@pytest.mark.parametrize("seeds", CHUNKS[1::2], ids=str)
def test_verifier_finds_what_an_order_shows(seeds: range) -> None:
    """A graph with one thing missing that some order shows has a race in its code."""
    shown = 0
    for seed in seeds:
        for case in graphs.cases(seed, 3):
            module = graphs.mutant(case.reading, case.plan, random.Random(case.seed))
            if module is not None and graphs.differs(module, case, [adversary(i) for i in range(20)]):
                shown += 1
                assert verify(graphs.generated(case.reading, module).source), f"{case}: no race found"
    assert shown
