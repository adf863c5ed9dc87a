"""What is measured, what is found on disk, and which plan is chosen, with clocks and kernels that are made up."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from graphstreams.autotuning import autotuner, cache_keys, timing
from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.measured_search import SCREENED
from graphstreams.autotuning.occupancy import Blocks
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.neighborhood import SearchSpace

H200 = DEVICES["h200"]
SERIAL = "the serial graph"


def graph_of(count: int, edges: Sequence[tuple[int, int]] = (), name: str = "g") -> KernelGraph:
    kernels = tuple(Kernel(i, f"k{i}", "gemm", launches=("mm",)) for i in range(count))
    return KernelGraph(name, kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))


def reading_of(graph: KernelGraph, order: Sequence[int] | None = None) -> Reading:
    module = fx.GraphModule(torch.nn.Module(), fx.Graph())
    launches = tuple(range(len(graph.kernels))) if order is None else tuple(order)
    return Reading(module, graph, (), (), (), launches, 0, {})


DIAMOND = graph_of(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
US = [1.0, 2.0, 5.0, 1.0]


class KernelReplayer:
    """Plays nothing: a captured graph is the plan itself, and its time is what a test says."""

    def __init__(self, us: Mapping[int, float]) -> None:
        self.us, self.measured, self.asked = us, list[list[int]](), list[int]()
        self.direct, self.launched = dict[Any, float](), list[list[Any]]()

    def serial(self, order: Sequence[int]) -> Any:
        return SERIAL

    def play(self, plan: Plan) -> Any:
        return plan

    def call(self, function: Callable[[], Any]) -> Any:
        return function()

    def direct_times(self, functions: Sequence[Callable[[], Any]], rounds: int, repeats: int) -> list[float]:
        self.launched.append([function() for function in functions])
        return [self.direct[result] for result in self.launched[-1]]

    def blocks(self, kernel: int) -> list[Blocks]:
        self.asked.append(kernel)
        return [Blocks(kernel + 1, 132), Blocks(7, 264)] if kernel != 3 else []

    def kernel_times(self, order: Sequence[int]) -> dict[int, float]:
        self.measured.append(list(order))
        return {kernel: self.us[kernel] for kernel in order}


class Code:
    """In the place of SerialCode, for one graph after another."""

    keys_of: Sequence[str] = ()
    players: list[KernelReplayer]
    us: Mapping[int, float]
    direct: Mapping[Any, float] = {}
    error: Exception | None = None

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def keys(self) -> list[str]:
        return list(self.keys_of[: len(self.reading.kernels.kernels)])

    def arguments(self, values: Mapping[int, Any]) -> list[Any]:
        return list(values.values())

    def player(self, arguments: Sequence[Any]) -> KernelReplayer:
        if self.error is not None:
            raise self.error
        self.players.append(KernelReplayer(self.us))
        self.players[-1].direct.update(self.direct)
        return self.players[-1]


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Code]:
    """A class of serial code of its own for each test, whose cache is empty."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    own = type("OwnCode", (Code,), {"players": [], "us": {i: float(i + 1) for i in range(9)}, "keys_of": list("abcdefgh")})
    monkeypatch.setattr(autotuner, "CompiledSerialGraph", own)
    return own


def timed_by(monkeypatch: pytest.MonkeyPatch, medians: Callable[..., list[float]]) -> None:
    """Wherever graphs are timed in turns, `medians` tells their times."""
    for module in (autotuner, timing):
        monkeypatch.setattr(module, "medians_in_turns", medians)


def clock(monkeypatch: pytest.MonkeyPatch, time: Callable[[Any], float]) -> list[list[Any]]:
    """Every graph takes what `time` says. Returns what was measured in turns, each time."""
    turns: list[list[Any]] = []

    def medians(graphs: Sequence[Any], *_: int) -> list[float]:
        turns.append(list(graphs))
        return [time(graph) for graph in graphs]

    timed_by(monkeypatch, medians)
    return turns


def tuner(
    graph: KernelGraph = DIAMOND, device: Any = H200, values: Mapping[int, Any] | None = None, **options: Any
) -> Autotuner:
    return Autotuner(reading_of(graph), device, Options(**options), values or {})


# --- plans on disk

PLAN = replace(plan_kernels(DIAMOND, US, 3, 0.5), priority=-2)
MEASURED = Measurement(20.0, 15.0, 15.5, tried=32, plans=((14.5, 15.0), (16.25, 18.5)))


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_nothing_is_kept_at_first(code: type[Code]) -> None:
    assert tuner().kept() is None
    assert code.players == []


