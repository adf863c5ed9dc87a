"""Kernels that bring the first elements of a tensor into the L2 cache, each by another instruction.

A load whose value nobody uses is dropped by Triton, and so is assembly that is declared pure (3.9.0, seen in the PTX that it
makes for compute capability 9.0). A volatile load stays, and so do assembly that is not pure, and a load whose sum is stored.
Instructions: PTX ISA 9.0, `prefetch` (of the line of an address; with L2::evict_last from compute capability 8.0 on) and
`cp.async.bulk.prefetch` (of multiples of 16 bytes, from 9.0 on). A load with L2::evict_last has to be of 32 bytes, from 10.0
on; Triton's own policy of eviction is a cache hint, which 9.0 has.
"""

import triton
import triton.language as tl


@triton.jit
def prefetch_by_loads(x, after, out, size, step: tl.constexpr):
    """Load the first `size` elements of `x` in turns of `step` elements, by volatile loads.

    Each program writes the first element of `after` to `out`, as float32.
    """
    for start in range(tl.program_id(0) * step, size, tl.num_programs(0) * step):
        place = start + tl.arange(0, step)
        tl.load(x + place, place < size, other=0.0, volatile=True)
    tl.store(out + tl.program_id(0), tl.load(after).to(tl.float32))


@triton.jit
def prefetch_by_sums(x, out, size, step: tl.constexpr, number: tl.constexpr, policy: tl.constexpr):
    """Load the first `size` elements of `x` in turns of `step` elements, and write a sum of each program to `out`.

    `number` is the type of whole numbers that are as wide as an element.
    """
    total = tl.zeros((step,), number)
    for start in range(tl.program_id(0) * step, size, tl.num_programs(0) * step):
        place = start + tl.arange(0, step)
        total ^= tl.load(x + place, place < size, other=0.0, eviction_policy=policy).to(number, bitcast=True)
    tl.store(out + tl.program_id(0), tl.xor_sum(total, 0).to(tl.int32))


@triton.jit
def prefetch_by_lines(x, size, step: tl.constexpr, line: tl.constexpr, instruction: tl.constexpr):
    """Prefetch the first `size` bytes of `x` in turns of `step` bytes, with an address every `line` bytes."""
    for start in range(tl.program_id(0) * step, size, tl.num_programs(0) * step):
        place = tl.minimum(start + line * tl.arange(0, step // line), size - 1)
        address = (x.to(tl.pointer_type(tl.int8)) + place).to(tl.int64)
        tl.inline_asm_elementwise(instruction, "=r,l", [address], tl.int32, is_pure=False, pack=1)


@triton.jit
def prefetch_in_bulk(x, size, step: tl.constexpr, instruction: tl.constexpr):
    """Prefetch the first `size` bytes of `x`, a multiple of 16, in turns of `step` bytes, by one thread of each program."""
    for start in tl.range(tl.program_id(0) * step, size, tl.num_programs(0) * step):
        address = (x.to(tl.pointer_type(tl.int8)) + start).to(tl.int64)
        length = tl.minimum(size - start, step)
        tl.inline_asm_elementwise(instruction, "=r,l,r", [address, length], tl.int32, is_pure=False, pack=1)
