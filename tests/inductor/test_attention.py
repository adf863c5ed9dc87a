"""Check which attention kernel is planned without a GPU; tests/gpu compares the choice with torch's own on one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphstreams.inductor import attention
from graphstreams.inductor.attention import Call, kernel_for
from graphstreams.ir.devices import DEVICES
from graphstreams.pipeline.explain import capture, explain
from tests.support.sample_modules import FREE_EVENTS


class Attention(nn.Module):
    """Attention of 8 heads of 64, whose mask is made in forward, beside a product that needs none of it."""

    def __init__(self, mask: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.mask, self.qkv = mask, nn.Linear(512, 1536, bias=False, dtype=dtype)
        self.beside = nn.Linear(512, 512, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (part.view(*x.shape[:2], 8, 64).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        size, device = (x.shape[1], x.shape[1]), x.device
        masks = {
            "bool": torch.ones(size, dtype=torch.bool, device=device).tril(),
            "bias": torch.zeros(size, dtype=x.dtype, device=device),
        }
        made = functional.scaled_dot_product_attention(q, k, v, masks.get(self.mask), is_causal=self.mask == "causal")
        return made, self.beside(x)


@pytest.mark.parametrize(
    ("mask", "dtype", "target", "kernel"),
    [
        ("", torch.bfloat16, "h200", "cudnn"),
        ("causal", torch.bfloat16, "h200", "cudnn"),
        ("bool", torch.float16, "b200", "cudnn"),
        ("", torch.bfloat16, "a100", "flash"),
        ("causal", torch.bfloat16, "l40s", "flash"),
        ("bias", torch.bfloat16, "a100", "efficient"),
        ("bool", torch.float32, "h200", "efficient"),
    ],
)
def test_a_graph_has_the_attention_kernel_that_the_target_takes(
    mask: str, dtype: torch.dtype, target: str, kernel: str
) -> None:
    (outcome,) = capture(Attention(mask, dtype), (torch.randn(2, 40, 512, dtype=dtype),), target, FREE_EVENTS)
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert f"_scaled_dot_product_{kernel}_attention" in outcome.report.graph_serial


def test_what_the_user_has_switched_off_is_not_taken() -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION):
        (outcome,) = capture(
            Attention("", torch.bfloat16), (torch.randn(2, 40, 512, dtype=torch.bfloat16),), "h200", FREE_EVENTS
        )
    assert "_scaled_dot_product_efficient_attention" in outcome.report.graph_serial


def test_a_call_that_runs_on_the_cpu_is_left_as_it_is() -> None:
    capture(Attention("", torch.float32), (torch.randn(2, 40, 512),), "h200", FREE_EVENTS)
    q = torch.randn(1, 2, 8, 16)
    expected = torch.softmax(q @ q.transpose(-1, -2) / 4, -1) @ q
    torch.testing.assert_close(functional.scaled_dot_product_attention(q, q, q), expected)


def call(
    heads: tuple[int, int] = (8, 8), sizes: tuple[int, int] = (64, 64), lengths: tuple[int, int] = (1, 512), **changes: Any
) -> Call:
    """Return a call in bf16 with heads, sizes of a head, and lengths of query and of keys and values."""
    query = torch.empty(2, heads[0], lengths[0], sizes[0], dtype=torch.bfloat16, device="meta")
    key = torch.empty(2, heads[1], lengths[1], sizes[0], dtype=torch.bfloat16, device="meta")
    value = torch.empty(2, heads[1], lengths[1], sizes[1], dtype=torch.bfloat16, device="meta")
    return Call(
        **{
            "query": query,
            "key": key,
            "value": value,
            "mask": None,
            "dropout": 0.0,
            "causal": False,
            "grouped": False,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("made", "kernel"),
    [
        (call(), "cudnn"),
        (call(sizes=(192, 128)), "cudnn"),
        (call(sizes=(320, 320)), "efficient"),
        (call(sizes=(60, 60)), "flash"),  # padded to 64
        (call(sizes=(60, 36)), "math"),
        (call(lengths=(1, 1)), "flash"),
        (call(lengths=(1, 0)), "math"),
        (call(dropout=0.1), "flash"),
        (call(dropout=0.1, mask=torch.empty(1, 512, device="meta")), "efficient"),
        (call(heads=(8, 2)), "math"),
        (call(heads=(8, 2), grouped=True), "cudnn"),
        (call(heads=(8, 3), grouped=True), "math"),
        (call(heads=(8, 1)), "cudnn"),
        (call(heads=(8, 4), grouped=True, value=torch.empty(2, 2, 512, 64, dtype=torch.bfloat16, device="meta")), "cudnn"),
        (call(sizes=(0, 0)), "cudnn"),
        (call(mask=torch.empty(512, 1, device="meta").t()), "cudnn"),  # one row
        (call(mask=torch.empty(512, 4, device="meta").t()), "math"),
        (call(mask=torch.empty(8, 1, 512, device="meta")), "efficient"),
    ],
)
def test_the_kernel_for_a_call(made: Call, kernel: str) -> None:
    assert kernel_for(made, DEVICES["h200"]) == kernel


@pytest.mark.parametrize(
    ("version", "sizes", "kernel"),
    [
        (91900, (192, 128), "cudnn"),
        (91900, (256, 256), "flash"),
        (92600, (256, 256), "cudnn"),
        (91400, (64, 64), "flash"),
        (91000, (192, 128), "efficient"),
    ],
)
def test_what_cudnn_takes_depends_on_its_version(
    monkeypatch: pytest.MonkeyPatch, version: int, sizes: tuple[int, int], kernel: str
) -> None:
    monkeypatch.setattr(attention, "_cudnn_version", lambda: version)
    assert kernel_for(call(sizes=sizes), DEVICES["h200"]) == kernel


def test_a_misaligned_query_in_float32_takes_products() -> None:
    query = torch.empty(2 * 8 * 64 + 1, device="meta")[1:].view(2, 8, 1, 64)
    key = torch.empty(2, 8, 512, 64, device="meta")
    assert kernel_for(call(query=query, key=key, value=key), DEVICES["h200"]) == "math"


def test_the_only_kernel_that_is_on_is_taken_or_none() -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
        assert kernel_for(call(), DEVICES["a100"]) == "cudnn"
        with pytest.raises(RuntimeError, match="no kernel"):
            kernel_for(call(sizes=(60, 60)), DEVICES["a100"])


def test_attention_of_dynamic_sizes_is_planned() -> None:
    x = torch.randn(2, 40, 512, dtype=torch.bfloat16)
    report = explain(Attention("causal", torch.bfloat16), (x,), "a100", FREE_EVENTS, dynamic=True)
    assert "_scaled_dot_product_flash_attention" in report.graph_serial, report.reason


def test_a_last_size_that_is_not_dense_takes_products() -> None:
    spread = torch.empty(2, 8, 1, 128, dtype=torch.bfloat16, device="meta")[..., ::2]
    assert kernel_for(call(query=spread), DEVICES["h200"]) == "math"