def test_a_plan_that_was_kept_is_found_by_the_next_compile(tmp_path: Path) -> None:
    tuner().keep(US, PLAN, MEASURED)
    assert cached(tmp_path)  # beside Inductor's own caches
    assert tuner().kept() == (US, PLAN, replace(MEASURED, from_disk=True))


def test_an_earlier_plan_is_replaced() -> None:
    other = plan_kernels(DIAMOND, US, 1)
    tuner().keep(US, PLAN, MEASURED)
    tuner().keep([2.0, 4.0, 10.0, 2.0], other, replace(MEASURED, tried=1))
    assert tuner().kept() == ([2.0, 4.0, 10.0, 2.0], other, replace(MEASURED, tried=1, from_disk=True))


@pytest.mark.parametrize("options", [{"streams": 2}, {"event_us": 0.5}, {"search": 8}, {"priority": -1}])
def test_under_other_options_for_the_search_there_is_none(options: dict[str, Any]) -> None:
    tuner().keep(US, PLAN, MEASURED)
    assert tuner(**options).kept() is None


def test_strides_and_settings_of_inductor_and_of_products_make_another_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product with a weight in the other layout has the same kernel graph; another precision runs other kernels."""

    def reading(*strides: int) -> Reading:
        module = fx.GraphModule(torch.nn.Module(), fx.Graph())
        module.graph.placeholder("w").meta["val"] = torch.empty_strided((4, 4), strides, device="meta")
        module.graph.output(())
        return replace(reading_of(DIAMOND), module=module)

    def kept(*strides: int) -> bool:
        return Autotuner(reading(*strides), H200, Options(), {}).kept() is not None

    Autotuner(reading(4, 1), H200, Options(), {}).keep(US, PLAN, MEASURED)
    assert (kept(4, 1), kept(1, 4)) == (True, False)
    with torch._inductor.config.patch(max_autotune_gemm_backends="TRITON"):
        assert not kept(4, 1)
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    try:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not before
        assert not kept(4, 1)
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before
    monkeypatch.setattr(cache_keys, "source_hash", lambda: b"another version of this package")
    assert not kept(4, 1)


def test_a_search_ends_in_time_where_a_replay_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay takes 100 ms: a few plans are measured, each a few times, and a few are measured again."""
    now, replays = [0.0], [0]

    def medians(graphs: Sequence[Any], rounds: int, repeats: int) -> list[float]:
        replays[0] += len(graphs) * (rounds + 2) * repeats
        now[0] += len(graphs) * (rounds + 2) * repeats * 0.1
        return [1e5 if graph == SERIAL else 9e4 + graph.streams for graph in graphs]

    timed_by(monkeypatch, medians)
    monkeypatch.setattr(autotuner.time, "monotonic", lambda: now[0])
    _, measurement = tuner(ARMS).search(space())
    assert 1 <= measurement.tried <= 4
    assert now[0] < 7


@pytest.mark.parametrize("options", [{"min_gain": 0.5}, {"strict": True}, {"dump": "somewhere"}])
def test_options_that_do_not_concern_the_search_do_not_count(options: dict[str, Any]) -> None:
    tuner().keep(US, PLAN, MEASURED)
    assert tuner(**options).kept() is not None


def test_for_another_device_there_is_none() -> None:
    tuner().keep(US, PLAN, MEASURED)
    assert tuner(device=DEVICES["b200"]).kept() is None


@pytest.mark.parametrize(
    "graph",
    [
        graph_of(4, [(0, 1), (0, 2), (1, 3)]),
        graph_of(5, [(0, 1), (0, 2), (1, 3), (2, 3)]),
        replace(DIAMOND, kernels=(replace(DIAMOND.kernels[0], flops=7), *DIAMOND.kernels[1:])),
        replace(DIAMOND, sizes={"s0": 4}),
    ],
    ids=["edges", "kernels", "work", "sizes"],
)
def test_for_another_graph_there_is_none(graph: KernelGraph) -> None:
    tuner().keep(US, PLAN, MEASURED)
    assert tuner(graph).kept() is None


def test_the_same_graph_under_another_name_has_the_same_plan() -> None:
    """AOTAutograd calls the first graph of a process 0_inference and the next one, recompiled or not, 1_inference."""
    tuner(replace(DIAMOND, name="0_inference")).keep(US, replace(PLAN, name="0_inference"), MEASURED)
    kept = tuner(replace(DIAMOND, name="1_inference")).kept()
    assert kept is not None and kept[1] == replace(PLAN, name="1_inference")


