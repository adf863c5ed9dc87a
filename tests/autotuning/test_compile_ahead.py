"""Check that kernels of a wrapper are handed to Inductor's workers, and nothing else of it runs."""

from __future__ import annotations

import pytest
from torch._inductor.async_compile import AsyncCompile

from graphstreams.autotuning.compile_ahead import start_compiling

WRAPPER = """
from torch._inductor.async_compile import AsyncCompile
async_compile = AsyncCompile()
first = async_compile.triton('first', '''source of the first''')
second = async_compile.triton('second', '''source of the second''')
async_compile.wait(globals())
del async_compile
raise RuntimeError('loaded')
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(AsyncCompile, "triton", lambda self, name, source: found.append(f"{name}: {source}"))
    monkeypatch.setattr(AsyncCompile, "use_process_pool", classmethod(lambda cls: True))
    return found


def test_all_kernels_are_handed_over(asked: list[str]) -> None:
    assert start_compiling(WRAPPER)
    assert asked == ["first: source of the first", "second: source of the second"]


def test_without_ready_workers_nothing_compiles(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncCompile, "use_process_pool", classmethod(lambda cls: False))
    assert not start_compiling(WRAPPER) and asked == []


def test_what_fails_is_left_to_loading(asked: list[str]) -> None:
    assert not start_compiling(WRAPPER.replace("first = ", "first = nothing + ")) and asked == []
    assert not start_compiling("raise RuntimeError('loaded')")
