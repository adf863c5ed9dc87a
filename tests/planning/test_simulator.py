"""Check contention worked out by hand, what holds for any plan, and the ranks of measured plans."""

from dataclasses import replace

import contention
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphstreams.costs.footprint import Footprint, LaunchFootprint
from graphstreams.planning import simulator
from graphstreams.planning.paths import Assignment, timed
from graphstreams.planning.simulator import BANDWIDTH, CROWDING, PARTIAL, simulate

FREE = Footprint()
FILLING = Footprint(share=1.0)
SMALL = Footprint(share=0.01)


def beside(us, footprints, **options):
    """Return every kernel on a stream of its own, at once."""
    count = len(us)
    timing = simulate(Assignment(range(count), range(count)), [[]] * count, us, footprints, 0.0, **options)
    return timing.end, timing.makespan


def test_two_kernels_that_are_bound_by_bandwidth_take_twice_as_long():
    bound = Footprint(share=0.4, bandwidth=BANDWIDTH)
    assert beside([10.0, 10.0], [bound, bound]) == ([pytest.approx(20.0)] * 2, pytest.approx(20.0))


def test_bandwidth_is_free_again_once_one_has_ended():
    bound = Footprint(share=0.4, bandwidth=BANDWIDTH)
    # Both at half speed until the short one ends at 8 us, then the other's last 6 us alone.
    assert beside([4.0, 10.0], [bound, bound])[0] == pytest.approx([8.0, 14.0])


def test_a_kernel_alone_has_what_it_was_measured_with():
    greedy = Footprint(share=0.4, bandwidth=1.0)
    assert beside([10.0, 5.0], [greedy, SMALL])[0] == [10.0, 5.0]


def test_what_asks_for_no_bandwidth_is_not_held_up_by_those_that_do():
    bound = Footprint(share=0.4, bandwidth=BANDWIDTH)
    assert beside([10.0, 10.0, 5.0], [bound, bound, SMALL])[0][2] == 5.0


def test_a_small_kernel_waits_behind_one_that_fills_the_card():
    assert beside([20.0, 2.0], [FILLING, SMALL])[0] == pytest.approx([20.0, 22.0])


def test_a_small_kernel_that_was_there_first_does_not_wait():
    ends, _ = beside([2.0, 20.0], [SMALL, FILLING])
    assert ends[0] == 2.0
    assert ends[1] == pytest.approx(2.0 + 20.0 - 2.0 * 0.99**PARTIAL)  # until then it had 99 % of the slots


def test_with_a_priority_the_aux_streams_get_the_slots_first():
    """The caller's kernel fills the card for 20 us alone; the other one takes 2 us of them with 1 % of the slots."""
    timing = simulate(Assignment([0, 1], [0, 1], priority=-2), [[], []], [20.0, 2.0], [FILLING, SMALL], 0.0)
    assert timing.end == pytest.approx([2.0 + 20.0 - 2.0 * 0.99**PARTIAL, 2.0])


def test_among_the_aux_streams_the_first_gets_the_slots():
    timing = simulate(Assignment([0, 1, 2], [0, 1, 2], priority=-2), [[]] * 3, [4.0, 20.0, 2.0], [FILLING, FILLING, SMALL], 0.0)
    assert timing.end == pytest.approx([24.0 + 2.0 * (1 - 0.99**PARTIAL), 20.0, 22.0])


def test_two_small_kernels_do_not_disturb_each_other():
    assert beside([3.0, 5.0], [SMALL, SMALL]) == ([3.0, 5.0], 5.0)


def test_a_kernel_gets_the_slots_that_are_left():
    half, whole = Footprint(share=0.5), Footprint(share=1.0)
    assert beside([10.0, 10.0], [half, whole])[0] == pytest.approx([10.0, 10.0 + 10.0 - 10.0 * 0.5**PARTIAL])


