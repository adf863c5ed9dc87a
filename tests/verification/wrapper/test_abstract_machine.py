"""Check whose memory is reused, freed and returned: that of inputs, of buffers, and of copies of misaligned inputs."""

from __future__ import annotations

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.wrapper.read import launch_order, read_wrapper, verify
from tests.support.wrapper_sources import INPLACE, POINTWISE, STREAMED, changed, kinds, wrapper


def test_outputs_in_memory_of_an_aux_stream() -> None:
    """The caller may drop them while a later call runs, and then that stream gets the memory back."""
    returned = changed(STREAMED, ("    del buf1\n", ""), ("return (buf3, )", "return (buf3, arg0_1, OUT, )"))
    for out in ("buf1", "reinterpret_tensor(buf1, (64, ), (1, ), 0)", "buf1.t()"):
        (race,) = verify(wrapper(changed(returned, ("OUT", out))))
        assert (race.kind, race.first.storage, race.first.stream) == (hb.OUTPUT_ON_AUX, "buf1", 1)
        assert "stream1 allocates buf1; the graph returns it" in str(race)
    own = changed(
        returned, ("        event1.record", "        buf4 = torch.ops.aten.topk.default(arg0_1, 4)\n        event1.record")
    )
    races = verify(wrapper(changed(own, ("OUT", "buf4[1]"), ("return", "    del buf1\nreturn"))))
    assert [(race.kind, race.first.storage) for race in races] == [(hb.OUTPUT_ON_AUX, "buf4[1]")]
    # Allocated ahead of the fork on the caller's stream, it may be written on any.
    allocation = "buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)\n"
    moved = changed(returned, ("        " + allocation, ""), ("    event0.record", f"    {allocation}    event0.record"))
    assert verify(wrapper(changed(moved, ("OUT", "buf1")))) == []


def test_memory_of_an_aux_stream_ahead_of_its_fork() -> None:
    allocation = "        buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)\n"
    wait = "        event0.wait(stream1)\n"
    early = changed(STREAMED, (wait + allocation, allocation + wait))
    (race,) = verify(wrapper(early))
    assert (race.kind, race.first.action, race.first.storage) == (hb.UNFORKED, "allocate", "buf1")


def test_buffer_freed_before_the_join() -> None:
    """The layer's qkv_a is freed while the side stream reads it, and its memory is handed out again."""
    early = changed(
        STREAMED,
        ("    del buf0\n", ""),
        ("        event1.record", "        del buf0\n        event1.record"),
        ("triton_poi_0.run(buf0, buf2", "triton_poi_0.run(arg0_1, buf2"),
    )
    (race,) = verify(wrapper(early))
    assert race.kind == hb.FREED_EARLY
    text = str(race)
    assert "triton_poi_0 on stream1 reads buf0" in text
    assert "nothing makes the caller's stream wait for stream1 before the free" in text


def test_reuse_in_place_across_streams() -> None:
    """`buf30 = buf1  # reuse` on the default stream while the side stream still reads buf1."""
    source = changed(
        STREAMED,
        ("    del buf0\n", ""),
        ("buf2 = empty_strided_cuda((64, 64), (64, 1), torch.float32)", "buf2 = buf0; del buf0  # reuse"),
        ("triton_poi_0.run(buf0, buf2, 4096, stream=raw_stream0)", "triton_poi_1.run(buf2, 4096, stream=raw_stream0)"),
    )
    (race,) = verify(wrapper(source, POINTWISE + INPLACE))
    assert (race.kind, race.first.action, race.second.action) == (hb.UNORDERED, "read", "write")
    assert race.first.storage == "buf0 (later buf2)"


def test_input_dropped_early() -> None:
    """`del arg` after the default stream's last use, while a side stream still reads it."""
    side = changed(STREAMED, ("triton_poi_0.run(buf0, buf1", "triton_poi_0.run(arg0_1, buf1"))
    assert kinds(wrapper(side)) == []
    assert kinds(wrapper(changed(side, ("    buf2 = ", "    del arg0_1\n    buf2 = ")))) == [hb.FREED_EARLY]


