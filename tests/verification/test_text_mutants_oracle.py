"""Check what is found in wrappers made by hand when they run with stubs."""

from __future__ import annotations

import pytest

from tests.support.text_mutants.execution import TENSOR, CannotRun, Run, faults_of, steps_of
from tests.support.text_mutants.oracle import (
    FOREIGN_OUTPUT,
    NOT_LEFT,
    ORDER,
    REUSED,
    SHARED,
    UNFORKED,
    UNJOINED,
    UNRECORDED,
    faults,
    other_order,
)
from tests.support.text_mutants.trace import Allocate, Collective, Enter, Free, Launch, Leave, Record, Wait
from tests.support.wrapper_sources import changed

IMPORTS = """
import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.select_algorithm import extern_kernels
from graphstreams.runtime.streams import acquire_for_call as _acquire_streams, join as _join_streams
from torch._C import _cuda_getCurrentRawStream as get_raw_stream
from torch._C._dynamo.guards import copy_if_misaligned
aten = torch.ops.aten
empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda
reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor
async_compile = AsyncCompile()
"""
KERNEL = """
{name} = async_compile.triton('{name}', '''
@triton_heuristics.pointwise(
    triton_meta={{'signature': {{'{one}': '*fp32', '{two}': '*fp32', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}}}})
@triton.jit
def {name}({one}, {two}, xnumel, XBLOCK : tl.constexpr):
    {body}
''', device_str='cuda')
"""
COPY = KERNEL.format(name="copy", one="in_ptr0", two="out_ptr0", body="tl.store(out_ptr0 + 0, tl.load(in_ptr0 + 0))")
ADD = "tl.store(in_out_ptr0 + 0, tl.load(in_out_ptr0 + 0) + tl.load(in_ptr0 + 0))"
INPLACE = KERNEL.format(name="inplace", one="in_out_ptr0", two="in_ptr0", body=ADD)
USER = KERNEL.format(name="user", one="source", two="target", body="anything(source, target)")
CALL = """
def call(args):
    arg0_1, arg1_1 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        default_stream, stream1, stream2, event0, event1, event2, event3, = _acquire_streams(0, 2, 4)
        try:
{body}
        except BaseException:
            _join_streams({joined})
            raise
    return ({returned})
"""
NEW = "empty_strided_cuda((64, ), (1, ), torch.float32)"
ACCESSES = {"user": (("source",), ("target",)), "reversed": (("target",), ("source",))}


def source(body: str, returned: str = "buf1, ", top: str = "", joined: str = "default_stream, stream1, stream2") -> str:
    """Return a wrapper. In `body` NEW allocates, and `run copy(a, b)` launches on the current stream."""
    lines = []
    for line in body.strip("\n").splitlines():
        start, run, call = line.partition("run ")
        if run:
            name, _, arguments = call[:-1].partition("(")
            line = f"{start}{name}.run({arguments}, 64, stream=get_raw_stream(0))"
        lines.append(" " * 12 + line.replace("NEW", NEW))
    return IMPORTS + COPY + INPLACE + USER + top + CALL.format(body="\n".join(lines), returned=returned, joined=joined)


def found(text: str) -> set[str]:
    """Return the kinds of what is wrong when it is not interrupted."""
    return {kind for kind in faults_of(text, (TENSOR, TENSOR), ACCESSES) if "interrupted" not in kind}


SOUND = """
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    buf0 = NEW
    run copy(arg0_1, buf0)
    event1.record(stream1)
buf1 = NEW
run copy(arg1_1, buf1)
event1.wait(default_stream)
run inplace(buf1, buf0)
buf0 = arg0_1 = None
"""
JOIN, USE, FIRST = "event1.wait(default_stream)\n", "run inplace(buf1, buf0)\n", "    run copy(arg0_1, buf0)\n"