def test_blocks_that_have_slots_on_the_same_sms_share_them():
    spread = Footprint(share=0.1, sms=1.0)
    # Both at half speed until the short one ends at 8 us, then the other's last 6 us alone.
    assert beside([4.0, 10.0], [spread, spread])[0] == pytest.approx([8.0, 14.0])
    assert beside([10.0], [spread])[0] == [10.0]


def test_blocks_on_sms_of_their_own_do_not_disturb_each_other():
    half = Footprint(share=0.1, sms=0.5)
    assert beside([3.0, 5.0], [half, half])[0] == [3.0, 5.0]


def test_the_scarcer_resource_decides():
    # Of bandwidth each gets a half, of the SMs 1 / 1.2.
    bound = Footprint(share=0.1, bandwidth=BANDWIDTH, sms=0.6)
    assert beside([10.0, 10.0], [bound, bound])[0] == pytest.approx([20.0, 20.0])


def test_launches_take_the_slots_one_after_another():
    launches = (LaunchFootprint(share=1.0, sms=0.0, part=0.75), LaunchFootprint(share=0.01, sms=0.0, part=0.25))
    two = Footprint(share=1.0, launches=launches)
    # The other one waits for the launch that fills the card, and not for the one behind it.
    assert beside([20.0, 2.0], [two, SMALL])[0] == pytest.approx([20.0, 17.0])


def test_head_and_tail_take_no_slots(monkeypatch):
    monkeypatch.setattr(simulator, "CROWDING", 0.0)
    # The head passes while the slots are taken, so one microsecond of blocks and the tail are left at 20 us.
    assert beside([20.0, 2.0], [FILLING, Footprint(share=0.01, edge_us=0.5)])[0] == pytest.approx([20.0, 21.5])


def test_head_and_tail_take_longer_in_company():
    edges = Footprint(edge_us=1.0)
    assert beside([2.0, 2.0], [edges, edges])[0] == pytest.approx([2.0 * (1 + CROWDING)] * 2)
    assert beside([2.0], [edges])[0] == [2.0]


def test_contention_delays_what_depends_on_it():
    plan = Assignment([0, 1, 2], [0, 1, 1])
    assert simulate(plan, [[], [], [1]], [20.0, 2.0, 3.0], [FILLING, SMALL, SMALL], 0.5).makespan == pytest.approx(25.5)


def test_a_fork_may_cost_less_than_a_wait():
    plan = Assignment([0, 1], [0, 1])
    assert simulate(plan, [[], []], [1.0, 4.0], [FREE, FREE], 1.0).makespan == 6.0
    assert simulate(plan, [[], []], [1.0, 4.0], [FREE, FREE], 1.0, fork_us=0.0).makespan == 5.0


def test_no_kernels():
    assert simulate(Assignment([], []), [], [], [], 1.0).makespan == timed(Assignment([], []), [], [], 1.0).makespan


@st.composite
def plans(draw):
    """Return an assignment with its predecessors, times and the cost of an event."""
    count = draw(st.integers(1, 9))
    predecessors = [sorted(draw(st.sets(st.integers(0, k - 1), max_size=3))) if k else [] for k in range(count)]
    order, left = [], list(range(count))
    while left:
        ready = [k for k in left if not set(predecessors[k]) & set(left)]
        order.append(draw(st.sampled_from(ready)))
        left.remove(order[-1])
    times = st.one_of(st.just(0.0), st.floats(1e-3, 50.0))
    us = draw(st.lists(times, min_size=count, max_size=count))
    stream = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return Assignment(order, stream), predecessors, us, draw(times)


parts = st.floats(0.0, 1.0)


@st.composite
def footprints_of(draw, us):
    """Return a footprint of a kernel that takes `us` us, of one launch or several."""
    lasting = draw(st.one_of(st.just([]), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=3)))
    launches = tuple(LaunchFootprint(draw(parts), draw(parts), one / sum(lasting)) for one in lasting)
    return Footprint(draw(parts), draw(parts), draw(parts) * us / 2, draw(parts), launches)


