"""Make Triton's interpreter faster without changing what it computes.

Read in Triton 3.9.0 (`runtime/interpreter.py`): the interpreter replaces all functions of Triton's language when a kernel
starts, and puts them back when the kernel ends. At each call of a function within the kernel it looks through the language
again for what is yet to be replaced, and finds nothing. That was a third of the time of top-k's tests.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from triton import language
from triton.runtime import interpreter


def replace_language_once() -> None:
    """Let calls within a kernel rely on what the kernel's start has replaced. The process stays changed."""
    scope = getattr(interpreter, "_LangPatchScope", None)
    replace: Any = getattr(interpreter, "_patch_lang", None)
    if scope is None or replace is None:  # another release of Triton, whose interpreter is left as it is
        return

    def replaced(fn: Any) -> Any:
        modules = _languages(fn)
        # What is replaced is no builtin any more.
        within = modules and not any(language.core.is_builtin(each.load) for each in modules)
        return scope() if within else replace(fn)

    interpreter._patch_lang = replaced


def _languages(fn: Any) -> list[ModuleType]:
    """Return the modules of Triton's language that a function sees, as the interpreter looks for them."""
    return [each for each in fn.__globals__.values() if each is language or each is language.core]
