"""Check marks of modules: set in a model's code, they are found by a backend of torch.compile, and Dynamo does not see them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams import OptionError
from graphstreams.inductor.compile import PostGradBackend
from graphstreams.inductor.marked_modules import marked_modules
from graphstreams.pipeline.placement import marks_of


class Arm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


class Model(nn.Module):
    """Marks modules where it makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = graphstreams.exclude(Arm())
        self.second = graphstreams.pin(Arm(), 1)
        graphstreams.pin(self.second.down, 2)
        self.many = graphstreams.pin(nn.ModuleList([Arm(), Arm()]), 3)
        self.plain = Arm()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.first(x), self.second(x), self.many[1](x), self.plain(x)]


MARKS = {"first": 0, "second": 1, "second.down": 2, "many.1": 3}
X = torch.ones(2, 8)
GLOBAL = Model()


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        yield


def found(function: Callable[..., Any], *inputs: Any) -> list[dict[str, int]]:
    """Return the marks that a backend finds in each graph of a call."""
    seen: list[dict[str, int]] = []

    def backend(gm: Any, _: Any) -> Any:
        seen.append(dict(marked_modules(gm)))
        return gm.forward

    torch.compile(function, backend=backend)(*(inputs or (X,)))
    return seen


def under(root: str) -> dict[str, int]:
    return {f"{root}.{path}": stream for path, stream in MARKS.items()}


def test_the_marks_of_a_model_are_found() -> None:
    assert found(Model()) == [under("L['self']")]


def test_they_are_found_however_the_model_is_reached() -> None:
    model = Model()

    class Engine:
        def __init__(self) -> None:
            self.models = {"draft": [model]}

        def run(self, x: Tensor) -> Any:
            return self.models["draft"][0](x)

    def by_argument(net: nn.Module, x: Tensor) -> Any:
        return net(x)

    assert found(lambda x: GLOBAL(x)) == [under("G['GLOBAL']")]
    assert found(by_argument, model, X) == [under("L['net']")]
    assert found(Engine().run) == [under("L['self'].models['draft'][0]")]
    (closure,) = found(lambda x: model(x))
    assert sorted(closure.values()) == sorted(MARKS.values())


def test_a_mark_of_a_list_leaves_those_of_the_modules_in_it() -> None:
    model = Model()
    model.many = graphstreams.pin(nn.ModuleList([Arm(), graphstreams.exclude(Arm())]), 3)
    assert found(model)[0]["L['self'].many.1"] == 0
    graphstreams.pin(model.many, 4)
    torch._dynamo.reset()
    assert found(lambda x: model.many[0](x) + model.many[1](x)) == [{"L['model'].many.0": 4, "L['model'].many.1": 0}]


def test_a_scripted_module_can_be_marked() -> None:
    scripted = torch.jit.script(nn.Linear(8, 8))
    assert graphstreams.pin(scripted, 1) is scripted


class Hidden:
    """Gives a model by an attribute that no dict holds."""

    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def run(self, x: Tensor) -> Any:
        return self.net(x)


def test_a_module_whose_expression_leads_nowhere_is_found_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    (marks,) = found(Hidden(model).run)
    assert sorted(marks.values()) == sorted(MARKS.values())
    monkeypatch.setattr("graphstreams.inductor.marked_modules._resolved", lambda expression, scopes: None)
    torch._dynamo.reset()
    assert found(model) == [under("L['self']")]


def test_if_torch_does_not_tell_a_warning_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Any:
        raise RuntimeError("another torch")

    monkeypatch.setattr("graphstreams.inductor.marked_modules._scope", failing)
    assert marks_of(torch.fx.symbolic_trace(Model())) == []
    told = "graphstreams: marks by graphstreams.pin and graphstreams.exclude are not read: RuntimeError: another torch"
    assert told in caplog.messages


def test_a_mark_of_the_whole_model_and_of_one_that_torch_defines() -> None:
    assert found(graphstreams.pin(Arm(), 1)) == [{"": 1}]
    (marks,) = found(graphstreams.pin(nn.Sequential(nn.Linear(8, 8), graphstreams.exclude(nn.ReLU())), 1))
    assert sorted(marks.values()) == [0, 1]


def test_of_a_part_behind_a_graph_break_too() -> None:
    class Broken(Model):
        def forward(self, x: Tensor) -> Any:
            first = self.first(x)
            torch._dynamo.graph_break()
            return first, self.second(x)

    before, behind = found(Broken())
    assert sorted(before.values()) == [0] and sorted(behind.values()) == [1, 2]


def test_copies_have_the_marks_and_a_class_marks_all_of_its_own() -> None:
    model = Model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert found(other) == [under("L['self']")]
    assert model.state_dict().keys() == copy.deepcopy(model).state_dict().keys()

    @graphstreams.exclude
    class Own(Arm):
        pass

    (marks,) = found(nn.Sequential(Own(), Arm()))
    assert list(marks.values()) == [0]


def test_a_mark_breaks_no_graph_and_compiles_nothing_again() -> None:
    model, compiles = Model(), list[int]()

    def backend(gm: Any, _: Any) -> Any:
        compiles.append(1)
        return gm.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    expected = model(X)
    for _ in range(2):
        torch.testing.assert_close(compiled(X), expected)
    assert len(compiles) == 1
    graphstreams.exclude(compiled)
    assert isinstance(compiled, nn.Module) and getattr(model, "_graphstreams_stream") == 0  # noqa: B009


def test_the_backend_of_plans_finds_them_too() -> None:
    marks: list[dict[str, int]] = []
    backend = PostGradBackend(lambda *_: None, lambda gm: marks.append(dict(marked_modules(gm))))
    torch.compile(Model(), backend=backend)(X)
    assert marks == [under("L['self']")]


def test_outside_of_dynamo_there_are_none() -> None:
    graph = torch.fx.symbolic_trace(Model())
    assert marked_modules(graph) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((torch.relu, 1), "only a torch.nn.Module, or a class of them, can be marked, not <built-in"),
        ((int, 1), "only a torch.nn.Module, or a class of them, can be marked, not <class 'int'>"),
        ((nn.ReLU(), -1), "a module is pinned to stream -1; a stream is a whole number, 0 the caller's"),
        ((nn.ReLU(), True), "a module is pinned to stream True"),
    ],
)
def test_what_cannot_be_marked_is_an_error(arguments: tuple[Any, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        graphstreams.pin(*arguments)
