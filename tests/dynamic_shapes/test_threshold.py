"""Check up to which size streams gain: cases worked out by hand, and every size tried one by one."""

from dataclasses import replace

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.dynamic_shapes.cost_curves import KernelCostCurves
from graphstreams.dynamic_shapes.threshold import CONFIRMATIONS, HIGHEST, TIE_RATIO, GainCurves, confirm, set_by_user, solve
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.threshold import Threshold
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.paths import timed

S = sympy.Symbol("s0", integer=True, positive=True)


def graph_of(count, edges=()):
    kernels = tuple(Kernel(i, f"k{i}", "gemm") for i in range(count))
    return KernelGraph("g", kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))


def without_contention(graph, event_us=0.0):
    """Return a simulator to which kernels side by side cost what they cost alone."""
    return lambda assignment, us, size: timed(assignment, graph.predecessors(), us, event_us)


def curves_of(costs, edges=(), example=8, event_us=0.0, simulate=None, **arguments):
    """Return the curves of kernels with these costs under the plan made at the example."""
    graph, times = graph_of(len(costs), edges), KernelCostCurves(costs, S, {"s0": example})
    plan = plan_kernels(graph, times.at(example), 3, event_us)
    return GainCurves(times, plan, simulate or without_contention(graph, event_us), **arguments)


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
    assert found.reason == "each size tried from 34 to 300 gains 25.0% or more, 301 does not"


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
    assert found.reason == "no size tried from 1 to 1024 gains 25.0%"


def test_a_limit_that_every_size_keeps_even_without_gain():
    assert solved([S + 0, S + 0], edges=[(0, 1)], min_gain=0.0).largest is None


@pytest.mark.parametrize(
    ("example", "expected"), [(8, (3, 14)), (30, (26, 37)), (20, (3, 14)), (2, (3, 14)), (900, (26, 37)), (1, (3, 14))]
)
def test_of_two_gaining_ranges_the_one_of_the_example_or_the_next_below_it(example, expected):
    # The square falls to 0 at s = 20 and rises again; a quarter is saved where it is from 10/3 to 30 us.
    graph = graph_of(2)
    times = KernelCostCurves([sympy.Integer(10), (S - 20) ** 2 / sympy.Integer(10)], S, {"s0": example})
    plan = plan_kernels(graph, [10, 10], 2)
    found = solve(GainCurves(times, plan, without_contention(graph)), "s0", example, 0.25, (1, 1024))
    assert (found.smallest, found.largest) == expected
    assert "each size tried from" in found.reason


def test_a_measured_slowdown_takes_its_share():
    # 1.2 max(100, s) are at most three quarters of 100 + s from s = 60 to s = 166.
    found = solved([CONSTANT, S + 0], example=64, slowdown=1.2)
    assert (found.smallest, found.largest) == (60, 166)


def test_another_simulator():
    # One whose kernels side by side take half as much longer: s saved become s/2 up to 100, and 100 become 100 - s/2.
    def crowded(assignment, us, size):
        assert us == [100, size]
        timing = timed(assignment, [[], []], us, 0.0)
        return replace(timing, makespan=timing.makespan + min(us) / 2)

    found = solved([CONSTANT, S + 0], example=100, min_gain=0.125, simulate=crowded)
    brute = [s for s in range(1, 1025) if max(100, s) + min(100, s) / 2 <= 0.875 * (100 + s)]
    assert (found.smallest, found.largest) == (brute[0], brute[-1])


def test_however_many_kernels_there_are_few_sizes_are_simulated():
    asked = []

    def saves_4_ms(assignment, us, size):
        asked.append(size)
        return replace(timed(assignment, [[]] * len(us), us, 0.0), makespan=sum(us) - 4000)

    expressions = [sympy.Max(100, S * sympy.Rational(20, i)) for i in range(1, 201)]
    curves = curves_of(expressions, example=100, simulate=saves_4_ms)
    found = solve(curves, "s0", 100, 0.1, (1, HIGHEST))
    brute = [size for size in range(1, 1000) if sum(max(100, size * 20 / i) for i in range(1, 201)) <= 40_000]
    assert (found.smallest, found.largest) == (0, brute[-1])
    powers, halvings = HIGHEST.bit_length(), brute[-1].bit_length()
    assert len(asked) == len(set(asked)) <= powers + 1 + halvings


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
def test_each_size_tried_within_gains_and_both_limits_are_exact(graph, example, min_gain, event_us):
    expressions, edges = graph
    curves = curves_of(expressions, edges, example, event_us)
    found = solve(curves, "s0", example, min_gain, (1, 40))
    gaining = {size for size in range(1, 41) if curves.gains(size, min_gain)}
    tried = {1, 2, 4, 8, 16, 32, 40, example}
    if found.largest == 0:
        assert not tried & gaining
        return
    smallest, largest = max(1, found.smallest), 40 if found.largest is None else found.largest
    within = {size for size in tried if smallest <= size <= largest}
    assert within and within <= gaining and {smallest, largest} <= gaining
    assert smallest == 1 or smallest - 1 not in gaining
    assert largest == 40 or largest + 1 not in gaining
    assert example in within or example not in gaining


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


