"""Check that objects are as before when a call was planned, and that tensors are found wherever code takes them from."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

from graphstreams.errors import CannotPlan
from graphstreams.pipeline.explain import capture, explain, explain_graphs
from tests.support.sample_modules import FREE_EVENTS, TORCH_2_14_0

X, W = torch.randn(64, 64), torch.randn(64, 64)
TABLE, HELD = {"w": W}, nn.Linear(64, 64)
MADE: dict[str, Any] = {}


class Growing(nn.Module):
    """A module that keeps what it computes in every way that there is."""

    shared: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.line, self.last, self.calls = nn.Linear(64, 64), None, 0
        self.history: list[Any] = [1]
        self.by_name: OrderedDict[str, Any] = OrderedDict(first=1, second=2)
        self.register_buffer("state", None)

    def forward(self, x: Tensor, cache: Any) -> Tensor:
        made = self.line(x)
        self.last, self.state, self.calls = made, made, self.calls + 1
        self.history.insert(0, made)
        self.by_name.pop("first")
        self.by_name["third"] = made
        self.shared["made"] = MADE["made"] = made
        cache.layers.append(made)
        cache.seen += 1
        return made + self.line(x.sin())


def test_what_a_call_leaves_in_objects_is_undone() -> None:
    module, cache = Growing(), SimpleNamespace(layers=[], seen=3)
    explain(module, (X, cache), "h200", FREE_EVENTS)
    assert (module.last, module.state, module.calls, module.history, cache.layers, cache.seen) == (None, None, 0, [1], [], 3)
    assert list(module.by_name.items()) == [("first", 1), ("second", 2)] and not Growing.shared and not MADE
    assert not isinstance(module(X, cache), FakeTensor)


class Lazy(nn.Module):
    """A module whose class notes in a number that its table is filled."""

    table: dict[str, Any] = {}  # noqa: RUF012
    filled = 0

    def forward(self, x: Tensor) -> Tensor:
        kind = type(self)
        if not kind.filled:
            kind.table["w"], kind.filled, kind.seen = x * 2, 1, True
        return x @ kind.table["w"]


def test_a_class_is_as_before_with_its_numbers() -> None:
    explain(Lazy(), X, "h200", FREE_EVENTS)
    assert (Lazy.filled, Lazy.table, hasattr(Lazy, "seen")) == (0, {}, False)
    assert not isinstance(Lazy()(X), FakeTensor)
    Lazy.filled, Lazy.table = 0, {}


def test_a_list_that_a_call_shortens_is_as_before() -> None:
    given = [W, X]
    explain(lambda values: values.pop() @ values[0], (given,), "h200", FREE_EVENTS)
    assert given[0] is W and given[1] is X


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    yield


def endless(x: Tensor) -> Tensor:
    with nothing():
        while x.sum() > 1:
            x = (x @ x.t()) @ x * 0.5
    return x


def test_a_loop_that_ends_by_a_value_ends() -> None:
    with pytest.raises(CannotPlan, match="reads more than 500 values of tensors"):
        explain(endless, X, "h200")


def in_a_helper(x: Tensor) -> Tensor:
    return x @ TABLE["w"] + sum(HELD(each) @ W for each in (x,))


class OfClass(nn.Module):
    """A weight that is an attribute of the class."""

    weight = W

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class AtHome(nn.Module):
    """A module that keeps the device of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(64, 64)
        self.weight = nn.Parameter(torch.randn(64, 64))
        self.device = self.weight.device

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) @ self.weight + torch.zeros(64, device=self.device)


def with_default(x: Tensor, w: Tensor = W, *, v: Tensor = W) -> Tensor:
    return x @ w @ v


def compiled_in_place() -> nn.Module:
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    module.compile()
    return module


FOUND: dict[str, Callable[..., Any]] = {
    "a helper's globals": lambda x: in_a_helper(x),
    "defaults": with_default,
    "a class": OfClass(),
    "a compiled function": torch.compile(lambda x: x @ W),
    "a decorated function": torch.no_grad()(lambda x: x @ W),
    "a device": AtHome(),
    "compiled in place": compiled_in_place(),
}


@pytest.mark.parametrize("name", FOUND)
def test_tensors_are_found_where_code_takes_them_from(name: str) -> None:
    report = explain(FOUND[name], X, "h200", FREE_EVENTS)
    assert report.kernels_serial >= 1, report.reason
    assert "cpu" not in report.graph_serial
    assert not isinstance(W, FakeTensor) and not isinstance(TABLE["w"], FakeTensor) and OfClass.weight is W


def test_marks_of_tensors_are_kept() -> None:
    rows = X.clone()
    torch._dynamo.mark_dynamic(rows, 0)
    (outcome,) = capture(lambda x: x @ W, rows, "h200", FREE_EVENTS)
    assert outcome.reading is not None and outcome.reading.kernels.sizes
    leaf = X.clone().requires_grad_()
    (outcome,) = capture(lambda x: x @ W if x.requires_grad else x, leaf, "h200", FREE_EVENTS)
    assert "aten.mm" in outcome.report.graph_serial


def test_sizes_that_depend_on_data_are_not_made_up_between_graphs() -> None:
    reports = explain_graphs(lambda x: (x @ x.t())[x.sum(1).nonzero()[:, 0]] + 1, X, "h200", FREE_EVENTS)
    assert any("is not planned: DynamicOutputShapeException" in note for note in reports[0].notes)


@pytest.mark.xfail(TORCH_2_14_0, reason="torch 2.14.0 compiles nothing of the function that calls a recurrent network")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_graphs_around_a_recurrent_network_are_planned(kind: Any, bidirectional: bool) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64 * (1 + bidirectional), 64)
            self.middle = kind(64, 64, num_layers=2, bidirectional=bidirectional, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            found, _ = self.middle(self.first(x))
            return functional.relu(self.last(found))  # type: ignore[no-any-return]

    reports = explain_graphs(Around(), torch.randn(2, 8, 64), "h200", FREE_EVENTS)
    assert len(reports) >= 2 and not any("is not planned" in note for report in reports for note in report.notes)
    assert "f32[2, 8, 64]" in reports[-1].graph_serial


def test_reasons_have_one_line() -> None:
    report = explain(lambda x: x + torch.empty(64, 64).cuda(), X, "h200", FREE_EVENTS)
    assert len(report.reason.splitlines()) <= 1


def test_a_callers_fake_mode_and_random_numbers_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5))
    state = torch.get_rng_state()
    explain(module, X, "h200", FREE_EVENTS)
    assert torch.equal(state, torch.get_rng_state())
    with FakeTensorMode():
        assert explain(lambda x: x @ x, X, "h200", FREE_EVENTS).kernels_serial == 1


class Pair(tuple):
    """A tuple that is made of two values."""

    def __new__(cls, first: Any, second: Any) -> Pair:
        return super().__new__(cls, (first, second))


@pytest.mark.parametrize("kind", ["tuple", "deep"])
def test_what_can_not_be_walked_is_named(kind: str) -> None:
    chain: list[Any] = [X]
    for _ in range(5000):
        chain = [chain]
    given, told = {"tuple": (Pair(X, X), "is a Pair that can't be made anew"), "deep": (chain, "nested too deeply")}[kind]
    with pytest.raises(CannotPlan, match=told):
        explain(lambda x: X @ W, (given,), "h200")
