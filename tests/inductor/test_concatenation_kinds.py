"""Check that a concatenation is computed on streams as it is in the serial code: elementwise, or from pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured
from tests.support.sample_modules import FREE_EVENTS


class Tokens(nn.Module):
    """A token before others, with a place each, that are normalized and added to what is made of them, as in a ViT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(size, size), nn.Linear(size, size)
        self.inner, self.outer = nn.LayerNorm(size), nn.LayerNorm(size)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, size)), nn.Parameter(torch.randn(1, 65, size))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.inner(self.first(x))], 1) + self.places
        return torch.add(self.out(self.outer(tokens)), tokens)


class Rotated(nn.Module):
    """Halves of a product that are read by themselves too, and change places in a concatenation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, -1)
        return torch.add(self.out(torch.cat([-right, left.sigmoid()], -1)), torch.cat([left, -right], -1))


class Beside(nn.Module):
    """Two modules of a kind, each with an input of its own."""

    def __init__(self, kind: type[nn.Module], size: int) -> None:
        super().__init__()
        self.left, self.right = kind(size), kind(size)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(self.left(x), self.right(y))


def compiled(module: nn.Module, inputs: tuple[Tensor, ...]) -> GraphCompilation:
    (found,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert (found.report.verdict, found.report.reason) == ("clean", "")
    return found


@pytest.mark.parametrize("kind", [Tokens, Rotated])
def test_a_concatenation_has_the_kernels_of_the_serial_code(kind: type[nn.Module]) -> None:
    module = Beside(kind, 192).bfloat16().requires_grad_(False)
    report = compiled(module, (torch.randn(2, 64, 192).bfloat16(), torch.randn(2, 64, 192).bfloat16())).report
    assert report.plan is not None and report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    assert report.differences == ()


@pytest.mark.parametrize("kind", [Tokens, Rotated])
def test_its_results_are_the_same(kind: type[nn.Module]) -> None:
    module, inputs = Beside(kind, 32).requires_grad_(False), (torch.randn(2, 64, 32), torch.randn(2, 64, 32))
    assert equal_as_captured(module, inputs, [compiled(module, inputs)]) == [True]


class Skip(nn.Module):
    """What a U-Net keeps of an image on its way down, beside what it has made of it when it comes back up."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.into, self.down, self.up = (nn.Conv2d(size, size, 3, padding=1) for _ in range(3))
        self.side, self.norm = nn.Conv2d(size, size, 1), nn.GroupNorm(4, 2 * size)
        self.out = nn.Conv2d(2 * size, size, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.into(x)
        deep = torch.add(self.up(self.down(kept.relu()).relu()), self.side(kept))
        return self.out(nn.functional.silu(self.norm(torch.cat([deep, kept], 1))))


def test_pieces_that_are_made_far_apart_join_nothing_that_runs_between() -> None:
    module = Skip(64).bfloat16().requires_grad_(False)
    report = compiled(module, (torch.randn(1, 64, 32, 32).bfloat16(),)).report
    assert report.kernels is not None
    assert max(len(kernel.launches) for kernel in report.kernels.kernels) == 4  # of the group norm
    assert report.kernels_streamed == report.kernels_serial
    assert not any("norm" in text for text in report.differences)  # the concatenation is stored as it was


def test_what_is_made_of_them_is_the_same() -> None:
    module, inputs = Skip(8).requires_grad_(False), (torch.randn(1, 8, 12, 12),)
    assert equal_as_captured(module, inputs, [compiled(module, inputs)]) == [True]
