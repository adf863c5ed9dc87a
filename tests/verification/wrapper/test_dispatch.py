"""Check that a wrapper that holds two bodies is proved on both ways that a call may go."""

from __future__ import annotations

import pytest

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import LaunchStep
from graphstreams.verification.wrapper.read import UnreadableWrapper, launch_order, read_bodies, read_wrapper, verify
from tests.support.racing import HEADER, KERNELS

DISPATCH = (
    "from graphstreams.runtime.dispatch import runs_on_streams as _runs_on_streams\nGRAPHSTREAMS = 'clean; captured calls'\n"
)
STREAMED = """
def call_on_streams(args):
    arg0_1, arg1_1 = args
    args.clear()
    assert_size_stride(arg0_1, (64, 64), (64, 1), 'input')
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        arg0_1 = copy_if_misaligned(arg0_1)
        arg1_1 = copy_if_misaligned(arg1_1)
        default_stream, stream1, event0, event1, = _acquire_streams(0, 1, 2)
        try:
            buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
            event0.record(default_stream)
            with stream1:
                event0.wait(stream1)
                buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
                raw_stream = get_raw_stream(0)
                copy.run(arg0_1, buf0, 4096, stream=raw_stream)
                event1.record(stream1)
            extern_kernels.mm(arg1_1, arg1_1, out=buf1)
            event1.wait(default_stream)
            raw_stream0 = get_raw_stream(0)
            add.run(buf1, buf0, 4096, stream=raw_stream0)
            del arg0_1
            del arg1_1
            del buf0
        except BaseException:
            _join_streams(default_stream, stream1)
            raise
    return (buf1, )
"""
SERIAL = """
    arg0_1, arg1_1 = args
    args.clear()
    assert_size_stride(arg0_1, (64, 64), (64, 1), 'input')
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        arg0_1 = copy_if_misaligned(arg0_1)
        raw_stream0 = get_raw_stream(0)
        copy.run(arg0_1, buf0, 4096, stream=raw_stream0)
        del arg0_1
        buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        arg1_1 = copy_if_misaligned(arg1_1)
        extern_kernels.mm(arg1_1, arg1_1, out=buf1)
        del arg1_1
        add.run(buf1, buf0, 4096, stream=raw_stream0)
        del buf0
    return (buf1, )
"""
CHOICE = "    if _runs_on_streams(args, 1, (0, 256)):\n        return call_on_streams(args)\n"
GUARDS = "assert_size_stride = torch._C._dynamo.guards.assert_size_stride\n"


def module(streamed: str = STREAMED, choice: str = CHOICE, serial: str = SERIAL, top: str = "") -> str:
    call = f"def call(args):\n{choice}{serial.lstrip(chr(10))}"
    return f"{HEADER}{GUARDS}{DISPATCH}{top}{KERNELS}\nasync_compile.wait(globals())\ndel async_compile\n{streamed}\n{call}"


def with_runner(source: str, partitions: str = "") -> str:
    """Return the same with `call` as the method of Inductor's class."""
    before, _, body = source.partition("def call(args):\n")
    method = "\n".join("    " + line for line in body.splitlines())
    return f"""{before}
class Runner:
    def __init__(self, partitions):
        self.partitions = partitions

    def recursively_apply_fns(self, fns):
        new_callables = []
        for fn, c in zip(fns, self.partitions):
            new_callables.append(fn(c))
        self.partitions = new_callables

    def call(self, args):
{method}

runner = Runner(partitions=[{partitions}])
call = runner.call
recursively_apply_fns = runner.recursively_apply_fns
"""


@pytest.mark.parametrize("source", [module(), with_runner(module())], ids=["function", "method"])
def test_both_bodies_are_read_the_streamed_one_first(source: str) -> None:
    assert verify(source) == []
    streamed, serial = read_bodies(source)
    assert read_wrapper(source) == streamed
    assert launch_order(serial) == {0: ["launch copy", "launch extern_kernels.mm", "launch add"]}
    assert launch_order(streamed)[1] == ["wait 0", "launch copy", "record 1"]
    assert streamed.outputs == serial.outputs == ("buf1",)


@pytest.mark.parametrize("size", ["inputs[2]", "inputs[0].shape[1]", "(2*inputs[0].shape[0]**2 + inputs[3] - 1)"])
def test_the_choice_may_read_a_size_of_an_input(size: str) -> None:
    assert verify(module(choice=CHOICE.replace("args, 1, (0, 256)", f"args, False, {size!r}, 256, 0"))) == []