def measured_around(largest, gains, min_gain=0.02, smallest=0, known=None, example=4, limits=(1, HIGHEST)):
    """Return the threshold after measuring, and which sizes were measured.

    `gains` tells what each size saves, as a dict or as the largest size that saves a tenth; `known` was measured before.
    """
    asked = []

    def gain_at(size):
        asked.append(size)
        return gains.get(size) if isinstance(gains, dict) else (0.1 if size <= gains else 0.0)

    threshold = Threshold("s0", largest, (), "solved", smallest)
    return confirm(threshold, gain_at, min_gain, example, limits, known), asked


def test_below_a_predicted_size_that_does_not_gain_one_is_looked_for_and_then_the_middle():
    found, asked = measured_around(64, {64: -0.01, 16: 0.03, 32: 0.01, 23: 0.0, 19: 0.02, 21: 0.01})
    assert (found.largest, asked) == (19, [64, 16, 32, 23, 19, 21])
    assert found.reason == "predicted: solved; measured gains: 16: 3.0%, 19: 2.0%, 21: 1.0%, 23: 0.0%, 32: 1.0%, 64: -1.0%"


def test_the_curve_has_every_measured_size_and_both_sides_of_the_new_limit():
    """What was predicted there stands beside what was measured."""
    threshold = Threshold("s0", 64, ((1, 1.0, 1.0), (64, 64.0, 60.0)), "solved")
    gains = {64: -0.01, 16: 0.03, 32: 0.01, 23: 0.0, 19: 0.02, 21: 0.01}
    found = confirm(threshold, gains.get, 0.02, 4, (1, 512), point_at=lambda size: (size, float(size), size - 4.0))
    assert found.largest == 19
    assert [size for size, *_ in found.curve] == [1, 16, 19, 20, 21, 23, 32, 64]
    assert found.measured == tuple(sorted(gains.items()))


def test_between_a_size_that_is_known_to_gain_and_a_prediction_far_off_the_middle_is_measured():
    found, asked = measured_around(14195, 800, known={64: 0.1}, example=64)
    assert (found.largest, asked) == (680, [14195, 953, 247, 485, 680, 805])


def test_a_size_that_gains_is_doubled_until_one_does_not():
    found, asked = measured_around(64, 300)
    assert (found.largest, asked) == (256, [64, 128, 256, 512, 362, 304])
    found, asked = measured_around(64, 1000, limits=(1, 100))
    assert (found.largest, asked) == (100, [64, 100])


def test_measuring_ends_after_a_few_sizes_and_where_it_cannot_go_on():
    found, asked = measured_around(8, HIGHEST)
    assert (found.largest, len(asked)) == (256, CONFIRMATIONS)
    assert measured_around(8, {8: 0.1})[0].largest == 8  # 16 cannot be measured
    assert measured_around(8, {})[0] == Threshold("s0", 8, (), "solved")
    assert measured_around(8, {}, known={4: 0.1})[0] == Threshold("s0", 8, (), "solved")


def test_sizes_that_are_close_are_near_enough():
    found, asked = measured_around(100, 95, known={94: 0.1})
    assert (found.largest, asked) == (94, [100])


def test_where_no_measured_size_gains_none_runs_on_streams():
    found, asked = measured_around(8, {8: 0.0, 4: 0.0}, smallest=4)
    assert (found.largest, asked) == (0, [8, 4])
    found, asked = measured_around(50, 0)
    assert (found.largest, asked) == (0, [50, 12, 3, 1])


