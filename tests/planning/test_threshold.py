"""Up to which size streams gain: cases worked out by hand, and every size tried one by one."""

import json
from dataclasses import replace

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.graph.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning.growth import KernelTimes
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.paths import timed
from graphstreams.planning.threshold import CONFIRMATIONS, Curves, Threshold, confirm, set_by_user, solve

S = sympy.Symbol("s0", integer=True, positive=True)


def graph_of(count, edges=()):
    kernels = tuple(Kernel(i, f"k{i}", "gemm") for i in range(count))
    return KernelGraph("g", kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))


def curves_of(costs, edges=(), example=8, event_us=0.0, **arguments):
    """Curves of kernels with these costs under the plan made at the example."""
    graph, times = graph_of(len(costs), edges), KernelTimes(costs, S, {"s0": example})
    return Curves(graph, times, plan_kernels(graph, times.at(example), 3, event_us), **arguments)


def solved(costs, example=8, min_gain=0.25, limits=(1, 1024), **arguments):
    return solve(curves_of(costs, example=example, **arguments), "s0", example, min_gain, limits)


CONSTANT = sympy.Integer(100)


def test_both_crossings_of_two_independent_kernels():
    # 100 us beside s us: of 100 + s min(100, s) are saved. A quarter is from s = 100/3 to s = 300.
    found = solved([CONSTANT, S + 0], example=64)
    assert (found.smallest, found.largest) == (34, 300)


def test_the_curve_has_both_sides_of_each_crossing():
    found = solved([CONSTANT, S + 0], example=64)
    curve = {size: (serial, streamed) for size, serial, streamed in found.curve}
    assert curve[300] == (400, 300) and curve[301] == (401, 301)
    assert curve[33] == (133, 100) and curve[34] == (134, 100)
    assert list(curve) == sorted(curve) and {1, 64, 512, 1024} <= curve.keys()
    assert found.reason == "each size from 34 to 300 gains 25.0% or more, 301 does not"


def test_waits_move_the_crossing():
    # The second stream starts after one wait and is joined after another: max(100, s + 20). From s = 80 on 80 us are saved.
    found = solved([CONSTANT, S + 0], example=64, event_us=10.0)
    assert (found.smallest, found.largest) == (34, 220)


def test_no_crossing_is_no_limit():
    found = solved([S + 0, S + 0])
    assert (found.smallest, found.largest) == (0, None)
    assert "larger ones were not looked at" in found.reason


def test_a_floor_that_ends():
    # Both take 8 us up to s = 32; from then on the one grows, and 8 of 8 + s/4 are a quarter up to s = 96.
    found = solved([sympy.Integer(8), sympy.Max(8, S / 4)])
    assert (found.smallest, found.largest) == (0, 96)


def test_a_chain_gains_at_no_size():
    found = solved([S + 0, S + 0], edges=[(0, 1)])
    assert (found.smallest, found.largest) == (0, 0)
    assert found.reason == "no size from 1 to 1024 gains 25.0%"


def test_a_limit_that_every_size_keeps_even_without_gain():
    assert solved([S + 0, S + 0], edges=[(0, 1)], min_gain=0.0).largest is None


@pytest.mark.parametrize(
    ("example", "expected"), [(8, (3, 14)), (30, (26, 37)), (20, (3, 14)), (2, (3, 14)), (900, (26, 37)), (1, (3, 14))]
)
def test_of_two_gaining_ranges_the_one_of_the_example_or_the_next_below_it(example, expected):
    # The square falls to 0 at s = 20 and rises again; a quarter is saved where it is from 10/3 to 30 us.
    graph = graph_of(2)
    times = KernelTimes([sympy.Integer(10), (S - 20) ** 2 / sympy.Integer(10)], S, {"s0": example})
    plan = plan_kernels(graph, [10, 10], 2)
    found = solve(Curves(graph, times, plan), "s0", example, 0.25, (1, 1024))
    assert (found.smallest, found.largest) == expected
    assert "each size tried from" in found.reason


def test_a_measured_slowdown_takes_its_share():
    # 1.2 max(100, s) are at most three quarters of 100 + s from s = 60 to s = 166.
    found = solved([CONSTANT, S + 0], example=64, slowdown=1.2)
    assert (found.smallest, found.largest) == (60, 166)


def test_a_plan_for_every_size():
    graph, costs = graph_of(2), [CONSTANT, S + 0]
    times = KernelTimes(costs, S, {"s0": 64})
    found = solve(Curves(graph, times, lambda us: plan_kernels(graph, us, 2)), "s0", 64, 0.25, (1, 1024))
    assert (found.smallest, found.largest) == (34, 300)


def test_another_simulator():
    # One whose kernels side by side take half as much longer: s saved become s/2 up to 100, and 100 become 100 - s/2.
    def crowded(assignment, us, size):
        assert us == [100, size]
        timing = timed(assignment, [[], []], us, 0.0)
        return replace(timing, makespan=timing.makespan + min(us) / 2)

    found = solved([CONSTANT, S + 0], example=100, min_gain=0.125, simulate=crowded)
    brute = [s for s in range(1, 1025) if max(100, s) + min(100, s) / 2 <= 0.875 * (100 + s)]
    assert (found.smallest, found.largest) == (brute[0], brute[-1])


def test_what_the_user_says_is_not_solved():
    curves = curves_of([CONSTANT, S + 0], example=64)
    found = set_by_user(curves, "s0", 64, 500, (1, 1024))
    assert (found.smallest, found.largest, found.reason) == (0, 500, "max_tokens=500")
    assert {64, 500, 501} <= {size for size, _, _ in found.curve}


def test_an_example_beyond_the_limits():
    assert solved([CONSTANT, S + 0], example=64, limits=(2, 50)).largest is None
    assert solved([CONSTANT, S + 0], example=64, limits=(2, 20)).largest == 0


