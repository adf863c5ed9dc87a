"""A twin of two stubs: which half a call runs, what the caches do to it, and where a size is read."""

import copy
import pickle
from dataclasses import dataclass, field

import pytest
import torch
from torch._guards import TracingContext, tracing
from torch._inductor.output_code import CompiledFxGraph, OutputCode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphstreams.runtime.twin import Dispatch, Twin, size_source


@dataclass
class Half(OutputCode):
    """A compiled graph that tells its name and empties its list of inputs; its code does not survive pickling."""

    name: str
    code: object = None
    guards_expr: str = "L['s0'] > 1"
    done: list = field(default_factory=list)
    _boxed_call: bool = True

    def __call__(self, inputs):
        assert self.code is not None, "the code is not loaded"
        values = list(inputs)
        inputs.clear()
        return self.name, values

    def prepare_for_serialization(self):
        self.code = None

    def after_deserialization(self, constants):
        self.code = self.__call__
        self.done.append(("loaded", constants))
        return f"path of {self.name}"

    def post_compile(self, example_inputs, constants, graph_kwargs):
        context = TracingContext.try_get()
        if context is not None and context.output_strides is not None:
            assert not context.output_strides, "the strides were reported already"
            context.output_strides.append((1,))
        self.done.append(("post", graph_kwargs))

    def write_to_disk(self):
        return f"path of {self.name}"

    def _set_compile_context_for_autotune_cache(self):
        self.done.append(("context", None))


def twin_of(dispatch=None):
    return Twin(Half("streamed", code=print), Half("serial", code=print), dispatch or Dispatch("inputs[1]", 8))


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


def test_a_pickled_copy_chooses_as_the_original_and_leaves_that_alone():
    twin = twin_of()
    stored = copy.copy(twin)
    stored.prepare_for_serialization()
    assert (stored.streamed.code, stored.serial.code) == (None, None)
    assert twin(["x", 8])[0] == "streamed" and twin(["x", 9])[0] == "serial"
    loaded = pickle.loads(pickle.dumps(stored))
    assert loaded.after_deserialization("constants") == "path of streamed"
    assert loaded(["x", 8])[0] == "streamed" and loaded(["x", 9])[0] == "serial"
    assert loaded.serial.done == [("loaded", "constants")]


def test_a_deep_copy_is_whole():
    assert copy.deepcopy(twin_of())(["x", 9])[0] == "serial"


def test_both_halves_are_made_ready_and_strides_reported_once():
    twin = twin_of()
    with tracing(TracingContext(FakeTensorMode())) as context, TracingContext.report_output_strides() as strides:
        twin.post_compile([], None, {"cudagraphs": False})
        assert context is None or context.output_strides is strides
        assert strides == [(1,)]
    assert twin.streamed.done == twin.serial.done == [("post", {"cudagraphs": False})]


def test_both_halves_are_made_ready_where_nothing_is_traced():
    twin = twin_of()
    twin.post_compile([], None, {})
    assert twin.serial.done == [("post", {})]


def test_for_the_caches_it_is_the_streamed_graph():
    twin = twin_of()
    assert isinstance(twin, CompiledFxGraph)
    assert twin.guards_expr == "L['s0'] > 1"
    twin.guards_expr = "stored"
    assert twin.guards_expr == "stored" and twin.streamed.guards_expr != "stored"
    assert twin.write_to_disk() == "path of streamed"
    twin._set_compile_context_for_autotune_cache()
    assert twin.streamed.done == [("context", None)]
    assert twin._fx_graph_cache_key is None
    with pytest.raises(AttributeError):
        twin.no_such_attribute  # noqa: B018


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