@pytest.mark.parametrize("content", ["", "{", "7", "[]", "{}", '{"plan": 3, "us": [], "measurement": {}}', "\0"])
def test_a_broken_file_is_none_and_is_replaced(content: str, tmp_path: Path) -> None:
    tuner().keep(US, PLAN, MEASURED)
    (file,) = cached(tmp_path)
    file.write_text(content)
    assert tuner().kept() is None
    tuner().keep(US, PLAN, MEASURED)
    assert tuner().kept() is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tried": 32', '"found": 32'),  # fields of another version
        ('"tried": 32', '"tried": 32, "colour": "red"'),
        ('\\"streamed_us\\"', '\\"shadow_us\\"'),
        ('"us": [1.0', '"us": ["one"'),
        ('"us": [1.0', '"ms": [1.0'),
    ],
)
def test_a_file_of_another_version_is_none(old: str, new: str, tmp_path: Path) -> None:
    tuner().keep(US, PLAN, MEASURED)
    (file,) = cached(tmp_path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert tuner().kept() is None


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, placements=PLAN.placements[:3]),  # a kernel is missing
        plan_kernels(graph_of(5), [1.0] * 5),  # one is unknown
        replace(PLAN, events=PLAN.events[1:]),  # the short side does not wait for its input
    ],
)
def test_a_plan_that_does_not_fit_the_graph_is_none(plan: Plan) -> None:
    tuner().keep(US, plan, MEASURED)
    assert tuner().kept() is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "graphstreams").write_text("not a folder")
    tuner().keep(US, PLAN, MEASURED)
    assert tuner().kept() is None
    assert tuner().times() == [1.0, 2.0, 3.0, 4.0]


# --- times of kernels


def test_times_are_measured_once_in_serial_order_and_then_known(code: type[Code]) -> None:
    order = [1, 0, 0, 3, 2]  # the serial code's, with two launches of k0
    for _ in range(2):
        assert Autotuner(reading_of(DIAMOND, order), H200, Options(), {}).times() == [1.0, 2.0, 3.0, 4.0]
    (replay,) = code.players
    assert replay.measured == [[1, 0, 3, 2]]


def test_kernels_known_from_another_graph_keep_their_times(code: type[Code]) -> None:
    code.keys_of = ["a", "b"]
    assert tuner(graph_of(2)).times() == [1.0, 2.0]
    code.keys_of, code.us = ["x", "b", "y", "a"], {0: 70.0, 1: 80.0, 2: 90.0, 3: 100.0}
    assert tuner().times() == [70.0, 2.0, 90.0, 1.0]
    code.keys_of = ["y", "x"]
    assert tuner(graph_of(2)).times() == [90.0, 70.0]
    assert len(code.players) == 2


def test_where_all_kernels_are_known_nothing_is_compiled_or_run(code: type[Code]) -> None:
    tuner().times()
    code.keys_of, code.error = ["d", "c", "a", "a"], RuntimeError("must not run")
    assert tuner().times() == [4.0, 3.0, 1.0, 1.0]


def test_a_kernel_without_launches_takes_no_time_and_is_not_looked_up(code: type[Code]) -> None:
    code.keys_of = ["a", "", "c", "d"]
    assert Autotuner(reading_of(DIAMOND, [0, 2, 3]), H200, Options(), {}).times() == [1.0, 0.0, 3.0, 4.0]
    assert code.players[0].measured == [[0, 2, 3]]


def test_another_device_has_times_of_its_own(code: type[Code]) -> None:
    tuner().times()
    code.us = {i: 50.0 for i in range(4)}
    assert tuner(device=DEVICES["b200"]).times() == [50.0] * 4


def test_a_time_that_is_broken_on_disk_is_measured_again(code: type[Code], tmp_path: Path) -> None:
    tuner().times()
    for file in cached(tmp_path):
        if file.read_text() == "3.0":
            file.write_text('"three"')
    code.us = {i: 50.0 for i in range(4)}
    assert tuner().times() == [1.0, 2.0, 50.0, 4.0]


def test_what_cannot_be_played_raises(code: type[Code]) -> None:
    code.error = RuntimeError("planted")
    with pytest.raises(RuntimeError, match="planted"):
        tuner().times()


# --- thread blocks of kernels


def test_blocks_are_asked_for_once_and_then_known(code: type[Code]) -> None:
    expected = {0: [(1, 132), (7, 264)], 1: [(2, 132), (7, 264)], 2: [(3, 132), (7, 264)], 3: []}
    for _ in range(2):
        assert tuner().blocks() == expected
    (replay,) = code.players
    assert replay.asked == [0, 1, 2, 3]
    code.keys_of = ["x", "a", "d", "c"]
    assert tuner().blocks() == {0: expected[0], 1: expected[0], 2: [], 3: expected[2]}
    assert code.players[1].asked == [0]


