"""Compile Triton kernels for an H200 without a GPU, as a launch would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

H200 = GPUTarget("cuda", 90, 32)
ALIGNED = [["tt.divisibility", 16]]
_NAMES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float8_e4m3fn: "fp8e4nv",
    torch.uint8: "u8", torch.int32: "i32",
}  # fmt: skip


def compiled(
    kernel: Any, tensors: Mapping[str, torch.dtype], numbers: Mapping[str, int], constants: Mapping[str, Any], warps: int
) -> Any:
    """Return the compiled kernel of a launch with aligned tensors of these types.

    As in a launch, numbers that are 1 become constants, and multiples of 16 are known as such.
    """
    constants = {**constants, **{name: 1 for name, number in numbers.items() if number == 1}}
    signature = {name: f"*{_NAMES[dtype]}" for name, dtype in tensors.items()}
    signature.update({name: "constexpr" if name in constants else "i32" for name in numbers})
    signature.update(dict.fromkeys(constants, "constexpr"))
    places = {name: (kernel.arg_names.index(name),) for name in signature}
    aligned = [*tensors, *(name for name, number in numbers.items() if name not in constants and number % 16 == 0)]
    source = ASTSource(
        kernel,
        {name: signature[name] for name in kernel.arg_names},
        {places[name]: value for name, value in constants.items()},
        {places[name]: ALIGNED for name in aligned},
    )
    return triton.compile(source, target=H200, options={"num_warps": warps})
