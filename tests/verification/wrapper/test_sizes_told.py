"""Check which products are proved to write a part of a storage, and that mistakes in the text make races of them."""

from __future__ import annotations

import pytest

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.elements import Elements
from graphstreams.verification.races import FREED_EARLY, UNORDERED
from graphstreams.verification.trace import LaunchStep
from graphstreams.verification.wrapper.read import read_wrapper, verify
from tests.support.wrapper_sources import changed, kinds, wrapper

PIECES = """
arg0_1, arg1_1 = args
args.clear()
assert_size_stride(arg0_1, (8, 64), (64, 1), 'input')
with torch.cuda._DeviceGuard(0):
    torch.cuda.set_device(0)
    default_stream, stream1, stream2, event0, event1, event2, = _acquire_streams(0, 2, 3)
    buf2 = empty_strided_cuda((8, 128), (128, 1), torch.float32)
    event0.record(default_stream)
    with stream1:
        event0.wait(stream1)
        buf0 = reinterpret_tensor(buf2, (8, 64), (128, 1), 0)
        extern_kernels.mm(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (1, 64), 0), out=buf0)
        event1.record(stream1)
    with stream2:
        event0.wait(stream2)
        buf1 = reinterpret_tensor(buf2, (8, 64), (128, 1), 64)
        extern_kernels.mm(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (64, 1), 0), out=buf1)
        event2.record(stream2)
    event1.wait(default_stream)
    event2.wait(default_stream)
    del buf0
    del buf1
    buf3 = empty_strided_cuda((8, 128), (128, 1), torch.float32)
    raw_stream0 = get_raw_stream(0)
    triton_poi_0.run(buf2, buf3, 1024, stream=raw_stream0)
    del buf2
return (buf3, )
"""
SECOND = "extern_kernels.mm(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (64, 1), 0), out=buf1)"
VIEW = "buf1 = reinterpret_tensor(buf2, (8, 64), (128, 1), 64)"


def races(*replacements: tuple[str, str]) -> list[str]:
    return kinds(wrapper(changed(PIECES, *replacements)))


def test_pieces_on_two_streams_are_clean() -> None:
    source = wrapper(PIECES)
    assert verify(source) == []
    products = [s for s in read_wrapper(source).steps if isinstance(s, LaunchStep) and s.name == "extern_kernels.mm"]
    assert [step.parts for step in products] == [
        (("buf2", Elements("torch.float32", (8, 64), (128, 1), offset)),) for offset in (0, 64)
    ]


def test_offsets_add_up() -> None:
    between = "buf9 = reinterpret_tensor(buf2, (8, 96), (128, 1), 32)\n        "
    assert races((VIEW, f"{between}buf1 = reinterpret_tensor(buf9, (8, 64), (128, 1), 32)")) == []
    assert races((VIEW, f"{between}buf1 = reinterpret_tensor(buf9, (8, 64), (128, 1), 31)")) == [UNORDERED]


@pytest.mark.parametrize("offset", ["63", "0", "65", "-64", "2**6", "arg0_1.size(1)", ""])
def test_another_offset_is_a_race(offset: str) -> None:
    view = VIEW.replace(", 64)", f", {offset})" if offset else ")")
    assert races((VIEW, view)) == [UNORDERED]


def test_a_slice_beyond_what_was_allocated_is_a_race() -> None:
    for offset in (65, 1024, 100_000):
        assert races((VIEW, VIEW.replace(", 64)", f", {offset})"))) == [UNORDERED]


def test_an_assertion_that_holds_for_empty_tensors_does_not_replace_what_a_view_tells() -> None:
    empty = "buf1 = reinterpret_tensor(buf2, (0, 64), (128, 1), 0)\n        assert_size_stride(buf1, (8, 64), (64, 1), 'x')"
    assert races((VIEW, empty)) == [UNORDERED]