def test_blocks_and_times_of_a_kernel_are_kept_apart() -> None:
    assert tuner().blocks()[0] == [(1, 132), (7, 264)]
    assert tuner().times()[0] == 1.0
    assert tuner().blocks()[0] == [(1, 132), (7, 264)]


def test_a_kernel_without_launches_has_no_blocks(code: type[Code]) -> None:
    code.keys_of = ["a", "", "c", "d"]
    assert tuner().blocks()[1] == []
    assert code.players[0].asked == [0, 2, 3]


# --- the search

ARMS = graph_of(2)  # on one stream, or side by side


def space(graph: KernelGraph = ARMS, streams: int = 2) -> SearchSpace:
    return SearchSpace(graph, [4.0] * len(graph.kernels), streams, 0.0)


def times_by(one: float, two: float, urgent: float | None = None) -> Callable[[Any], float]:
    """The times of plans on one stream, on two, and on two with a priority; the serial graph takes 10 us."""

    def time(graph: Any) -> float:
        if graph == SERIAL:
            return 10.0
        if graph.streams == 1:
            return one
        return two if graph.priority == 0 or urgent is None else urgent

    return time


def found(graph: KernelGraph = ARMS, **options: Any) -> tuple[int, int, Measurement]:
    """Streams and priority of the plan that is found, and its measurement."""
    plan, measurement = tuner(graph, **options).search(space(graph))
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


def test_a_few_plans_are_tried_briefly_in_turns_before_the_fastest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = clock(monkeypatch, lambda graph: 10.0 if graph == SERIAL else 5.0 + len(graph.events) / 10)
    graph = graph_of(6)
    found(graph, search=12)
    briefly = [i for i, graphs in enumerate(turns) if SERIAL not in graphs]
    assert briefly
    for i in briefly:
        assert 2 <= len(turns[i]) <= SCREENED
        assert turns[i + 1] == [SERIAL, min(turns[i], key=lambda plan: len(plan.events))]


@pytest.mark.parametrize(("limit", "value"), [("TRIED_KERNELS", 5), ("TRIED_PLANS", 11)])
def test_in_large_graphs_and_searches_no_plan_is_tried_briefly(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """As many captures would take longer than what they find is worth."""
    turns = clock(monkeypatch, times_by(10.0, 6.0))
    monkeypatch.setattr(autotuner, limit, value)
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


def test_finalists_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
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
    plan, measurement = tuner(graph, search=12).search(space(graph))
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
    plan, measurement = tuner(ARMS, priority=0).without_search(plans)
    assert plan.streams == streams
    assert measurement.played_us == pytest.approx(6.0 if streams == 1 else sum(lucky) / 3)


def test_without_a_search_the_faster_of_the_plans_given_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = clock(monkeypatch, times_by(10.0, 6.0))
    one, two = (plan_kernels(ARMS, [4.0, 4.0], streams) for streams in (1, 2))
    plan, measurement = tuner(ARMS, priority=-1).without_search([one, two])
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

    monkeypatch.setattr(autotuner, "load_call", load_call)
    clock(monkeypatch, lambda graph: {SERIAL: 12.0, "ours": 9.0, "Inductor's": 11.4}[graph])
    code.direct = {"ours": 50.0, "Inductor's": 40.0}
    serial = Lowered(SimpleNamespace(constants=constants), {}, "Inductor's")  # type: ignore[arg-type]
    measured = Measurement(10.0, 7.0, tried=3)
    current = tuner(values={0: "x", 1: "y"})
    for _ in range(2):
        found = current.check("ours", serial, measured)
        expected = replace(measured, compiled_us=7.5, inductor_us=pytest.approx(9.5), direct_us=50.0, direct_serial_us=40.0)
        assert found == expected
        assert found.gain == pytest.approx(1 - 7.5 / 9.5)
        assert found.direct_gain == pytest.approx(-0.25)
    assert seen[: 2 * timing.CAPTURES] == [("ours", ["x", "y"]), ("Inductor's", ["x", "y"])] * timing.CAPTURES
    assert {tuple(arguments) for _, arguments in seen} == {("x", "y")}
    (own,) = code.players
    assert {tuple(functions) for functions in own.launched} == {("ours",), ("ours", "Inductor's")}


def test_closed_it_holds_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffer:
        pass

    clock(monkeypatch, times_by(10.0, 6.0))
    value = Buffer()
    alive = weakref.ref(value)
    current = Autotuner(reading_of(ARMS), H200, Options(), values := {0: value})
    current.search(space())
    replay = weakref.ref(current._playing())
    values.clear()
    del value
    assert alive() is not None
    autotuner.CompiledSerialGraph.players.clear()  # type: ignore[attr-defined]
    current.close()
    assert (alive(), replay()) == (None, None)
    current.close()
