"""Check that random graphs under random plans have serial's bits and are proved, and that broken plans are refused."""

from __future__ import annotations

import itertools
import random

import pytest

from graphstreams.rewriting.regions import rewrite
from graphstreams.verification.wrapper.read import verify
from tests.support import random_graphs as graphs
from tests.support.interleaving import adversary, interleavings

# Each chunk takes the plans of graphs of its own, every tenth seed, until it has its number: graphs that stay serial, and
# small ones with few plans, make it go on.
CHUNKS, CASES = range(10), 60
GRAPHS = 50  # whose code is looked at
PLANS, ORDERS = 15, 5  # of each graph, of each plan


def test_there_are_five_hundred_plans() -> None:
    """What the chunks check together, each its share."""
    assert len(CHUNKS) * CASES >= 500
    assert ORDERS >= 5


@pytest.fixture(scope="module", params=CHUNKS)
def chunk(request: pytest.FixtureRequest) -> int:
    """Return a chunk, so that the tests of each come one after the other and read its graphs once."""
    return request.param


def test_orders_give_serial_bits(chunk: int) -> None:
    """Different plans, each in its number of orders."""
    found = itertools.chain.from_iterable(graphs.cases(seed, PLANS) for seed in itertools.count(chunk, len(CHUNKS)))
    cases = list(itertools.islice(found, CASES))
    assert len({(case.graph_seed, case.plan) for case in cases}) == CASES
    for case in cases:
        results = list(interleavings(rewrite(case.reading, case.plan), case.inputs, ORDERS, case.seed))
        assert len(results) == ORDERS
        for order, result in enumerate(results):
            assert graphs.same_bits(case.expected, result), f"{case}, order {order}"


@pytest.mark.parametrize("chunk", CHUNKS[:5], indirect=True)
def test_code_is_proved(chunk: int) -> None:
    """The code for one plan of each graph has no race and keeps the plan's order."""
    for seed in range(chunk, GRAPHS, len(CHUNKS)):
        for case in graphs.cases(seed, 1):
            report = graphs.proved(case.reading, case.plan, rewrite(case.reading, case.plan))
            assert report.verdict == "clean", f"{case}: {report.reason}"


@pytest.mark.parametrize("chunk", CHUNKS[5:], indirect=True)
def test_verifier_finds_what_an_order_shows(chunk: int) -> None:
    """A graph with one thing missing that some order shows has a race in its code."""
    shown = 0
    for seed in range(chunk, GRAPHS, len(CHUNKS)):
        for case in graphs.cases(seed, 3):
            module = graphs.mutant(case.reading, case.plan, random.Random(case.seed))
            if module is not None and graphs.differs(module, case, [adversary(i) for i in range(20)]):
                shown += 1
                assert verify(graphs.generated(case.reading, module).source), f"{case}: no race found"
    assert shown
