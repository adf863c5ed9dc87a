"""Check that the proof knows what a collective touches until it is waited for, and in which order bodies call collectives."""

from __future__ import annotations

import pytest
import torch.distributed._functional_collectives  # noqa: F401 (registers the schemas that the proof goes by)

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.races import COLLECTIVE_ORDER
from graphstreams.verification.trace import CALLER, COLLECTIVES, FinishStep, StartStep
from graphstreams.verification.wrapper.read import UnreadableWrapper, launch_order, read_bodies, verify
from tests.support.racing import HEADER, KERNELS
from tests.support.wrapper_sources import changed

DISPATCH = "from graphstreams.runtime.dispatch import runs_on_streams as _runs_on_streams\n"
START = "torch.ops._c10d_functional.all_reduce_.default(buf0, 'sum', '0')\n"
WAIT = "torch.ops._c10d_functional.wait_tensor.default(buf0)\n"
EMPTY = "empty_strided_cuda((64, 64), (64, 1), torch.float32)\n"
# A product that an aux stream makes, and the caller's waits for.
MADE_ON_AUX = f"""
default_stream, stream1, event0, event1, event2, = _acquire_streams(0, 1, 3)
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    buf1 = {EMPTY}    extern_kernels.mm(arg1_1, arg0_1, out=buf1)
    event1.record(stream1)
event1.wait(default_stream)
"""
# One product is reduced while another one is made, on the caller's stream, and added there.
SERIAL = f"""
buf0 = {EMPTY}extern_kernels.mm(arg0_1, arg1_1, out=buf0)
{START}buf1 = {EMPTY}extern_kernels.mm(arg1_1, arg0_1, out=buf1)
{WAIT}buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')
torch.ops._c10d_functional.wait_tensor.default(buf2)
raw_stream0 = get_raw_stream(0)
add.run(buf0, buf1, 4096, stream=raw_stream0)
del buf0
return (buf1, buf2, )"""
# The first product on the caller's stream, the other one, which the caller allocates, on an aux stream.
STREAMED = f"""
default_stream, stream1, event0, event1, = _acquire_streams(0, 1, 2)
buf1 = {EMPTY}event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    extern_kernels.mm(arg1_1, arg0_1, out=buf1)
    event1.record(stream1)
buf0 = {EMPTY}extern_kernels.mm(arg0_1, arg1_1, out=buf0)
{START}{WAIT}event1.wait(default_stream)
buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')
torch.ops._c10d_functional.wait_tensor.default(buf2)
raw_stream0 = get_raw_stream(0)
add.run(buf0, buf1, 4096, stream=raw_stream0)
del buf0
return (buf1, buf2, )"""


def function(name: str, body: str, first: str = "") -> str:
    lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
    head = f"def {name}(args):\n{first}    arg0_1, arg1_1 = args\n    args.clear()\n"
    return f"{head}    with torch.cuda._DeviceGuard(0):\n        torch.cuda.set_device(0)\n{lines}\n"


def two_bodies(streamed: str = STREAMED, serial: str = SERIAL) -> str:
    choice = "    if _runs_on_streams(args, False):\n        return call_on_streams(args)\n"
    bodies = f"{function('call_on_streams', streamed)}\n{function('call', serial, choice)}"
    return f"{HEADER}{DISPATCH}{KERNELS}\nasync_compile.wait(globals())\ndel async_compile\n{bodies}"


def one_body(body: str) -> str:
    return f"{HEADER}{DISPATCH}{KERNELS}\nasync_compile.wait(globals())\ndel async_compile\n{function('call', body)}"


def kinds(source: str) -> set[str]:
    return {race.kind for race in verify(source)}


