"""Check that streams and events are made once, and kept apart by device, caller's stream, priority and thread. No GPU."""

from __future__ import annotations

import gc
import inspect
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphstreams.runtime import streams as runtime
from graphstreams.runtime.streams import acquire, acquire_for_call


@dataclass(frozen=True)
class Caller:
    """What `acquire` looks at of the stream that the caller is on."""

    device_index: int = 0
    stream_id: int = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.device_index)


@dataclass(eq=False)
class FakeStream:
    device: torch.device
    priority: int


@dataclass(eq=False)
class FakeEvent:
    pass


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every stream and event that is made, in order."""
    objects: list[Any] = []

    def stream(caller: Caller, priority: int) -> FakeStream:
        objects.append(FakeStream(caller.device, priority))
        return objects[-1]

    def event() -> FakeEvent:
        objects.append(FakeEvent())
        return objects[-1]

    monkeypatch.setattr(runtime, "new_aux_stream", stream)
    monkeypatch.setattr(torch._C, "_CudaEventBase", event)
    monkeypatch.setattr(runtime, "_idle", {})
    monkeypatch.setattr(runtime, "_pools", runtime._PoolsOfThread())
    return objects


def test_streams_come_first_then_events() -> None:
    taken = acquire(Caller(), 2, 3)
    assert [type(item) for item in taken] == [FakeStream] * 2 + [FakeEvent] * 3
    assert len(set(map(id, taken))) == 5


def test_the_same_objects_come_back(made: list[Any]) -> None:
    assert acquire(Caller(), 2, 3) == acquire(Caller(), 2, 3)
    assert len(made) == 5


def test_graphs_share_streams_and_events_by_role(made: list[Any]) -> None:
    small, large = acquire(Caller(), 1, 2), acquire(Caller(), 2, 4)
    assert large[0] is small[0]
    assert large[2:4] == small[1:]
    assert acquire(Caller(), 1, 1) == small[:2]
    assert len(made) == 6


@pytest.mark.parametrize("other", [Caller(device_index=1), Caller(stream_id=7)])
def test_callers_on_another_device_or_stream_share_nothing(other: Caller) -> None:
    mine, theirs = acquire(Caller(), 2, 2), acquire(other, 2, 2)
    assert not set(map(id, mine)) & set(map(id, theirs))
    assert {stream.device for stream in theirs[:2]} == {other.device}
    assert acquire(Caller(), 2, 2) == mine


def test_priorities_have_pools_of_their_own() -> None:
    normal, urgent = acquire(Caller(), 1, 1), acquire(Caller(), 1, 1, -1)
    assert (normal[0].priority, urgent[0].priority) == (0, -1)
    assert normal[1] is not urgent[1]


def test_a_new_object_for_the_same_stream_gets_the_same_pool(made: list[Any]) -> None:
    # torch.cuda.current_stream makes a new object with each call.
    assert acquire(Caller(stream_id=5), 1, 1) == acquire(Caller(stream_id=5), 1, 1)
    assert len(made) == 2


def test_threads_share_nothing() -> None:
    found: dict[int, list[Any]] = {}
    mine = acquire(Caller(), 2, 2)
    barrier = threading.Barrier(3)

    def work(number: int) -> None:
        first = acquire(Caller(), 2, 2)
        barrier.wait(timeout=10)
        found[number] = [*first, first == acquire(Caller(), 2, 2)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert all(taken.pop() for taken in found.values())
    everything = [*mine, *(item for taken in found.values() for item in taken)]
    assert len(everything) == len(set(map(id, everything))) == 16


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(timeout=10)
    return found[0]


def test_what_a_thread_had_goes_to_the_next_one_with_the_same_callers_stream(made: list[Any]) -> None:
    """A server with a thread for each request makes nothing new; another caller's stream was not waited for."""
    mine = acquire(Caller(), 2, 2)
    first = in_thread(lambda: acquire(Caller(), 2, 2))
    gc.collect()
    gc.freeze()  # so that the collections below look at what comes from here on, and not at all of torch
    assert in_thread(lambda: acquire(Caller(), 2, 2)) == first
    count = len(made)
    for _ in range(20):
        gc.collect()
        assert in_thread(lambda: acquire(Caller(), 2, 2)) == first
    assert len(made) == count == 8
    gc.collect()
    others = (Caller(stream_id=7), 0), (Caller(device_index=1), 0), (Caller(), -1)
    for caller, priority in others:
        taken = in_thread(lambda caller=caller, priority=priority: acquire(caller, 2, 2, priority))
        assert not set(map(id, taken)) & set(map(id, (*first, *mine)))
    assert acquire(Caller(), 2, 2) == mine


