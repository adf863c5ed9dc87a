"""Wrapper sources: what is read, what is proved, what is refused."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import Launch
from graphstreams.verification.wrapper.read import UnreadableWrapper, launch_order, read_wrapper, verify

HEADER = """
from torch import device, empty_strided
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.select_algorithm import extern_kernels
from torch._inductor.hooks import run_intermediate_hooks
from graphstreams.runtime.streams import acquire_for_call as _acquire_streams, join as _join_streams
from torch._dynamo.variables.streams import _get_stream_by_index
from torch._C._dynamo.guards import copy_if_misaligned
from torch._C import _cuda_getCurrentRawStream as get_raw_stream
import torch
import math
aten = torch.ops.aten
assert_size_stride = torch._C._dynamo.guards.assert_size_stride
empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda
reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor
async_compile = AsyncCompile()
"""


def kernel(name: str, pointers: str, body: str, heuristic: str = "pointwise", mutated: tuple[str, ...] = ()) -> str:
    names = pointers.split()
    signature = {**dict.fromkeys(names, "*fp32"), "xnumel": "i32", "XBLOCK": "constexpr"}
    return f"""
{name} = async_compile.triton('{name}', '''
import triton
import triton.language as tl
from torch._inductor.runtime import triton_heuristics
@triton_heuristics.{heuristic}(
    size_hints={{'x': 64}},
    triton_meta={{'signature': {signature!r}, 'device': DeviceProperties(type='cuda')}},
    inductor_meta={{'mutated_arg_names': {list(mutated)!r}}},
)
@triton.jit
def {name}({", ".join(names)}, xnumel, XBLOCK : tl.constexpr):
    {body}
''', device_str='cuda')
"""


POINTWISE = kernel("triton_poi_0", "in_ptr0 out_ptr0", "tl.store(out_ptr0 + 0, tl.load(in_ptr0 + 0), None)")
INPLACE = kernel("triton_poi_1", "in_out_ptr0", "tl.store(in_out_ptr0 + 0, 1, None)", mutated=("in_out_ptr0",))
SCATTER = kernel("triton_poi_2", "in_ptr0 in_ptr1", "tl.atomic_add(in_ptr1 + tl.load(in_ptr0), 1, None)")
USER = kernel(
    "user_0",
    "idx src dst other",
    """i = tl.load(idx)
    here = dst + i
    for k in range(4):
        tl.store(here, tl.load(src + k))
        here += 4
    tl.atomic_add(other + i, 1)""",
    heuristic="user_autotune",
)


RUNNER = """
class Runner:
    def __init__(self, partitions):
        self.partitions = partitions

    def recursively_apply_fns(self, fns):
        new_callables = []
        for fn, c in zip(fns, self.partitions):
            new_callables.append(fn(c))
        self.partitions = new_callables

    def call(self, args):
"""


def wrapper(body: str, kernels: str = POINTWISE, top: str = "") -> str:
    lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
    partitions = "".join(f"{name}," for name in re.findall(r"def (partition_\d+)\(", top))
    return (
        f"{HEADER}{kernels}\nasync_compile.wait(globals())\ndel async_compile\n{top}\n{RUNNER}{lines}\n"
        f"runner = Runner(partitions=[{partitions}])\ncall = runner.call\n"
        "recursively_apply_fns = runner.recursively_apply_fns\n"
    )


# `{acquire}` makes one aux stream; both streams are used as a rewritten graph uses them.
STREAMED = """
arg0_1, arg1_1 = args
args.clear()
with torch.cuda._DeviceGuard(0):
    torch.cuda.set_device(0)
    default_stream, stream1, event0, event1, = _acquire_streams(0, 1, 2)
    assert_size_stride(arg0_1, (64, 64), (64, 1), 'input')
    buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    extern_kernels.mm(arg0_1, reinterpret_tensor(arg1_1, (64, 64), (1, 64), 0), out=buf0)
    event0.record(default_stream)
    with stream1:
        event0.wait(stream1)
        buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        raw_stream = get_raw_stream(0)
        triton_poi_0.run(buf0, buf1, 4096, stream=raw_stream)
        event1.record(stream1)
    buf2 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream0 = get_raw_stream(0)
    triton_poi_0.run(buf0, buf2, 4096, stream=raw_stream0)
    event1.wait(default_stream)
    del buf0
    buf3 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    extern_kernels.mm(buf1, buf2, out=buf3)
    del buf1
    del buf2
return (buf3, )
"""


def changed(source: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in source, old
        source = source.replace(old, new)
    return source


def kinds(source: str) -> list[str]:
    return [race.kind for race in verify(source)]


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


def serial(body: str, inputs: str = "arg0_1, arg1_1", kernels: str = POINTWISE, top: str = "") -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
    return wrapper(f"{inputs} = args\nargs.clear()\nwith torch.cuda._DeviceGuard(0):\n{lines}\n", kernels, top)


def launches(source: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    steps = [step for step in read_wrapper(source).steps if isinstance(step, Launch)]
    return {s.name: (s.reads, tuple(w for w in s.writes if not w.startswith("scratch"))) for s in steps}


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
    reads = [step for step in read_wrapper(source).steps if isinstance(step, Launch) and step.name == "tensor.item"]
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
    frees = [step.storage for step in trace.steps if type(step).__name__ == "Free"]
    assert frees.index("buf0") < frees.index("arg0_1")


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


def test_handle_of_another_stream() -> None:
    source = changed(STREAMED, ("    with stream1:\n", "    raw_stream = get_raw_stream(0)\n    with stream1:\n"))
    with pytest.raises(UnreadableWrapper, match="not the current one"):
        verify(wrapper(changed(source, ("        raw_stream = get_raw_stream(0)\n", ""))))


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
