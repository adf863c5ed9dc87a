"""Check that every planner leaves kernels on the streams that they are bound to, on random graphs, and finds what it can."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.autotuning.measured_search import search_by_measuring
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.pipeline.other_plans import avoiding, other_plans
from graphstreams.pipeline.select_plan import Task
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.caller_stream import critical_path_on_caller, exchanged
from graphstreams.planning.exhaustive_search import every_assignment, exhaustive_search
from graphstreams.planning.list_schedule import list_schedules, plan_kernels, varied_schedule
from graphstreams.planning.local_search import local_search
from graphstreams.planning.modelled_plan import plan_space, simulated_plan
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.paths import Assignment, timed, without_gaps
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.repeated_layers import Layers, layered, part_of, repeated_layers
from graphstreams.planning.synchronization import check_plan
from tests.support.autotuner import reading_of
from tests.support.kernel_graphs import graph_of
from tests.support.search_spaces import end_of

H200 = DEVICES["h200"]


def pinned_to(graph: KernelGraph, streams: dict[int, int]) -> KernelGraph:
    kernels = (replace(k, pinned=streams[k.id], pinned_reason="by a test") if k.id in streams else k for k in graph.kernels)
    return replace(graph, kernels=tuple(kernels))


@st.composite
def bound_spaces(draw: st.DrawFn, most: int = 8) -> SearchSpace:
    """Return a random graph with kernels that keep their place, are excluded or are pinned, and up to five streams."""
    count, streams = draw(st.integers(1, most)), draw(st.integers(2, 5))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    exclusive = draw(st.sets(st.integers(0, count - 1), max_size=1))
    pins = draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, streams - 1), min_size=1, max_size=4))
    graph = pinned_to(graph_of(count, edges, exclusive), {kernel: at for kernel, at in pins.items() if kernel not in exclusive})
    us = draw(st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count))
    return SearchSpace(graph, us, streams, draw(st.sampled_from([0.0, 0.5, 2.0])))


def assert_bound(graph: KernelGraph, assignment: Assignment, streams: int) -> None:
    """Check that bound kernels are where they have to be, and that other streams have the lowest numbers that are left."""
    assert sorted(assignment.order) == list(range(len(graph.kernels)))
    place = {kernel: i for i, kernel in enumerate(assignment.order)}
    assert all(place[edge.before] < place[edge.after] for edge in graph.edges)
    for kernel in graph.kernels:
        assert kernel.bound_stream in (None, assignment.stream[kernel.id])
    assert set(assignment.stream) <= set(range(streams))
    pinned = graph.pinned_streams()
    others = set(assignment.stream) - pinned - {0}
    assert others == {stream for stream in range(1, 1 + max(others, default=0)) if stream not in pinned}


def assert_plan(graph: KernelGraph, plan: Plan, streams: int) -> None:
    check_plan(graph, plan)
    assert_bound(graph, assignment_of(plan), streams)


@settings(deadline=None)
@given(bound_spaces())
def test_list_schedules(space: SearchSpace) -> None:
    for assignment in list_schedules(space.graph, space.us, space.streams, space.event_us):
        assert_bound(space.graph, assignment, space.streams)
    assert_plan(space.graph, plan_kernels(space.graph, space.us, space.streams, space.event_us), space.streams)
    varied = varied_schedule(space.graph, space.us, space.streams, space.event_us, random.Random(0))
    assert_bound(space.graph, varied, space.streams)


@settings(deadline=None)
@given(bound_spaces(), st.integers(0, 2**32))
def test_random_neighbors(space: SearchSpace, seed: int) -> None:
    current, rng = space.initial[0], random.Random(seed)
    for _ in range(20 if space.free else 0):
        current = space.random_neighbor(current, rng)
        assert_bound(space.graph, current, space.streams)


@settings(deadline=None)
@given(bound_spaces())
def test_searches_on_the_simulator(space: SearchSpace) -> None:
    assert_plan(space.graph, search_on_simulator(space), space.streams)
    for policy in (local_search, exhaustive_search):
        if (found := policy(space, 0)) is not None:
            assert_bound(space.graph, found, space.streams)
            assert critical_path_on_caller(space, found) == found and exchanged(space, space.plan(found)) == []


@settings(deadline=None)
@given(bound_spaces(most=6))
def test_every_assignment_of_a_tiny_graph(space: SearchSpace) -> None:
    for assignment in every_assignment(space.graph, space.streams, 10_000) or ():
        assert_bound(space.graph, assignment, space.streams)


@settings(deadline=None)
@given(bound_spaces(most=4))
def test_the_exhaustive_search_misses_no_stream(space: SearchSpace) -> None:
    """By brute force over all streams, in program order, no plan is shorter by more than what a further stream has to save."""
    graph, us = space.graph, space.us
    choices = [range(space.streams) if k.bound_stream is None else (k.bound_stream,) for k in graph.kernels]
    ends = []
    for spread in product(*choices):
        rows = [[k for k in range(len(us)) if spread[k] == stream] for stream in range(space.streams)]
        ends.append(end_of(graph, us, rows, space.event_us))
    found = exhaustive_search(space, 0)
    if found is not None:
        assert space.makespan(found) <= min(ends) * 1.005 ** (space.streams - 1) + 1e-9


@settings(deadline=None)
@given(bound_spaces(most=7), st.integers(0, 9))
def test_the_measured_search(space: SearchSpace, seed: int) -> None:
    measured: list[Plan] = []

    def measure(plan: Plan) -> float:
        measured.append(plan)
        return 1.0 + len(measured) * 7 % 5

    search_by_measuring(space, measure, 12, seed, [search_on_simulator(space)], screen=lambda plans: len(plans) - 1)
    for plan in measured:
        assert_plan(space.graph, plan, space.streams)


@settings(deadline=None)
@given(bound_spaces(), st.data())
def test_plans_in_place_of_refused_ones(space: SearchSpace, data: st.DataObject) -> None:
    plan = search_on_simulator(space)
    kernels = frozenset(data.draw(st.sets(st.integers(0, len(space.us) - 1))))
    assert_bound(space.graph, avoiding(space.graph, plan, kernels), space.streams)
    task = Task(reading_of(space.graph), H200, Options(streams=space.streams))
    for _, other in other_plans(task, space.us, plan, kernels):
        assert_plan(space.graph, other, space.streams)


@settings(deadline=None)
@given(bound_spaces())
def test_plans_for_modelled_times(space: SearchSpace) -> None:
    options = Options(streams=space.streams)
    assert_plan(space.graph, simulated_plan(space.graph, space.us, H200, options), space.streams)
    prioritized = plan_space(space.graph, space.us, H200, replace(options, priority=-1))
    assert all(assignment.priority == -1 for assignment in prioritized.initial)


def test_a_layer_with_a_pin_is_not_like_the_others() -> None:
    graph = graph_of(160, [(4 * n + a, 4 * n + b) for n in range(40) for a, b in [(0, 1), (0, 2), (1, 3), (2, 3)]])
    assert repeated_layers(graph) == Layers(0, 1, 160)  # all kernels do the same
    pinned = pinned_to(graph, {2: 3})
    layers = repeated_layers(pinned)
    assert layers == Layers(3, 1, 157)
    tiled = layered(layers, 160, lambda part: assignment_of(plan_kernels(part_of(pinned, part), [1.0] * len(part), 4)))
    assert tiled.stream[2] == 3
    assert_plan(pinned, simulated_plan(pinned, [5.0] * 160, H200, Options(streams=4)), 4)


def streams_of(plan: Plan) -> list[int]:
    stream = plan.stream_of()
    return [stream[kernel] for kernel in range(len(stream))]


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        ({1: 2}, [0, 2]),  # the other one needs no fork on the caller's
        ({0: 2, 1: 2}, [2, 2]),
        ({0: 1, 1: 3}, [1, 3]),
        ({0: 0, 1: 0}, [0, 0]),
    ],
)
def test_two_kernels_by_hand(pins: dict[int, int], expected: Sequence[int]) -> None:
    space = SearchSpace(pinned_to(graph_of(2), pins), [4.0, 4.0], 5, 0.5)
    assert streams_of(search_on_simulator(space)) == expected


def test_a_pin_counts_though_a_plan_without_it_is_shorter() -> None:
    """Three independent kernels of 4 us, of which two are pinned to one stream: 8 us and a join."""
    space = SearchSpace(pinned_to(graph_of(3), {0: 2, 1: 2}), [4.0] * 3, 5, 0.5)
    plan = search_on_simulator(space)
    assert streams_of(plan) == [2, 2, 0] and plan.streamed_us == 9.0
    assert timed(assignment_of(plan), [[], [], []], [4.0] * 3, 0.5).makespan == 9.0


def test_streams_without_gaps_leave_pinned_numbers_alone() -> None:
    assert without_gaps([0, 4, 2, 4], {4}) == [0, 4, 1, 4]
    assert without_gaps([3, 1, 3]) == [1, 0, 1]
    assert without_gaps([0, 3, 4, 5], {1, 3}) == [0, 3, 2, 4]


def test_a_pin_beyond_the_streams_is_an_error() -> None:
    with pytest.raises(ValueError, match="a kernel is pinned to stream 3, and there are 3"):
        plan_kernels(pinned_to(graph_of(2), {1: 3}), [1.0, 1.0], 3)