def test_a_fork_and_a_join_are_sound() -> None:
    assert found(source(SOUND)) == set()
    assert faults_of(source(SOUND), (TENSOR, TENSOR), ACCESSES) == {}


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ("    event0.wait(stream1)\n", "", {UNFORKED, SHARED, REUSED}),
        ("event0.record(default_stream)\n", "", {UNRECORDED, UNFORKED, SHARED, REUSED}),
        ("    event1.record(stream1)\n", "", {UNRECORDED, UNJOINED, SHARED, REUSED}),
        (f"{JOIN}{USE}", f"{USE}{JOIN}", {SHARED}),
        (JOIN, "0 and event1.wait(default_stream)\n", {UNJOINED, SHARED, REUSED}),
        (JOIN, "_ = 2 > 3 > event1.wait(default_stream)\n", {UNJOINED, SHARED, REUSED}),
        (JOIN, "if False: event1.wait(default_stream)\n", {UNJOINED, SHARED, REUSED}),
        (FIRST, f"{FIRST}    del arg0_1\n", {REUSED}),
        (FIRST, f"{FIRST}    event1.record(stream1)\n    {JOIN}    del arg0_1\n", set()),
        ("buf1 = NEW\n", "del arg0_1\nbuf1 = NEW\n", {REUSED}),
        ("buf1 = NEW\n", "arg0_1 = None\nbuf1 = NEW\n", {REUSED}),
        ("buf1 = NEW\n", "arg0_1 = arg1_1\nbuf1 = NEW\n", {REUSED}),
        ("buf1 = NEW\n", "held = arg0_1\ndel arg0_1\nbuf1 = NEW\narg0_1 = held\n", set()),
        ("buf1 = NEW\n", "held = reinterpret_tensor(arg0_1, (64, ), (1, ), 0)\ndel arg0_1\nbuf1 = NEW\narg0_1 = held\n", set()),
        ("buf1 = NEW\n", "held = [arg0_1]\ndel arg0_1\nbuf1 = NEW\narg0_1 = held[0]\n", set()),
        ("run copy(arg1_1, buf1)\n", "run copy(arg1_1, arg0_1)\n", {SHARED}),
        ("run copy(arg1_1, buf1)\n", "run inplace(arg0_1, buf1)\n", {SHARED}),
        ("run copy(arg1_1, buf1)\n", "run inplace(arg1_1, arg0_1)\n", set()),
        ("run copy(arg1_1, buf1)\n", "run user(arg0_1, buf1)\n", set()),
        ("run copy(arg1_1, buf1)\n", "run user(buf1, arg0_1)\n", {SHARED}),
        ("run copy(arg1_1, buf1)\n", "extern_kernels.mm(arg0_1, arg1_1, out=buf1)\n", set()),
        ("run copy(arg1_1, buf1)\n", "extern_kernels.mm(arg1_1, arg1_1, out=arg0_1.T)\n", {SHARED}),
        ("run copy(arg1_1, buf1)\n", "s0 = arg0_1\nextern_kernels.mm(arg1_1, arg1_1, out=s0)\n", {SHARED}),
        ("run copy(arg1_1, buf1)\n", "run copy(arg1_1, torch.ops.aten.reshape.default(arg0_1, [64]))\n", {SHARED}),
    ],
)  # fmt: skip
def test_one_change_of_it(old: str, new: str, kinds: set[str]) -> None:
    assert SOUND.count(old) == 1
    assert found(source(SOUND.replace(old, new))) == kinds


def test_what_a_library_frees_may_be_scratch_of_the_next_call_of_one() -> None:
    """`mm` may take memory that nobody sees, so what was freed too early may be written by it."""
    body = SOUND.replace("run copy(arg1_1, buf1)\n", "del arg0_1\nextern_kernels.mm(arg1_1, arg1_1, out=buf1)\n")
    assert found(source(body.replace("buf1 = NEW\n", "buf1 = arg1_1\n"))) == {REUSED}


def test_an_output_in_the_memory_of_an_aux_stream() -> None:
    assert found(source(SOUND.replace("buf0 = arg0_1 = None", "arg0_1 = None"), "buf0, ")) == {FOREIGN_OUTPUT}


def test_another_stream_that_is_current_at_the_end() -> None:
    assert found(source(f"{SOUND}stream2.__enter__()")) == {NOT_LEFT}
    assert found(source(f"{SOUND}stream2.__enter__()\nstream2.__exit__()")) == set()


@pytest.mark.parametrize(("waits", "kinds"), [("event1", set()), ("event0", {SHARED, UNJOINED, REUSED})])
def test_the_host_waits_for_an_event(waits: str, kinds: set[str]) -> None:
    assert found(source(SOUND.replace(JOIN, f"{waits}.synchronize()\n"))) == kinds


