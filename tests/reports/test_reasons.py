"""Check what is said of why a kernel is where it is, for plans made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Placement, Plan
from graphstreams.reports.reasons import why_here, why_not_beside, why_one_unit
from graphstreams.reports.relations import Span, relations, serial_spans, union_us
from tests.support.hand_plan import GRAPH, KERNELS, PLAN, US

RELATED = relations(PLAN, GRAPH)
LOAD, SHORT, LONG, ADD, KEEP = range(5)


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (LOAD, "It needs no other kernel and is the first on its stream, so it starts with the graph."),
        (SHORT, "It waits for 'load' on stream 0, the last that it needs, which ends at 2.0 us."),
        (LONG, "It follows 'load' on its stream, which it needs, so there is no event between them."),
        (
            KEEP,
            "It keeps its place against every other kernel (nothing is declared of it), so it is on the caller's stream. "
            "It follows 'add' on its stream, which it needs, so there is no event between them.",
        ),
    ],
)
def test_why_a_kernel_starts_when_it_does(kernel: int, text: str) -> None:
    assert why_here(RELATED, kernel) == text


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (LOAD, "Nothing runs beside it: the dependences put every other kernel before it or after it; 'keep' keeps every other "
               "kernel before or after."),
        (SHORT, ""),
        (LONG, "For 3.5 us nothing runs beside it: all that could, 'short', takes less time than it does; 'keep' keeps every "
               "other kernel before or after."),
        (KEEP, "Nothing runs beside it: it keeps its place against every other kernel (nothing is declared of it)."),
    ],
)  # fmt: skip
def test_why_nothing_runs_beside_a_kernel(kernel: int, text: str) -> None:
    assert why_not_beside(RELATED, kernel) == text


def test_a_joined_unit_says_why() -> None:
    assert why_one_unit(KERNELS[SHORT]) == "Its 2 launches are one unit, on one stream: they write the pieces of one buffer."
    assert why_one_unit(KERNELS[LONG]) == ""


def _independent(*places: Placement, edges: tuple[Edge, ...] = (), streams: int = 2) -> tuple[Plan, KernelGraph]:
    kernels = tuple(Kernel(number, name, "gemm") for number, name in enumerate("abc"[: len(places)]))
    return Plan("g", streams, places, (), 9.0, 9.0, 3.0, 3.0, ()), KernelGraph("g", kernels, edges)


def test_what_could_run_beside_but_does_not_is_no_gain() -> None:
    related = relations(*_independent(Placement(0, "a", 0, 0.0, 3.0), Placement(1, "b", 0, 3.0, 6.0)))
    assert "the best plan that was found has 'b', which could, at another time (no gain)" in why_not_beside(related, 0)
    assert why_here(related, 1) == "It needs no other kernel; its stream is free at 3.0 us, when 'a' ends."


def test_on_one_stream_no_other_plan_was_found_to_gain() -> None:
    related = relations(*_independent(Placement(0, "a", 0, 0.0, 3.0), Placement(1, "b", 0, 3.0, 6.0), streams=1))
    assert why_not_beside(related, 0) == "Nothing runs beside it: 'b' could, but no plan on more streams was found to gain."


def test_what_is_not_ready_in_time_is_named() -> None:
    """c needs b, which ends when a does."""
    places = (Placement(0, "a", 0, 0.0, 3.0), Placement(1, "b", 1, 0.0, 3.0), Placement(2, "c", 1, 3.0, 4.0))
    plan, graph = _independent(*places, edges=(Edge(1, 2, EdgeKind.RAW, "buf"),))
    shorter = replace(plan, placements=(places[0], replace(places[1], start_us=2.0), places[2]))
    text = "For 2.0 us nothing runs beside it: 'c' needs what is not ready before it ends."
    assert why_not_beside(relations(shorter, graph), 0) == text


def test_an_operator_that_keeps_its_place_is_named_with_what_it_keeps_apart() -> None:
    """b keeps its place, so a and c, which touch nothing in common, are before and after it."""
    places = (Placement(0, "a", 0, 0.0, 3.0), Placement(1, "b", 0, 3.0, 4.0), Placement(2, "c", 0, 4.0, 6.0))
    plan, graph = _independent(*places, edges=(Edge(0, 1, EdgeKind.ORDER), Edge(1, 2, EdgeKind.ORDER)))
    a, b, c = graph.kernels
    kept = relations(plan, replace(graph, kernels=(a, replace(b, exclusive=True), c)))
    assert why_not_beside(kept, 0) == (
        "Nothing runs beside it: the dependences put every other kernel before it or after it; 'b' keeps every other kernel "
        "before or after; 'c' could but for that order."
    )


def test_spans_are_counted_once() -> None:
    assert union_us([Span(4.0, 6.0), Span(0.0, 2.0), Span(1.0, 3.0), Span(1.5, 2.0)]) == 5.0
    assert union_us([]) == 0.0


def test_serial_spans_follow_each_other_in_program_order() -> None:
    assert [(span.start_us, span.end_us) for span in serial_spans(GRAPH, US)][:3] == [(0.0, 2.0), (2.0, 4.0), (4.0, 9.0)]


def test_kernels_run_beside_each_other_while_both_take_time() -> None:
    """a and b share 1 us. c takes no time, and d begins when b ends."""
    places = [Placement(0, "a", 0, 0.0, 3.0), Placement(1, "b", 1, 2.0, 5.0), Placement(2, "c", 0, 4.0, 4.0)]
    related = relations(*_independent(*places))
    assert related.beside[:2] == [[(1, Span(2.0, 3.0))], [(0, Span(2.0, 3.0))]]
    assert related.beside[2] == []
    touching = relations(*_independent(places[0], Placement(1, "b", 1, 3.0, 5.0)))
    assert touching.beside == [[], []]
