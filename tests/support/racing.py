"""Complete wrappers that race, or that hide what runs, from the fragments in tests/data/racing.

A fragment says in its first line what the verifier has to answer: the kind of a race, or a part of the reason to refuse it.
`## top` goes to the module, `## body` runs between the fork and the return, which is its last line, `## end` closes the
module. In each of them stream1 or stream2 meets the caller's stream over some memory and nothing orders the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import DATA

HEADER = """
import torch
import math
from torch import device, empty_strided
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.select_algorithm import extern_kernels
from graphstreams.runtime.streams import acquire_for_call as _acquire_streams, join as _join_streams
from torch._C import _cuda_getCurrentRawStream as get_raw_stream
from torch._C._dynamo.guards import copy_if_misaligned
aten = torch.ops.aten
empty_strided_cpu = torch._C._dynamo.guards._empty_strided_cpu
empty_strided_cpu_pinned = torch._C._dynamo.guards._empty_strided_cpu_pinned
empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda
reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor
alloc_from_pool = torch.ops.inductor._alloc_from_pool
async_compile = AsyncCompile()
"""
KERNEL = """
{name} = async_compile.triton('{name}', '''
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers, triton_heuristics
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={{'x': 4096}},
    filename=__file__,
    triton_meta={{'signature': {{'{first}': '*fp32', 'out_ptr0': '*fp32', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}}}},
    inductor_meta={{'mutated_arg_names': {mutated}}},
    min_elem_per_thread=0
)
@triton.jit
def {name}({first}, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    x0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:]
    tl.store(out_ptr0 + (x0), tl.load({first} + (x0), None), None)
''', device_str='cuda')
"""
KERNELS = KERNEL.format(name="copy", first="in_ptr0", mutated="[]") + KERNEL.format(
    name="add", first="in_out_ptr0", mutated="['in_out_ptr0']"
)
ENTRY = """
    arg0_1, arg1_1 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        default_stream, stream1, stream2, event0, event1, event2, event3, = _acquire_streams(0, 2, 4)
        try:
{body}
        except BaseException:
            _join_streams(default_stream, stream1, stream2)
            raise
    {result}
"""


@dataclass(frozen=True)
class Case:
    """A whole wrapper, and what has to come of it: "races" and a kind, or "refused" and parts of reasons that will do."""

    name: str
    source: str
    outcome: str
    pattern: str


def wrapper(body: str, top: str = "", end: str = "") -> str:
    """Return the source of a wrapper whose call runs `body` on streams; the last line of it is the return."""
    *lines, result = body.strip().splitlines()
    call = "def call(args):" + ENTRY.format(body="\n".join("            " + line for line in lines), result=result)
    return f"{HEADER}{KERNELS}\n{top}\nasync_compile.wait(globals())\ndel async_compile\n\n{call}\n{end}\n"


def cases() -> list[Case]:
    """Return all fragments, made whole."""
    return [_case(path) for path in sorted((DATA / "racing").glob("*.txt"))]


def _case(path: Path) -> Case:
    head, *sections = path.read_text().split("## ")
    parts = {name: text for name, _, text in (section.partition("\n") for section in sections)}
    outcome, _, pattern = head.removeprefix("# ").strip().partition(":")
    return Case(path.stem, wrapper(parts["body"], parts.get("top", ""), parts.get("end", "")), outcome, pattern.strip())