def test_a_handle_names_the_stream_that_a_kernel_runs_on() -> None:
    body = SOUND.replace("    event1.record(stream1)\n", "    event1.record(stream1)\n    handle = get_raw_stream(0)\n")
    late = body.replace("run copy(arg1_1, buf1)", "copy.run(arg1_1, buf1, 64, stream=handle)")
    assert found(source(late)) == {UNJOINED, SHARED, REUSED}


def test_a_block_within_another_leads_back_to_the_callers_stream() -> None:
    """As the runtime's `AuxStream` does."""
    code = compile(
        source("with stream1:\n    with stream2:\n        run copy(arg0_1, arg1_1)\n    run copy(arg0_1, arg1_1)\nbuf1 = NEW"),
        "",
        "exec",
    )
    launches = [step for step in steps_of(code, (TENSOR, TENSOR), ACCESSES, Run()) if isinstance(step, Launch)]
    assert [step.stream for step in launches if step.name == "copy"] == [2, 0] * 2


MISALIGNED = """
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    {name} = copy_if_misaligned(arg0_1)
    buf0 = NEW
    run copy({name}, buf0)
    event1.record(stream1)
buf1 = NEW
run copy(arg1_1, buf1)
event1.wait(default_stream)
del buf0, {name}
"""


@pytest.mark.parametrize(("name", "kinds"), [("arg0_1", {REUSED}), ("aligned", set())])
def test_an_input_that_is_copied_goes_when_its_name_is_bound_to_the_copy(name: str, kinds: set[str]) -> None:
    assert found(source(MISALIGNED.format(name=name))) == kinds


LIST = """
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    buf3 = torch.ops.aten.split_copy.Tensor(arg0_1, 32)
    buf4 = buf3[0]
    buf5 = buf3[1]
    del buf3
    event1.record(stream1)
with stream2:
    event1.wait(stream2)
    buf6 = NEW
    run copy(buf4, buf6)
    event2.record(stream2)
{early}
with stream1:
    buf7 = NEW
    run copy(buf5, buf7)
    event3.record(stream1)
event2.wait(default_stream)
event3.wait(default_stream)
buf1 = NEW
run copy(buf7, buf1)
del buf5, buf6, buf7, arg0_1
"""


@pytest.mark.parametrize(("early", "kinds"), [("del buf4", {REUSED}), ("del buf5; buf5 = arg0_1", {REUSED}), ("pass", set())])
def test_each_element_of_a_list_has_memory_of_its_own(early: str, kinds: set[str]) -> None:
    """buf5 was not yet read, so that its memory is what buf7 gets is no race with anything but its making."""
    expected = set() if early.startswith("del buf5") else kinds
    assert found(source(LIST.format(early=early))) == expected


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_writes_what_its_schema_does_not_say(training: bool) -> None:
    mean = "arg1_1" if training else "None"
    norm = f"buf9 = torch.ops.aten.native_batch_norm.default(arg0_1, None, None, {mean}, None, True, 0.1, 1e-05)"
    body = SOUND.replace(FIRST, f"    {norm}\n{FIRST}").replace("buf0 = arg0_1", "buf0 = buf9 = arg0_1")
    assert found(source(body)) == ({SHARED} if training else set())


HOST = """
buf0 = torch.empty_strided((1,), (1,), dtype=torch.int64, device='cpu', pin_memory=True)
buf0.copy_(arg0_1, {late})
s0 = buf0.item()
buf1 = NEW
run copy(arg1_1, buf1)
"""


@pytest.mark.parametrize(("late", "kinds"), [(True, {SHARED}), (False, set())])
def test_the_host_reads_what_a_copy_may_still_be_writing(late: bool, kinds: set[str]) -> None:
    assert found(source(HOST.format(late=late))) == kinds


def test_the_host_waits_for_the_stream_whose_value_it_reads() -> None:
    body = SOUND.replace(FIRST, f"{FIRST}    buf0.item()\n").replace("    event1.record(stream1)\n", "").replace(JOIN, "")
    assert found(source(body)) == set()


TWO_IN_ONE = """
{first} = async_compile.triton('twice', '''
@triton_heuristics.user_autotune(triton_meta={{'signature': {{'source': '*fp32', 'target': '*fp32', 'xnumel': 'i32'}}}})
def {one}(source, target, xnumel): ...
@triton_heuristics.user_autotune(triton_meta={{'signature': {{'source': '*fp32', 'target': '*fp32', 'xnumel': 'i32'}}}})
def {two}(source, target, xnumel): ...
''', device_str='cuda')
"""


