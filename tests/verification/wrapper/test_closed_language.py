"""Check that what hides a race, or what runs, is refused or shown to race: a wrapper's language is closed."""

from __future__ import annotations

import pytest

from graphstreams.verification.trace import LaunchStep
from graphstreams.verification.wrapper.read import UnreadableWrapper, read_wrapper, verify
from tests.support.racing import Case, cases, wrapper

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_racing_wrapper_is_called_clean(case: Case) -> None:
    compile(case.source, case.name, "exec")
    if case.outcome == "races":
        assert case.pattern in {race.kind for race in verify(case.source)} | {""}
        assert verify(case.source)
        return
    with pytest.raises(UnreadableWrapper) as caught:
        verify(case.source)
    assert any(part in str(caught.value) for part in case.pattern.split("|")), caught.value
    assert caught.value.line > 0


ORDERED = """
event0.record(default_stream)
buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
with stream1:
    event0.wait(stream1)
    buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    copy.run(arg0_1, buf0, 4096, stream=raw_stream)
    event1.record(stream1)
event1.wait(default_stream)
raw_stream = get_raw_stream(0)
copy.run(buf0, buf1, 4096, stream=raw_stream)
del buf0
del arg0_1
return (buf1, )
"""


def test_the_wrapper_that_they_are_made_of_is_clean() -> None:
    assert verify(wrapper(ORDERED)) == []


LISTS = """
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    buf0 = torch.ops.aten.split_copy.Tensor(arg0_1, 32)
    buf1 = buf0[0]
    buf2 = buf0[1]
    del buf0
    event1.record(stream1)
with stream2:
    event1.wait(stream2)
    buf3 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    copy.run(buf1, buf3, 4096, stream=raw_stream)
    event2.record(stream2)
with stream1:
    buf4 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    copy.run(buf2, buf4, 4096, stream=raw_stream)
    event3.record(stream1)
event2.wait(default_stream)
event3.wait(default_stream)
del buf1
del buf2, buf3, buf4
return ()
"""


def test_items_of_a_list_live_as_long_as_their_own_names() -> None:
    assert verify(wrapper(LISTS)) == []
    assert verify(wrapper(LISTS.replace("    del buf0\n", ""))) == []
    # What nobody takes goes with the list; the rest outlives it.
    early = LISTS.replace("del buf1\n", "").replace("with stream1:\n    buf4", "del buf1\nwith stream1:\n    buf4")
    assert {(race.kind, race.first.storage) for race in verify(wrapper(early))} == {("freed too early", "buf0[0]")}
    # As long as the list is there, so are its items.
    held = early.replace("    del buf0\n", "").replace("del buf2,", "del buf0, buf2,")
    assert verify(wrapper(held)) == []


HOST_READ = """
buf0 = empty_strided_cpu_pinned((1, ), (1, ), torch.int64)
buf0.copy_(arg0_1, True)
_d2h_event_buf0 = torch.Event()
_d2h_event_buf0.record()
_d2h_event_buf0.synchronize()
u0 = buf0.item()
del buf0
buf1 = empty_strided_cuda((u0, 64), (64, 1), torch.float32)
raw_stream = get_raw_stream(0)
copy.run(arg1_1, buf1, 64*u0, stream=raw_stream)
return (buf1, )
"""


def test_a_host_that_waits_may_read() -> None:
    assert verify(wrapper(HOST_READ)) == []
    synchronize = "_d2h_event_buf0.synchronize()\n"
    assert {race.kind for race in verify(wrapper(HOST_READ.replace(synchronize, "")))} == {"unordered accesses"}
    blocking = HOST_READ.replace(synchronize, "").replace("(arg0_1, True)", "(arg0_1, False)")
    assert verify(wrapper(blocking)) == []


HOST_KERNEL = """
cpp_fused_0 = async_compile.cpp_pybinding(['const int64_t*', 'int64_t*', 'const int64_t'], r'''
extern "C" void kernel(const int64_t* in_ptr0, int64_t* out_ptr0, const int64_t ks0) {}
''')
"""


