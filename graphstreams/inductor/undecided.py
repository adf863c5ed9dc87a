"""Keep Inductor's caches from finding code that was compiled while something that decides it could not be measured.

Inductor puts what it compiles into its caches in any case, under a key of which the passes' identity is a part. So what changes
is that identity: a mark on disk, one for each function with its inputs, is a part of it. A compile that could not decide writes
another mark, so its code is not found again, and the next compile measures. Read in torch 2.15.0: `_inductor/compile_fx.py`
(fx_codegen_and_compile, which saves whatever was missed), `_inductor/codecache.py` (FxGraphCache._save_graph).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import torch

from graphstreams.inductor.disk_cache import Store, cache_folder


def mark_of(input_names: Sequence[str], inputs: Sequence[Any]) -> str:
    """Return the mark of a function with these inputs; empty if all its compiles could decide."""
    found = _store().get(_key(input_names, inputs))
    return found if isinstance(found, str) else ""


def mark_undecided(input_names: Sequence[str], inputs: Sequence[Any]) -> None:
    """Let no later compile of a function with these inputs find what earlier ones put into Inductor's caches."""
    _store().put(_key(input_names, inputs), secrets.token_hex(8))


def _store() -> Store:
    return Store(cache_folder(), "undecided")


def _key(input_names: Sequence[str], inputs: Sequence[Any]) -> str:
    told = [(value.dtype, value.shape, value.stride()) if isinstance(value, torch.Tensor) else type(value) for value in inputs]
    return hashlib.sha256(repr((tuple(input_names), told)).encode()).hexdigest()
