"""Check which allocators streamed graphs are sound with. No GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphstreams import StreamPass
from graphstreams.pipeline.explain import capture
from graphstreams.runtime.allocator import unsupported_allocator
from tests.support.fork_server import last_line_forked
from tests.support.sample_modules import FREE_EVENTS, module_and_inputs


def snapshot(expandable: Any = False, *segments: Any) -> dict[str, Any]:
    """Return what torch says of an allocator with such a setting and, for each of its segments, whether it is expandable."""
    return {
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64", "expandable_segments": expandable},
        "segments": [{"address": 4096, "is_expandable": segment} for segment in segments],
    }


@pytest.fixture
def reason(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Asks what is said of an allocator with such a snapshot."""

    def ask(found: dict[str, Any], backend: str = "native") -> str:
        monkeypatch.setattr(torch.cuda.memory, "get_allocator_backend", lambda: backend)
        monkeypatch.setattr(torch._C, "_cuda_memorySnapshot", lambda _: found)
        return unsupported_allocator()

    return ask


Reason = Callable[..., str]


@pytest.mark.parametrize("found", [snapshot(), snapshot(False, False, False)])
def test_the_native_allocator_is_sound(found: dict[str, Any], reason: Reason) -> None:
    assert reason(found) == ""


def test_the_allocator_in_use_is_sound() -> None:
    assert unsupported_allocator() == ""


@pytest.mark.parametrize(
    ("found", "backend", "told"),
    [
        (snapshot(True), "native", "unmaps memory"),
        (snapshot(True, False, True), "native", "unmaps memory"),
        (snapshot(False, False, True), "native", "start the process with expandable_segments off"),
        (snapshot(), "cudaMallocAsync", "the allocator cudaMallocAsync hands a block that was freed to any stream"),
        (snapshot(), "pluggable", "the allocator pluggable"),
    ],
)
def test_others_are_not_and_the_reason_says_why(found: dict[str, Any], backend: str, told: str, reason: Reason) -> None:
    assert told in reason(found, backend)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"allocator_settings": {}, "segments": []},
        {"allocator_settings": {"expandable_segments": False}},
        snapshot(None),
        snapshot("False"),
        snapshot(False, None),
        {**snapshot(), "segments": [{"address": 4096}]},
        {**snapshot(), "segments": None},
    ],
)
def test_an_allocator_that_does_not_tell_is_not_sound(found: dict[str, Any], reason: Reason) -> None:
    assert "does not tell whether the allocator's segments are expandable" in reason(found)


def test_an_allocator_that_cannot_be_asked_is_not_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_cuda_memorySnapshot")
    assert "does not tell" in unsupported_allocator()


SET_TWICE = """
import torch
from graphstreams.runtime.allocator import unsupported_allocator
for text in {settings!r}:
    torch._C._accelerator_setAllocatorSettings(text)
print(torch._C._accelerator_getAllocatorSettings() + "|" + unsupported_allocator())
"""


@pytest.mark.parametrize(
    ("environment", "settings", "sound"),
    [
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, [], False),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, ["max_split_size_mb:64"], False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, ["garbage_collection_threshold:0.5"], False),
        ({}, ["expandable_segments:True", "max_split_size_mb:64", "roundup_power2_divisions:4"], False),
        ({}, ["expandable_segments:True", "max_split_size_mb:64,expandable_segments:False"], True),
        ({}, ["max_split_size_mb:64"], True),
    ],
)
def test_settings_hold_until_they_are_set_otherwise(environment: dict[str, str], settings: list[str], sound: bool) -> None:
    """In a process of its own, for settings can't be taken back."""
    unset = dict.fromkeys(name for name in os.environ if name.startswith("PYTORCH_"))
    last, _, told = last_line_forked(SET_TWICE.format(settings=settings), more={**unset, **environment}).partition("|")
    assert last == (settings[-1] if settings else "expandable_segments:True")
    assert ("unmaps memory" not in told) is sound
    assert (told == "") is sound


@pytest.mark.parametrize(
    ("found", "backend", "told"),
    [
        (snapshot(True), "native", "unmaps memory"),
        (snapshot(False, True), "native", "from the time when"),
        ({}, "native", "does not tell"),
        (snapshot(), "pluggable", "the allocator pluggable"),
    ],
)
def test_graphs_stay_serial_and_say_why(
    found: dict[str, Any], backend: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = StreamPass().uuid()
    monkeypatch.setattr(torch._C, "_cuda_memorySnapshot", lambda _: found)
    monkeypatch.setattr(torch.cuda.memory, "get_allocator_backend", lambda: backend)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert told in outcome.report.reason
    assert StreamPass().uuid() != before  # a graph from a cache was compiled for another allocator
