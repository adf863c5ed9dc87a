"""Print a table, made without a GPU, of what becomes of one module on streams under each of many settings of Inductor."""

from __future__ import annotations

import argparse
import ast
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._inductor import config

from graphstreams.pipeline.explain import explain
from graphstreams.reports.report import Report

FILE = Path(__file__).parent / "data" / "inductor_settings.txt"


def cases(text: str) -> list[dict[str, Any]]:
    """Return the settings of each line of `text`, name -> value, the case without any first."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return [{}, *({name: ast.literal_eval(value) for name, _, value in (s.partition("=") for s in line)} for line in lines)]


class Attention(nn.Module):
    """A module with parallel kernels of most kinds: projections, norms, a cache that is written and read, softmax, products."""

    def __init__(self, features: int = 2048, head: int = 512, slots: int = 1024) -> None:
        super().__init__()
        kind = torch.bfloat16
        self.head = head
        self.query = nn.Linear(features, features, bias=False, dtype=kind)
        self.key = nn.Linear(features, head, dtype=kind)
        self.value = nn.Linear(features, head, bias=False, dtype=kind)
        self.out = nn.Linear(features, features, dtype=kind)
        self.query_norm = nn.LayerNorm(head, dtype=kind)
        self.key_norm = nn.LayerNorm(head, dtype=kind)
        self.register_buffer("cache", torch.zeros(slots, head, dtype=kind))

    def forward(self, x: Tensor, position: Tensor) -> Any:
        query = self.query_norm(self.query(x).unflatten(-1, (-1, self.head)))
        self.cache[position] = self.key_norm(self.key(x))
        weights = torch.softmax((query @ self.cache.t()).float(), -1).to(x.dtype)
        return self.out((weights @ self.cache).flatten(1)), F.gelu(self.value(x)).sum(-1), x * 2


def planned(settings: dict[str, Any]) -> Report | str:
    """Return the report of the module under `settings`, or the error that compiling it raises."""
    torch.manual_seed(0)
    inputs = (torch.randn(2, 2048, dtype=torch.bfloat16), torch.tensor([3, 9]))
    try:
        with config.patch(settings):
            return explain(Attention(), inputs, target="h200")
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def line(settings: dict[str, Any]) -> str:
    """Return one row: settings, verdict, reason or notes, launches before and after, seconds."""
    started = time.perf_counter()
    report = planned(settings)
    seconds = time.perf_counter() - started
    name = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "none"
    if isinstance(report, str):
        return f"| `{name}` | raised | {report} | | {seconds:.1f} |"
    text = report.reason or "; ".join(note for note in report.notes if note.startswith("off"))
    return f"| `{name}` | {report.verdict} | {text} | {report.kernels_serial} -> {report.kernels_streamed} | {seconds:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="settings to try, by a part of their name; all by default")
    only = parser.parse_args().only
    print("| setting | verdict | reason, or what is off on streams | launches | s |\n|---|---|---|---|---|")
    for settings in cases(FILE.read_text()):
        if not only or any(part in name for part in only for name in settings):
            print(line(settings), flush=True)


if __name__ == "__main__":
    sys.exit(main())