@pytest.mark.parametrize("limits", [(0, 8), (9, 8)])
def test_limits_without_a_size(limits):
    with pytest.raises(ValueError, match="no size is from"):
        solved([CONSTANT], limits=limits)


# Every number is a multiple of 1/8, so that sums and comparisons are exact.
eighths = st.integers(0, 80).map(lambda n: sympy.Rational(n, 8))
slopes = st.integers(0, 8).map(lambda n: sympy.Rational(n, 8))
costs = st.builds(
    lambda floor, start, slope, other: sympy.Max(floor, start + slope * S, other * S), eighths, eighths, slopes, slopes
)


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 6))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return draw(st.lists(costs, min_size=count, max_size=count)), edges


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 40), st.sampled_from([0.0, 0.125, 0.25]), st.sampled_from([0.0, 1.0]))
def test_every_size_around_the_example_that_gains(graph, example, min_gain, event_us):
    expressions, edges = graph
    curves = curves_of(expressions, edges, example, event_us)
    found = solve(curves, "s0", example, min_gain, (1, 40))
    gaining = [size for size in range(1, 41) if curves.gains(size, min_gain)]
    largest = 40 if found.largest is None else found.largest
    covered = [size for size in range(max(1, found.smallest), largest + 1)]
    assert set(covered) <= set(gaining)
    assert found.smallest - 1 not in gaining and (found.largest is None or found.largest == 0 or largest + 1 not in gaining)
    if example in gaining:
        assert example in covered


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(1, 40), st.integers(1, 40))
def test_the_curves_are_the_costs_and_the_simulated_plan(graph, example, size):
    expressions, edges = graph
    curves = curves_of(expressions, edges, example, 0.5)
    us = [float(cost.subs(S, size)) for cost in expressions]
    plan = plan_kernels(graph_of(len(us), edges), [float(cost.subs(S, example)) for cost in expressions], 3, 0.5)
    assert curves.at(size)[1] == pytest.approx(sum(us))
    if size == example:
        assert curves.at(size)[2] == pytest.approx(plan.streamed_us)


@given(
    st.builds(
        Threshold,
        symbol=st.text(),
        largest=st.none() | st.integers(0, 2**40),
        curve=st.lists(st.tuples(st.integers(1, 2**40), st.floats(0, 1e9), st.floats(0, 1e9))).map(tuple),
        reason=st.text(),
        smallest=st.integers(0, 99),
    )
)
def test_json_keeps_every_threshold(each):
    assert Threshold.loads(each.dumps()) == each


ODD_CURVE = json.dumps({"symbol": "s", "largest": 1, "curve": [1], "reason": ""})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", ODD_CURVE])
def test_refuses_what_is_no_threshold(text):
    with pytest.raises(ValueError, match="not a threshold"):
        Threshold.loads(text)


def measured_around(largest, gains, min_gain=0.02, smallest=0, known=None):
    """The threshold after measuring, and which sizes were measured; `gains` has what each size saves, `known` was before."""
    asked = []

    def gain_at(size):
        asked.append(size)
        return gains.get(size)

    threshold = Threshold("s0", largest, (), "solved", smallest)
    return confirm(threshold, gain_at, min_gain, known), asked


def test_a_predicted_size_that_does_not_gain_is_halved_until_one_does():
    found, asked = measured_around(64, {64: -0.01, 32: 0.01, 16: 0.03, 8: 0.5})
    assert (found.largest, asked) == (16, [64, 32, 16])
    assert found.reason == "solved; measured gains: 16: 3.0%, 32: 1.0%, 64: -1.0%"


def test_a_size_whose_double_still_gains_is_doubled():
    found, asked = measured_around(64, {64: 0.1, 128: 0.05, 256: 0.01})
    assert (found.largest, asked) == (128, [64, 128, 256])


def test_measuring_ends_after_a_few_sizes_and_where_it_cannot_go_on():
    found, asked = measured_around(8, dict.fromkeys((8, 16, 32, 64, 128, 256), 0.1))
    assert (found.largest, len(asked)) == (64, CONFIRMATIONS)
    assert measured_around(8, {8: 0.1})[0].largest == 8  # 16 cannot be measured
    assert measured_around(8, {})[0] == Threshold("s0", 8, (), "solved")


def test_where_no_measured_size_gains_none_runs_on_streams():
    found, asked = measured_around(8, {8: 0.0, 4: 0.0}, smallest=4)
    assert (found.largest, asked) == (0, [8, 4])


def test_a_size_that_is_known_to_gain_is_left_where_larger_ones_do_not():
    """As few as it took to measure: at 3 tokens it gains, at 16, 8 and 4 it does not, and below 3 nobody looks."""
    found, asked = measured_around(16, dict.fromkeys((16, 8, 4, 2), -0.1), known={3: 0.2})
    assert (found.largest, asked) == (3, [16, 8, 4])
    assert found.reason == "solved; measured gains: 3: 20.0%, 4: -10.0%, 8: -10.0%, 16: -10.0%"


def test_four_sizes_that_lose_leave_the_one_that_is_known_to_gain():
    found, asked = measured_around(1024, dict.fromkeys((1024, 512, 256, 128), 0.0), known={4: 0.2})
    assert (found.largest, asked) == (4, [1024, 512, 256, 128])


def test_what_is_known_is_not_measured_again():
    found, asked = measured_around(8, {16: 0.0}, known={8: 0.1})
    assert (found.largest, asked) == (8, [16])


@pytest.mark.parametrize("largest", [None, 0])
def test_without_a_largest_size_there_is_nothing_to_confirm(largest):
    found, asked = measured_around(largest, {1: 1.0})
    assert (found.largest, asked) == (largest, [])