def test_a_collective_is_a_launch_of_the_callers_stream_that_runs_on_its_own() -> None:
    source = two_bodies()
    assert verify(source) == []
    streamed, serial = read_bodies(source)
    starts = [step for step in serial.steps if isinstance(step, StartStep)]
    assert [(s.stream, s.runs_on, s.reads, s.writes, s.arguments) for s in starts] == [
        (CALLER, COLLECTIVES, ("buf0",), ("buf0",), ("sum", "0")),
        (CALLER, COLLECTIVES + 1, ("buf1",), ("buf2",), (2, "0")),
    ]
    assert [s.collectives for s in serial.steps if isinstance(s, FinishStep)] == [(0,), (1,)]
    names = [name.rpartition(".default")[0].rpartition(".")[2] or name for name in launch_order(streamed)[0]]
    assert names[:5] == ["record 0", "launch extern_kernels.mm", "all_reduce_", "wait_tensor", "wait 1"]
    assert set(launch_order(streamed)) == {0, 1}


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        # What it reduces in place is written by another stream, or read, between start and wait.
        (WAIT, f"extern_kernels.mm(arg0_1, arg0_1, out=buf0)\n{WAIT}", hb.UNORDERED),
        (WAIT, f"add.run(buf0, buf1, 4096, stream=get_raw_stream(0))\n{WAIT}", hb.UNORDERED),
        # Nobody waits, or another one is waited for.
        (WAIT, "", hb.UNORDERED),
        (WAIT, WAIT.replace("buf0", "buf1"), hb.UNORDERED),
        # A wait by way of a copy of the tensor waits for nothing.
        (WAIT, f"buf9 = buf0.clone()\n{WAIT.replace('buf0', 'buf9')}", hb.UNORDERED),
    ],
)
def test_memory_between_start_and_wait_is_the_collectives(old: str, new: str, kind: str) -> None:
    assert kind in kinds(one_body(changed(SERIAL, (old, new))))


def test_a_collective_that_is_not_waited_for_does_not_end_before_the_graph() -> None:
    gathered = "torch.ops._c10d_functional.wait_tensor.default(buf2)\n"
    # Without what writes the input of the gather behind it.
    assert kinds(one_body(changed(SERIAL, (gathered, ""), ("add.run(buf0, buf1,", "add.run(buf0, buf0,")))) == {hb.UNJOINED}


def test_the_input_of_a_collective_is_read_until_the_wait() -> None:
    """Out of place it may be read meanwhile, and not written."""
    gathered = "torch.ops._c10d_functional.wait_tensor.default(buf2)\n"
    read = f"buf3 = {EMPTY}extern_kernels.mm(buf1, arg0_1, out=buf3)\n"
    assert verify(one_body(changed(SERIAL, (gathered, f"{read}{gathered}")))) == []
    written = "extern_kernels.mm(arg0_1, arg0_1, out=buf1)\n"
    assert hb.UNORDERED in kinds(one_body(changed(SERIAL, (gathered, f"{written}{gathered}"))))
    assert verify(one_body(changed(SERIAL, (gathered, f"{gathered}{written}")))) == []


def test_the_output_of_a_collective_is_written_until_the_wait() -> None:
    gathered = "torch.ops._c10d_functional.wait_tensor.default(buf2)\n"
    read = f"buf3 = {EMPTY}extern_kernels.mm(buf2, arg0_1, out=buf3)\n"
    assert hb.UNORDERED in kinds(one_body(changed(SERIAL, (gathered, f"{read}{gathered}"))))


@pytest.mark.parametrize(
    "view", ["reinterpret_tensor(buf0, (32, 64), (64, 1), 0)", "reinterpret_tensor(buf0, (4096, ), (1, ), 0)"]
)
def test_a_wait_for_a_view_waits_for_the_collective_that_writes_its_memory(view: str) -> None:
    """The wait looks for the storage (torch 2.15.0, `wait_tensor`)."""
    assert verify(one_body(changed(SERIAL, (WAIT, WAIT.replace("buf0", view))))) == []


def test_a_second_wait_waits_for_nothing() -> None:
    """So it does not end another collective on the same memory."""
    twice = one_body(changed(SERIAL, (WAIT, WAIT + WAIT)))
    assert verify(twice) == []
    assert [s.collectives for s in read_bodies(twice)[0].steps if isinstance(s, FinishStep)] == [(0,), (), (1,)]
    again = START + WAIT + START + WAIT
    assert verify(one_body(changed(SERIAL, (START, again), (WAIT, WAIT)))) == []