def test_nothing_grows_over_ten_thousand_calls(made: list[Any]) -> None:
    callers = [Caller(device, stream) for device in (0, 1) for stream in (0, 9)]
    graphs = [(1, 2), (2, 5), (3, 1)]

    def call(times: int) -> None:
        for i in range(times):
            acquire(callers[i % 4], *graphs[i % 3])

    call(12)  # every caller with every graph
    count = len(made)
    assert count == len(callers) * (3 + 5)
    tracemalloc.start()
    try:
        call(100)
        before = tracemalloc.get_traced_memory()[0]
        call(10_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(made) == count
    assert grown < 1000  # bytes: less than one for ten calls


def test_a_pool_that_grows_keeps_what_it_gave(made: list[Any]) -> None:
    before = [acquire(Caller(), streams, 3) for streams in (1, 2)]
    acquire(Caller(), 3, 9)
    assert [acquire(Caller(), streams, 3) for streams in (1, 2)] == before
    assert len(made) == 12


def test_no_streams_and_no_events_are_an_empty_tuple(made: list[Any]) -> None:
    assert acquire(Caller(), 0, 0) == ()
    assert made == []


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Return the id of the current stream of each device."""
    ids = {0: 7, 1: 7}
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", lambda device: (ids[device], device, 1), raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Caller(device, ids[device]))
    return ids


def test_a_call_gets_the_current_stream_and_what_belongs_to_it(current: dict[int, int]) -> None:
    taken = acquire_for_call(0, 2, 3)
    assert taken == (Caller(0, 7), *acquire(Caller(0, 7), 2, 3))
    assert acquire_for_call(0, 2, 3) is taken
    assert acquire_for_call(1, 2, 3) == (Caller(1, 7), *acquire(Caller(1, 7), 2, 3))
    current[0] = 9
    assert acquire_for_call(0, 2, 3) == (Caller(0, 9), *acquire(Caller(0, 9), 2, 3))
    assert acquire_for_call(0, 2, 3, -1) == (Caller(0, 9), *acquire(Caller(0, 9), 2, 3, -1))
    current[0] = 7
    assert acquire_for_call(0, 2, 3) is taken
    assert in_thread(lambda: acquire_for_call(0, 2, 3)) != taken


@pytest.mark.usefixtures("current")
def test_a_call_makes_nothing_after_the_first(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = acquire_for_call(0, 2, 3)
    monkeypatch.setattr(torch.cuda, "current_stream", None)
    assert all(acquire_for_call(0, 2, 3) is first for _ in range(100))
    assert len(made) == 5


def test_events_are_those_whose_methods_are_no_python_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "_pools", runtime._PoolsOfThread())
    (event,) = acquire(Caller(), 0, 1)
    assert isinstance(event, torch._C._CudaEventBase)
    assert not isinstance(event, torch.cuda.Event)
    assert {inspect.ismethoddescriptor(getattr(type(event), name)) for name in ("record", "wait")} == {True}


def test_the_context_of_an_aux_stream_leads_back_to_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its body raises."""
    monkeypatch.undo()
    current: list[tuple[int, int, int]] = []
    monkeypatch.setattr(runtime, "_set_stream", lambda *stream: current.append(stream))
    monkeypatch.setattr(runtime, "new_stream", made_as)
    caller = SimpleNamespace(device=torch.device("cuda", 1), stream_id=7, device_index=1, device_type=1)
    stream = runtime.new_aux_stream(caller, -1)  # type: ignore[arg-type]
    with stream as entered:
        assert entered is stream
        assert current == [(-1, 1, 1)]
    assert current == [(-1, 1, 1), (7, 1, 1)]
    with pytest.raises(KeyError), stream:
        raise KeyError("out of memory")
    assert current == [(-1, 1, 1), (7, 1, 1)] * 2


def made_as(device: torch.device, priority: int, kind: Any) -> Any:
    """Return a stand-in with the context of a class, for without a GPU no stream can be made."""
    context = {name: getattr(kind, name) for name in ("__enter__", "__exit__")}
    return type("Made", (), {**context, "stream_id": priority, "device_index": device.index, "device_type": 1})()


@pytest.mark.parametrize("name", ["_cuda_setStream", "_cuda_getCurrentStream", "_CudaEventBase"])
def test_a_torch_without_what_streams_are_set_by_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.missing_stream_api(at_hand=False) == ""
    monkeypatch.delattr(torch._C, name)
    assert runtime.missing_stream_api(at_hand=True) == f"this torch has no torch._C.{name}, by which streams are set"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.missing_stream_api(at_hand=True) == ""


def test_a_torch_that_does_not_tell_of_captures_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper with two bodies asks in every call."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(torch._C, "_cuda_isCurrentStreamCapturing")
    assert "has no torch._C._cuda_isCurrentStreamCapturing, by which a call is seen" in runtime.missing_stream_api(at_hand=True)


def by_place(stream_id: int, device_index: int, device_type: int) -> tuple[int, int, int]:
    return stream_id, device_index, device_type


def by_other_places(device_index: int, stream_id: int, device_type: int) -> tuple[int, int, int]:
    return stream_id, device_index, device_type


def by_an_index_that_is_no_device(device_index: int, stream_id: int, device_type: int) -> tuple[int, int, int]:
    raise RuntimeError("invalid device ordinal")


def by_name(*, stream_id: int, device_index: int, device_type: int) -> tuple[int, int, int]:
    return stream_id, device_index, device_type


@pytest.mark.parametrize(
    ("signature", "sets"),
    [(by_place, True), (by_other_places, False), (by_an_index_that_is_no_device, False), (by_name, False)],
)
def test_a_torch_that_sets_streams_otherwise_is_told(monkeypatch: pytest.MonkeyPatch, signature: Any, sets: bool) -> None:
    """Work of an aux stream would be on some other one, and nothing that was proved would hold."""
    monkeypatch.undo()
    caller = SimpleNamespace(device=torch.device("cuda", 1), stream_id=7, device_index=1, device_type=1)
    current = {1: (7, 1, 1)}

    def set_stream(*arguments: int) -> None:
        stream = signature(*arguments)
        current[stream[1]] = stream

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: caller)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.update({1: (7, 1, 1)}))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", current.get)
    monkeypatch.setattr(runtime, "_set_stream", set_stream)
    monkeypatch.setattr(runtime, "new_stream", lambda device, priority, kind: made_as(device, 40, kind))
    runtime._sets_streams.cache_clear()
    try:
        assert (runtime.missing_stream_api(at_hand=True) == "") == sets
        assert ("_cuda_setStream" in runtime.missing_stream_api(at_hand=True)) == (not sets)
        assert current[1] == (7, 1, 1)
    finally:
        runtime._sets_streams.cache_clear()


