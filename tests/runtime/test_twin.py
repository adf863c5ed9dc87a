"""A twin of two stubs: which half a call runs, what caches get of it, and where a size is read."""

import pytest
import torch
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache
from torch._inductor.output_code import OutputCode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphstreams.runtime.twin import Dispatch, Twin, size_source


class Half(OutputCode):
    """A compiled graph that tells its name and empties its list of inputs."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def __call__(self, inputs):
        values = list(inputs)
        inputs.clear()
        return self.name, values


def twin_of(dispatch=None):
    return Twin(Half("streamed"), Half("serial"), dispatch or Dispatch("inputs[1]", 8))


@pytest.mark.parametrize(("size", "name"), [(0, "streamed"), (8, "streamed"), (9, "serial"), (10**6, "serial")])
def test_a_call_runs_the_half_that_its_size_asks_for(size, name):
    assert twin_of()(["x", size]) == (name, ["x", size])


@pytest.mark.parametrize(
    ("dispatch", "streams"),
    [
        (Dispatch("inputs[1]", 8, 3), range(3, 9)),
        (Dispatch("inputs[1]", None, 3), range(3, 20)),
        (Dispatch("(2*inputs[1])", 8), range(5)),
        (Dispatch("inputs[1]", 0), range(1)),
    ],
)
def test_both_ends_of_the_range(dispatch, streams):
    twin = twin_of(dispatch)
    assert [size for size in range(20) if twin([0, size])[0] == "streamed"] == list(streams)


def test_the_size_of_a_tensor():
    twin = twin_of(Dispatch("inputs[0].shape[1]", 8))
    assert twin([torch.empty(100, 8)])[0] == "streamed"
    assert twin([torch.empty(1, 9)])[0] == "serial"


def test_the_list_of_inputs_reaches_the_half_itself_which_may_empty_it():
    inputs = ["x", 9]
    twin_of()(inputs)
    assert inputs == []
    assert twin_of()._boxed_call


def test_no_cache_gets_one_half_for_the_whole():
    twin = twin_of()
    assert twin._fx_graph_cache_key is None
    with pytest.raises(BypassAOTAutogradCache):
        twin.prepare_for_serialization()


@pytest.mark.parametrize("dispatch", [Dispatch("inputs[1]", 8), Dispatch("(2*inputs[1].shape[0])", None, 3)])
def test_the_wrapper_says_for_which_sizes_it_is(dispatch):
    source = f"import torch\n{dispatch.line}\n\ndef call(args):\n    pass\n"
    assert Dispatch.of(source) == dispatch
    assert Dispatch.of("import torch\n") is None


def symbolic(*shapes):
    """Fake tensors of these shapes with every size dynamic, all in one ShapeEnv, and the SymInts of the first."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
    tensors = [mode.from_tensor(torch.empty(shape), symbolic_context=context) for shape in shapes]
    return tensors, list(tensors[0].shape), mode.shape_env


def test_a_size_is_read_where_a_call_has_it_as_an_int():
    (x,), (rows, columns), _ = symbolic((4, 6))
    inputs = [torch.empty(3), rows, x, columns]
    assert size_source(str(rows), inputs) == "inputs[1]"
    assert size_source(str(columns), inputs) == "inputs[3]"


def test_else_from_the_shape_of_a_tensor():
    (x,), (rows, columns), _ = symbolic((4, 6))
    assert size_source(str(rows), [3, x]) == "inputs[1].shape[0]"
    assert size_source(str(columns), [3, x]) == "inputs[1].shape[1]"


def test_a_size_that_is_computed():
    (x,), (rows, columns), _ = symbolic((4, 6))
    source = size_source(str((rows * columns + 2).node.expr), [x, columns])
    assert eval(source, {"inputs": [torch.empty(5, 7), 7]}) == 37


@pytest.mark.parametrize("size", ["s99", "s99 + 1"])
def test_a_size_that_no_input_tells(size):
    with pytest.raises(ValueError, match="no input of the graph tells 's99'"):
        size_source(size, [torch.empty(3), 4])


def test_a_size_that_is_no_polynomial():
    (x,), (rows, _), _ = symbolic((4, 6))
    with pytest.raises(ValueError, match="no input of the graph tells"):
        size_source(f"FloorDiv({rows.node.expr}, 2)", [x])


def test_reading_a_size_adds_no_guard():
    (x,), (rows, columns), shape_env = symbolic((4, 6))
    before = list(shape_env.guards)
    size_source(str((rows * columns).node.expr), [x, rows])
    assert list(shape_env.guards) == before
