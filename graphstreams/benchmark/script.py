"""Read options that scripts of benchmarks share, and check that there is a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch


def parse_counts(parser: argparse.ArgumentParser, argv: Sequence[str] | None, replays: int) -> argparse.Namespace:
    """Add `--rounds` and `--replays`, the latter with this default, and read the command line. Exits if one is too small."""
    parser.add_argument("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    parser.add_argument("--replays", type=int, default=replays, help=f"replays whose bits are compared (default {replays})")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2 or arguments.replays < 0:
        parser.error("--rounds has to be at least 2, --replays at least 0")
    return arguments


def has_gpu(script: str) -> bool:
    """Return whether there is a CUDA device; if not, say on standard error that `script` needs one."""
    if not torch.cuda.is_available():
        print(f"{script} needs a CUDA device", file=sys.stderr)
    return torch.cuda.is_available()
