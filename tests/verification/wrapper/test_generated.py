"""Check wrappers that Inductor generates here, for a GPU that need not be there."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from graphstreams.inductor.lowering import copy_graph, lower
from graphstreams.pipeline.explain import explain
from graphstreams.verification.wrapper.read import UnreadableWrapper, verify
from tests.support.sample_modules import as_on_h200, captured, reading_of


class _Branches(torch.nn.Module):
    """Two branches, a cache write and an operator with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.left = torch.nn.Linear(4096, 4096, bias=False)
        self.right = torch.nn.Linear(4096, 4096, bias=False)
        self.norm = torch.nn.LayerNorm(4096)

    def forward(self, x: torch.Tensor, cache: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache[position] = self.norm(self.left(x))
        scores = torch.relu(self.right(x)) @ cache.t()
        return scores.sum(-1), torch.topk(scores, 4)[1], cache[:2]


@functools.cache
def _streamed() -> str:
    with torch.device("meta"):
        module = _Branches()
        inputs = (torch.empty(2, 4096), torch.empty(16, 4096), torch.empty(2, dtype=torch.int64))
    report = explain(module, inputs, target="h200", options={"min_gain": 0.0, "event_us": 0.1})
    assert report.verdict == "clean", report.reason
    return report.wrapper


def test_streamed_wrapper_is_clean() -> None:
    assert "with stream1:" in _streamed()
    assert verify(_streamed()) == []


def test_every_record_and_wait_is_needed() -> None:
    lines = _streamed().splitlines()
    syncs = [i for i, line in enumerate(lines) if re.match(r" *event\d+\.(record|wait)\(", line)]
    assert len(syncs) >= 4
    for i in syncs:
        assert verify("\n".join([*lines[:i], *lines[i + 1 :]])), lines[i]


def test_cut_wrapper_is_refused() -> None:
    lines = _streamed().splitlines()
    end = max(i for i, line in enumerate(lines) if line.strip().startswith("return ("))
    for i in range(end - 40, end):
        with pytest.raises(UnreadableWrapper):
            verify("\n".join(lines[:i]))


def _serial(sample: str, dynamic: bool | None = None, **settings: object) -> str:
    """Return the code that plain Inductor generates for a sample, with settings of its own."""
    reading = captured(sample, dynamic).reading if dynamic else reading_of(sample)
    assert reading is not None
    named = {name.replace("__", "."): value for name, value in settings.items()}
    with as_on_h200(reading.module):
        return lower(copy_graph(reading.module), generate_code=True, settings=named).source


SETTINGS = [
    {},
    {"graph_partition": False},
    {"memory_planning": True},
    {"memory_planning": True, "memory_pool": "intermediates"},
    {"combo_kernels": True},
    {"size_asserts": False, "alignment_asserts": False},
    {"nan_asserts": True},
    {"profiler_mark_wrapper_call": True},
    {"triton__multi_kernel": 1},
    {"allow_buffer_reuse": False, "inplace_buffers": False},
    {"triton__debug_sync_graph": True, "triton__debug_sync_kernel": True},
    {"benchmark_harness": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("sample", ["topk", "norms"])
def test_serial_wrappers_are_read_whatever_settings_made_them(sample: str, settings: dict[str, object]) -> None:
    assert verify(_serial(sample, **settings)) == []


@pytest.mark.parametrize("settings", SETTINGS[:5], ids=str)
def test_sizes_in_serial_wrappers_are_read(settings: dict[str, object]) -> None:
    source = _serial("sized", dynamic=True, **settings)
    assert re.search(r"s\d+ = arg", source)
    assert verify(source) == []


@pytest.mark.parametrize("setting", ["triton__store_cubin", "profile_bandwidth"])
def test_what_a_setting_does_is_not_known(setting: str) -> None:
    with pytest.raises(UnreadableWrapper, match=setting.replace("__", r"\.")):
        verify(_serial("topk", **{setting: True}))
