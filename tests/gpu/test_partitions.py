"""Check that one thing that no CUDA graph can hold does not keep the rest out of them, with streams as without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.captured_graphs import captures
from tests.support.same_kernels import SAME_KERNELS

# Inductor computes with a tensor on the host in C++, which it compiles against torch's headers.
HEADER = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "inductor" / "cpp_prefix.h"
WIDTH = 512


@torch.library.custom_op("graphstreams_tests::on_the_host", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def on_the_host(x: Tensor) -> Tensor:
    """Double a tensor if its sum is a number, which the host looks at."""
    return x * (2.0 if x.sum().item() < float("inf") else 1.0)


@on_the_host.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Branches(nn.Module):
    """Independent products in front of and behind one thing that no CUDA graph can hold."""

    def __init__(self, middle: Callable[..., Tensor]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(8))
        self.middle = middle

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        before = [torch.relu(linear(x)) for linear in self.linears[:4]]
        middle = self.middle(before[0] + before[1], other)
        return sum(torch.tanh(linear(middle)) for linear in self.linears[4:]) + before[2] * before[3]


def _unsafe(x: Tensor, other: Tensor) -> Tensor:
    return on_the_host(x) + other


def _unbacked(x: Tensor, other: Tensor) -> Tensor:
    rows = (other[:, 0] > 0).nonzero().squeeze(1)
    return x + x[rows].sum(0)


def _scaled(x: Tensor, other: Tensor) -> Tensor:
    return x * other


KINDS: dict[str, tuple[Callable[..., Tensor], Callable[[], Tensor]]] = {
    "an operator that is unsafe in graphs": (_unsafe, lambda: torch.randn(8, WIDTH, device="cuda")),
    "an unbacked size": (_unbacked, lambda: torch.randn(8, WIDTH, device="cuda")),
    "an input on the CPU": (_scaled, lambda: torch.tensor(1.5)),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        yield
    torch._dynamo.reset()


def run(function: Callable[..., Any], x: Tensor, other: Tensor) -> tuple[list[Tensor], int]:
    """Return the outputs of five calls, and how many CUDA graphs were captured."""
    outputs = []
    with captures() as found:
        for scale in range(1, 6):
            torch.compiler.cudagraph_mark_step_begin()
            outputs.append(function(x * scale, other).clone())
    return outputs, len(found)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_with_one_thing_that_no_cuda_graph_holds_keeps_its_cuda_graphs(kind: str) -> None:
    middle, second = KINDS[kind]
    if middle is _scaled and not HEADER.exists():
        pytest.skip(f"Inductor compiles C++ for a tensor on the host, and torch's headers are missing here: {HEADER}")
    torch.manual_seed(0)
    module = Branches(middle).cuda().requires_grad_(False)
    x, other = torch.randn(8, WIDTH, device="cuda"), second()
    settings = {**SAME_KERNELS, **torch._inductor.list_mode_options("reduce-overhead")}
    expected, of_serial = run(torch.compile(module, options=settings), x, other)
    torch._dynamo.reset()
    ours = torch.compile(module, backend="graphstreams", options={"min_gain": 0.0, "costs": "roofline", "inductor": settings})
    found, captured = run(ours, x, other)
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert bool(captured) == bool(of_serial), f"{captured} CUDA graphs, {of_serial} of serial Inductor"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_graph_of_dynamo(kind: str) -> None:
    middle, _ = KINDS[kind]
    other = torch.tensor(1.5) if middle is _scaled else torch.randn(8, WIDTH)
    torch.manual_seed(0)
    module, x = Branches(middle).requires_grad_(False), torch.randn(8, WIDTH)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x, other), module(x, other))
