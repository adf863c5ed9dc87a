"""Check whether the steps of each stream are those of the plan."""

from dataclasses import replace

from graphstreams.inductor.conformance import (
    first_difference,
    launch_count,
    lowered_steps,
    planned_steps,
    unnamed_steps,
    without_names,
)
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from tests.support.sample_modules import captured, kernels_of, lowered_with_code, plan_by_hand

CHAIN = KernelGraph(
    "chain",
    tuple(Kernel(i, name, "gemm", launches=("mm",)) for i, name in enumerate("abc")),
    (Edge(0, 1, EdgeKind.RAW), Edge(1, 2, EdgeKind.RAW)),
)
THERE_AND_BACK = {0: 0, 1: 1, 2: 0}


def steps_of(graph):
    return planned_steps(plan_by_hand(graph, [0, 1, 2], THERE_AND_BACK), graph)


def test_a_chain_over_two_streams():
    assert steps_of(CHAIN) == {
        0: ["launch 0", "record 0", "wait 1", "launch 2"],
        1: ["wait 0", "launch 1", "record 1"],
    }


def test_the_fork_is_recorded_first_and_the_join_waits_last():
    graph = replace(CHAIN, edges=())
    plan = plan_by_hand(graph, [0, 1, 2], {0: 0, 1: 1, 2: 1})
    assert planned_steps(plan, graph) == {
        0: ["record 0", "launch 0", "wait 1"],
        1: ["wait 0", "launch 1", "launch 2", "record 1"],
    }


def test_kernels_without_a_launch_do_not_appear():
    kernels = (CHAIN.kernels[0], replace(CHAIN.kernels[1], launches=()), CHAIN.kernels[2])
    assert steps_of(replace(CHAIN, kernels=kernels))[1] == ["wait 0", "record 1"]


def test_equal_steps_have_no_difference():
    assert first_difference(steps_of(CHAIN), steps_of(CHAIN)) == ""


def test_the_first_difference_names_stream_place_and_both_steps():
    found = {0: ["launch 0", "record 0", "launch 2", "wait 1"], 1: ["wait 0", "launch 1", "record 1"]}
    assert first_difference(steps_of(CHAIN), found) == "step 2 of stream 0 is 'launch 2', planned was 'wait 1'"


def test_missing_and_surplus_steps_are_differences():
    steps = steps_of(CHAIN)
    shorter = {**steps, 1: steps[1][:-1]}
    assert first_difference(steps, shorter) == "step 2 of stream 1 is 'nothing', planned was 'record 1'"
    assert first_difference(shorter, steps) == "step 2 of stream 1 is 'record 1', planned was 'nothing'"


def test_a_stream_that_only_one_side_has_is_a_difference():
    steps = steps_of(CHAIN)
    assert "stream 1" in first_difference(steps, {0: steps[0]})
    assert "stream 2" in first_difference(steps, {**steps, 2: ["launch 9"]})


def test_an_unused_stream_is_no_difference():
    assert first_difference({**steps_of(CHAIN), 2: []}, steps_of(CHAIN)) == ""


def test_names_of_launches_are_dropped_and_events_kept():
    assert without_names({0: ["launch 7", "wait 1"]}) == {0: ["launch", "wait 1"]}


def test_the_lowered_graph_has_the_planned_steps():
    outcome = captured("diamond")
    lowered = lowered_with_code(outcome.module)
    with lowered.active():
        assert lowered_steps(lowered) == planned_steps(outcome.report.plan, kernels_of("diamond"))
        assert launch_count(lowered) == 5


def test_a_kernel_of_two_launches_is_one_named_step_and_two_unnamed():
    lowered = lowered_with_code(captured("split_reduction").module)
    with lowered.active():
        named = [s for own in lowered_steps(lowered).values() for s in own if s.startswith("launch")]
        unnamed = [s for own in unnamed_steps(lowered).values() for s in own if s == "launch"]
    assert (len(named), len(unnamed)) == (2, 3)
