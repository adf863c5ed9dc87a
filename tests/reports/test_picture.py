"""Check the picture of a plan made by hand: lanes, boxes, arrows and cards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Event, Placement, Plan, Wait
from graphstreams.reports.picture import COLLECTIVES, SERIAL, STREAM, Arrow, Box, picture
from tests.support.hand_plan import GRAPH, PLAN, US


def test_the_serial_lane_has_each_kernel_alone_and_ends_at_the_serial_time() -> None:
    lane = picture(PLAN, GRAPH, US).lanes[0]
    assert (lane.name, lane.kind) == ("serial", SERIAL)
    assert [(box.kernel, box.start_us, box.end_us, box.stream) for box in lane.boxes] == [
        (0, 0.0, 2.0, 0), (1, 2.0, 4.0, 1), (2, 4.0, 9.0, 0), (3, 9.0, 10.0, 0), (4, 10.0, 11.0, 0),
    ]  # fmt: skip
    assert lane.boxes[-1].end_us == PLAN.serial_us
    assert not any(box.critical for box in lane.boxes)


def test_each_stream_has_a_lane_with_the_times_of_the_plan() -> None:
    _, caller, aux = picture(PLAN, GRAPH, US).lanes
    assert (caller.name, caller.kind, aux.name) == ("stream 0 (caller)", STREAM, "stream 1")
    assert caller.boxes == (
        Box(0, 0.0, 2.0, 2.0, 0, True), Box(2, 2.0, 8.0, 5.0, 0, True), Box(3, 8.0, 9.0, 1.0, 0, True),
        Box(4, 9.0, 10.0, 1.0, 0, True),
    )  # fmt: skip
    assert aux.boxes == (Box(1, 2.5, 5.0, 2.0, 1, False),)


def test_arrows_go_from_the_end_of_a_kernel_to_the_start_of_another() -> None:
    drawn = picture(PLAN, GRAPH, US)
    assert drawn.arrows == (Arrow(0, 0, 1, 1, 2, 2.0, 2.5), Arrow(1, 1, 3, 2, 1, 5.0, 8.0))
    assert drawn.end_us == 11.0  # of the serial lane


def test_the_fork_and_the_join_are_on_the_callers_lane() -> None:
    kernels = KernelGraph("g", (Kernel(0, "a", "gemm"), Kernel(1, "b", "gemm")), ())
    places = (Placement(0, "a", 0, 0.0, 4.0), Placement(1, "b", 1, 0.5, 3.5))
    events = (Event(0, 0, FORK, (Wait(1, 1),)), Event(1, 1, 1, (Wait(0, JOIN),)))
    plan = Plan("g", 2, places, events, 7.0, 4.5, 4.0, 4.0, (0,))
    fork, join = picture(plan, kernels, [4.0, 3.0]).arrows
    assert fork == Arrow(0, FORK, 1, 1, 2, 0.0, 0.5)
    assert join == Arrow(1, 1, JOIN, 2, 1, 3.5, 4.5)


def test_a_card_has_what_is_known_of_a_kernel() -> None:
    load, short, long, _, keep = picture(PLAN, GRAPH, US, {1: "relu = ..."}, {1: "7: a.run()"}).cards
    assert (load.name, load.kind, load.launches, load.parameters) == ("load", "gemm", ("extern_kernels.mm",), ("load.weight",))
    assert (load.modules, short.modules) == (("layers.0", "layers.1.norm"), ())
    assert (load.bytes_read, load.bytes_written) == (4096 + 2 * 8, 512)
    assert (long.start_us, long.end_us, long.alone_us, long.critical) == (2.0, 8.0, 5.0, True)
    assert (short.beside, long.beside, load.beside) == ((("long", 2.5),), (("short", 2.5),), ())
    assert (short.waits, short.needs) == (("load (stream 0)",), ("load (RAW buf0)",))
    assert long.needs == ("load (RAW buf0, WAR arg1)",)
    assert (short.code, short.wrapper, long.code) == ("relu = ...", "7: a.run()", "")
    assert keep.needs == ("load (order)", "short (order)", "long (order)", "add (order)")


def test_bytes_of_an_unknown_size_are_not_made_up() -> None:
    assert picture(PLAN, replace(GRAPH, sizes={}), US).cards[0].bytes_read is None


def test_collectives_have_lanes_of_their_own() -> None:
    """Alone, the second collective of the group begins when the first has ended, at 7 us: 5 us after it is called."""
    kernels = (
        Kernel(0, "a", "gemm"),
        Kernel(1, "first", "collective", collective="start", group="0"),
        Kernel(2, "second", "collective", collective="start", group="0"),
        Kernel(3, "b", "gemm"),
    )
    graph = KernelGraph("g", kernels, (Edge(0, 1, EdgeKind.RAW), Edge(1, 2, EdgeKind.ORDER)))
    places = (
        Placement(0, "a", 0, 0.0, 2.0), Placement(1, "first", 0, 2.0, 7.0), Placement(2, "second", 0, 2.0, 10.0),
        Placement(3, "b", 0, 2.0, 6.0),
    )  # fmt: skip
    plan = Plan("g", 1, places, (), 10.0, 10.0, 10.0, 10.0, (0, 1))
    serial, apart, caller, collectives = picture(plan, graph, [2.0, 5.0, 3.0, 4.0]).lanes
    assert [box.kernel for box in serial.boxes] == [box.kernel for box in caller.boxes] == [0, 3]
    assert (apart.kind, collectives.kind) == (COLLECTIVES, COLLECTIVES)
    assert [(box.start_us, box.end_us) for box in apart.boxes] == [(2.0, 7.0), (7.0, 10.0)]
    assert [(box.start_us, box.end_us) for box in collectives.boxes] == [(2.0, 7.0), (2.0, 10.0)]


def test_numbers_of_kernels_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="5 kernels are placed, 5 read and 4 timed"):
        picture(PLAN, GRAPH, US[:4])
