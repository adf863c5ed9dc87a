"""Check which plan the autotuner chooses from times that a test says."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graphstreams.autotuning import autotuner, plan_benchmark, timing
from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.measured_search import SCREENED
from graphstreams.errors import Unmeasurable
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.neighborhood import SearchSpace
from tests.support.autotuner import H200, SERIAL, Code, clock, graph_of, make_autotuner, own_code, reading_of, timed_by


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Code]:
    return own_code(tmp_path, monkeypatch)


ARMS = graph_of(2)  # on one stream, or side by side


def space(graph: KernelGraph = ARMS, streams: int = 2) -> SearchSpace:
    return SearchSpace(graph, [4.0] * len(graph.kernels), streams, 0.0)


def times_by(one: float, two: float, urgent: float | None = None) -> Callable[[Any], float]:
    """Return the times of plans on one stream, on two, and on two with a priority; the serial graph takes 10 us."""

    def time(graph: Any) -> float:
        if graph == SERIAL:
            return 10.0
        if graph.streams == 1:
            return one
        return two if graph.priority == 0 or urgent is None else urgent

    return time


def found(graph: KernelGraph = ARMS, **options: Any) -> tuple[int, int, Measurement]:
    """Return streams and priority of the plan that is found, and its measurement."""
    plan, measurement = make_autotuner(graph, **options).benchmark.search(space(graph))
    return plan.streams, plan.priority, measurement


def test_the_fastest_plan_is_found_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, times_by(10.0, 6.0))
    streams, priority, measurement = found()
    assert (streams, priority) == (2, 0)
    assert (measurement.serial_us, measurement.played_us, measurement.compiled_us) == (10.0, 6.0, 0.0)
    assert measurement.gain == pytest.approx(0.4)
    assert not measurement.from_disk
    assert measurement.tried == len(measurement.plans)
    assert set(measurement.plans) == {(8.0, 10.0), (4.0, 6.0)}  # predicted and measured


def test_no_more_plans_are_measured_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(6)
    clock(monkeypatch, times_by(10.0, 6.0))
    assert found(graph, search=5)[2].tried == 5


@pytest.mark.parametrize(("beat_us", "tried"), [(None, 20), (6.0, 20), (5.8, 20), (5.7, 8), (1.0, 8)])
def test_a_search_that_is_clearly_behind_another_variant_ends_early(
    monkeypatch: pytest.MonkeyPatch, beat_us: float | None, tried: int
) -> None:
    """6 us are 5 % more than 5.71."""
    graph = graph_of(6)
    clock(monkeypatch, times_by(10.0, 6.0))
    _, measurement = make_autotuner(graph, search=20).benchmark.search(space(graph), (), beat_us)
    assert (measurement.tried, measurement.played_us) == (tried, 6.0)


def test_a_few_plans_are_screened_in_turns_before_the_fastest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = clock(monkeypatch, lambda graph: 10.0 if graph == SERIAL else 5.0 + len(graph.events) / 10)
    graph = graph_of(6)
    found(graph, search=12)
    screened = [i for i, graphs in enumerate(turns) if SERIAL not in graphs]
    assert screened
    for i in screened:
        assert 2 <= len(turns[i]) <= SCREENED
        assert turns[i + 1] == [SERIAL, min(turns[i], key=lambda plan: len(plan.events))]


@pytest.mark.parametrize(("limit", "value"), [("SCREENING_KERNELS", 5), ("SCREENING_PLANS", 11)])
def test_in_large_graphs_and_searches_no_plan_is_screened(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """As many captures would take longer than what they find is worth."""
    turns = clock(monkeypatch, times_by(10.0, 6.0))
    monkeypatch.setattr(plan_benchmark, limit, value)
    found(graph_of(6), search=12)
    assert all(graphs[0] == SERIAL for graphs in turns)


def test_times_are_taken_beside_the_serial_graph_so_that_a_clock_that_drifts_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each turn takes 10 % longer than the one before."""
    true, drift = times_by(10.0, 6.0), [1.0]

    def medians(graphs: Sequence[Any], *_: int) -> list[float]:
        drift[0] *= 1.1
        return [true(graph) * drift[0] for graph in graphs]

    timed_by(monkeypatch, medians)
    _, _, measurement = found()
    assert len({us for _, us in measurement.plans}) == 2  # though one was measured twice, the second time slower
    measured = sorted({us for _, us in measurement.plans})
    assert measured[0] / measured[1] == pytest.approx(0.6, abs=0.001)
    assert measurement.gain == pytest.approx(0.4)