@pytest.mark.parametrize("operator", ["_resize_output_", "resize", "resize_as_sparse_", "_copy_from_and_resize"])
def test_operators_that_resize_are_refused(operator: str) -> None:
    call = f"torch.ops.aten.{operator}.default(buf9, [64, 128], device(type='cuda', index=0))"
    made = f"buf9 = empty_strided_cuda((64, 64), (64, 1), torch.float32)\n        {call}\n        "
    with pytest.raises(UnreadableWrapper):
        verify(wrapper(changed(PIECES, (SECOND, f"{made}extern_kernels.mm(arg0_1, buf9, out=buf1)"))))


@pytest.mark.parametrize("line", [line for line in PIECES.splitlines() if ".record(" in line or ".wait(" in line])
def test_every_record_and_wait_is_needed(line: str) -> None:
    assert verify(wrapper(PIECES.replace(line + "\n", ""))) != []


@pytest.mark.parametrize("event", [1, 2])
def test_a_reader_that_waits_for_one_piece_only(event: int) -> None:
    wait = f"    event{event}.wait(default_stream)\n"
    last = "    triton_poi_0.run(buf2, buf3, 1024, stream=raw_stream0)\n"
    assert races((wait, ""), (last, last + wait)) == [UNORDERED]


@pytest.mark.parametrize(
    "product",
    [
        SECOND.replace("out=buf1", "out=buf2"),  # which would be resized
        SECOND.replace("(64, 64), (64, 1)", "(64, 128), (128, 1)"),
        SECOND.replace("(64, 64), (64, 1)", "(64, 32), (32, 1)"),
        SECOND.replace("mm(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (64, 1), 0)", "mm(arg0_1, arg1_1"),
        SECOND.replace("(64, 64), (64, 1)", "(64, arg0_1.size(0)), (64, 1)"),
        SECOND.replace("mm(arg0_1", "mm(buf0"),  # the other piece, which is not made yet
        SECOND.replace("mm(arg0_1", "_int_mm(arg0_1"),
        SECOND.replace("mm(arg0_1", "mm_dtype(arg0_1"),
        "triton_poi_0.run(arg0_1, buf1, 512, stream=get_raw_stream(0))",
        "buf1.copy_(arg0_1)",
        "buf1.zero_()",
        "torch.ops.aten.sin_.default(buf1)",
        "torch.ops.aten.mm.out(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (64, 1), 0), out=buf1)",
    ],
)
def test_what_may_write_elsewhere_is_a_race(product: str) -> None:
    assert UNORDERED in races((SECOND, product))


@pytest.mark.parametrize(
    "view",
    [
        "buf1 = reinterpret_tensor(buf2, (8, 64), (128, 1), 64).as_strided((8, 64), (128, 1), 0)",
        "buf1 = torch.ops.aten.view.dtype(reinterpret_tensor(buf2, (8, 64), (128, 1), 64), torch.int32)",
        "buf1 = torch.ops.aten.t.default(reinterpret_tensor(buf2, (8, 64), (128, 1), 64))",
        "buf1 = torch.ops.inductor._alloc_from_pool(buf2, 256, torch.float32, (8, 64), (128, 1))",
        "buf1 = reinterpret_tensor(torch.ops.aten.t.default(buf2), (8, 64), (128, 1), 64)",
    ],
)
def test_views_of_which_the_source_does_not_tell_the_elements(view: str) -> None:
    assert set(races((VIEW, view))) == {UNORDERED}


def test_sizes_that_are_not_asserted_are_not_known() -> None:
    assert races(("assert_size_stride(arg0_1, (8, 64), (64, 1), 'input')\n", "")) == [UNORDERED]
    assert races(("(arg0_1, (8, 64), (64, 1)", "(arg0_1, (9, 64), (64, 1)")) == [UNORDERED]
    assert races(("(arg0_1, (8, 64), (64, 1)", "(arg1_1, (8, 64), (64, 1)")) == [UNORDERED]


def test_sizes_of_several_inputs_are_asserted_at_once() -> None:
    grouped = (
        "torch._C._dynamo.guards.assert_size_stride_grouped((arg1_1, arg0_1), ((64, 64), (8, 64)), ((64, 1), (64, 1)), 'input')"
    )
    single = "assert_size_stride(arg0_1, (8, 64), (64, 1), 'input')"
    assert races((single, grouped)) == []
    assert races((single, grouped.replace("((64, 64), (8, 64))", "((8, 64), (64, 64))"))) == [UNORDERED]


