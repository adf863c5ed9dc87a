"""Take the attention kernel that torch takes on a GPU, on a machine that lacks it.

`scaled_dot_product_attention` asks the driver what the GPU is and, without one, is traced as products and a softmax. What
follows was read in torch's `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp` (main, 2026-11), and holds for dense tensors
and compute capability 8.0 and up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false

from graphstreams.ir.devices import Device

aten = torch.ops.aten
CUDNN_PREFERRED, CUDNN_WIDE_HEADS = 91500, 92200  # versions above which it is tried first, and takes heads of up to 256
CUDNN_LATENT_HEADS = 91100  # from this version on it takes heads of 192 for queries and 128 for values
CUDNN_LARGEST = 65535  # batch or heads
_HALVES = (torch.float16, torch.bfloat16)
_DEFAULT_ORDER = ["flash", "efficient", "math", "cudnn", "overrideable"]
_NAMES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn", 4: "overrideable"}  # of at::SDPBackend


@dataclass(frozen=True)
class Call:
    """The arguments of one call of attention: (batch, heads, length, size of a head) for query, key and value."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    dropout: float
    causal: bool
    grouped: bool

    @property
    def head(self) -> tuple[torch.types.IntLikeType, torch.types.IntLikeType]:
        """The sizes of a head of query and value."""
        return self.query.shape[-1], self.value.shape[-1]


def attention_on(device: Device) -> Callable[..., torch.Tensor]:
    """Return what `scaled_dot_product_attention` does with tensors of `device`."""

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        if len({each.dtype for each in (query, key, value)}) > 1 or (is_causal and attn_mask is not None):
            raise RuntimeError("query, key and value have to be of one dtype, and is_causal goes without a mask")
        call = Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        kernel = kernel_for(call, device) if query.device.type == "cuda" else "math"
        mask = _added(attn_mask, query)
        statistics = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                query, key, value, mask, statistics, dropout_p, is_causal, False, scale=scale
            )[0]
        if kernel == "flash":
            return _flash(call, scale)
        if kernel == "efficient":
            mask = mask if mask is None else _aligned(mask, query, key)
            return aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, statistics, dropout_p, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]

    return attention


def kernel_for(call: Call, device: Device) -> str:
    """Return which kernel torch takes: "cudnn", "flash", "efficient" or "math". Raises RuntimeError if torch has none."""
    order = [_NAMES.get(number, "unknown") for number in torch._C._get_sdp_priority_order()]
    deprioritized = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    version = _cudnn_version()
    if order == _DEFAULT_ORDER and device.capability[0] in (9, 10) and version > CUDNN_PREFERRED and not deprioritized:
        order = ["cudnn", "flash", "efficient", "math"]
    fits = {"cudnn": _cudnn, "flash": _flash_fits, "efficient": _efficient}
    for name in order:
        if name in fits and _fused(call, name) and fits[name](call, device, version):
            return name
        if name == "math" and torch.backends.cuda.math_sdp_enabled():
            return name
    raise RuntimeError("no kernel for this attention is switched on")


def _cudnn_version() -> int:
    """Return the version of the cuDNN that is loaded, such as 92600, also if torch was built for a later one; 0 if none is."""
    return int(torch._C._cudnn.getVersionInt()) if torch._C._has_cudnn else 0


def _fused(call: Call, name: str) -> bool:
    """Whether the fused kernel of this name may take these shapes, as far as all of them look at the same things."""
    tensors = call.query, call.key, call.value
    if any(each.dim() != 4 for each in tensors):
        return False
    batch = all(_same(call.query.shape[0], each.shape[0]) for each in tensors[1:])
    lengths = all(guard_or_false(each.shape[2] > 0) for each in tensors)
    one = name != "efficient" and _same(call.query.shape[-1], 1)  # then a stride does not matter
    dense = one or all(_same(each.stride(-1), 1) for each in tensors)
    of_mask = call.mask is None or call.mask.dim() == 0 or _same(call.mask.stride(-1), 1)
    return batch and _heads_fit(call, name) and lengths and dense and of_mask