def test_of_equal_plans_the_one_on_fewer_streams_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, times_by(8.0, 8.0))
    assert found()[:2] == (1, 0)


@pytest.mark.parametrize(("two", "streams"), [(7.99, 1), (7.9, 2)])
def test_more_streams_have_to_be_worth_it(two: float, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.12 % are not, 1.25 % are."""
    clock(monkeypatch, times_by(8.0, two))
    assert found()[0] == streams


@pytest.mark.parametrize(("urgent", "priority"), [(6.0, 0), (5.99, 0), (5.9, -2), (6.5, 0)])
def test_a_priority_has_to_be_worth_it(urgent: float, priority: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, times_by(10.0, 6.0, urgent))
    streams, found_priority, measurement = found()
    assert (streams, found_priority) == (2, priority)
    assert measurement.played_us == pytest.approx(urgent if priority else 6.0)


@pytest.mark.parametrize("asked", [0, -1])
def test_a_priority_that_is_asked_for_is_the_only_one_that_is_tried(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = clock(monkeypatch, times_by(10.0, 6.0, 1.0 if asked == 0 else 6.0))
    assert found(priority=asked)[:2] == (2, asked)
    assert {plan.priority for plan in turns[-1][1:]} == {asked}


def test_top_candidates_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that was lucky once is not, beside the others."""
    graph = graph_of(5)
    lucky: list[Plan] = []

    def time(plan: Any) -> float:
        if plan == SERIAL:
            return 10.0
        if plan.streams == 2 and not lucky:
            lucky.append(plan)
            return 1.0
        return 7.0 if lucky and plan == lucky[0] else 6.0 + plan.streams / 100

    turns = clock(monkeypatch, time)
    plan, measurement = make_autotuner(graph, search=12).benchmark.search(space(graph))
    assert lucky[0] in turns[-1] and turns[-1][0] == SERIAL
    assert plan != lucky[0]
    assert (plan.streams, measurement.played_us) == (1, pytest.approx(6.01))
    assert (lucky[0].streamed_us, 1.0) in measurement.plans


@pytest.mark.parametrize(("lucky", "streams"), [((5.9, 6.4, 6.4), 1), ((5.6, 6.1, 6.1), 2)])
def test_one_lucky_capture_does_not_decide(monkeypatch: pytest.MonkeyPatch, lucky: tuple[float, ...], streams: int) -> None:
    """One stream takes 6 us in each capture, two the times given: 6.23 or 5.93 us on the mean."""
    captures = iter(lucky)

    def medians(graphs: Sequence[Any], *_: int) -> list[float]:
        on_two = next(captures) if len(graphs) == 3 else 1.0
        return [10.0 if graph == SERIAL else 6.0 if graph.streams == 1 else on_two for graph in graphs]

    timed_by(monkeypatch, medians)
    plans = [plan_kernels(ARMS, [4.0, 4.0], streams) for streams in (1, 2)]
    plan, measurement = make_autotuner(ARMS, priority=0).benchmark.fastest(plans)
    assert plan.streams == streams
    assert measurement.played_us == pytest.approx(6.0 if streams == 1 else sum(lucky) / 3)


def test_without_a_search_the_faster_of_the_plans_given_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = clock(monkeypatch, times_by(10.0, 6.0))
    one, two = (plan_kernels(ARMS, [4.0, 4.0], streams) for streams in (1, 2))
    plan, measurement = make_autotuner(ARMS, priority=-1).benchmark.fastest([one, two])
    assert (plan.streams, plan.priority) == (2, -1)
    assert measurement == Measurement(10.0, 6.0, tried=2)
    assert turns[-1] == [SERIAL, replace(one, priority=-1), replace(two, priority=-1)]


def test_the_generated_code_is_measured_beside_inductors_serial_code(monkeypatch: pytest.MonkeyPatch, code: type[Code]) -> None:
    """The clock is now 20 % slower: 9 us and 11.4 beside 12 are 7.5 and 9.5 beside 10. Direct calls are only compared."""
    seen = []
    constants = {"weight": object()}

    def load_call(source: str, given: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
        assert given is constants

        def call(arguments: list[Any]) -> Any:
            seen.append((source, list(arguments)))
            arguments.clear()  # as every wrapper does
            return source

        return call

    monkeypatch.setattr(plan_benchmark, "load_call", load_call)
    clock(monkeypatch, lambda graph: {SERIAL: 12.0, "ours": 9.0, "Inductor's": 11.4}[graph])
    code.direct, code.on_host = {"ours": 50.0, "Inductor's": 40.0}, {"ours": 30.0}
    serial = Lowered(SimpleNamespace(constants=constants), {}, "Inductor's")  # type: ignore[arg-type]
    measured = Measurement(10.0, 7.0, tried=3)
    current = make_autotuner(values={0: "x", 1: "y"})
    for _ in range(2):
        found = current.benchmark.time_generated_code("ours", serial, measured)
        expected = replace(
            measured,
            compiled_us=7.5,
            inductor_us=pytest.approx(9.5),
            direct_us=50.0,
            direct_serial_us=40.0,
            direct_host_us=30.0,
        )
        assert found == expected
        assert found.gain == pytest.approx(1 - 7.5 / 9.5)
        assert found.direct_gain == pytest.approx(-0.25)
    assert seen[: 2 * timing.CAPTURES] == [("ours", ["x", "y"]), ("Inductor's", ["x", "y"])] * timing.CAPTURES
    assert {tuple(arguments) for _, arguments in seen} == {("x", "y")}
    (own,) = code.replayers
    assert {tuple(functions) for functions in own.launched} == {("ours",), ("ours", "Inductor's")}


def test_closed_it_holds_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffer:
        pass

    clock(monkeypatch, times_by(10.0, 6.0))
    value = Buffer()
    alive = weakref.ref(value)
    current = Autotuner(reading_of(ARMS), H200, Options(), values := {0: value})
    current.benchmark.search(space())
    replay = weakref.ref(current.benchmark.replayer)
    values.clear()
    del value
    assert alive() is not None
    autotuner.CompiledSerialGraph.replayers.clear()  # type: ignore[attr-defined]
    current.close()
    assert (alive(), replay()) == (None, None)
    current.close()


def test_closed_it_leaves_nothing_out_of_collections_also_if_it_could_not_measure(code: type[Code]) -> None:
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    try:
        code.error = Unmeasurable("its buffers take too much")
        current = make_autotuner()
        for _ in range(2):
            with pytest.raises(Unmeasurable):
                _ = current.benchmark
        assert gc.get_freeze_count() > 0
        current.close()
        assert gc.get_freeze_count() == 0
    finally:
        if frozen:
            gc.freeze()


def test_a_search_ends_in_time_where_a_replay_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay takes 100 ms: a few plans are measured, each a few times, and a few are measured again."""
    now, replays = [0.0], [0]

    def medians(graphs: Sequence[Any], rounds: int, repeats: int) -> list[float]:
        replays[0] += len(graphs) * (rounds + 2) * repeats
        now[0] += len(graphs) * (rounds + 2) * repeats * 0.1
        return [1e5 if graph == SERIAL else 9e4 + graph.streams for graph in graphs]

    timed_by(monkeypatch, medians)
    monkeypatch.setattr(plan_benchmark.time, "monotonic", lambda: now[0])
    _, measurement = make_autotuner(ARMS).benchmark.search(space())
    assert 1 <= measurement.tried <= 4
    assert now[0] < 7
