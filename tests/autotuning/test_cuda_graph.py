"""Check what goes into and comes out of a captured function. A capture needs a GPU: only its absence is tested here."""

import gc
import weakref

import pytest
import torch

from graphstreams.autotuning import cuda_graph
from graphstreams.autotuning.cuda_graph import CapturedFunction, clones, copy_into, leaves


def test_clones_have_memory_of_their_own_and_other_values_stay() -> None:
    tensor, name = torch.tensor([1.0, 2.0]), "x"
    copied, number, same = clones((tensor, 3, name))
    tensor.zero_()
    assert copied.tolist() == [1.0, 2.0]
    assert (number, same) == (3, name)


def test_values_are_copied_into_tensors_where_they_are() -> None:
    first, second = torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)
    targets = [first, 5, second]
    copy_into(targets, [torch.tensor([1.0, -1.0]), 6, torch.tensor([[1, 2], [3, 4]])])
    assert targets[0] is first and first.tolist() == [1.0, -1.0]
    assert targets[2] is second and second.tolist() == [[1, 2], [3, 4]]
    assert targets[1] == 5


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_values_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        copy_into([torch.zeros(1)] * 2, [torch.ones(1)] * count)


def test_leaves_come_in_order_out_of_nested_results() -> None:
    one, two, three = (torch.tensor(i) for i in range(3))
    assert [int(leaf) for leaf in leaves((one, [two, {"a": three}]))] == [0, 1, 2]
    assert leaves(one) == [one]
    assert leaves(()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_captured() -> None:
    with pytest.raises(RuntimeError, match=r"CUDA|NVIDIA"):
        CapturedFunction(lambda x: x, [torch.zeros(1)])


class Stream:
    """Notes on which stream a function is called."""

    current = "caller's"

    def wait_stream(self, other: object) -> None:
        pass


class On:
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        Stream.current = self.name

    def __exit__(self, *_: object) -> None:
        Stream.current = "caller's"


class CapturedGraph:
    """Does nothing when it is replayed."""

    def __init__(self, keep_graph: bool) -> None:
        self.keep_graph, self.replays, self.was_on = keep_graph, 0, ""

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        self.was_on, Stream.current = Stream.current, f"captured on {Stream.current}"

    def capture_end(self) -> None:
        Stream.current = self.was_on

    def replay(self) -> None:
        self.replays += 1


def test_a_function_is_called_three_times_before_its_capture_on_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Stream()
    monkeypatch.setattr(cuda_graph.torch.cuda, "Stream", lambda: side)
    monkeypatch.setattr(cuda_graph.torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(cuda_graph.torch.cuda, "stream", lambda stream: On("side" if stream is side else "another"))
    monkeypatch.setattr(cuda_graph.torch.cuda, "CUDAGraph", CapturedGraph)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(cuda_graph.torch.cuda, name, lambda: None)
    calls, collecting = [], []

    def double(x: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append((Stream.current, x))
        collecting.append(gc.isenabled())
        return {"doubled": x * 2}

    given = torch.tensor([3.0])
    function = CapturedFunction(double, [given])
    assert [stream for stream, _ in calls] == ["side"] * 3 + ["captured on side"]
    assert collecting == [True, True, True, False] and gc.isenabled()
    # All four calls have the same input, which is not the caller's tensor.
    assert {id(x) for _, x in calls} == {id(function.inputs[0])}
    assert function.inputs[0] is not given
    assert [leaf.tolist() for leaf in function.outputs] == [[6.0]]
    function.load([torch.tensor([4.0])])
    function.replay()
    assert (calls[0][1].tolist(), given.tolist(), function.graph.graph.replays) == ([4.0], [3.0], 1)
    first = function.graph
    function.capture_again()
    assert (function.graph is first, function.graph.graph.replays, collecting[-1]) == (False, 0, False)
    assert (calls[-1][0], [leaf.tolist() for leaf in function.outputs]) == ("captured on side", [[8.0]])
    assert len(calls) == 5 and calls[-1][1] is function.inputs[0]
    del first
    alive = weakref.ref(function.graph)
    del function
    assert alive() is None  # without a garbage collection, which would keep its memory until then
