"""Stand in for the parts of vLLM 0.33 that `graphstreams.integrations` imports, so that it is tested without vLLM."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass


@dataclass(frozen=True)
class Range:
    """Numbers of tokens from `start` to `end`."""

    start: int
    end: int

    def is_single_size(self) -> bool:
        return self.start == self.end


class InductorPass(CustomGraphPass):  # type: ignore[misc]
    """vLLM's base of passes, which hashes its source."""

    def uuid(self) -> str:
        return hashlib.sha256(inspect.getsource(type(self)).encode()).hexdigest()

    def is_applicable_for_range(self, compile_range: Range) -> bool:
        return True


class CudaPlatform:
    """vLLM's platform."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        vllm_config.updated = True


def configurations_in_the_documents() -> list[str]:
    """Return what `-cc` is given in the commands of the page on vLLM."""
    page = Path(__file__).parents[2] / "docs" / "engines" / "vllm.md"
    return re.findall(r"-cc '([^']+)'", page.read_text(encoding="utf-8"))


def config_of(**settings: Any) -> SimpleNamespace:
    """Return the part of an engine's configuration that is looked at."""
    return SimpleNamespace(compilation_config=SimpleNamespace(inductor_compile_config=settings))


@contextmanager
def stubbed(cuda: bool = True) -> Iterator[Any]:
    """Put the stand-ins where vLLM would be, and return `vllm.compilation.passes.inductor_pass`."""
    passes = SimpleNamespace(InductorPass=InductorPass, _pass_context=None)
    platforms = SimpleNamespace(cuda_platform_plugin=lambda: "vllm.platforms.cuda.CudaPlatform" if cuda else None)
    modules: dict[str, Any] = {
        "vllm": {}, "vllm.compilation": {}, "vllm.compilation.passes": {"inductor_pass": passes},
        "vllm.compilation.passes.inductor_pass": vars(passes), "vllm.platforms": vars(platforms),
        "vllm.platforms.cuda": {"CudaPlatform": CudaPlatform},
    }  # fmt: skip
    made = {}
    for name, contents in modules.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(contents)
        made[name].__path__ = []
    vars(made["vllm.compilation.passes"])["inductor_pass"] = made["vllm.compilation.passes.inductor_pass"]
    own = "graphstreams.integrations.vllm", "graphstreams.integrations.vllm_platform"
    before = {name: sys.modules.pop(name, None) for name in (*made, *own)}
    sys.modules.update(made)
    try:
        yield made["vllm.compilation.passes.inductor_pass"]
    finally:  # what was imported meanwhile stays, but for the modules that have imported a stand-in
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
