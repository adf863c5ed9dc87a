"""Check the traps of memory (6, 7, 8, 10, 11): nothing is reused or freed while another stream uses it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from deepseek_pre_attention import pre_attention
from torch import Tensor

from graphstreams.errors import UnreadableWrapper
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.planning.neighborhood import SearchSpace
from graphstreams.planning.policies import search_on_simulator
from graphstreams.rewriting import regions
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import STREAMABLE, captured, kernels_of, reading_of, streamed_text
from tests.support.traps import (
    HELD_VALUES,
    alternating,
    hold_nothing,
    named_plan,
    plan_with,
    product_and_sine,
    read_function,
    refused,
    report_of,
)


def sine_and_product(m: Any, x: Tensor) -> Any:
    a = m.wa(x)
    return a.sin() + 1, m.wb(x) @ m.wc.weight


def test_trap_6_a_buffer_that_inductor_reuses_across_streams_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(sine_and_product, 4)
    # Inductor would give the buffer of `wa`, which the sine on stream 1 still reads, to `wb`.
    plan = named_plan(reading.kernels, {"wa": 0, "add": 1, "wb": 0, "wc": 0})
    plan_with(monkeypatch, allow_buffer_reuse=True)
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" not in streamed_text(report.wrapper)
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert "# reuse" in streamed_text(report.wrapper)
    assert refused(report, "nothing makes the caller's stream wait for stream1")


def test_trap_8_a_kernel_in_place_of_what_another_stream_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(product_and_sine, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 0, "mm": 1, "sin": 0})
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" not in streamed_text(report.wrapper)
    # Either of two things keeps the sine out of the product's operand: that nothing is done in place, and that the values are
    # held to the join.
    plan_with(monkeypatch, inplace_buffers=True)
    assert "# reuse" not in streamed_text(report_of(reading, plan).wrapper)
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert "# reuse" in streamed_text(report.wrapper)
    assert refused(report, "mm on stream1 reads")
    assert "triton_poi_fused_sin_0 on the caller's stream writes" in report.reason


def in_place(m: Any, x: Tensor) -> Any:
    return m.wa(x).sin(), m.wb(x)


def test_trap_8_nothing_is_done_in_place_though_it_were_sound_where_one_stream_has_the_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = read_function(in_place, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 1, "sin": 0})
    assert "# reuse" not in streamed_text(report_of(reading, plan).wrapper)
    plan_with(monkeypatch, inplace_buffers=True)
    report = report_of(reading, plan)
    assert report.verdict == "clean"
    assert "# reuse" in streamed_text(report.wrapper)


def test_trap_7_inputs_freed_behind_the_callers_last_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, plan = reading_of("three_arms"), alternating(kernels_of("three_arms"))
    assert report_of(reading, plan).verdict == "clean"
    computed = {end: [v for v in held if v.op != "placeholder"] for end, held in HELD_VALUES(reading, plan).items()}
    monkeypatch.setattr(regions, "held_values", lambda *_: computed)
    report = report_of(reading, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    assert re.search(
        r"extern_kernels.mm on stream1 reads arg\d_1, which line \d+ on the caller's stream frees", report.races[0]
    )


def test_trap_10_values_freed_behind_the_callers_last_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_function(product_and_sine, 4)
    plan = named_plan(reading.kernels, {"wa": 0, "wb": 0, "mm": 1, "sin": 0})
    assert report_of(reading, plan).verdict == "clean"
    hold_nothing(monkeypatch)
    report = report_of(reading, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    both = r"mm on stream1 reads buf\d+, which line \d+ on the caller's stream frees; .* allocates buf\d+ and may get it"
    assert re.search(both, report.races[0])


def test_trap_10_an_output_is_not_written_over_what_an_operator_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of("topk")
    plan = named_plan(reading.kernels, {"wa": 0, "topk": 1, "add": 1, "mul": 1, "wb": 0})
    assert report_of(reading, plan).verdict == "clean"
    plan_with(monkeypatch, inplace_buffers=True)
    assert refused(report_of(reading, plan), "the graph returns it")


def best_of_two(m: Any, x: Tensor) -> Any:
    return m.wa(x).topk(4), m.wb(x)


def test_trap_10_an_operator_that_allocates_an_output_stays_on_the_callers_stream() -> None:
    reading = read_function(best_of_two, 4)
    assert [k.name for k in reading.kernels.kernels if k.allocates_output] == ["best_of_two.topk"]
    for us in ([1.0, 9.0, 9.0], [9.0, 9.0, 1.0]):
        plan = search_on_simulator(SearchSpace(reading.kernels, us, 2, 0.0))
        assert plan.stream_of()[[k.name for k in reading.kernels.kernels].index("best_of_two.topk")] == 0
        assert report_of(reading, plan).verdict == "clean"


@pytest.fixture(scope="module", params=[2, 3])
def block(request: pytest.FixtureRequest) -> GraphCompilation:
    """Return the pre-attention block, compiled as the planner plans it for two and three streams."""
    (outcome,) = capture(*pre_attention(16, 64), "h200", {"min_gain": 0.0, "streams": request.param})
    assert outcome.report.plan.streams == request.param
    return outcome


def test_the_pre_attention_block_is_clean_and_without_its_lifetimes_refused(
    block: GraphCompilation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known failure: 16 heads, 64 tokens; the block of the first GEMM was overwritten while the side stream read it."""
    plan = alternating(block.reading.kernels, block.report.plan.streams)
    assert report_of(block.reading, plan).verdict == "clean"
    hold_nothing(monkeypatch)
    report = report_of(block.reading, plan)
    assert refused(report, "so the memory can be overwritten while it is in use")
    assert any(re.search(r"reads buf\d+, which line \d+ .* frees", race) for race in report.races)


def test_the_planners_own_plan_of_the_pre_attention_block_needs_its_lifetimes_too(
    block: GraphCompilation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block.report.verdict == "clean"
    hold_nothing(monkeypatch)
    assert refused(report_of(block.reading, block.report.plan), "so the memory can be overwritten while it is in use")


@pytest.mark.parametrize("sample", STREAMABLE)
def test_trap_11_no_wrapper_calls_record_stream(sample: str) -> None:
    assert "record_stream" not in captured(sample).report.wrapper


def test_trap_11_a_wrapper_that_does_is_refused() -> None:
    source = captured("diamond").report.wrapper
    line = next(line for line in source.splitlines() if ".record(stream" in line)
    indent = line[: len(line) - len(line.lstrip())]
    with pytest.raises(UnreadableWrapper, match="record_stream"):
        verify(source.replace(line, f"{line}\n{indent}buf0.record_stream(stream1)"))