def test_a_race_in_the_streamed_body_is_one_of_the_wrapper() -> None:
    source = module(streamed=STREAMED.replace("            event1.wait(default_stream)\n", ""))
    assert {race.kind for race in verify(source)} == {hb.UNORDERED, hb.UNJOINED}


def test_a_race_in_the_serial_body_is_one_of_the_wrapper() -> None:
    handle = "        raw_stream0 = get_raw_stream(0)\n"
    on_user_stream = SERIAL.replace(handle, f"        stream1 = _get_stream_by_index(3)\n{handle}").replace(
        "        extern_kernels.mm(arg1_1, arg1_1, out=buf1)\n",
        "        with stream1:\n            extern_kernels.mm(arg1_1, arg1_1, out=buf1)\n",
    )
    imported = "from torch._dynamo.variables.streams import _get_stream_by_index\n"
    assert {race.kind for race in verify(module(serial=on_user_stream, top=imported))} >= {hb.UNFORKED, hb.UNJOINED}


@pytest.mark.parametrize("line", [line for line in STREAMED.splitlines() if ".record(" in line or ".wait(" in line])
def test_every_record_and_wait_of_the_streamed_body_is_needed(line: str) -> None:
    assert verify(module(streamed=STREAMED.replace(line + "\n", "")))


@pytest.mark.parametrize(
    "choice",
    [
        "",
        CHOICE.replace("if _runs", "if not _runs"),
        CHOICE.replace("args, 1, (0, 256)", "1, args"),
        CHOICE.replace("args, 1, (0, 256)", "args, copy"),
        CHOICE.replace("args, 1, (0, 256)", "args, tokens=1"),
        CHOICE.replace("args, 1, (0, 256)", "args, *args"),
        CHOICE.replace("args, 1, (0, 256)", "args, args.clear()"),
        CHOICE.replace("args, 1, (0, 256)", "args, True, 'inputs.clear()', 256"),
        CHOICE.replace("args, 1, (0, 256)", "args, True, 'inputs[inputs.clear()]', 256"),
        CHOICE.replace("args, 1, (0, 256)", "args, True, 'inputs[0].zero_().shape[0]', 256"),
        CHOICE.replace("args, 1, (0, 256)", "args, True, 'print(0)', 256"),
        CHOICE.replace("args, 1, (0, 256)", "args, True, ')', 256"),
        CHOICE.replace("_runs_on_streams", "_acquire_streams"),
        CHOICE.replace("_runs_on_streams(args, 1, (0, 256))", "1"),
        CHOICE.replace("return call_on_streams(args)", "return call_on_streams(list(args))"),
        CHOICE.replace("return call_on_streams(args)", "return call(args)"),
        CHOICE.replace("return call_on_streams(args)", "call_on_streams(args)"),
        CHOICE.replace("        return", "        args.clear()\n        return"),
        CHOICE + "    else:\n        pass\n",
        CHOICE + CHOICE,
        "    pass\n" + CHOICE,
        CHOICE.replace("if", "while"),
    ],
)
def test_another_choice_between_the_bodies_is_refused(choice: str) -> None:
    with pytest.raises(UnreadableWrapper, match="line"):
        verify(module(choice=choice))


@pytest.mark.parametrize(
    ("streamed", "top"),
    [
        ("", ""),
        (STREAMED.replace("(args):", "(args=None):"), ""),
        (STREAMED.replace("def call", "@torch.no_grad()\ndef call"), ""),
        (STREAMED + STREAMED, ""),
        (STREAMED, "def _runs_on_streams(args):\n    return 1\n"),
        (STREAMED, "GRAPHSTREAMS = print()\n"),
        (STREAMED.replace("call_on_streams", "call_on_others"), ""),
    ],
)
def test_other_functions_around_the_choice_are_refused(streamed: str, top: str) -> None:
    with pytest.raises(UnreadableWrapper, match="line"):
        verify(module(streamed=streamed, top=top))


