"""Check what is said of each event: in the wrapper beside its statements, and in readable code above its nodes."""

from __future__ import annotations

from graphstreams.rewriting.event_comments import event_comments, event_headings
from tests.support.hand_plan import GRAPH, PLAN
from tests.support.sample_modules import captured


def test_a_comment_names_kernels_and_the_values_before_the_event() -> None:
    assert event_comments(PLAN, GRAPH) == {
        (0, None): "behind load (mm), for short",
        (0, 1): "short needs load (mm)",
        (1, None): "behind short (relu), for add",
        (1, 0): "add needs short (relu)",
    }


def test_a_heading_has_the_event_and_the_stream_too() -> None:
    assert event_headings(PLAN, GRAPH, {"record": (0, None), "wait": (1, 0)}) == {
        "record": "event 0, recorded on stream 0: behind load (mm), for short",
        "wait": "event 1, waited for on stream 0: add needs short (relu)",
    }


def test_each_event_of_a_graph_is_told_once_for_its_record_and_for_each_wait() -> None:
    """In a diamond of two streams, wc runs beside wb: it waits for wa, and the product of both waits for it."""
    report = captured("diamond").report
    assert report.event_nodes == {
        "record_event_0": "event 0, recorded on stream 0: behind wa (mm), for wc",
        "wait_event_0": "event 0, waited for on stream 1: wc needs wa (mm)",
        "record_event_1": "event 1, recorded on stream 1: behind wc (mm_2), for diamond.mul",
        "wait_event_1": "event 1, waited for on stream 0: diamond.mul needs wc (mm_2)",
    }
    for comment in (
        "behind wa (mm), for wc",
        "wc needs wa (mm)",
        "behind wc (mm_2), for diamond.mul",
        "diamond.mul needs wc (mm_2)",
    ):
        assert sum(line.endswith(f")  # {comment}") for line in report.wrapper.splitlines()) == 1
