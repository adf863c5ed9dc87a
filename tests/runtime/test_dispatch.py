"""Check which body a call runs, where a size is read, and kernels that only the streamed body has."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphstreams.runtime import dispatch
from graphstreams.runtime.dispatch import Dispatch, adopt, runs_on_streams, settle, size_source, sizes_of


@pytest.fixture(params=[False, True])
def capturing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """Return whether the current stream is captured."""
    monkeypatch.setattr(dispatch, "_capturing", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("direct", [False, True])
def test_streams_run_in_captures_and_elsewhere_only_if_they_are_no_slower_there(capturing: bool, direct: bool) -> None:
    assert runs_on_streams([], direct) == (capturing or direct)


@pytest.mark.parametrize(
    ("size", "largest", "smallest", "streams"),
    [
        ("inputs[1]", 8, 0, range(9)),
        ("inputs[1]", 8, 3, range(3, 9)),
        ("inputs[1]", None, 3, range(3, 20)),
        ("(2*inputs[1])", 8, 0, range(5)),
        ("inputs[1]", 0, 0, range(1)),
    ],
)
def test_both_ends_of_the_range(capturing: bool, size: str, largest: int | None, smallest: int, streams: range) -> None:
    found = [n for n in range(20) if runs_on_streams([0, n], False, size, largest, smallest)]
    assert found == (list(streams) if capturing else [])


def test_the_size_of_a_tensor() -> None:
    assert runs_on_streams([torch.empty(100, 8)], True, "inputs[0].shape[1]", 8)
    assert not runs_on_streams([torch.empty(1, 9)], True, "inputs[0].shape[1]", 8)


@pytest.mark.parametrize(
    "chosen", [Dispatch(), Dispatch(True), Dispatch(False, "inputs[1]", 8), Dispatch(True, "inputs[0]", None, 3)]
)
def test_the_condition_holds_the_arguments_of_the_check(chosen: Dispatch) -> None:
    arguments = eval(f"({chosen.condition},)")
    sizes = (chosen.size, chosen.largest, chosen.smallest) if chosen.size else ()
    assert arguments == (chosen.direct, *sizes)


def symbolic(*shapes: tuple[int, ...]) -> tuple[list[Any], list[Any], ShapeEnv]:
    """Fake tensors of these shapes with every size dynamic, all in one ShapeEnv, and the SymInts of the first."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
    tensors = [mode.from_tensor(torch.empty(shape), symbolic_context=context) for shape in shapes]
    assert mode.shape_env is not None
    return tensors, list(tensors[0].shape), mode.shape_env


def test_a_size_is_read_where_a_call_has_it_as_an_int() -> None:
    (x,), (rows, columns), _ = symbolic((4, 6))
    known = sizes_of([torch.empty(3), rows, x, columns])
    assert size_source(str(rows), known) == "inputs[1]"
    assert size_source(str(columns), known) == "inputs[3]"


def test_a_part_of_a_graph_is_given_its_sizes_by_name() -> None:
    (x,), (rows, columns), _ = symbolic((4, 6))
    assert sizes_of([x, str(columns.node.expr)]) == {str(columns): "inputs[1]", str(rows): "inputs[0].shape[0]"}


def test_else_from_the_shape_of_a_tensor() -> None:
    (x,), (rows, columns), _ = symbolic((4, 6))
    assert size_source(str(rows), sizes_of([3, x])) == "inputs[1].shape[0]"
    assert size_source(str(columns), sizes_of([3, x])) == "inputs[1].shape[1]"


def test_a_size_that_is_computed() -> None:
    (x,), (rows, columns), _ = symbolic((4, 6))
    source = size_source(str((rows * columns + 2).node.expr), sizes_of([x, columns]))
    assert eval(source, {"inputs": [torch.empty(5, 7), 7]}) == 37


@pytest.mark.parametrize("size", ["s99", "s99 + 1"])
def test_a_size_that_no_input_tells(size: str) -> None:
    with pytest.raises(ValueError, match=r"no input of the graph tells '?s99"):
        size_source(size, sizes_of([torch.empty(3), 4]))


def test_a_size_that_is_no_polynomial() -> None:
    (x,), (rows, _), _ = symbolic((4, 6))
    with pytest.raises(ValueError, match="no input of the graph tells"):
        size_source(f"FloorDiv({rows.node.expr}, 2)", sizes_of([x]))


def test_reading_a_size_adds_no_guard() -> None:
    (x,), (rows, columns), shape_env = symbolic((4, 6))
    before = list(shape_env.guards)
    size_source(str((rows * columns).node.expr), sizes_of([x, rows]))
    assert list(shape_env.guards) == before


def kernel_of(*warps: int) -> SimpleNamespace:
    """Return a kernel that is not loaded yet, with a configuration for each number of warps."""
    configs = [SimpleNamespace(kwargs={"XBLOCK": 8}, num_warps=number, num_stages=1) for number in warps]
    kernel = SimpleNamespace(launchers=[])
    kernel.precompile = lambda: kernel.launchers.extend(SimpleNamespace(config=config) for config in configs)
    return kernel


def test_a_kernel_of_one_configuration_is_not_tuned_once_it_is_loaded() -> None:
    one, several = kernel_of(4), kernel_of(4, 8)
    settle(one, several)
    assert one.launchers[0].config.found_by_coordesc and len(several.launchers) == 2
    assert not hasattr(several.launchers[0].config, "found_by_coordesc")


@pytest.mark.parametrize(
    ("tuned", "expected"), [((8,), 8), ((4, 8), 4), ((16,), 4), ((), 4)], ids=["tuned", "not tuned", "other", "not loaded"]
)
def test_a_kernel_takes_what_its_likeness_in_the_serial_body_was_tuned_to_once_it_is_captured(
    capturing: bool, tuned: tuple[int, ...], expected: int
) -> None:
    own, like = kernel_of(4, 8), kernel_of(*tuned)
    settle(own, like)
    adopt(own, like)
    if not capturing:
        assert len(own.launchers) == 2  # Inductor tunes it
        return
    (launcher,) = own.launchers
    assert (launcher.config.num_warps, launcher.config.found_by_coordesc) == (expected, True)


def test_a_kernel_that_is_loaded_when_it_runs_is_left_to_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_capturing", lambda: True)
    own = kernel_of()
    adopt(own)
    assert own.launchers == []


def test_a_kernel_without_a_likeness_takes_its_first_configuration_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_capturing", lambda: True)
    own = kernel_of(4, 8)
    settle(own)
    adopt(own)
    assert [launcher.config.num_warps for launcher in own.launchers] == [4]