@dataclass
class WaitingStream:
    """What `join` uses of the caller's stream."""

    waited: list[Any]
    stream_id, device_index, device_type = 7, 0, 1

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)
        if other == "not capturing":
            raise RuntimeError("capture isolation")


@pytest.fixture
def current_stream(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Return the streams that were made current."""
    made_current: list[tuple[int, int, int]] = []
    monkeypatch.setattr(runtime, "_set_stream", lambda *stream: made_current.append(stream))
    return made_current


def test_joined_the_callers_stream_is_current_and_waits_for_all_others(current_stream: list[tuple[int, int, int]]) -> None:
    """A signal in the middle of an aux stream's context leaves that one current."""
    caller = WaitingStream([])
    runtime.join(caller, "first", "second")  # type: ignore[arg-type]
    assert caller.waited == ["first", "second"]
    assert current_stream == [(7, 0, 1)]


@pytest.mark.usefixtures("current_stream")
def test_what_cannot_be_joined_hides_no_exception_and_no_other_stream() -> None:
    caller = WaitingStream([])

    def call() -> None:
        try:
            raise torch.OutOfMemoryError("planted")
        except BaseException:
            runtime.join(caller, "not capturing", "second")  # type: ignore[arg-type]
            raise

    with pytest.raises(torch.OutOfMemoryError):
        call()
    assert caller.waited == ["not capturing", "second"]


def test_an_interrupt_inside_a_context_is_put_right_by_the_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python delivers a signal: when the stream has been set and the method has not returned."""
    current = [(7, 0, 1)]
    interrupted = iter([True])

    def set_stream(*stream: int) -> None:
        current[0] = stream  # type: ignore[assignment]
        if next(interrupted, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "_set_stream", set_stream)
    stream = made_as(torch.device("cuda", 0), -1, runtime.AuxStream)
    stream.own, stream.callers = (-1, 0, 1), (7, 0, 1)
    caller = WaitingStream([])

    def call() -> None:
        try:
            with stream:
                raise AssertionError("the context was not entered")
        except BaseException:
            assert current == [(-1, 0, 1)]
            runtime.join(caller, stream)  # type: ignore[arg-type]
            raise

    with pytest.raises(KeyboardInterrupt):
        call()
    assert current == [(7, 0, 1)]


def test_two_names_of_one_cuda_stream_have_pools_of_their_own(current: dict[int, int]) -> None:
    """An external stream of the same handle has another id; an aux stream leads back to the one it belongs to."""
    first = acquire_for_call(0, 1, 1)
    current[0] = 32512
    other = acquire_for_call(0, 1, 1)
    assert other[0] == Caller(0, 32512)
    assert not set(map(id, first)) & set(map(id, other))
