"""Check top-k in whole graphs: which kernels are planned, that the proof reads them, and that the option turns them off."""

from __future__ import annotations

import functools
import re
from typing import Any

import deepseek_v32
import pytest
import torch

import graphstreams
from graphstreams.costs.top_k_times import TopKTimes
from graphstreams.kernels.top_k import Form
from graphstreams.pipeline import top_k as stage
from graphstreams.pipeline.explain import capture
from graphstreams.reports.report import Report
from graphstreams.verification.wrapper.read import verify
from tests.support import sample_modules
from tests.support.top_k_times import MADE_UP, ONE, SHARED, table, times, together

ATEN = "torch.ops.aten.topk.default("


@functools.cache
def explained(top_k: bool) -> Report:
    """Return the report on DeepSeek V3.2's attention layer, for times of top-k that are made up."""
    config = deepseek_v32.Config(tp=8, context=4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "times_of", lambda device: MADE_UP)
        module, inputs = deepseek_v32.build(config, "meta"), deepseek_v32.example_inputs(config, "meta")
        return graphstreams.explain(module, inputs, "h200", {"top_k": top_k})


def launches(report: Report) -> dict[str, tuple[str, ...]]:
    """Return what each kernel launches, by the last part of its name."""
    assert report.kernels is not None
    return {kernel.name.rpartition(".")[2]: kernel.launches for kernel in report.kernels.kernels}


def test_v32s_indexer_takes_the_kernel_that_is_faster() -> None:
    report = explained(top_k=True)
    assert report.verdict == "clean" and not report.races
    found = launches(report)
    assert found["top_k_row"] == ("top_k_row",) and "topk" not in found
    assert report.kernels is not None and report.plan is not None
    (kernel,) = [each for each in report.kernels.kernels if each.name == "indexer.top_k_row"]
    assert kernel.id in [each.kernel for each in report.plan.placements] and report.us[kernel.id] == 8.0
    assert ATEN not in report.wrapper and verify(report.wrapper) == []
    assert (
        "top-k 'topk' is replaced: 1 x 4096, k 2048, float32: 1 program, 16 warps, up to 8.0 us; aten 17.0 us or more "
        "(NVIDIA H200, 2026-11-30)" in report.notes
    )


def test_a_launch_has_a_grid_of_three_dimensions_as_the_launcher_that_inductor_generates_takes_it() -> None:
    wrapper = explained(top_k=True).wrapper
    calls = re.findall(r"top_k_row_\d+\.run\((.*), stream=", wrapper)
    names = re.findall(r"@triton\.jit\ndef top_k_row\((.*?)\):", wrapper, re.DOTALL)[0].split(",")
    constants = [name for name in names if "constexpr" in name]
    assert "'extra_launcher_args': ['_grid_0', '_grid_1', '_grid_2']" in wrapper
    assert calls and {len(call.split(", ")) for call in calls} == {len(names) - len(constants) + 3}


def test_without_the_option_v32_has_atens_top_k() -> None:
    report = explained(top_k=False)
    assert report.verdict == "clean"
    assert "topk" in launches(report) and ATEN in report.wrapper and "top_k_row" not in report.wrapper
    assert not any("top-k" in note for note in report.notes)


def arms(m: Any, x: torch.Tensor) -> Any:
    values, indices = torch.topk(m.wa(x), 4, sorted=False)
    return values + 1, indices * 2, m.wb(x)


class _Longer(torch.nn.Module):
    """A top-k of one row more than twice those of its input, a number that the graph computes for another kernel too."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> Any:
        rows = torch.cat([x.repeat(2, 1), x.new_zeros(1, 64)])
        return torch.topk(rows, 4, sorted=False), x.new_zeros(2 * x.shape[0], 3) + 1, self.beside(x)


def test_a_number_of_rows_that_the_graph_computes_for_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "times_of", lambda device: times({ONE: 1.0}, aten=9.0, rows=4, length=64, k=4))
    report = graphstreams.explain(_Longer(), (torch.randn(6, 64),), "h200", {"min_gain": 0.0}, dynamic=True)
    assert report.verdict == "clean", report.reason
    assert ATEN not in report.wrapper and verify(report.wrapper) == []


@pytest.fixture
def unsorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the sample "unsorted"."""
    monkeypatch.setitem(sample_modules.SAMPLES, "unsorted", (arms, lambda: (torch.randn(4, 64),)))


def compiled(monkeypatch: pytest.MonkeyPatch, chosen: Form, **options: Any) -> tuple[Report, str]:
    """Return the report and the code of a graph with a top-k, compiled by the pass, if `chosen` is the faster form."""
    made: TopKTimes = times({ONE: 3.0, SHARED: 3.0, chosen: 2.0}, aten=9.0, rows=4, length=64, k=4)
    monkeypatch.setattr(stage, "times_of", lambda device: made)
    report, lowered, _ = sample_modules.compiled_by_pass("unsorted", **options)
    return report, lowered.source