def test_a_kernel_is_the_function_of_its_name_in_its_source() -> None:
    top = TWO_IN_ONE.format(first="twice", one="other", two="twice")
    body = SOUND.replace("run copy(arg1_1, buf1)\n", "run twice(arg0_1, buf1)\n")
    accesses = {**ACCESSES, "other": (("source",), ("target",)), "twice": (("target",), ("source",))}
    assert SHARED in faults_of(source(body, top=top), (TENSOR, TENSOR), accesses)
    accesses = {**ACCESSES, "other": (("target",), ("source",)), "twice": (("source",), ("target",))}
    assert faults_of(source(body, top=top), (TENSOR, TENSOR), accesses) == {}


def test_a_name_of_the_module_is_what_it_was_bound_to_last() -> None:
    body = SOUND.replace("run copy(arg1_1, buf1)\n", "run copy(arg0_1, buf1)\n")
    assert found(source(body)) == set()
    assert found(source(body, top="copy = inplace\n")) == {SHARED}


def test_a_call_that_a_signal_ends_has_to_join_its_streams() -> None:
    assert faults_of(source(SOUND), (TENSOR, TENSOR), ACCESSES) == {}
    found = faults_of(source(SOUND, joined="default_stream"), (TENSOR, TENSOR), ACCESSES)
    assert {kind for kind in found if "interrupted" not in kind} == set()
    assert f"{UNJOINED}, when interrupted" in found


@pytest.mark.parametrize("handler", ["except Exception:", "except BaseException as error:\n            buf9"])
def test_a_handler_of_another_kind_is_run_as_python_runs_it(handler: str) -> None:
    """The first does not catch a signal, the second does not come to the join."""
    found = faults_of(source(SOUND).replace("except BaseException:", handler), (TENSOR, TENSOR), ACCESSES)
    assert f"{UNJOINED}, when interrupted" in found


def test_groups_of_exceptions_end_no_worker() -> None:
    """What a handler of groups lets through is a group, and no exception of those that a pool of workers survives."""
    groups = source(SOUND).replace("except BaseException:", "except* BaseException:")
    assert faults_of(groups, (TENSOR, TENSOR), ACCESSES) == {}
    with pytest.raises(CannotRun, match="ExceptionGroup"):
        faults_of(groups.replace("buf1 = empty", "del buf1\n            buf1 = empty", 1), (TENSOR, TENSOR), ACCESSES)


BODIES = """
from graphstreams.runtime.dispatch import runs_on_streams as _runs_on_streams, settle as _settle
{streamed}
class Runner:
    def call(self, args):
        if _runs_on_streams(args, 0):
            return call_on_streams(args)
        arg0_1, arg1_1 = args
        args.clear()
        buf1 = {new}
        copy.run({serial}, buf1, 64, stream=get_raw_stream(0))
        return (buf1, )
call = Runner().call
"""


@pytest.mark.parametrize(
    ("body", "serial", "kinds"),
    [(SOUND, "arg0_1", set()), (SOUND.replace(JOIN, ""), "arg0_1", {SHARED, UNJOINED, REUSED})],
)
def test_both_bodies_of_a_wrapper_run(body: str, serial: str, kinds: set[str]) -> None:
    streamed = source(body).replace("def call(", "def call_on_streams(")
    start = streamed.index("def call_on_streams(")
    text = streamed[:start] + BODIES.format(streamed=streamed[start:], new=NEW, serial=serial)
    assert found(text) == kinds
    code = compile(text, "wrapper", "exec")
    launches = [
        len([s for s in steps_of(code, (TENSOR, TENSOR), ACCESSES, Run(streamed=s)) if isinstance(s, Launch)]) for s in (0, 1)
    ]
    assert launches == [2 * (1 + 2), 2 * (3 + 2)]


@pytest.mark.parametrize(
    "body",
    [
        "run copy(arg0_1, 64)",
        "run copy(arg0_1)",
        "del buf7",
        "torch.ops.aten.unknown(arg0_1)",
        "with default_stream: 1 / 0",
        "a b",
    ],
)
def test_what_python_does_not_run(body: str) -> None:
    with pytest.raises(CannotRun):
        found(source(f"buf1 = NEW\n{body}"))


