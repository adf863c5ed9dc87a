"""A rival of the benchmarks where there is no GPU: a function takes the place of its CUDA graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from bench_common import Contestant

from graphstreams.runtime.captured import clones, leaves


class CpuContestant(Contestant):
    """Runs its function where a graph would be replayed."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Any]) -> None:
        self.function, self.inputs = function, clones(values)
        self.outputs = leaves(function(*self.inputs))

    def replay(self) -> None:
        """Run the function; its outputs go where a graph would leave them."""
        self.outputs = leaves(self.function(*self.inputs))
