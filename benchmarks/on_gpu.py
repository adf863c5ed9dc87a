"""What benchmarks that run a function of the user's on the GPU at hand begin with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from graphstreams.benchmark.results import environment
from graphstreams.benchmark.tables import versions
from graphstreams.command_line.importer import load_function


def load(name: str) -> Callable[..., Any] | None:
    """The function of `module:function`, and a line printed on where it will run; None, and a line why, where it cannot."""
    try:
        function = load_function(name)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return None
    if not torch.cuda.is_available():
        print("this is measured on a CUDA device, and there is none here", file=sys.stderr)
        return None
    print(f"{versions(environment())}. {name}.")
    return function
