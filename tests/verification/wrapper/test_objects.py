"""Check that an input which an operator takes for a Python object is no memory, and that no tensor hides as one."""

from __future__ import annotations

import pytest

from graphstreams.verification.wrapper.operator_schemas import read_operator
from graphstreams.verification.wrapper.read import UnreadableWrapper, read_wrapper, verify
from tests.support.engine_pieces import NAMESPACE  # registers the operators
from tests.support.wrapper_sources import wrapper

UPDATE = f"torch.ops.{NAMESPACE}.unified_kv_cache_update.default"
INPUTS = "arg0_1, arg1_1, arg2_1 = args\nargs.clear()\n"


def call(body: str) -> str:
    return wrapper(f"{INPUTS}{body}\nreturn (buf0, )")


def test_a_schema_tells_which_arguments_are_objects() -> None:
    found = read_operator(f"{NAMESPACE}.unified_kv_cache_update.default")
    assert (found.objects, found.tensors) == ({"layer_name"}, {"key", "value"})
    assert not read_operator("aten.add.Tensor").objects


def test_an_object_is_no_input_that_memory_is_read_of() -> None:
    source = call(f"buf0 = {UPDATE}(arg0_1, arg1_1, arg2_1)\nbuf1 = {UPDATE}(buf0, arg1_1, arg2_1)\ndel arg2_1")
    assert verify(source) == []
    trace = read_wrapper(source)
    assert [name for name in trace.inputs] == ["arg0_1", "arg1_1"]
    assert not any("arg2_1" in (*step.reads, *step.writes) for step in trace.steps if hasattr(step, "reads"))


@pytest.mark.parametrize("body", [
    f"buf0 = {UPDATE}(arg0_1, arg1_1, arg2_1)\nbuf1 = {UPDATE}(arg2_1, arg1_1, arg2_1)",
    f"buf1 = {UPDATE}(arg2_1, arg1_1, arg0_1)\nbuf0 = {UPDATE}(arg0_1, arg1_1, arg1_1)",
    f"buf0 = {UPDATE}(arg0_1, arg1_1, arg1_1)",
    f"buf1 = {UPDATE}(arg0_1, arg1_1, arg2_1)\nbuf0 = {UPDATE}(arg0_1, arg1_1, buf1)",
])  # fmt: skip
def test_no_tensor_is_taken_for_an_object(body: str) -> None:
    with pytest.raises(UnreadableWrapper, match=r"which is none|takes for an object"):
        verify(call(body))