# --- the oracle by itself


def test_reachability_goes_by_what_an_event_stood_for_when_it_was_waited_for() -> None:
    """Storage 0 is written on stream 1. An event that is recorded anew ahead of the wait stands for the later place."""
    start = [Allocate(0, 0), Enter(), Record(0, 9), Wait(1, 9)]
    write, read = Launch(1, (), (0,), "write"), Launch(0, (0,), (), "read")
    assert faults([*start, write, Record(1, 1), Wait(0, 1), read, Leave(())]) == {}
    assert set(faults([*start, Record(1, 1), write, Wait(0, 1), read, Leave(())])) == {SHARED, UNJOINED}
    assert set(faults([*start, Record(1, 1), write, Record(1, 1), Wait(0, 1), read, Leave(())])) == set()
    assert set(faults([*start, write, Record(1, 1), Record(0, 1), Wait(0, 1), read, Leave(())])) == {SHARED, UNJOINED}


def test_memory_that_is_freed_belongs_to_the_stream_that_it_came_from() -> None:
    start = [Enter(), Record(0, 9), Wait(1, 9), Wait(2, 9), Allocate(1, 0), Launch(2, (), (0,), "write"), Free(0)]
    end = [Record(1, 1), Record(2, 2), Wait(0, 1), Wait(0, 2), Leave(())]
    assert set(faults([*start, Allocate(1, 1), Launch(1, (), (1,), "next"), *end])) == {REUSED}
    assert set(faults([*start, Allocate(2, 1), Launch(1, (), (1,), "next"), *end])) == set()
    assert set(faults([*start, Allocate(1, 1), Launch(2, (), (1,), "next"), *end])) == set()
    ordered = [Record(2, 3), Wait(1, 3), Launch(1, (), (1,), "next")]
    assert set(faults([*start, Allocate(1, 1), *ordered, *end])) == set()


START = "torch.ops._c10d_functional.all_reduce_.default(buf1, 'sum', '0')\n"
AWAIT = "torch.ops._c10d_functional.wait_tensor.default(buf1)\n"
REDUCED = f"buf1 = NEW\nrun copy(arg1_1, buf1)\n{START}{AWAIT}arg0_1 = None\n"
GATHER = "buf0 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')\n"
GATHERED = GATHER.replace("all_gather_into_tensor.default(buf1, 2, '0')", "wait_tensor.default(buf0)")


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        (AWAIT, AWAIT, set()),
        (AWAIT, AWAIT + AWAIT, set()),  # the second finds nothing to wait for
        (AWAIT, "", {UNJOINED, SHARED}),  # its group holds the memory, so nothing else gets it
        (AWAIT, AWAIT.replace("buf1", "arg1_1"), {UNJOINED, SHARED}),
        (AWAIT, f"run copy(buf1, arg0_1)\n{AWAIT}", {SHARED}),
        (AWAIT, AWAIT.replace("buf1", "reinterpret_tensor(buf1, (32, ), (1, ), 0)"), set()),
        (AWAIT, f"{AWAIT}{GATHER}run copy(buf1, arg0_1)\n{GATHERED}", set()),  # what is gathered may be read
        (AWAIT, f"{AWAIT}{GATHER}run copy(arg0_1, buf1)\n{GATHERED}", {SHARED}),
        (START, f"with stream1:\n    {START}", {UNFORKED, SHARED, REUSED}),
    ],
)
def test_a_collective_runs_from_its_start_to_its_wait(old: str, new: str, kinds: set[str]) -> None:
    text = source(changed(REDUCED, (old, new)))
    assert found(text) == kinds


def test_collectives_that_another_rank_starts_in_another_order_are_a_fault() -> None:
    sums = [Collective(0, "all_reduce_", (of, "'0'"), ((4,),)) for of in ("'sum'", "'max'")]
    assert other_order(sums, sums) == {}
    assert set(other_order(sums, sums[::-1])) == set(other_order(sums, sums[:1])) == {ORDER}
    aside = [sums[0], sums[1]._replace(stream=1)]
    assert set(other_order(aside, aside)) == {ORDER}
    larger = [sums[0], sums[1]._replace(sizes=((8,),))]
    assert set(other_order(sums, larger)) == {ORDER}
    assert other_order(sums, [sums[0], sums[1]._replace(sizes=(None,))]) == {}