PARTITION = """
def call_on_streams(args):
    arg0_1, buf0, s77 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        default_stream, stream1, event0, event1, = _acquire_streams(0, 1, 2)
        try:
            buf1 = empty_strided_cuda((64, s77), (s77, 1), torch.float32)
            event0.record(default_stream)
            with stream1:
                event0.wait(stream1)
                extern_kernels.mm(arg0_1, buf0, out=buf1)
                event1.record(stream1)
            event1.wait(default_stream)
            del buf0
        except BaseException:
            _join_streams(default_stream, stream1)
            raise
    return (buf1, )
def partition_0(args):
    if _runs_on_streams(args, False):
        return call_on_streams(args)
    arg0_1, buf0, s77 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        buf1 = empty_strided_cuda((64, s77), (s77, 1), torch.float32)
        extern_kernels.mm(arg0_1, buf0, out=buf1)
        del buf0
    return (buf1, )
"""
PARTITIONED = """
    arg0_1, arg1_1, arg2_1 = args
    args.clear()
    s77 = arg2_1
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        extern_kernels.mm(arg0_1, arg1_1, out=buf0)
        partition0_args = [arg0_1, buf0, s77]
        del buf0
        (buf1,) = self.partitions[0](partition0_args)
        del partition0_args
    return (buf1, )
"""


def partitioned(call: str = PARTITIONED, partition: str = PARTITION, choice: str = "") -> str:
    return with_runner(module(streamed=partition, choice=choice, serial=call), "partition_0,")


def test_a_partition_has_two_bodies() -> None:
    assert verify(partitioned()) == []
    for body, stream in zip(read_bodies(partitioned()), (1, 0), strict=True):
        launches = [step for step in body.steps if isinstance(step, LaunchStep)]
        assert [(s.stream, s.reads) for s in launches] == [(0, ("arg0_1", "arg1_1")), (stream, ("arg0_1", "buf0"))]
    assert verify(partitioned(partition=PARTITION.replace("            event1.wait(default_stream)\n", "")))


ADOPT = "from graphstreams.runtime.dispatch import adopt as _adopt\n"
_ARGUMENTS = "    arg0_1, arg1_1 = args\n"


def adopting(call: str) -> str:
    """Return the wrapper with a statement at the start of its streamed body."""
    return ADOPT + module(streamed=STREAMED.replace(_ARGUMENTS, f"    {call}\n{_ARGUMENTS}", 1))


@pytest.mark.parametrize("call", ["_adopt(copy)", "_adopt(copy, add)"])
def test_a_choice_of_a_kernels_configuration_leaves_no_step(call: str) -> None:
    assert verify(adopting(call)) == []
    found, expected = (
        [[type(step) for step in body.steps] for body in read_bodies(text)] for text in (adopting(call), module())
    )
    assert found == expected


@pytest.mark.parametrize(
    "call", ["_adopt()", "_adopt(args)", "_adopt(copy, add, add)", "_adopt(copy, like=add)", "_adopt('copy')", "adopt(copy)"]
)
def test_a_choice_that_names_no_kernels_is_refused(call: str) -> None:
    with pytest.raises(UnreadableWrapper, match="line"):
        verify(adopting(call))


def test_another_choice_in_a_partition_is_refused() -> None:
    choice = "    if _runs_on_streams(args, False):\n        return call_on_streams(args)\n"
    for partition, elsewhere in (
        (PARTITION.replace(choice, ""), ""),
        (PARTITION.replace(choice, ""), choice),
        (PARTITION, choice),
        (PARTITION.replace(choice, choice.replace("(args)", "(list(args))")), ""),
    ):
        with pytest.raises(UnreadableWrapper, match="line"):
            verify(partitioned(partition=partition, choice=elsewhere))


def test_a_call_of_a_partition_is_as_inductor_has_it() -> None:
    call = "        (buf1,) = self.partitions[0](partition0_args)\n"
    for other in (
        call.replace("[0]", "[1]"),
        call.replace("[0]", "[-1]"),
        call.replace("(partition0_args)", "(args)"),
        call.replace("(partition0_args)", "(list(partition0_args))"),
        call.replace("(buf1,)", "buf1"),
        call + call.replace("buf1", "buf2"),
        call.replace("self", "runner"),
        call.replace("        (buf1", "        self.partitions = [call_on_streams]\n        (buf1"),
    ):
        with pytest.raises(UnreadableWrapper, match="line"):
            verify(partitioned(PARTITIONED.replace(call, other)))
    with pytest.raises(UnreadableWrapper, match="partition"):
        verify(partitioned(partition=STREAMED))
