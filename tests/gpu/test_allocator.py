"""Check settings of torch's allocator that change while a process runs, on a real GPU."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.gpu
SCRIPT = """
import logging
import sys

import torch

import graphstreams
from graphstreams.runtime.allocator import unsupported_allocator

logging.basicConfig(stream=sys.stdout, format="%(message)s")


class Arms(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = (torch.nn.Linear(1024, 1024, bias=False) for _ in range(2))

    def forward(self, x):
        return self.left(x), self.right(x)


for text in {first!r}:
    torch._C._accelerator_setAllocatorSettings(text)
with torch.device("cuda"):
    module, x = Arms().requires_grad_(False), torch.randn(4, 1024)
held = torch.empty(64 * 2**20, device="cuda")
for text in {then!r}:
    torch._C._accelerator_setAllocatorSettings(text)
print("told:", unsupported_allocator())
with torch.no_grad():
    found = torch.compile(module, backend="graphstreams", options={{"min_gain": 0.0}})(x)
    print("right:", all(map(torch.allclose, found, module(x))))
"""


def run(first: list[str], then: list[str]) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH_")}
    command = [sys.executable, "-c", SCRIPT.format(first=first, then=then)]
    return subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        (["expandable_segments:True", "max_split_size_mb:64"], [], "unmaps memory"),
        (["expandable_segments:True"], ["max_split_size_mb:64"], "unmaps memory"),
        (["expandable_segments:True"], ["expandable_segments:False"], "from the time when expandable_segments was on"),
    ],
)
def test_graphs_stay_serial_while_memory_may_be_unmapped(first: list[str], then: list[str], told: str) -> None:
    printed = run(first, then)
    (reason,) = [line for line in printed.splitlines() if line.startswith("told: ")]
    assert told in reason
    assert any("runs serially: read: " in line and told in line for line in printed.splitlines())
    assert "right: True" in printed


def test_without_such_memory_the_allocator_is_sound() -> None:
    printed = run(["max_split_size_mb:64"], ["expandable_segments:False"])
    assert "told: \n" in printed
    assert "right: True" in printed and "expandable" not in printed