@st.composite
def crowded_plans(draw):
    """Return the same with a footprint for each kernel."""
    plan = draw(plans())
    return plan, [draw(footprints_of(us)) for us in plan[2]]


@given(plans())
def test_without_footprints_the_times_are_those_without_contention(plan):
    assignment, predecessors, us, event_us = plan
    found = simulate(assignment, predecessors, us, [FREE] * len(us), event_us)
    assert found == timed(assignment, predecessors, us, event_us)


@given(crowded_plans())
def test_contention_never_makes_anything_earlier(case):
    (assignment, predecessors, us, event_us), footprints = case
    alone = timed(assignment, predecessors, us, event_us)
    found = simulate(assignment, predecessors, us, footprints, event_us)
    for crowded, free in ((found.start, alone.start), (found.end, alone.end), ([found.makespan], [alone.makespan])):
        assert all(a >= b - 1e-9 for a, b in zip(crowded, free, strict=True))


@given(crowded_plans())
def test_order_of_streams_and_dependences_are_kept(case):
    (assignment, predecessors, us, event_us), footprints = case
    found = simulate(assignment, predecessors, us, footprints, event_us)
    last = {}
    for kernel in assignment.order:
        stream = assignment.stream[kernel]
        waits = [found.end[p] + (event_us if assignment.stream[p] != stream else 0.0) for p in predecessors[kernel]]
        assert found.start[kernel] == max([last.get(stream, event_us if stream else 0.0), *waits])
        last[stream] = found.end[kernel]


@given(crowded_plans())
def test_one_stream_has_no_contention(case):
    (assignment, predecessors, us, event_us), footprints = case
    # A kernel that asks for more than all may get is as fast as it was measured: alone.
    serial = Assignment(assignment.order, [0] * len(us))
    assert simulate(serial, predecessors, us, footprints, event_us).makespan == pytest.approx(sum(us))


@pytest.mark.parametrize("workload", contention.read(contention.DATA), ids=lambda workload: workload.name)
def test_measured_plans_are_ranked_better_than_without_contention(workload):
    drawn = [place for place, random in enumerate(workload.random) if random]
    assert len(drawn) >= 100

    def rank_correlation(predicted):
        return contention.spearman([predicted[i] for i in drawn], [workload.measured[i] for i in drawn])

    found = workload.with_contention()
    without = {event_us: workload.without(event_us) for event_us in (0.0, 1.0)}
    assert rank_correlation(found) > max(rank_correlation(predicted) for predicted in without.values()) + 0.02
    assert rank_correlation(workload.with_contention(estimated=True)) > 0.75
    assert contention.error(found, workload.measured) < min(
        contention.error(predicted, workload.measured) for predicted in without.values()
    )


@pytest.mark.parametrize(
    ("xs", "ys", "rho", "tau"),
    [([1, 2, 3], [10, 20, 30], 1.0, 1.0), ([1, 2, 3], [3, 2, 1], -1.0, -1.0), ([1, 2, 3, 4], [1, 2, 4, 3], 0.8, 2 / 3)],
)
def test_rank_correlations(xs, ys, rho, tau):
    assert contention.spearman(xs, ys) == pytest.approx(rho)
    assert contention.kendall(xs, ys) == pytest.approx(tau)


def test_equal_values_share_a_rank():
    # By hand: ranks 0.5, 0.5, 2 against 0, 1, 2; tau-b is 2 / sqrt(2 * 3).
    assert contention.spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(0.75**0.5)
    assert contention.kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)


def test_good_plans_and_the_regret_of_the_plan_predicted_best():
    workload = contention.read(contention.ZOO_DATA)[0]
    plans = replace(workload, measured=[100.0, 114.0, 116.0, 130.0], random=[False] * 4)
    assert plans.good() == [True, True, False, False]
    found = contention.quality(plans, [2.0, 1.0, 3.0, 4.0])
    assert found[3:6] == [2, None, None]  # too few to rank
    assert found[-1] == pytest.approx(0.14)