def test_a_size_that_is_known_to_gain_is_left_where_larger_ones_do_not():
    """As few as it took to measure: at 3 tokens it gains, at 16, 7, 5 and 4 it does not."""
    found, asked = measured_around(16, dict.fromkeys((16, 7, 5, 4), -0.1), known={3: 0.2})
    assert (found.largest, asked) == (3, [16, 7, 5, 4])
    assert found.reason == "predicted: solved; measured gains: 3: 20.0%, 4: -10.0%, 5: -10.0%, 7: -10.0%, 16: -10.0%"


def test_six_sizes_that_lose_leave_the_one_that_is_known_to_gain():
    found, asked = measured_around(2**14, 4, known={4: 0.2})
    assert (found.largest, len(asked)) == (4, CONFIRMATIONS)


def test_what_is_known_is_not_measured_again():
    found, asked = measured_around(8, {16: 0.0, 11: 0.1, 13: 0.0, 12: 0.0}, known={8: 0.1})
    assert (found.largest, asked) == (11, [16, 11, 13, 12])


def test_a_known_size_below_the_smallest_does_not_count():
    found, asked = measured_around(64, 0, smallest=32, known={4: 0.2})
    assert (found.largest, asked) == (0, [64, 32])


def test_where_no_size_gains_there_is_nothing_to_confirm():
    found, asked = measured_around(0, {1: 1.0})
    assert (found.largest, asked) == (0, [])


def test_where_every_size_is_predicted_to_gain_the_largest_is_measured():
    found, asked = measured_around(None, 512, limits=(2, 512), known={4: 0.2})
    assert (found.largest, asked) == (None, [512])
    assert found.reason == "predicted: solved; measured up to 512; measured gains: 4: 20.0%, 512: 10.0%"
    assert found.largest is None and found.smallest == 0


@pytest.mark.parametrize(
    ("example", "smallest", "high", "first"),
    [
        (4, 0, HIGHEST, 64),
        (5, 0, HIGHEST, 64),
        (1, 0, HIGHEST, 16),
        (5000, 0, HIGHEST, HIGHEST),
        (70_000, 0, 70_000, 70_000),
        (4, 100, HIGHEST, 1024),
        (4, 0, 1000, 1000),
    ],
)
def test_without_a_limit_a_plausible_size_is_measured_first(example, smallest, high, first):
    found, asked = measured_around(None, 2**20, smallest=smallest, example=example, limits=(1, high))
    assert (found.largest, asked) == (None, [first])


def test_a_prediction_that_every_size_gains_is_limited_where_one_does_not():
    found, asked = measured_around(None, 20, known={4: 0.1})
    assert (found.largest, asked) == (19, [64, 16, 32, 23, 19, 21])
    found, asked = measured_around(None, 0, limits=(2, 64))
    assert (found.largest, asked) == (0, [64, 16, 4, 2])


def test_where_every_size_is_predicted_to_gain_and_the_largest_is_known_or_cannot_be_measured():
    found, asked = measured_around(None, {}, known={64: 0.1}, limits=(1, 64))
    assert (found.largest, asked) == (None, []) and "; measured up to 64;" in found.reason
    found, asked = measured_around(None, {}, known={4: 0.1}, limits=(1, 64))
    assert (found, asked) == (Threshold("s0", None, (), "solved"), [64])


@settings(max_examples=300)
@given(st.data())
def test_measuring_narrows_down_the_true_size(data):
    low = data.draw(st.integers(1, 50))
    high = data.draw(st.integers(low, HIGHEST))
    within = st.integers(low, high)
    truth, largest, example = data.draw(st.integers(0, 2 * high)), data.draw(st.none() | within), data.draw(within)
    known = {size: 0.1 if size <= truth else 0.0 for size in data.draw(st.lists(within, max_size=2))}
    smallest = data.draw(st.sampled_from([0, low]))
    found, asked = measured_around(
        largest, truth, smallest=smallest, known=known, example=example, limits=(1 if smallest else low, high)
    )
    assert len(asked) == len(set(asked)) <= CONFIRMATIONS
    assert not set(asked) & known.keys() and all(low <= size <= high for size in asked)
    seen = {*asked, *known}
    if found.largest is None:
        assert largest is None and all(size <= truth for size in seen)
        return
    assert found.largest == max((size for size in seen if size <= truth), default=0)
    above = min((size for size in seen if size > truth), default=None)
    if len(asked) < CONFIRMATIONS:
        ends = above is None and found.largest == high
        none = found.largest == 0 and above == low
        near = above is not None and (above == found.largest + 1 or above < TIE_RATIO * found.largest)
        assert ends or none or near