def test_inputs_live_while_the_callers_list_holds_them() -> None:
    side = changed(STREAMED, ("triton_poi_0.run(buf0, buf1", "triton_poi_0.run(arg0_1, buf1"), ("args.clear()\n", ""))
    assert kinds(wrapper(changed(side, ("    buf2 = ", "    del arg0_1\n    buf2 = ")))) == []


def test_an_operator_may_take_freed_memory_as_scratch() -> None:
    source = changed(
        STREAMED,
        ("    buf2 = ", "    del buf0\n    buf2 = "),
        ("buf2 = empty_strided_cuda((64, 64), (64, 1), torch.float32)", "buf9 = torch.ops.aten.sort.default(arg0_1)"),
        ("    triton_poi_0.run(buf0, buf2, 4096, stream=raw_stream0)\n", ""),
        ("event1.wait(default_stream)\n    del buf0", "event1.wait(default_stream)"),
        ("mm(buf1, buf2,", "mm(buf1, buf9[0],"),
        ("    del buf2\n", ""),
    )
    assert kinds(wrapper(source)) == [hb.FREED_EARLY]


MISALIGNED = "arg0_1 = copy_if_misaligned(arg0_1)\n"


def test_misaligned_input_is_read_where_it_is_copied() -> None:
    early = changed(STREAMED, ("    with stream1:\n", "    with stream1:\n        " + MISALIGNED))
    assert hb.UNFORKED in kinds(wrapper(early))
    caller = changed(STREAMED, ("    buf0 = ", f"    {MISALIGNED}    buf0 = "))
    assert verify(wrapper(caller)) == []
    assert launch_order(read_wrapper(wrapper(caller))) == launch_order(read_wrapper(wrapper(STREAMED)))


def test_the_original_of_a_copy_goes_where_its_name_is_bound_again() -> None:
    """If it is copied, and the caller holds it no more, its memory goes back while stream1 still reads it."""
    copied = changed(STREAMED, ("event0.wait(stream1)\n", "event0.wait(stream1)\n        " + MISALIGNED))
    (race,) = verify(wrapper(copied))
    assert (race.kind, race.first.kernel, race.first.storage) == (hb.FREED_EARLY, "copy_if_misaligned", "arg0_1")
    kept = changed(copied, (MISALIGNED, "arg0_1_orig = arg0_1\n        arg0_1 = copy_if_misaligned(arg0_1_orig)\n"))
    assert verify(wrapper(kept)) == []


def test_the_original_of_a_copy_may_be_what_is_read_later() -> None:
    """If it is aligned, a drop of the name is a drop of the original, also while stream1 reads it under another name."""
    caller = changed(STREAMED, ("    buf0 = ", f"    {MISALIGNED}    buf0 = "))
    side = changed(caller, ("triton_poi_0.run(buf0, buf1", "triton_poi_0.run(arg0_1, buf1"))
    assert verify(wrapper(side)) == []
    dropped = changed(side, ("    buf2 = ", "    del arg0_1\n    buf2 = "))
    assert {(r.kind, r.first.storage) for r in verify(wrapper(dropped))} == {
        (hb.FREED_EARLY, "arg0_1"),
        (hb.FREED_EARLY, "the aligned copy of arg0_1"),
    }
    # A write of the original would be one of what stream1 reads.
    written = changed(side, ("mm(buf1, buf2, out=buf3)", "mm(buf1, buf2, out=buf3)\n    orig.zero_()"))
    written = changed(written, (MISALIGNED, f"orig = arg0_1\n    {MISALIGNED}"))
    assert verify(wrapper(written)) == []
    racing = changed(written, ("    buf2 = ", "    orig.fill_(0)\n    buf2 = "))
    assert {(r.kind, r.first.storage) for r in verify(wrapper(racing))} == {(hb.UNORDERED, "arg0_1 (later orig)")}