def test_a_second_collective_on_memory_that_one_writes_is_a_race() -> None:
    """They run on streams of their groups, which may be two."""
    assert hb.UNORDERED in kinds(one_body(changed(SERIAL, (START, START + START.replace("'0'", "'1'")))))


def test_what_a_collective_is_given_may_be_freed_because_its_group_holds_it_until_the_wait() -> None:
    freed = "buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')\n"
    body = changed(
        SERIAL, (freed, f"{freed}del buf1\n"), ("add.run(buf0, buf1,", "add.run(buf0, buf0,"), ("(buf1, buf2, )", "(buf2, )")
    )
    assert verify(one_body(body)) == []


def test_memory_of_an_aux_stream_is_not_given_away_before_that_stream_knows_of_the_wait() -> None:
    """The wait lets go of what the collective read, in memory of stream1, which has not waited for the collective."""
    body = f"""{MADE_ON_AUX}buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')
del buf1
torch.ops._c10d_functional.wait_tensor.default(buf2)
with stream1:
    buf3 = {EMPTY}    extern_kernels.mm(arg1_1, arg0_1, out=buf3)
    event2.record(stream1)
event2.wait(default_stream)
del buf3
return (buf2, )"""
    assert kinds(one_body(body)) == {hb.FREED_EARLY}
    told = "with stream1:\n    event3.wait(stream1)\n    buf3"
    mended = changed(body, ("event2, = _acquire_streams(0, 1, 3)", "event2, event3, = _acquire_streams(0, 1, 4)"))
    mended = changed(mended, ("with stream1:\n    buf3", f"event3.record(default_stream)\n{told}"))
    # The block goes back when stream 0 has waited, and stream1 waits for that only later, before it allocates.
    assert verify(one_body(mended)) == []


def test_the_first_wait_for_one_of_several_outputs_lets_go_of_all_inputs() -> None:
    """If the model held them up to the last wait, it would miss that their memory may be used again."""
    body = f"""{MADE_ON_AUX}buf2 = torch.ops._c10d_functional.all_gather_into_tensor_coalesced.default([buf1, arg0_1], 2, '0')
del buf1
buf3 = buf2[0]
buf4 = buf2[1]
del buf2
torch.ops._c10d_functional.wait_tensor.default(buf4)
with stream1:
    buf5 = {EMPTY}    extern_kernels.mm(arg1_1, arg0_1, out=buf5)
    event2.record(stream1)
event2.wait(default_stream)
torch.ops._c10d_functional.wait_tensor.default(buf3)
del buf5
return (buf3, buf4, )"""
    assert kinds(one_body(body)) == {hb.FREED_EARLY}


def test_a_wait_for_one_of_two_tensors_that_may_be_one_is_refused() -> None:
    """An aligned copy is another tensor, or the same: whether the collective on the one is awaited by the other is open."""
    body = changed(SERIAL, (WAIT, "buf8 = copy_if_misaligned(buf0)\n" + WAIT.replace("buf0", "buf8")))
    with pytest.raises(UnreadableWrapper, match="may be another tensor than the one that a collective writes"):
        verify(one_body(body))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("torch.ops._c10d_functional.isend.default(buf0, 1, 0, '0')", "not known"),
        ("torch.ops._c10d_functional.batch_p2p_ops.default(['isend'], [1], [0], [buf0], '0')", "not known"),
        ("torch.ops.symm_mem.one_shot_all_reduce.default(buf0, 'sum', '0')", "symm_mem are not held to their schemas"),
        ("torch.ops.c10d.barrier.default(buf0, '0', [0])", "c10d are not held to their schemas"),
        ("torch.ops._c10d_functional.wait_tensor.default(1)", "of what is not a tensor"),
    ],
)
def test_what_else_reaches_other_ranks_is_refused(call: str, reason: str) -> None:
    with pytest.raises(UnreadableWrapper, match=reason):
        verify(one_body(changed(SERIAL, (WAIT, f"{call}\n{WAIT}"))))


