"""Check the policies of other systems by hand on small graphs, and by brute force and networkx on random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import networkx as nx
import peers
import pytest
from deepseek_pre_attention import pre_attention
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.benchmark.compile_variants import plan_of
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import FORK, JOIN
from graphstreams.planning.paths import Assignment
from graphstreams.planning.synchronization import check_plan, place_events

DIAMOND = ((0, 1), (0, 2), (1, 3), (2, 3))


def graph_of(edges: Sequence[tuple[int, int]], kinds: Sequence[str], ops: Sequence[tuple[str, ...]] = ()) -> KernelGraph:
    ops = ops or [()] * len(kinds)
    kernels = tuple(Kernel(i, f"k{i}", kind, ops=own) for i, (kind, own) in enumerate(zip(kinds, ops, strict=True)))
    return KernelGraph("g", kernels, tuple(Edge(*edge, EdgeKind.RAW) for edge in edges))


def assigned(policy: peers.Policy, graph: KernelGraph, shares: Sequence[float] = ()) -> tuple[list[int], list[int]]:
    """Return the launches in order and the stream of each kernel, of a plan that orders every edge."""
    count = len(graph.kernels)
    assignment = policy(graph, [1.0] * count, shares or [0.5] * count)
    plan = plan_of(graph, assignment, [1.0] * count)
    check_plan(graph, plan)
    assert [placement.kernel for placement in plan.placements] == list(assignment.order)
    return list(assignment.order), list(assignment.stream)


def test_tensorrt_keeps_the_heavy_arm_on_its_stream() -> None:
    """0 ends at 10; of its successors, equally far from the end, 1 comes first and finds stream 0 free, 2 does not."""
    graph = graph_of(DIAMOND, ["gemm", "gemm", "pointwise", "gemm"])
    assert assigned(peers.tensorrt_llm, graph) == ([0, 1, 2, 3], [0, 0, 1, 0])


def test_tensorrt_launches_each_stream_as_far_as_it_can() -> None:
    """The chain 0 -> 2 of matrix products is placed first, then 1 -> 3 beside it; stream 0 launches all it has at once."""
    graph = graph_of([(0, 2), (1, 3)], ["gemm", "pointwise", "gemm", "pointwise"])
    assert assigned(peers.tensorrt_llm, graph) == ([0, 2, 1, 3], [0, 1, 0, 1])


def test_tensorrt_starts_with_what_leads_to_a_mixture_of_experts() -> None:
    """2 is 60 from the end, 0 only 10. Of the last two, 1 comes first and takes stream 0, free since 1; 3 opens a third."""
    kinds, ops = ["gemm", "gemm", "pointwise", "extern"], [(), (), (), ("fused_moe",)]
    graph = graph_of([(0, 1), (2, 3)], kinds, ops)
    assert assigned(peers.tensorrt_llm, graph) == ([2, 0, 3, 1], [1, 0, 0, 2])


def test_tensorrt_takes_the_stream_that_is_free_first_where_none_is() -> None:
    """Three products of 10 fill three streams, so that the fourth kernel waits for stream 0, the first of equals."""
    assert assigned(peers.tensorrt_llm, graph_of([], ["gemm"] * 4))[1] == [0, 1, 2, 0]


def test_torchsched_deals_all_but_the_longest_path_to_seven_streams() -> None:
    graph = graph_of([(0, 4), (4, 9), (1, 9)], ["pointwise"] * 10)
    order, stream = assigned(peers.torchsched, graph)
    assert order == list(range(10))
    assert stream == [0, 1, 2, 3, 0, 4, 5, 6, 7, 0]


def test_torchsched_counts_kernels_not_time() -> None:
    """A long product beside two short kernels in a row: the two are the longest path."""
    assert assigned(peers.torchsched, graph_of([(1, 2)], ["gemm", "pointwise", "pointwise"]))[1] == [1, 0, 0]


def test_opara_follows_the_first_predecessor_that_nobody_follows() -> None:
    """1 follows 0; 2 finds 0 taken; 3 follows 1. Small kernels go first, products and others in turns."""
    graph = graph_of(DIAMOND, ["gemm", "gemm", "pointwise", "gemm"])
    assert assigned(peers.opara, graph, [0.9, 0.5, 0.1, 0.2]) == ([0, 2, 1, 3], [0, 0, 1, 0])


def test_opara_launches_what_needs_least_of_the_gpu_first() -> None:
    order, stream = assigned(peers.opara, graph_of([], ["gemm"] * 3), [0.9, 0.2, 0.5])
    assert order == [1, 2, 0]
    assert stream == [0, 1, 2]


def test_nimble_cuts_the_fewest_edges_of_the_reduction() -> None:
    """The edge 0 -> 3 follows from the others. Four are left, of which two lie inside the chain 0, 1, 3."""
    graph = graph_of([*DIAMOND, (0, 3)], ["pointwise"] * 4)
    assert peers.reduction(graph) == [[1, 2], [3], [3], []]
    assert peers.closure(graph) == [[1, 2, 3], [3], [3], []]
    assignment = peers.nimble(graph, [1.0] * 4, [0.5] * 4)
    chains = {stream: assignment.stream.count(stream) for stream in set(assignment.stream)}
    assert sorted(chains.values()) == [1, 3]
    assert peers.minimum_syncs(graph, assignment) == 2


def test_through_a_join_that_forks_again_the_closure_needs_a_stream_less() -> None:
    """0 and 1 come before 2, that before 3 and 4: direct dependences make three chains, 1 and 4 can share a stream."""
    graph = graph_of([(0, 2), (1, 2), (2, 3), (2, 4)], ["pointwise"] * 5)
    assert len(set(assigned(peers.nimble, graph)[1])) == 3
    assert len(set(assigned(peers.fewest_streams, graph)[1])) == 2


@pytest.mark.parametrize("name", peers.POLICIES)
def test_exclusive_kernels_stay_on_the_callers_stream(name: str) -> None:
    graph = graph_of([(0, 1), (1, 2), (0, 2), (1, 3), (0, 3)], ["pointwise"] * 4)
    kernels = tuple(Kernel(k.id, k.name, k.kind, exclusive=k.id == 1) for k in graph.kernels)
    graph = KernelGraph("g", kernels, graph.edges)
    assert assigned(peers.POLICIES[name], graph)[1][1] == 0


def test_a_plan_counts_its_streams_and_launches_in_the_order_given() -> None:
    graph = graph_of(DIAMOND, ["pointwise"] * 4)
    plan = plan_of(graph, Assignment([0, 2, 1, 3], [0, 0, 1, 0]), [1.0, 2.0, 3.0, 4.0])
    assert [(p.kernel, p.stream) for p in plan.placements] == [(0, 0), (2, 1), (1, 0), (3, 0)]
    assert (plan.streams, plan.serial_us, plan.streamed_us) == (2, 10.0, 8.0)


@pytest.fixture(scope="module")
def block() -> KernelGraph:
    """Return the kernels of the real pre-attention block."""
    from graphstreams.pipeline.explain import capture

    reading = capture(*pre_attention(16, 1), "h200", {"min_gain": 0.0})[0].reading
    assert reading is not None
    return reading.kernels


@pytest.mark.parametrize("name", peers.POLICIES)
def test_every_policy_gives_a_sound_plan_of_the_real_block(name: str, block: KernelGraph) -> None:
    shares = [1.0 if kernel.kind == "gemm" else 0.05 for kernel in block.kernels]
    stream = assigned(peers.POLICIES[name], block, shares)[1]
    assert len(set(stream)) > 1


@st.composite
def graphs(draw: st.DrawFn, largest: int = 9) -> KernelGraph:
    count = draw(st.integers(0, largest))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    kinds = draw(st.lists(st.sampled_from(["gemm", "pointwise"]), min_size=count, max_size=count))
    return graph_of(edges, kinds)


def digraph(graph: KernelGraph) -> nx.DiGraph:
    made = nx.DiGraph((edge.before, edge.after) for edge in graph.edges)
    made.add_nodes_from(range(len(graph.kernels)))
    return made


@settings(max_examples=100, deadline=None)
@given(graphs(), st.data())
def test_every_policy_gives_a_sound_plan(graph: KernelGraph, data: st.DataObject) -> None:
    shares = [data.draw(st.floats(0.0, 1.0)) for _ in graph.kernels]
    for policy in peers.POLICIES.values():
        assigned(policy, graph, shares)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_reduction_and_closure_are_those_of_networkx(graph: KernelGraph) -> None:
    expected = digraph(graph)
    edges = {(a, b) for a, own in enumerate(peers.reduction(graph)) for b in own}
    assert edges == set(nx.transitive_reduction(expected).edges)
    assert {(a, b) for a, own in enumerate(peers.closure(graph)) for b in own} == set(nx.transitive_closure(expected).edges)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_the_fewest_streams_are_the_most_kernels_that_nothing_orders(graph: KernelGraph) -> None:
    widest = max(map(len, nx.antichains(digraph(graph))), default=0)
    assert len(set(peers.fewest_streams(graph, [], []).stream)) == widest


def chains_of(kernels: Sequence[int], ordered: set[tuple[int, int]]) -> Iterator[list[list[int]]]:
    """Yield every way to divide the kernels into chains, that is, sets without two kernels that nothing orders."""
    if not kernels:
        yield []
        return
    *others, last = kernels
    for chains in chains_of(others, ordered):
        yield [*chains, [last]]
        for i, chain in enumerate(chains):
            if all((kernel, last) in ordered for kernel in chain):
                yield [*chains[:i], [*chain, last], *chains[i + 1 :]]


@settings(max_examples=60, deadline=None)
@given(graphs(6))
def test_no_division_into_chains_needs_fewer_syncs_than_nimbles(graph: KernelGraph) -> None:
    count = len(graph.kernels)
    ordered = set(nx.transitive_closure(digraph(graph)).edges)
    counts = []
    for chains in chains_of(range(count), ordered):
        chain_of = {kernel: number for number, chain in enumerate(chains) for kernel in chain}
        counts.append(peers.minimum_syncs(graph, Assignment(range(count), [chain_of[k] for k in range(count)])))
    assert peers.minimum_syncs(graph, peers.nimble(graph, [], [])) == min(counts)


@st.composite
def assignments(draw: st.DrawFn, largest: int = 9) -> tuple[KernelGraph, Assignment]:
    graph = draw(graphs(largest))
    count = len(graph.kernels)
    ranks = draw(st.permutations(range(count)))
    order = list(nx.lexicographical_topological_sort(digraph(graph), key=ranks.__getitem__))
    return graph, Assignment(order, draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))


def waits_of(graph: KernelGraph, assignment: Assignment) -> tuple[list[tuple[int, int]], int, int]:
    """Our waits between kernels, and how many there are for the fork and for the join."""
    events = place_events(graph, assignment.order, dict(enumerate(assignment.stream)))
    waits = [(event.after, wait.kernel) for event in events for wait in event.waits]
    forks, joins = (sum(pair[side] == end for pair in waits) for side, end in ((0, FORK), (1, JOIN)))
    return [pair for pair in waits if pair[0] != FORK and pair[1] != JOIN], forks, joins


@settings(max_examples=300, deadline=None)
@given(assignments())
def test_our_waits_are_never_more_than_the_reductions_edges_between_streams(case: tuple[KernelGraph, Assignment]) -> None:
    graph, assignment = case
    inner, forks, joins = waits_of(graph, assignment)
    reduced = nx.transitive_reduction(digraph(graph))
    counted = sum(assignment.stream[a] != assignment.stream[b] for a, b in reduced.edges)
    assert peers.minimum_syncs(graph, assignment) == counted
    assert len(inner) <= counted
    most_forks, most_joins = peers.fork_and_join_syncs(graph, assignment)
    assert forks <= most_forks
    assert joins <= most_joins


@settings(max_examples=60, deadline=None)
@given(assignments(6))
def test_no_smaller_set_of_waits_gives_the_same_order(case: tuple[KernelGraph, Assignment]) -> None:
    """Brute force over all sets of pairs on two streams that the edges and the streams' own orders put in order."""
    graph, assignment = case
    stream = assignment.stream
    along = nx.DiGraph()
    along.add_nodes_from(assignment.order)
    for number in set(stream):
        along.add_edges_from(pairwise(kernel for kernel in assignment.order if stream[kernel] == number))
    whole = nx.transitive_closure(nx.compose(along, digraph(graph)))
    candidates = [(a, b) for a, b in whole.edges if stream[a] != stream[b]]
    inner, _, _ = waits_of(graph, assignment)

    def enough(waits: Sequence[tuple[int, int]]) -> bool:
        made = along.copy()
        made.add_edges_from(waits)
        return set(nx.transitive_closure(made).edges) == set(whole.edges)

    assert enough(inner)
    assert not any(enough(fewer) for count in range(len(inner)) for fewer in combinations(candidates, count))