def _heads_fit(call: Call, name: str) -> bool:
    query, key, value = (each.shape[1] for each in (call.query, call.key, call.value))
    if _same(key, value) and (_same(query, key) or _same(key, 1)):
        return True
    shared = all(guard_or_false(other > 0) and guard_or_false(query % other == 0) for other in (key, value))
    return call.grouped and shared and (name == "cudnn" or _same(key, value))


def _cudnn(call: Call, device: Device, version: int) -> bool:
    newer = device.capability[0] in (9, 10)
    latent = newer and version >= CUDNN_LATENT_HEADS and _same(call.head[0], 192) and _same(call.head[1], 128)
    widest = 256 if newer and version > CUDNN_WIDE_HEADS else 192 if latent else 128
    deterministic = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    return (
        torch.backends.cuda.cudnn_sdp_enabled()
        and not deterministic
        and call.query.dtype in _HALVES
        and float(call.dropout * 16).is_integer()
        and all(guard_or_false(size <= widest) and _divides(8, size) for size in call.head)
        and all(guard_or_false(size <= CUDNN_LARGEST) for size in call.query.shape[:2])
        and (call.mask is None or (call.mask.dim() in (2, 4) and not call.mask.requires_grad))
        and guard_or_false(call.key.shape[2] != 1)
        and (call.dropout == 0 or guard_or_false(call.query.shape[2] != 1))
    )


def _flash_fits(call: Call, _: Device, __: int) -> bool:
    return (
        torch.backends.cuda.flash_sdp_enabled()
        and call.mask is None
        and call.query.dtype in _HALVES
        and all(_same(each.shape[-1], call.query.shape[-1]) for each in (call.key, call.value))
        and guard_or_false(call.query.shape[-1] <= 256)
        and (not call.causal or _same(call.query.shape[2], call.key.shape[2]))
    )


def _efficient(call: Call, _: Device, __: int) -> bool:
    alignment = 8 if call.query.dtype in _HALVES else 4
    return (
        torch.backends.cuda.mem_efficient_sdp_enabled()
        and call.query.dtype in (*_HALVES, torch.float32)
        and _same(call.query.shape[-1], call.key.shape[-1])
        and all(_divides(alignment, size) and guard_or_false(size > 0) for size in call.head)
        and all(_divides(alignment, each.storage_offset()) for each in (call.query, call.key, call.value))
    )


def _same(one: torch.types.IntLikeType, other: torch.types.IntLikeType) -> bool:
    return guard_or_false(one == other)


def _divides(number: int, size: torch.types.IntLikeType) -> bool:
    return guard_or_false(size % number == 0)


def _added(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """Return the mask as numbers to add: 0 where it is true, else minus infinity."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero, lowest = (torch.scalar_tensor(value, dtype=query.dtype, device=query.device) for value in (0.0, -math.inf))
    return torch.where(mask, zero, lowest)


def _aligned(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the mask for the memory-efficient kernel, which reads rows that begin at multiples of 16 elements."""
    whole = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    length = whole.shape[-1]
    if not _divides(16, length):
        return torch.nn.functional.pad(whole, (0, 16 - length % 16))[..., :length]
    return whole if all(_divides(16, stride) for stride in whole.stride()[:3]) else whole.contiguous()


def _flash(call: Call, scale: float | None) -> torch.Tensor:
    """Return flash attention, which takes heads whose size is a multiple of 8."""
    size = call.query.shape[-1]
    missing = 0 if _divides(8, size) else 8 - size % 8
    tensors = [torch.nn.functional.pad(each, (0, missing)) if missing else each for each in (call.query, call.key, call.value)]
    factor = 1 / math.sqrt(size) if scale is None else scale
    found = aten._scaled_dot_product_flash_attention(*tensors, call.dropout, call.causal, False, scale=factor)[0]
    return found[..., :size] if missing else found
