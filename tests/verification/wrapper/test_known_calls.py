"""Check what kernels, operators and collectives are taken to read and write, and that sizes are no tensors."""

from __future__ import annotations

import pytest

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import LaunchStep
from graphstreams.verification.wrapper.read import UnreadableWrapper, launch_order, read_wrapper, verify
from tests.support.wrapper_sources import INPLACE, POINTWISE, SCATTER, STREAMED, USER, changed, kinds, launches, serial, wrapper


def test_kernels_by_name_text_and_list() -> None:
    body = """
raw_stream0 = get_raw_stream(0)
triton_poi_0.run(arg0_1, arg1_1, 64, stream=raw_stream0)
triton_poi_1.run(arg0_1, 64, stream=raw_stream0)
triton_poi_2.run(arg0_1, arg1_1, 64, stream=raw_stream0)
user_0.run(arg0_1, arg1_1, arg2_1, arg3_1, 64, 1, 1, stream=raw_stream0)
return ()"""
    source = serial(body, "arg0_1, arg1_1, arg2_1, arg3_1", POINTWISE + INPLACE + SCATTER + USER)
    assert launches(source) == {
        "triton_poi_0": (("arg0_1",), ("arg1_1",)),
        "triton_poi_1": ((), ("arg0_1",)),
        "triton_poi_2": (("arg0_1",), ("arg1_1",)),
        "user_0": (("arg0_1", "arg1_1"), ("arg2_1", "arg3_1")),
    }


def test_operators_by_schema() -> None:
    body = """
buf0 = torch.ops.aten.topk.default(arg0_1, 4, -1, True, True)
buf1 = buf0[1]
del buf0
aten.index_put_(arg1_1, [None, buf1], arg0_1, True)
buf2 = torch.ops.aten.view.dtype(arg1_1, torch.int32)
torch.ops.aten.randint.low_out(-9223372036854775808, 9223372036854775807, [1], out=arg2_1)
return (buf1, buf2, None, 4, )"""
    source = serial(body, "arg0_1, arg1_1, arg2_1")
    assert verify(source) == []
    found = launches(source)
    assert found["torch.ops.aten.topk.default"] == (("arg0_1",), ("buf0[0]", "buf0[1]"))
    assert found["torch.ops.aten.index_put_"] == (("arg1_1", "buf0[1]", "arg0_1"), ("arg1_1",))
    assert found["torch.ops.aten.randint.low_out"][1] == ("arg2_1",)
    assert set(read_wrapper(source).outputs) >= {"buf0[1]", "arg1_1"}


def test_items_of_a_list_of_views_are_their_arguments_memory() -> None:
    body = """
buf0 = empty_strided_cuda((4, 8), (8, 1), torch.complex64)
buf1 = torch.ops.aten.split_with_sizes.default(buf0, [2, 2])
del buf0
buf2 = buf1[0]
buf3 = buf1[1]
del buf1
aten.index_put_(buf2, [None, arg0_1], arg1_1, True)
buf4 = torch.ops.aten.view_as_real.default(buf3)
return (buf4, )"""
    source = serial(body)
    assert verify(source) == []
    read = read_wrapper(source)
    assert launches(source)["torch.ops.aten.index_put_"] == (("buf0", "arg0_1", "arg1_1"), ("buf0",))
    assert launches(source)["torch.ops.aten.view_as_real.default"] == (("buf0",), ())
    assert "buf0" in read.outputs


def test_a_view_in_a_list_that_another_stream_writes_is_a_race() -> None:
    views = "buf5 = torch.ops.aten.unbind.int(buf0)\n        buf6 = buf5[1]\n        "
    body = changed(STREAMED, ("triton_poi_0.run(buf0, buf1, 4096", f"{views}triton_poi_0.run(buf6, buf1, 4096"))
    assert verify(wrapper(body)) == []
    races = verify(wrapper(changed(body, ("event0.wait(stream1)", "pass"))))
    assert "triton_poi_0" in {race.second.kernel for race in races if race.second.storage == "buf0"}


def test_a_reshape_writes_a_copy_and_what_writes_its_result_may_write_the_argument() -> None:
    body = """
buf0 = torch.ops.aten.reshape.default(arg0_1, [64])
aten.index_put_(buf0, [arg1_1], arg1_1, True)
return (buf0, )"""
    found = launches(serial(body))
    assert verify(serial(body)) == []
    assert found["torch.ops.aten.reshape.default"] == (("arg0_1",), ("buf0",))
    assert found["torch.ops.aten.index_put_"] == (("buf0", "arg0_1", "arg1_1"), ("buf0", "arg0_1"))


def test_the_memory_that_a_reshape_may_view_is_not_free_before_its_result_is_read() -> None:
    """If it is a copy, the argument's block may be given to another stream as soon as its name goes."""
    view = "buf5 = torch.ops.aten.reshape.default(buf0, [4096])\n        "
    body = changed(STREAMED, ("triton_poi_0.run(buf0, buf1, 4096", f"{view}triton_poi_0.run(buf5, buf1, 4096"))
    assert verify(wrapper(body)) == []
    reused = "del buf0\n    buf9 = empty_strided_cuda((64, 64), (64, 1), torch.float32)\n    buf9.zero_()\n"
    early = changed(body, ("event1.wait(default_stream)\n    del buf0\n", f"{reused}    event1.wait(default_stream)\n"))
    assert "buf0" in {race.first.storage for race in verify(wrapper(early))}


