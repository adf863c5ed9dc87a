"""Put the sources of wrappers together from kernels and the body of a call."""

from __future__ import annotations

import re

from graphstreams.verification.trace import LaunchStep
from graphstreams.verification.wrapper.read import read_wrapper, verify

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


def serial(body: str, inputs: str = "arg0_1, arg1_1", kernels: str = POINTWISE, top: str = "") -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
    return wrapper(f"{inputs} = args\nargs.clear()\nwith torch.cuda._DeviceGuard(0):\n{lines}\n", kernels, top)


def launches(source: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    steps = [step for step in read_wrapper(source).steps if isinstance(step, LaunchStep)]
    return {s.name: (s.reads, tuple(w for w in s.writes if not w.startswith("scratch"))) for s in steps}
