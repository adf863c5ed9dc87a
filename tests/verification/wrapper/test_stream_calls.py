"""Check what is read of streams: how they are acquired, entered, waited for, and joined on an error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.wrapper.read import UnreadableWrapper, read_wrapper, verify
from tests.support.wrapper_sources import STREAMED, changed, kinds, serial, wrapper

JOIN = """
except BaseException:
    _join_streams(default_stream, stream1)
    raise
"""


def joined_on_error(body: str, handler: str = JOIN) -> str:
    lines = body.strip("\n").splitlines()
    start = next(i for i, line in enumerate(lines) if "_acquire_streams" in line) + 1
    inside = (f"    {line}" for line in (*lines[start:-1], *handler.strip("\n").splitlines()))
    return "\n".join([*lines[:start], "    try:", *inside, lines[-1]])


def test_what_is_joined_on_an_error_takes_no_part_in_the_trace() -> None:
    plain, joined = read_wrapper(wrapper(STREAMED)), read_wrapper(wrapper(joined_on_error(STREAMED)))
    assert [replace(step, line=0) for step in joined.steps] == [replace(step, line=0) for step in plain.steps]
    assert (joined.inputs, joined.outputs) == (plain.inputs, plain.outputs)
    late = STREAMED.replace("    event1.wait(default_stream)\n", "")
    assert kinds(wrapper(joined_on_error(late))) == kinds(wrapper(late)) != []


@pytest.mark.parametrize(
    "handler",
    [
        JOIN.replace("    raise\n", "    pass\n"),
        JOIN.replace("    raise\n", ""),
        JOIN.replace("    raise\n", "    raise error\n").replace(":", " as error:"),
        JOIN.replace("    raise\n", "    raise KeyError\n"),
        JOIN.replace("BaseException", "Exception"),
        JOIN.replace(" BaseException", ""),
        JOIN.replace("    raise\n", "    del buf3\n    raise\n"),
        JOIN.replace("default_stream, stream1", "stream1, default_stream"),
        JOIN.replace("default_stream, stream1", "default_stream, event0"),
        JOIN.replace("default_stream, stream1", "default_stream, aux=stream1"),
        JOIN.replace("default_stream, stream1", "*streams"),
        JOIN.replace("default_stream, stream1", ""),
        JOIN.replace("default_stream, stream1", "default_stream"),
        JOIN.replace("default_stream, stream1", "default_stream, stream1, stream1"),
        JOIN.replace("_join_streams", "_acquire_streams"),
        f"{JOIN}{JOIN}",
        f"{JOIN}else:\n    pass\n",
        f"{JOIN}finally:\n    pass\n",
    ],
)
def test_another_handler_is_refused(handler: str) -> None:
    with pytest.raises(UnreadableWrapper, match="line"):
        verify(wrapper(joined_on_error(STREAMED, handler)))


def with_two_streams(body: str) -> str:
    one, two = ("stream1, event0, event1, = _acquire_streams(0, 1", "stream1, stream2, event0, event1, = _acquire_streams(0, 2")
    return changed(body, (one, two))


def test_a_handler_has_to_join_every_stream() -> None:
    two = with_two_streams(STREAMED)
    every = JOIN.replace("stream1", "stream1, stream2")
    assert verify(wrapper(joined_on_error(two, every))) == []
    rebound = changed(joined_on_error(two, every), ("        del buf0\n", "        del buf0\n        stream2 = stream1\n"))
    for source in (joined_on_error(two), rebound):
        with pytest.raises(UnreadableWrapper, match="does not join all aux streams"):
            verify(wrapper(source))


def test_streams_are_acquired_once() -> None:
    """With another priority they are others, whose events nobody records."""
    again = "    event1.wait(default_stream)\n"
    twice = changed(STREAMED, (again, "    a, b, event0, event1, = _acquire_streams(0, 1, 2, -1)\n" + again))
    with pytest.raises(UnreadableWrapper, match="acquired a second time"):
        verify(wrapper(twice))


@pytest.mark.parametrize("call", ["event1.wait(stream=stream1)", "event1.record(stream=default_stream)"])
def test_a_stream_by_keyword_is_refused(call: str) -> None:
    with pytest.raises(UnreadableWrapper, match="with keywords"):
        verify(wrapper(changed(STREAMED, ("event1.wait(default_stream)", call))))


@pytest.mark.parametrize("context", ["_acquire_streams(0, 1, 2)", "stream1 as other", "stream1, stream1", "event0"])
def test_another_context_is_refused(context: str) -> None:
    with pytest.raises(UnreadableWrapper, match="line"):
        verify(wrapper(changed(STREAMED, ("with stream1:", f"with {context}:"))))


@pytest.mark.parametrize("outer", ["stream1", "stream2"])
def test_a_context_inside_that_of_another_aux_stream_is_refused(outer: str) -> None:
    """It would lead back to the caller's stream, and not to the outer one."""
    two = with_two_streams(STREAMED)
    assert verify(wrapper(two)) == []
    nested = changed(two, ("        event1.record(stream1)", f"        with {outer}:\n            event1.record(stream1)"))
    with pytest.raises(UnreadableWrapper, match="inside the context of another stream"):
        verify(wrapper(nested))


def test_streams_of_dynamo() -> None:
    """Inductor's own code for torch.cuda.stream: streams and events by their index; index 0 is the caller's stream."""
    body = """
torch.cuda.set_device(0)
default_stream = torch.cuda.current_stream()
stream1 = _get_stream_by_index(3)
with default_stream:
    torch.ops.streams.record_event.default(1, 0)
with stream1:
    torch.ops.streams.wait_event.default(1, 3)
    buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    triton_poi_0.run(arg0_1, buf0, 64, stream=raw_stream)
    torch.ops.streams.record_event.default(2, 3)
with default_stream:
    torch.ops.streams.sync_dealloc.default(2, 0, arg0_1)
    del arg0_1
    buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    extern_kernels.mm(arg1_1, buf0, out=buf1)
return (buf1, )"""
    assert verify(serial(body)) == []
    assert kinds(serial(body.replace("wait_event.default(1, 3)", "wait_stream.default(3, 0)"))) == []
    dropped = serial(changed(body, ("    torch.ops.streams.sync_dealloc.default(2, 0, arg0_1)\n", "")))
    assert set(kinds(dropped)) == {hb.FREED_EARLY, hb.UNORDERED, hb.UNJOINED}


def test_handle_of_another_stream() -> None:
    source = changed(STREAMED, ("    with stream1:\n", "    raw_stream = get_raw_stream(0)\n    with stream1:\n"))
    with pytest.raises(UnreadableWrapper, match="not the current one"):
        verify(wrapper(changed(source, ("        raw_stream = get_raw_stream(0)\n", ""))))
