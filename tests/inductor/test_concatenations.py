"""Check that products which write the pieces of one concatenation are kernels of their own, on any streams of any plan."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from graphstreams.inductor import conformance
from graphstreams.inductor.concatenations import on_several_streams
from graphstreams.inductor.lowering import peak_memory
from graphstreams.ir.kernels import KernelGraph
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.rewriting.regions import rewrite
from graphstreams.testing.equal_on_cpu import equal_as_captured
from graphstreams.verification.trace import AllocateStep, LaunchStep
from graphstreams.verification.wrapper.read import read_wrapper, verify
from tests.support.concatenations import CASES, WIDTH, Products, RandomProgram
from tests.support.interleaving import interleavings
from tests.support.random_graphs import generated, random_plan
from tests.support.sample_modules import FREE_EVENTS

PLANS = 5
DIVIDED = {  # how many kernels write the pieces of each concatenation
    "last dimension": [2],
    "first dimension": [3],
    "a pointwise piece": [4],
    "nested": [2, 3],
    "returned": [4],
    "read early": [3],
    "summed early": [2],
    "read twice": [2],
    "biased": [4],
    "with an input": [3],
    "a piece that is read": [2],
    "a product of a piece": [4],
    "pieces that are read later": [2],
    "read and returned": [2, 2],
    "changed": [2],
    "two": [2, 2],
    # These give tensors of their own, which one launch copies.
    "batched": [],
    "fp8": [],
}


@functools.cache
def outcome_of(case: str) -> GraphCompilation:
    torch.manual_seed(0)
    make, inputs = CASES[case]
    (outcome,) = capture(make(), inputs(), "h200", FREE_EVENTS)
    return outcome


def kernels_of(case: str) -> KernelGraph:
    reading = outcome_of(case).reading
    assert reading is not None
    return reading.kernels


@pytest.mark.parametrize("case", CASES)
def test_each_launch_is_a_kernel_of_the_plan(case: str) -> None:
    outcome = outcome_of(case)
    report, reading = outcome.report, outcome.reading
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.plan is not None and report.plan.streams > 1
    assert reading is not None
    assert sorted(len(kernels) for kernels in reading.divided.values()) == DIVIDED[case]
    assert all(len(kernel.launches) <= 1 for kernel in reading.kernels.kernels)
    assert report.kernels_streamed == report.kernels_serial == reading.launches
    torch.manual_seed(0)
    make, inputs = CASES[case]
    assert equal_as_captured(make(), inputs(), [outcome]) == [True]


@pytest.mark.parametrize("case", [case for case in CASES if DIVIDED[case]])
def test_products_that_write_pieces_need_no_order(case: str) -> None:
    products = {k.id for k in kernels_of(case).kernels if any(access.part for access in k.writes)}
    assert not any({edge.before, edge.after} <= products for edge in kernels_of(case).edges if edge.kind == "WAW")


@pytest.mark.parametrize("case", CASES)
def test_any_plan_is_clean_and_launches_what_the_serial_code_does(case: str) -> None:
    check_any_plan(outcome_of(case), PLANS)


def check_any_plan(outcome: GraphCompilation, count: int) -> None:
    reading, report = outcome.reading, outcome.report
    assert reading is not None
    for seed in range(count):
        plan = random_plan(reading.kernels, random.Random(seed))
        lowered = generated(reading, rewrite(reading, plan))
        assert verify(lowered.source) == []
        with lowered.active():
            assert conformance.launch_count(lowered) == report.kernels_serial
            steps = conformance.lowered_steps(lowered)
        assert conformance.first_difference(conformance.planned_steps(plan, reading.kernels), steps) == ""


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_with_concatenations(seed: int) -> None:
    module = Products(RandomProgram(seed).function())
    inputs = (torch.randn(16, WIDTH),)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert outcome.report.verdict in ("clean", "serial"), outcome.report.reason
    check_any_plan(outcome, 4)
    if outcome.report.verdict == "clean":
        assert equal_as_captured(module, inputs, [outcome]) == [True]


@pytest.mark.parametrize("case", ["returned", "read twice"])
def test_the_caller_allocates_what_several_streams_write(case: str) -> None:
    reading = outcome_of(case).reading
    assert reading is not None
    for seed in range(PLANS):
        plan = random_plan(reading.kernels, random.Random(seed))
        trace = read_wrapper(generated(reading, rewrite(reading, plan)).source)
        writers = {k for kernels in reading.divided.values() for k in kernels}
        streams = {placement.stream for placement in plan.placements if placement.kernel in writers}
        parts = [step for step in trace.steps if isinstance(step, LaunchStep) and step.parts]
        assert {step.stream for step in parts} == streams
        ((whole, _),) = parts[0].parts
        first = next(step for step in trace.steps if isinstance(step, AllocateStep) and step.storage == whole)
        if len(streams) > 1:
            assert first.stream == 0
            assert all(isinstance(step, AllocateStep) for step in trace.steps[: trace.steps.index(first)])
        elif case == "read twice":
            assert {first.stream} == streams


@pytest.mark.parametrize("case", ["first dimension", "returned", "two"])
def test_the_rewritten_graph_gives_the_same_in_any_order(case: str) -> None:
    torch.manual_seed(0)
    make, inputs = CASES[case]
    module, values = make(), inputs()
    (outcome,) = capture(module, values, "h200", FREE_EVENTS)
    assert outcome.module is not None
    shapes = [node.meta["val"].shape for node in outcome.module.graph.find_nodes(op="placeholder")]
    given = [torch.randn(tuple(shape)) for shape in shapes]
    results = list(interleavings(outcome.module, given, 10))
    assert None not in results
    first = results[0]
    assert first is not None
    for outputs, _ in results:  # type: ignore[misc]
        assert all(torch.equal(one, other) for one, other in zip(outputs, first[0], strict=True))


def _late(w: Any, b: Any, x: Tensor) -> Tensor:
    wide = torch.cat([*w, *w, *w], -1)
    x = (x @ wide) @ wide.t()
    return torch.cat([x @ w[0], x @ w[1]], -1)


def test_memory_held_from_the_start_counts() -> None:
    """Here a buffer that is freed before the concatenation begins takes the most."""
    (outcome,) = capture(Products(_late), (torch.randn(16, WIDTH),), "h200", FREE_EVENTS)
    reading, plan = outcome.reading, outcome.report.plan
    assert reading is not None and plan is not None
    lowered = generated(reading, rewrite(reading, plan))
    with lowered.active():
        names = on_several_streams(lowered.graph.scheduler)
        assert len(names) == 1
        assert peak_memory(lowered, names) == peak_memory(lowered) + 16 * 2 * WIDTH * 4