@pytest.mark.usefixtures("unsorted")
@pytest.mark.parametrize(
    ("form", "kernels"), [(ONE, ["top_k_row"]), (SHARED, ["top_k_bounds", "top_k_count", "top_k_write"])], ids=["one", "shared"]
)
def test_both_bodies_launch_the_kernels(monkeypatch: pytest.MonkeyPatch, form: Form, kernels: list[str]) -> None:
    report, source = compiled(monkeypatch, form)
    assert report.verdict == "clean", report.reason
    assert ATEN not in source
    assert re.findall(r"^ +(top_k_[a-z]+)_\d+\.run\(", source, re.MULTILINE) == kernels * 2
    assert report.kernels is not None and not any(kernel.exclusive for kernel in report.kernels.kernels)
    own = [us for kernel, us in zip(report.kernels.kernels, report.us, strict=True) if kernel.launches[0] in kernels]
    assert own == pytest.approx([2.0 / len(kernels)] * len(kernels))
    assert verify(source) == []


@pytest.mark.usefixtures("unsorted")
def test_the_option_keeps_the_pass_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    report, source = compiled(monkeypatch, ONE, top_k=False)
    assert report.verdict == "clean" and ATEN in source and "top_k_" not in source


@pytest.mark.usefixtures("unsorted")
@pytest.mark.parametrize("form", [ONE, SHARED], ids=["one", "shared"])
def test_a_dynamic_number_of_rows_is_the_kernels_too(monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    made = times({form: 2.0}, aten=9.0, rows=4, length=64, k=4)
    monkeypatch.setattr(stage, "times_of", lambda device: made)
    module, inputs = sample_modules.module_and_inputs("unsorted")
    (outcome,) = capture(module, inputs, "h200", sample_modules.FREE_EVENTS, dynamic=True)
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert ATEN not in outcome.report.wrapper and verify(outcome.report.wrapper) == []
    assert any("any number x 64, k 4" in note for note in outcome.report.notes)


class _Scoring(torch.nn.Module):
    """The best of keys whose number each call has, from 16 to 100, beside a product that needs none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = torch.nn.Linear(64, 64)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> Any:
        if not 16 <= keys.shape[0] <= 100:
            raise ValueError("no such number of keys")
        values, indices = torch.topk(queries @ keys.T, 4, sorted=False)
        return values + 1, indices * 2, self.beside(queries)


def scored(monkeypatch: pytest.MonkeyPatch, form: Form, longest: int) -> Report:
    """Return the report on the keys' top-k, if `form` was measured on 16 keys and on `longest`."""
    made = together(*(table({form: 2.0}, 9.0, rows=4, length=length, k=4) for length in (16, longest)))
    monkeypatch.setattr(stage, "times_of", lambda device: made)
    inputs = torch.randn(4, 64), torch.randn(40, 64)
    return graphstreams.explain(_Scoring(), inputs, "h200", {"min_gain": 0.0}, dynamic=True)


@pytest.mark.parametrize(
    ("form", "launched"),
    [
        (ONE, ["top_k_row(4,1,1)"]),
        (SHARED, ["top_k_bounds(4,32,1)", "top_k_count(4,4,1)", "top_k_write(4,4,1)"]),  # four chunks of 32 of 100 keys
    ],
    ids=["one", "shared"],
)
def test_a_dynamic_length_is_an_argument_of_launches_for_the_longest_row(
    monkeypatch: pytest.MonkeyPatch, form: Form, launched: list[str]
) -> None:
    report = scored(monkeypatch, form, 128)
    assert report.verdict == "clean", report.reason
    assert any("is replaced: any number x 16 to 100, k 4, float32" in note for note in report.notes)
    assert ATEN not in report.wrapper and verify(report.wrapper) == []
    (rows,) = re.findall(r"^ +(\w+) = arg2_1$", report.wrapper.partition("class Runner")[2], re.MULTILINE)
    (length,) = re.findall(r"^ +(\w+) = arg0_1$", report.wrapper.partition("class Runner")[2], re.MULTILINE)
    calls = re.findall(r"^ +(top_k_[a-z]+)_\d+\.run\((.*), stream=", report.wrapper, re.MULTILINE)
    found = [(name, arguments.split(", ")) for name, arguments in calls]
    assert [f"{name}({','.join(['4', *given[-2:]])})" for name, given in found] == launched * 2
    for _, given in found:
        assert given[-3] == rows and given.count(length) == 2  # the length, and the distance between rows


class _Choosing(torch.nn.Module):
    """The largest of given logits, beside a product that needs none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, logits: torch.Tensor) -> Any:
        values, indices = torch.topk(logits * 2, 4, sorted=False)
        return values, indices, self.beside(x)


@pytest.mark.parametrize(
    ("bounds", "note"),
    [
        ({"min": 16, "max": 100}, "is replaced: 1 x 16 to 100, k 4"),
        ({}, "stays as aten has it: its rows have 4 elements or more without a greatest length"),  # as many as k
    ],
    ids=["bounded", "not bounded"],
)
def test_mark_dynamic_tells_the_range_of_a_length(
    monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int], note: str
) -> None:  # fmt: skip
    made = together(*(table({ONE: 2.0}, 9.0, rows=1, length=length, k=4) for length in (16, 128)))
    monkeypatch.setattr(stage, "times_of", lambda device: made)
    logits = torch.randn(1, 40)
    torch._dynamo.mark_dynamic(logits, 1, **bounds)
    report = graphstreams.explain(_Choosing(), (torch.randn(1, 64), logits), "h200", {"min_gain": 0.0})
    assert report.verdict == "clean", report.reason
    assert any(note in each for each in report.notes)
    assert ("top_k_row" in report.wrapper) == bool(bounds) and (ATEN in report.wrapper) != bool(bounds)
    assert verify(report.wrapper) == []


def test_without_guards_a_dynamic_length_stays_atens(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM drops them, so a call may have a longer row than launches would be for."""
    unguarded = functools.partial(stage.use_top_k_kernels, guarded=False)
    monkeypatch.setattr("graphstreams.pipeline.explain.use_top_k_kernels", unguarded)
    report = scored(monkeypatch, ONE, 128)
    assert ATEN in report.wrapper and any(f"stays as aten has it: {stage.UNGUARDED}" in note for note in report.notes)


def test_a_range_of_lengths_beyond_the_measured_ones_stays_atens(monkeypatch: pytest.MonkeyPatch) -> None:
    report = scored(monkeypatch, ONE, 64)
    assert ATEN in report.wrapper and "top_k_row" not in report.wrapper
    assert any(
        "stays as aten has it: any number x 16 to 100, k 4, float32 lies outside of what was measured" in note
        for note in report.notes
    )


class _Sorting(torch.nn.Module):
    """The largest of a product's rows in order, beside a product that needs none of them."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.logits, self.beside, self.k = torch.nn.Linear(64, 2048), torch.nn.Linear(64, 64), k

    def forward(self, x: torch.Tensor) -> Any:
        values, indices = torch.topk(self.logits(x), self.k)
        return values + 1, indices * 2, self.beside(x)


@pytest.mark.parametrize("k", [8, 600], ids=["sorted by a Triton kernel", "sorted by aten"])
@pytest.mark.parametrize("form", [ONE, SHARED], ids=["one", "shared"])
def test_a_sorted_top_k_is_launches_and_a_sort(monkeypatch: pytest.MonkeyPatch, form: Form, k: int) -> None:
    shape = {"rows": 4, "length": 2048, "k": k}
    made = together(table({form: 2.0}, 9.0, **shape), of_sorted=[table({form: 5.0}, 12.0, **shape)])
    monkeypatch.setattr(stage, "times_of", lambda device: made)
    report = graphstreams.explain(_Sorting(k), (torch.randn(4, 64),), "h200", {"min_gain": 0.0})
    assert report.verdict == "clean", report.reason
    assert any(f"is replaced: 4 x 2048, k {k}, float32, sorted" in note for note in report.notes)
    assert ATEN not in report.wrapper and verify(report.wrapper) == []
    assert ("torch.ops.aten.sort.stable(" in report.wrapper) == (k == 600)
    assert report.kernels is not None
    kernels = [each for each in report.kernels.kernels if each.launches and each.launches[0].startswith("top_k_")]
    own = [report.us[each.id] for each in kernels]
    assert sum(own) == pytest.approx(2.0) and len(own) == (1 if form is ONE else 3)  # without the sort


def test_without_times_of_sorted_results_a_sorted_top_k_stays_atens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "times_of", lambda device: times({ONE: 2.0}, 9.0, rows=4, length=2048, k=8))
    report = graphstreams.explain(_Sorting(8), (torch.randn(4, 64),), "h200", {"min_gain": 0.0})
    assert ATEN in report.wrapper and "top_k_row" not in report.wrapper
    assert any("no times of sorted results are known for NVIDIA H200; pass sorted=False" in note for note in report.notes)


@pytest.mark.usefixtures("unsorted")
def test_a_shared_top_ks_launches_are_ordered_by_their_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = compiled(monkeypatch, SHARED)
    assert report.kernels is not None
    found = {edge for edge in sample_modules.named_edges(report.kernels) if edge[0].startswith("top_k_")}
    assert {("top_k_bounds", "top_k_count", "RAW"), ("top_k_count", "top_k_write", "RAW")} <= found
    assert ("top_k_bounds", "top_k_count", "WAW") in found  # the list's counter, which the first sets to 0
