"""Which allocators streamed graphs are sound with. No GPU."""

from __future__ import annotations

import pytest
import torch
from sample_modules import FREE_EVENTS, module_and_inputs

from graphstreams import StreamPass
from graphstreams.explaining import capture
from graphstreams.runtime import allocator


@pytest.mark.parametrize("text", ["", "expandable_segments:False", "max_split_size_mb:64"])
def test_the_native_allocator_is_sound(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", lambda: text)
    assert allocator.unsuited() == ""


@pytest.mark.parametrize(
    ("backend", "text", "reason"),
    [
        ("native", "max_split_size_mb:64,expandable_segments: True", "unmaps memory"),
        ("cudaMallocAsync", "backend:cudaMallocAsync", "to any stream"),
        ("pluggable", "", "the allocator pluggable"),
    ],
)
def test_with_others_graphs_stay_serial_and_say_why(
    backend: str, text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = StreamPass().uuid()
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", lambda: text)
    monkeypatch.setattr(torch.cuda.memory, "get_allocator_backend", lambda: backend)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert reason in outcome.report.reason
    assert StreamPass().uuid() != before  # a graph from a cache was compiled for another allocator