def test_sizes_are_not_storages() -> None:
    body = """
s5 = s77
u0 = arg1_1.item()
if not (u0 >= 0):
    raise RuntimeError('u0 >= 0')
triton_poi_0_xnumel = 64*s77 + max(0, u0) // 2
buf0 = empty_strided_cuda((s77, math.floor(s5 / 2)), (s77, 1), torch.float32)
raw_stream0 = get_raw_stream(0)
triton_poi_0.run(arg2_1, buf0, triton_poi_0_xnumel, stream=raw_stream0)
return (buf0, s77, )"""
    source = serial("s77 = arg0_1\ns12 = arg2_1.size()[0]\n" + body.strip(), "arg0_1, arg1_1, arg2_1")
    assert verify(source) == []
    assert read_wrapper(source).inputs == ("arg1_1", "arg2_1")


@pytest.mark.parametrize("name", ["s1", "u0", "z3", "ps2"])
def test_a_tensor_whose_name_is_one_of_a_size_is_refused(name: str) -> None:
    """Taken for a size, its accesses would be missing in the trace."""
    allocation = "buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)\n"
    for use in (
        f"extern_kernels.mm(arg0_1, {name}, out=buf0)",
        f"extern_kernels.mm(arg0_1, arg0_1, out={name})",
        f"aten.index_put_(arg0_1, [None, {name}], buf0, True)",
        f"buf1 = torch.ops.aten.topk.default({name}, 4)",
        f"buf1 = torch.ops.aten.cat.default([arg0_1, {name}])",
        f"{name}.zero_()",
        f"buf0.copy_({name})",
        f"alias = {name}; aten.relu_(alias)",
        f"torch.ops._c10d_functional.all_reduce_.default({name}, 'sum', '0')",
        f"assert_size_stride({name}, (64, 64), (64, 1))",
    ):
        with pytest.raises(UnreadableWrapper, match=f"takes {name} for a tensor"):
            verify(serial(f"{allocation}{use}\nreturn (buf0, )", f"arg0_1, {name}"))
    sizes = f"buf0 = empty_strided_cuda(({name}, 4 * {name}), ({name}, 1), torch.float32)"
    slices = f"buf1 = torch.ops.aten.slice.Tensor(arg0_1, 0, 0, {name})\nbuf0.fill_({name})"
    assert read_wrapper(serial(f"{sizes}\n{slices}\nreturn (buf0, {name}, )", f"arg0_1, {name}")).inputs == ("arg0_1",)


SCALAR = (
    POINTWISE.replace("triton_poi_0", "triton_poi_3")
    .replace("'xnumel': 'i32'", "'scalar': 'fp32', 'xnumel': 'i32'")
    .replace("xnumel, XBLOCK :", "scalar, xnumel, XBLOCK :")
)


def test_a_scalar_on_the_cpu_is_an_argument_of_a_kernel() -> None:
    """Inductor passes a tensor of no dimensions that is on the CPU as its item."""
    body = changed(STREAMED, ("triton_poi_0.run(buf0, buf1, 4096", "triton_poi_3.run(buf0, buf1, arg2_1.item(), 4096"))
    source = wrapper(changed(body, ("arg0_1, arg1_1 = args", "arg0_1, arg1_1, arg2_1 = args")), POINTWISE + SCALAR)
    assert verify(source) == []
    assert launch_order(read_wrapper(source))[1] == ["wait 0", "launch triton_poi_3", "record 1"]
    reads = [step for step in read_wrapper(source).steps if isinstance(step, LaunchStep) and step.name == "tensor.item"]
    assert [(step.stream, step.reads, step.writes) for step in reads] == [(1, ("arg2_1",), ())]


def test_an_item_orders_nothing() -> None:
    """The host waits for a CUDA tensor's value only, and the source does not tell where a tensor is."""
    body = changed(
        STREAMED,
        ("arg0_1, arg1_1 = args", "arg0_1, arg1_1, arg2_1 = args"),
        ("    event1.wait(default_stream)\n", "    with stream1:\n        u0 = arg2_1.item()\n"),
    )
    assert {hb.UNORDERED, hb.UNJOINED} <= set(kinds(wrapper(body)))


def test_a_kernel_is_given_a_tuple() -> None:
    with pytest.raises(UnreadableWrapper, match="kernel triton_poi_0 is given a tuple"):
        verify(serial("r = get_raw_stream(0)\ntriton_poi_0.run(arg0_1, arg1_1, (arg0_1, ), stream=r)\nreturn ()"))


def test_collectives_run_beside_until_they_are_waited_for() -> None:
    body = """
torch.ops._c10d_functional.all_reduce_.default(arg0_1, 'sum', '0')
torch.ops._c10d_functional.wait_tensor.default(arg0_1)
buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
extern_kernels.mm(arg0_1, arg1_1, out=buf0)
return (buf0, )"""
    assert verify(serial(body)) == []
    late = body.replace("torch.ops._c10d_functional.wait_tensor.default(arg0_1)\n", "")
    assert set(kinds(serial(late))) == {hb.UNORDERED, hb.UNJOINED}