def test_aligned_copies_have_the_sizes_of_the_input() -> None:
    assert (
        races(("    torch.cuda.set_device(0)\n", "    torch.cuda.set_device(0)\n    arg0_1 = copy_if_misaligned(arg0_1)\n"))
        == []
    )


def test_a_name_that_is_bound_again_has_the_new_sizes() -> None:
    assert UNORDERED in races((SECOND, f"arg0_1 = arg1_1\n        {SECOND}"))


def test_a_tensor_that_may_have_been_resized_has_no_known_sizes() -> None:
    resized = "buf9 = empty_strided_cuda((8, 64), (64, 1), torch.float32)\n        "
    product = SECOND.replace("mm(arg0_1", "mm(buf9")
    assert races((SECOND, resized + product)) == []
    for call in (
        "extern_kernels.mm(arg1_1, arg1_1, out=buf9)",
        "extern_kernels._int_mm(arg0_1, arg1_1, out=buf9)",
        "torch.ops.aten.sin.out(arg0_1, out=buf9)",
    ):
        assert UNORDERED in races((SECOND, f"{resized}{call}\n        {product}"))


BUFFER = "    buf2 = empty_strided_cuda((8, 128), (128, 1), torch.float32)\n"
FIRST = "        buf0 = reinterpret_tensor(buf2"


def test_a_buffer_that_another_stream_allocates_behind_its_own_waits() -> None:
    """Without a wait there, the memory is free for everybody; with one, it may still be in use where nobody waits."""
    reused = """
        buf8 = empty_strided_cuda((8, 128), (128, 1), torch.float32)
        extern_kernels.mm(arg0_1, arg1_1, out=buf8)
        del buf8
"""
    allocated = reused + BUFFER.replace("    buf2", "        buf2") + FIRST
    assert races((BUFFER, ""), (FIRST, allocated.lstrip("\n"))) == [UNORDERED]
    wait = "        event0.wait(stream2)\n"
    ordered = "        event1.wait(stream2)\n"
    assert races((BUFFER, ""), (FIRST, allocated.lstrip("\n")), (wait, wait + ordered)) == []


def test_the_buffer_is_freed_behind_all_pieces() -> None:
    """The next allocation of the caller's stream gets its memory, though nothing has waited for the second piece."""
    wait, launch = "    event2.wait(default_stream)\n", "    triton_poi_0.run(buf2, buf3, 1024, stream=raw_stream0)\n"
    early = ("    del buf1\n", "    del buf1\n    del buf2\n"), ("    del buf2\nreturn", "return")
    unread = "    triton_poi_0.run(arg0_1, buf3, 1024, stream=raw_stream0)\n"
    assert races(*early, (launch, unread)) == []
    assert races(*early, (wait, ""), (launch, unread + wait)) == [FREED_EARLY]


def test_products_of_batches_and_with_a_bias() -> None:
    batches = (
        ("reinterpret_tensor(buf2, (8, 64), (128, 1), ", "reinterpret_tensor(buf2, (2, 4, 64), (512, 128, 1), "),
        ("extern_kernels.mm(", "extern_kernels.bmm("), ("(arg1_1, (64, 64)", "(arg1_1, (2, 64, 64)"),
        ("(1, 64), 0)", "(0, 1, 64), 0)"), ("(64, 1), 0)", "(0, 64, 1), 0)"),
        ("(arg0_1, (8, 64), (64, 1)", "(arg0_1, (2, 4, 64), (256, 64, 1)"),
    )  # fmt: skip
    assert races(*batches) == []
    biased = ("extern_kernels.mm(arg0_1, ", "extern_kernels.addmm(arg1_1, arg0_1, "), ("out=buf", "alpha=1, beta=1, out=buf")
    assert races(*biased) == []
    assert races(*biased, (VIEW, VIEW.replace("64)", "63)"))) == [UNORDERED]