def test_kernels_of_the_host_run_at_once() -> None:
    call = "buf2 = empty_strided_cpu((1, ), (1, ), torch.int64)\ncpp_fused_0(buf0, buf2, 3)\narg0_1.copy_(buf2, False)\n"
    source = HOST_READ.replace("u0 = buf0.item()\n", f"{call}u0 = buf2.item()\n")
    assert verify(wrapper(source, HOST_KERNEL)) == []
    early = source.replace("_d2h_event_buf0.synchronize()\n", "")
    assert {race.kind for race in verify(wrapper(early, HOST_KERNEL))} == {"unordered accesses"}
    # It writes what the copy to the GPU may still read.
    again = source.replace("u0 = buf2", "cpp_fused_0(buf0, buf2, 3)\nu0 = buf2").replace("buf2, False", "buf2, True")
    assert {race.kind for race in verify(wrapper(again, HOST_KERNEL))} == {"unordered accesses"}
    for other in ("buf0, 3, buf2", "buf0, buf2", "buf0, buf2, 3, 4", "buf0, buf2, ks=3"):
        with pytest.raises(UnreadableWrapper, match="do not fit its signature"):
            verify(wrapper(source.replace("(buf0, buf2, 3)", f"({other})"), HOST_KERNEL))


MULTI = """
arg_index = {
    0: [slice(0, 3, None)],
    1: [slice(1, 2, None), slice(0, 1, None), slice(2, 3, None)],
}
multi_kernel_0 = async_compile.multi_kernel('multi_kernel_0', [
    copy,
    add,
], arg_index=arg_index)
"""


def test_of_several_kernels_any_may_run() -> None:
    source = ORDERED.replace("copy.run(buf0, buf1", "multi_kernel_0.run(buf1, buf0")
    (step,) = [
        s for s in read_wrapper(wrapper(source, MULTI)).steps if isinstance(s, LaunchStep) and s.name == "multi_kernel_0"
    ]
    assert (step.reads, step.writes[:2]) == (("buf1",), ("buf0", "buf1"))
    for other in (MULTI.replace("1: [", "2: ["), MULTI.replace("    add,\n", ""), MULTI.replace("slice(0, 3, None)", "copy")):
        with pytest.raises(UnreadableWrapper, match="line"):
            verify(wrapper(source, other))


def test_checks_for_numbers_read_on_the_current_stream() -> None:
    check = "assert not buf0.isnan().any().item()\n"
    assert verify(wrapper(ORDERED.replace("event1.wait(default_stream)\n", f"event1.wait(default_stream)\n{check}"))) == []
    early = ORDERED.replace("event1.wait(default_stream)\n", f"{check}event1.wait(default_stream)\n")
    assert {race.kind for race in verify(wrapper(early))} == {"unordered accesses"}
    for part, other in (("any", "all"), ("not ", ""), ("buf0", "buf0.T"), ("item", "cpu")):
        with pytest.raises(UnreadableWrapper, match="assert"):
            verify(wrapper(ORDERED.replace("event1.wait", f"{check.replace(part, other)}event1.wait")))


def test_a_chain_of_calls_ends_quickly() -> None:
    """Functions that call each other twice would be read exponentially often; deep expressions recurse."""
    chain = "".join(f"def f{i}(args):\n    f{i + 1}(args)\n    f{i + 1}(args)\n    return ()\n" for i in range(60))
    deep = "def call(args):\n    x = " + "-" * 20_000 + "1\n"
    nested = "def call(args):\n    x = " + "+".join(["1"] * 20_000) + "\n    return ()\n"
    for source in (chain, deep, nested):
        with pytest.raises(UnreadableWrapper) as caught:
            verify(source)
        assert not str(caught.value).endswith(": ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import AsyncCompile\n", "import AsyncCompile as Other\n"),
        ("from torch import device, empty_strided\n", "from torch import device as AsyncCompile\n"),
        ("async_compile.wait(globals())", "async_compile.wait(vars())"),
        ("async_compile.wait(globals())\n", ""),
        ("import torch\n", "import torch.cuda as torch\n"),
        ("import torch\n", "from . import torch\n"),
        ("import torch\n", "from __future__ import annotations\nimport torch\n"),
        ("device_str='cuda')", "device_str='cpu')"),
        ("async_compile.triton('copy', '''", "async_compile.triton('add', '''"),
        ("async_compile.triton('copy', '''", "async_compile.triton('copy', f'''"),
        ("def call(args):", "def call(args, copy=1):"),
        ("def call(args):", "def call(*args):"),
        ("def call(args):", "async def call(args):"),
        ("def call(args):", "def call(args) -> copy:"),
    ],
)
def test_another_top_of_the_module_is_refused(old: str, new: str) -> None:
    source = wrapper(ORDERED)
    assert old in source
    with pytest.raises(UnreadableWrapper):
        verify(source.replace(old, new))
