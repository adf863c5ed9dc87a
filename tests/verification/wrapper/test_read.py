"""Check which wrapper sources are read, which are proved, and which are refused."""

from __future__ import annotations

import re
import time

import pytest

from graphstreams.verification.trace import FreeStep
from graphstreams.verification.wrapper.read import UnreadableWrapper, launch_order, read_wrapper, verify
from tests.support.wrapper_sources import STREAMED, serial, wrapper


def test_streamed_wrapper_is_clean() -> None:
    source = wrapper(STREAMED)
    assert verify(source) == []
    trace = read_wrapper(source)
    assert (trace.inputs, trace.outputs) == (("arg0_1", "arg1_1"), ("buf3",))
    assert launch_order(trace) == {
        0: ["launch extern_kernels.mm", "record 0", "launch triton_poi_0", "wait 1", "launch extern_kernels.mm"],
        1: ["wait 0", "launch triton_poi_0", "record 1"],
    }


@pytest.mark.parametrize("line", [line for line in STREAMED.splitlines() if ".record(" in line or ".wait(" in line])
def test_every_record_and_wait_is_needed(line: str) -> None:
    assert verify(wrapper(STREAMED.replace(line + "\n", ""))) != []


PARTITION = """
def partition_0(args):
    arg0_1, buf0 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        extern_kernels.mm(arg0_1, buf0, out=buf1)
        del buf0
    return (buf1, )
"""


def test_partitions_are_followed() -> None:
    body = """
buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
extern_kernels.mm(arg0_1, arg1_1, out=buf0)
partition0_args = [arg0_1, buf0]
del buf0
(buf1,) = self.partitions[0](partition0_args)
del partition0_args
return (buf1, )"""
    source = serial(body, top=PARTITION)
    assert verify(source) == []
    trace = read_wrapper(source)
    assert trace.outputs == ("buf1",)
    frees = [step.storage for step in trace.steps if isinstance(step, FreeStep)]
    assert frees.index("buf0") < frees.index("arg0_1")


@pytest.mark.parametrize(
    ("body", "construct"),
    [
        ("for i in range(3):\n    pass\nreturn ()", "for i in range(3)"),
        ("while True:\n    pass", "while True"),
        ("if arg0_1:\n    del arg0_1\nreturn ()", "if arg0_1"),
        ("some_function(arg0_1)\nreturn ()", "the name some_function"),
        ("torch.foo.bar(arg0_1)\nreturn ()", "torch.foo.bar"),
        ("exec('x')\nreturn ()", "builtins.exec"),
        ("torch.ops.aten.no_such_op.default(arg0_1)\nreturn ()", "not registered"),
        ("torch.ops.aten.set_.source_Tensor(arg0_1, arg1_1)\nreturn ()", "changes storages"),
        ("arg0_1.resize_(3)\nreturn ()", "the method resize_"),
        ("arg0_1.data_ptr()\nreturn ()", "the method data_ptr"),
        ("triton_poi_0.run(arg0_1, arg1_1, 64, stream=0)\nreturn ()", "get_raw_stream"),
        ("r = get_raw_stream(0)\ntriton_poi_0.run(arg0_1, 64, stream=r)\nreturn ()", "do not fit its signature"),
        ("r = get_raw_stream(0)\ntriton_poi_0.warm(arg0_1, 64, stream=r)\nreturn ()", "triton_poi_0.warm"),
        ("with open('f'):\n    pass\nreturn ()", "builtins.open"),
        ("torch.cuda.set_device(1)\nreturn ()", "a second device"),
        ("buf0 = lambda: 1\nreturn ()", "lambda"),
        ("x, y = arg0_1\nreturn ()", "2 names for what is not a tuple"),
        ("del nothing\nreturn ()", "del nothing"),
        (
            "with torch.cuda._DeviceGuard(0):\n    a, stream1 = _acquire_streams(0, 1, 0)\n    with stream1:\n"
            "        b, stream2 = _acquire_streams(0, 1, 0)\nreturn ()",
            "not acquired for the caller's stream",
        ),
        ("a, stream1 = _acquire_streams(0, arg0_1, 0)\nreturn ()", "by two numbers"),
        ("extern_kernels.relu_(arg0_1)\nreturn ()", "may write its arguments"),
        ("extern_kernels.own(arg0_1)\nreturn ()", "without out="),
        ("buf0 = arg0_1 + 1\nreturn ()", "where a number is expected"),
        ("buf0 = f(*args)\nreturn ()", "the name f"),
        ("pass", "ends without a return"),
        ("run_intermediate_hooks('mm', arg0_1)\nreturn ()", "generate_intermediate_hooks"),
    ],
)
def test_refuses_what_it_does_not_understand(body: str, construct: str) -> None:
    source = serial(body)
    with pytest.raises(UnreadableWrapper) as caught:
        verify(source)
    assert construct in str(caught.value)
    assert caught.value.line > 0
    assert str(caught.value).startswith(f"line {caught.value.line}: ")


def test_names_the_line() -> None:
    source = serial("buf0 = empty_strided_cuda((1,), (1,), torch.float32)\nsome_function(buf0)\nreturn ()")
    with pytest.raises(UnreadableWrapper) as caught:
        verify(source)
    assert "some_function" in source.splitlines()[caught.value.line - 1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "the source is empty"),
        ("  \n", "the source is empty"),
        ("x = 1", "not a wrapper that Inductor generated"),
        ("Dear reader, this is no Python.", "not Python"),
        ("def call(args):\n    (", "not Python"),
        ("\0", "not Python"),
        ("print('hello')", "at the top level"),
        ("def call(args):\n    return " + "(" * 5000, "not Python"),
        ("def call(args):\n    return " + "-" * 100_000 + "1", "n"),
        ("x" * 100_000_000, "too large to be a wrapper"),
    ],
)
def test_bad_input_is_refused_quickly(source: str, says: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnreadableWrapper, match=re.escape(says)):
        verify(source)
    assert time.perf_counter() - start < 2


def test_every_cut_is_refused() -> None:
    """A wrapper that is cut off anywhere before its last return proves nothing."""
    lines = wrapper(STREAMED).splitlines()
    last = max(i for i, line in enumerate(lines) if "return (" in line)
    for end in range(last):
        with pytest.raises(UnreadableWrapper):
            verify("\n".join(lines[:end]))
