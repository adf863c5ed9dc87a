"""Check that no tensor among the inputs hides as a size."""

from __future__ import annotations

import pytest

from graphstreams.verification.wrapper.read import UnreadableWrapper, verify
from tests.support.racing import wrapper
from tests.support.text_mutants.execution import TENSOR, faults_of
from tests.support.wrapper_sources import serial

# The product reads arg0_1 on stream1, and its memory goes back to the caller's pool, from which buf1 comes.
READ_AS_A_SIZE = """
{size} = arg0_1
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    buf0 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    extern_kernels.mm({computed}, arg1_1, out=buf0)
    event1.record(stream1)
del arg0_1, {size}
buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
raw_stream = get_raw_stream(0)
copy.run(arg1_1, buf1, 4096, stream=raw_stream)
event1.wait(default_stream)
del buf0
return (buf1, )
"""
CHOSEN = "{} if True else 0"


@pytest.mark.parametrize(
    "computed",
    ["{}", CHOSEN, "{} or 0", "-{}", "{} + 0", "{}[0]", "max({}, 0)", "{}.__floordiv__(1)", "(1).__floordiv__({})"],
)
def test_what_is_computed_from_a_size_is_no_tensor(computed: str) -> None:
    source = wrapper(READ_AS_A_SIZE.format(size="s0", computed=computed.format("s0")))
    with pytest.raises(UnreadableWrapper, match=r"takes arg0_1 for a tensor|where a number is expected"):
        verify(source)


def test_the_wrapper_with_a_chosen_size_races() -> None:
    source = wrapper(READ_AS_A_SIZE.format(size="s0", computed=CHOSEN.format("s0")))
    assert faults_of(source, (TENSOR, TENSOR), {})
    as_a_tensor = wrapper(READ_AS_A_SIZE.format(size="buf2", computed=CHOSEN.format("buf2")))
    with pytest.raises(UnreadableWrapper, match="where a number is expected"):
        verify(as_a_tensor)


PARTITION = """
def partition_0(args):
    arg0_1, arg1_1 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        {statement}
        buf0 = empty_strided_cuda(({size}, 64), (64, 1), torch.float32)
        extern_kernels.mm(arg1_1, arg1_1, out=buf0)
    return (buf0, )
"""
CALL = """
{before}partition0_args = [{given}, arg1_1]
(buf0,) = self.partitions[0](partition0_args)
return (buf0, )
"""


@pytest.mark.parametrize("statement", ["s0 = arg0_1", "s0 = arg0_1 if True else 0"])
def test_a_partition_is_given_sizes_by_their_own_names(statement: str) -> None:
    top = PARTITION.format(statement=statement, size="s0")
    assert verify(serial(CALL.format(before="s0 = arg0_1\n", given="s0"), top=top)) == []
    with pytest.raises(UnreadableWrapper, match=r"the name of a size, bound to a tensor|where a number is expected"):
        verify(serial(CALL.format(before="", given="arg0_1"), top=top))