GATHER = "buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # The gather is started ahead of the sum.
        (
            [(GATHER, ""), (START, f"event1.wait(default_stream)\n{GATHER}{START}")],
            "has torch.ops._c10d_functional.all_reduce_",
        ),
        # The wait for the sum comes behind the start of the gather.
        ([(f"{START}{WAIT}", START), (GATHER, f"{GATHER}{WAIT}")], "has a wait for collective 1"),
        # Another reduction, in another group, or among others.
        ([(START, START.replace("'sum'", "'max'"))], "with ('sum', '0')"),
        ([(START, START.replace("'0'", "'1'"))], "with ('sum', '0')"),
        ([(GATHER, GATHER.replace("2, '0'", "4, '0'"))], "with (2, '0')"),
        # One too many.
        ([(WAIT, f"{WAIT}{START}{WAIT}")], "has torch.ops._c10d_functional.all_gather_into_tensor"),
        ([("return", f"{START}{WAIT}return"), ("del buf0\n", "")], "has no more"),
    ],
)
def test_collectives_in_another_order_than_the_serial_codes_are_refused(changes: list[tuple[str, str]], said: str) -> None:
    races = verify(two_bodies(changed(STREAMED, *changes)))
    assert [race.kind for race in races] == [COLLECTIVE_ORDER]
    assert said in str(races[0]) and "wait for each other for ever" in str(races[0])


def test_two_collectives_that_take_each_others_tensors_are_refused_if_the_sizes_tell() -> None:
    """Each body computes the same; a rank with the other one would reduce 64 rows with 32."""
    part = "reinterpret_tensor(buf1, (32, 64), (64, 1), 0)"
    first, second = START, START.replace("buf0", part)
    waits = WAIT + WAIT.replace("buf0", "buf1")

    def body(source: str, one: str, other: str) -> str:
        return changed(source, (START, ""), (WAIT, ""), (GATHER, f"{one}{other}{waits}{GATHER}"))

    assert verify(two_bodies(body(STREAMED, first, second), body(SERIAL, first, second))) == []
    (race,) = verify(two_bodies(body(STREAMED, second, first), body(SERIAL, first, second)))
    assert race.kind == COLLECTIVE_ORDER and "all_reduce_.default of 64x64 with" in str(race)


def test_a_body_that_leaves_a_collective_out_is_refused() -> None:
    less = changed(STREAMED, (GATHER, f"buf2 = {EMPTY}"), ("torch.ops._c10d_functional.wait_tensor.default(buf2)\n", ""))
    (race,) = verify(two_bodies(less))
    assert race.kind == COLLECTIVE_ORDER and "no call of a collective where the serial code has" in str(race)


def test_collectives_on_an_aux_stream_are_refused() -> None:
    """They are ordered with all that they touch, and still another rank might start them in another order."""
    on_aux = f"""
    extern_kernels.mm(arg1_1, arg0_1, out=buf1)
    buf0 = {EMPTY}    extern_kernels.mm(arg0_1, arg1_1, out=buf0)
    {START}    {WAIT}"""
    caller = f"buf0 = {EMPTY}extern_kernels.mm(arg0_1, arg1_1, out=buf0)\n{START}{WAIT}"
    body = changed(STREAMED, (caller, ""), ("\n    extern_kernels.mm(arg1_1, arg0_1, out=buf1)\n", on_aux))
    races = verify(two_bodies(changed(body, ("del buf0\n", ""))))
    ordered = [race for race in races if race.kind == COLLECTIVE_ORDER]
    assert len(ordered) == 2 and all("on stream1 is called" in str(race) for race in ordered)


def test_a_wait_on_an_aux_stream_is_refused() -> None:
    waits = f"{START}event1.wait(default_stream)\nwith stream1:\n    {WAIT}    event1.record(stream1)\n"
    body = changed(STREAMED, (f"{START}{WAIT}", waits))
    assert COLLECTIVE_ORDER in kinds(two_bodies(body))
