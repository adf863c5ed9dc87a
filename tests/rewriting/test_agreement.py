"""Check that two bodies that differ in what a caller could see are refused, with the difference as the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor import config

from graphstreams.errors import CannotJoin
from graphstreams.inductor.lowering import Lowered
from graphstreams.options import Options
from graphstreams.reports.report import Report
from graphstreams.rewriting.agreement import disagreement, matching_outputs
from graphstreams.rewriting.wrapper_source import Host, find_host
from tests.support.finishing import finished
from tests.support.sample_modules import FREE_EVENTS, captured, lowered_serially, lowered_with_code, reading_of

Change = Callable[[Lowered, Lowered], None]


def both(sample: str) -> tuple[Lowered, Lowered]:
    """Return the sample's graph lowered serially and as it is planned, new for each test."""
    return lowered_serially(reading_of(sample).module), lowered_with_code(captured(sample).module)


def report_after(sample: str, change: Change) -> Report:
    """Return what becomes of the sample if its two lowered graphs are changed before they are joined."""
    known = captured(sample)
    assert known.reading is not None and known.module is not None and known.report.plan is not None
    serial, streamed = both(sample)
    host = find_host(serial.source)
    change(serial, streamed)
    options = Options.from_dict(FREE_EVENTS)
    outcome = finished(known.reading, known.module, known.report.plan, serial, streamed, options, known.report.us, host)
    assert (outcome.module is None) == (outcome.report.verdict != "clean")
    return outcome.report


def leave(serial: Lowered, streamed: Lowered) -> None:
    pass


def write_less(serial: Lowered, streamed: Lowered) -> None:
    serial.graph.mutated_inputs.clear()


def write_another(serial: Lowered, streamed: Lowered) -> None:
    serial.graph.mutated_inputs.clear()
    serial.graph.mutated_inputs.add("arg0_1")


def write_more(serial: Lowered, streamed: Lowered) -> None:
    serial.graph.mutated_inputs.add("another")


def swap_outputs(serial: Lowered, streamed: Lowered) -> None:
    streamed.graph.graph_outputs = streamed.graph.graph_outputs[::-1]


def drop_output(serial: Lowered, streamed: Lowered) -> None:
    streamed.graph.graph_outputs = streamed.graph.graph_outputs[:-1]


def own_constant(serial: Lowered, streamed: Lowered) -> None:
    streamed.graph.constants["frozen"] = torch.ones(2)


def equal_constant(serial: Lowered, streamed: Lowered) -> None:
    """Equal is not the same: only one of the two is kept with the code."""
    serial.graph.constants["frozen"] = torch.ones(2)
    own_constant(serial, streamed)


def same_constant(serial: Lowered, streamed: Lowered) -> None:
    own_constant(serial, streamed)
    serial.graph.constants.update(streamed.graph.constants)
    serial.graph.constants["one_more"] = torch.ones(3)


@pytest.mark.parametrize(
    ("sample", "change", "reason"),
    [
        ("write_after_read", write_less, "the streamed body changes other inputs than the serial code"),
        ("write_after_read", write_another, "the streamed body changes other inputs than the serial code"),
        ("diamond", write_more, "the streamed body changes other inputs than the serial code"),
        ("casts", swap_outputs, "output 0 has another layout on streams than in the serial code"),
        ("three_arms", drop_output, "it has 2 outputs on streams and 3 in the serial code"),
        ("diamond", own_constant, "the streamed body has a constant of its own, frozen"),
        ("diamond", equal_constant, "the streamed body has a constant of its own, frozen"),
    ],
)
def test_what_a_caller_could_see_is_refused(sample: str, change: Change, reason: str) -> None:
    report = report_after(sample, change)
    assert (report.verdict, report.stage, report.reason) == ("refused", "verify", reason)


@pytest.mark.parametrize("sample", ["write_after_read", "casts", "three_arms"])
def test_bodies_that_agree_are_joined(sample: str) -> None:
    report = report_after(sample, leave)
    assert report.verdict == "clean", report.reason


def test_constants_of_the_serial_code_may_be_read_on_streams() -> None:
    assert report_after("diamond", same_constant).verdict == "clean"


def test_the_inputs_that_count_as_changed_are_those_that_were_read() -> None:
    serial, streamed = both("write_after_read")
    (name,) = reading_of("write_after_read").mutated
    assert disagreement(serial, streamed, (name,)) == ""
    assert disagreement(serial, streamed, ()) == disagreement(serial, streamed, (name, "another")) != ""


# --- where Inductor makes CUDA graphs, results are passed by their buffers' names


def host_returning(*names: str, given: tuple[str, ...] = ()) -> Host:
    return Host("partition_0", given, names, ())


def output_names(lowered: Lowered) -> list[str]:
    with lowered.active():
        return lowered.graph.get_output_names()


def test_each_buffer_that_is_returned_is_matched_by_its_place_among_the_outputs() -> None:
    serial, streamed = both("casts")
    first, second = output_names(serial), output_names(streamed)
    assert matching_outputs(serial, streamed, host_returning(*reversed(first))) == dict(zip(first, second, strict=True))


def test_an_input_that_is_returned_is_itself() -> None:
    serial, streamed = both("write_after_read")
    (name,) = reading_of("write_after_read").mutated
    assert matching_outputs(serial, streamed, host_returning(name, given=(name,))) == {name: name}


def test_a_buffer_that_is_no_output_cannot_be_matched() -> None:
    with pytest.raises(CannotJoin, match="partition_0 returns buf99, which is no output of the graph"):
        matching_outputs(*both("diamond"), host_returning("buf99"))


def test_a_buffer_with_another_layout_cannot_be_matched() -> None:
    serial, streamed = both("casts")
    swap_outputs(serial, streamed)
    name = output_names(serial)[0]
    with pytest.raises(CannotJoin, match=f"{name} has another layout on streams than in the serial code"):
        matching_outputs(serial, streamed, host_returning(name))


def test_what_cannot_be_matched_is_refused() -> None:
    def swap_names(serial: Lowered, streamed: Lowered) -> None:
        names = output_names(streamed)[::-1]
        streamed.graph.get_output_names = lambda: names  # type: ignore[method-assign]

    with config.patch({"triton.cudagraphs": True}):
        report = report_after("casts", swap_names)
    assert (report.verdict, report.stage) == ("refused", "verify")
    assert "has another layout on streams than in the serial code" in report.reason


def test_views_of_one_buffer_are_not_of_several_buffers_on_streams() -> None:
    """The caller of the part makes its views of one buffer, and cannot be given two."""

    class Buffers:
        def __init__(self, *names: str) -> None:
            self.graph = SimpleNamespace(get_output_names=lambda: list(names), get_buffer=lambda name: None)

        def active(self) -> Any:
            return contextlib.nullcontext()

    host = Host("partition_0", (), ("buf0",), ())
    serial: Any = Buffers("buf0", "buf0")
    same: Any = Buffers("buf3", "buf3")
    several: Any = Buffers("buf0", "buf5")
    assert matching_outputs(serial, same, host) == {"buf0": "buf3"}
    with pytest.raises(CannotJoin, match="several buffers on streams"):
        matching_outputs(serial, several, host)
