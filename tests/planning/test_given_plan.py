"""Check the plan of a file on its graph: what it makes, and that nothing that does not fit or leaves a race gets through."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.errors import PlanFileError
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Event, Wait
from graphstreams.ir.plan_file import PlanFile, PlannedKernel
from graphstreams.planning.given_plan import given_plan, likeness, misfit, with_times
from graphstreams.planning.synchronization import check_plan
from tests.support.hand_plan import EVENTS, GRAPH, PLAN, US
from tests.support.kernel_graphs import graph_of
from tests.support.random_graphs import random_plan

DIAMOND = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
H200 = DEVICES["h200"]


def plan_file(rows: Sequence[tuple[str, int, Sequence[str] | None]]) -> PlanFile:
    return PlanFile(
        tuple(PlannedKernel(name, stream, waits if waits is None else tuple(waits)) for name, stream, waits in rows)
    )


SPLIT = [("k0", 0, []), ("k1", 0, []), ("k2", 1, ["k0"]), ("k3", 0, ["k2"])]


def test_the_plan_of_a_file_is_the_plan_that_was_kept() -> None:
    file = PlanFile.loads(PlanFile.of(PLAN, GRAPH).dumps())
    made = given_plan(file, GRAPH, 5)
    assert [(p.kernel, p.stream) for p in made.placements] == [(p.kernel, p.stream) for p in PLAN.placements]
    assert (made.events, made.streams) == (EVENTS, 2)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_a_random_plan_survives_its_file(seed: int, count: int) -> None:
    rng = random.Random(seed)
    edges = [(a, b) for b in range(count) for a in range(b) if rng.random() < 0.3]
    graph = graph_of(count, edges)
    plan = random_plan(graph, rng)
    made = given_plan(PlanFile.loads(PlanFile.of(plan, graph).dumps()), graph, 5)
    assert [(p.kernel, p.stream) for p in made.placements] == [(p.kernel, p.stream) for p in plan.placements]
    assert made.events == plan.events


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9))
def test_a_plan_without_one_of_its_waits_is_refused_with_a_kernel_that_waits(seed: int, count: int) -> None:
    """Plans have the fewest waits, so without any one of them some dependence is not ordered."""
    rng = random.Random(seed)
    graph = graph_of(count, [(a, b) for b in range(count) for a in range(b) if rng.random() < 0.5])
    file = PlanFile.of(random_plan(graph, rng), graph)
    waiting = [(place, name) for place, kernel in enumerate(file.kernels) for name in kernel.waits or ()]
    if not waiting:
        return
    place, dropped = rng.choice(waiting)
    fewer = replace(file.kernels[place], waits=tuple(name for name in file.kernels[place].waits or () if name != dropped))
    racy = replace(file, kernels=(*file.kernels[:place], fewer, *file.kernels[place + 1 :]))
    with pytest.raises(PlanFileError, match=r"kernel 'k\d' \(stream \d\) is not ordered after kernel 'k\d'"):
        given_plan(racy, graph, 5)


def test_two_kernels_on_each_others_streams_need_the_waits_of_there() -> None:
    swapped = [("k0", 0, []), ("k1", 1, ["k0"]), ("k2", 0, []), ("k3", 0, ["k1"])]
    plan = given_plan(plan_file(swapped), DIAMOND, 5)
    assert plan.events == (Event(0, 0, 0, (Wait(1, 1),)), Event(1, 1, 1, (Wait(0, 3),)))
    with pytest.raises(
        PlanFileError, match=r"kernel 'k3' \(stream 0\) is not ordered after kernel 'k1' \(stream 1\)"
    ) as raised:
        given_plan(plan_file([("k0", 0, []), ("k1", 1, ["k0"]), ("k2", 0, ["k0"]), ("k3", 0, ["k2"])]), DIAMOND, 5)
    assert str(raised.value).endswith("; add the wait, or leave out all 'waits' to have them placed")
    placed = given_plan(plan_file([(name, stream, None) for name, stream, _ in swapped]), DIAMOND, 5)
    assert placed.events == plan.events


def test_a_wait_that_the_plan_does_not_need_is_kept_if_it_orders_something() -> None:
    rows = [("k0", 0, []), ("k1", 0, ["k0"]), ("k2", 1, ["k0", "k1"]), ("k3", 0, ["k0", "k2"])]
    plan = given_plan(plan_file(rows), DIAMOND, 5)
    assert plan.events == (Event(0, 0, 1, (Wait(1, 2),)), Event(1, 1, 2, (Wait(0, 3),)))


def test_forks_and_joins_follow_from_the_streams() -> None:
    plan = given_plan(plan_file([("k0", 1, []), ("k1", 2, [])]), graph_of(2), 5)
    assert plan.events == (
        Event(0, 0, FORK, (Wait(1, 0), Wait(2, 1))), Event(1, 1, 0, (Wait(0, JOIN),)), Event(2, 2, 1, (Wait(0, JOIN),)),
    )  # fmt: skip
    assert plan.streams == 3


def test_a_kernel_that_depends_on_nothing_may_come_first() -> None:
    graph = graph_of(3, [(0, 1)])
    plan = given_plan(plan_file([("k2", 1, []), ("k0", 0, ["k2"]), ("k1", 0, [])]), graph, 5)
    timed = with_times(plan, graph, [1.0, 2.0, 4.0], H200, 0.5)
    places = {place.name: (place.start_us, place.end_us) for place in timed.placements}
    assert [place.name for place in timed.placements] == ["k2", "k0", "k1"]
    assert places["k0"][0] >= places["k2"][1] + 0.5  # against program order, because the file says so
    assert (timed.serial_us, timed.events) == (7.0, plan.events)
    check_plan(graph, timed)


def test_the_times_of_a_kept_plan_are_the_simulators() -> None:
    timed = with_times(given_plan(PlanFile.of(PLAN, GRAPH), GRAPH, 5), GRAPH, US, H200, 0.5)
    assert (timed.serial_us, timed.critical_path, timed.event_us) == (11.0, (0, 2, 3, 4), 0.5)
    assert all(place.end_us - place.start_us >= US[place.kernel] - 1e-9 for place in timed.placements)


OUTPUT = replace(DIAMOND, kernels=(*DIAMOND.kernels[:3], replace(DIAMOND.kernels[3], allocates_output=True)))


@pytest.mark.parametrize(
    ("rows", "graph", "told"),
    [
        (SPLIT[:3], DIAMOND, "the graph has kernel 'k3', which the plan does not place"),
        ([*SPLIT[:3], ("k33", 0, [])], DIAMOND, "the plan has kernel 'k33', which the graph does not have; the nearest is"),
        ([*SPLIT[:2], ("k2", 5, []), SPLIT[3]], DIAMOND, "'k2' is on stream 5, and with the option streams=5 they are 0 to 4"),
        ([*SPLIT[:3], ("k3", 1, ["k1"])], OUTPUT, "'k3' is on stream 1, and has to be on the caller's, 0: its operator"),
        ([*SPLIT[:3], ("k3", 0, ["k22"])], DIAMOND, "kernel 'k3' waits for 'k22', which is no kernel; the nearest is 'k2'"),
        ([*SPLIT[:3], ("k3", 0, ["k3"])], DIAMOND, "kernel 'k3' waits for 'k3', which is not enqueued before it"),
        ([SPLIT[1], SPLIT[0], *SPLIT[2:]], DIAMOND, r"kernel 'k1' \(stream 0\) is not ordered after kernel 'k0'"),
        ([("k1", 0, None), ("k0", 0, None), ("k2", 0, None), ("k3", 0, None)], DIAMOND, "'k1' is enqueued before 'k0', on"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_kernel(rows: list, graph: KernelGraph, told: str) -> None:
    with pytest.raises(PlanFileError, match=told):
        given_plan(plan_file(rows), graph, 5)


def test_a_collective_stays_on_the_callers_stream() -> None:
    graph = replace(DIAMOND, kernels=(replace(DIAMOND.kernels[0], collective="start"), *DIAMOND.kernels[1:]))
    with pytest.raises(PlanFileError, match="kernel 'k0' is on stream 1, and has to be on the caller's, 0: collectives"):
        given_plan(plan_file([("k0", 1, []), *SPLIT[1:]]), graph, 5)


def test_other_launches_and_other_sizes_are_another_graph_unless_the_file_does_not_say() -> None:
    file = PlanFile.of(PLAN, GRAPH)
    assert misfit(file, GRAPH) == ""
    renamed = replace(GRAPH, kernels=(GRAPH.kernels[0], replace(GRAPH.kernels[1], launches=("a",)), *GRAPH.kernels[2:]))
    assert misfit(file, renamed).startswith("kernel 'short' launches a, in the plan a, b; ")
    larger = replace(
        GRAPH, kernels=(*GRAPH.kernels[:2], replace(GRAPH.kernels[2], writes=GRAPH.kernels[0].writes), *GRAPH.kernels[3:])
    )
    assert misfit(file, larger).startswith("kernel 'long' reads and writes 512 bytes, in the plan 0, so its sizes are others; ")
    assert misfit(file.of_any_size(), renamed) == misfit(file.of_any_size(), larger) == ""


def test_likeness_is_the_share_of_common_names() -> None:
    assert likeness(plan_file(SPLIT), DIAMOND) == 1.0
    assert likeness(plan_file(SPLIT[:3]), DIAMOND) == 0.75
    assert likeness(plan_file([("a", 0, []), ("k0", 0, [])]), DIAMOND) == 0.25
