"""Load a function of the user's for a benchmark on the GPU at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from graphstreams.benchmark.results import environment, versions
from graphstreams.command_line.importer import load_function


def load(name: str) -> Callable[..., Any] | None:
    """Return the function of `module:function`, and print where it will run; None, with a line that says why, if it can't."""
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
