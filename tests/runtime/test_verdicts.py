"""Check what is said of a graph, once and in one line, by the process that compiles it and by one that loads it."""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._inductor import config

import graphstreams
from graphstreams.backend import _say_of_cached
from graphstreams.runtime import verdicts
from graphstreams.runtime.verdicts import CAPTURE_IT, Verdict, announce, compiled, listening, say

CLEAN = Verdict(
    "a", "clean", streams=3, serial_us=199.4, streamed_us=171.2, measured=True, kernels_serial=26, kernels_streamed=26
)
SERIAL = Verdict("b", "serial", "plan", "the gain is 1 %, less than min_gain")
LINE = "a: 3 streams, 171 us instead of 199 in a CUDA graph (measured), serial when launched directly; 26 launches, serial 26"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdicts, "_told", verdicts._Told())
    monkeypatch.setattr(verdicts, "_said", [])
    monkeypatch.setattr(verdicts, "_known", set())
    with config.patch({"triton.cudagraphs": True}):
        yield


def loaded(verdict: Verdict) -> None:
    """Run the lines of a wrapper that carry the verdict."""
    exec("\n".join(verdict.lines), {})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, LINE),
        ({"measured": False, "streamed_us": 9.96}, LINE.replace("171 us", "10.0 us").replace("measured", "predicted")),
        ({"kernels_streamed": 28}, LINE.replace("26 launches", "28 launches")),
        ({"sizes": "2 <= s21 <= 64"}, LINE.replace("3 streams", "3 streams for 2 <= s21 <= 64")),
        ({"module": "Attention"}, f"Attention: {LINE}"),
        ({"direct": True}, LINE.replace("serial when launched directly", "on streams when launched directly too")),
        (
            {"direct": True, "direct_us": 301.0, "direct_serial_us": 320.0},
            LINE.replace("serial when launched directly", "301 us instead of 320 launched directly (measured)"),
        ),
    ],
)
def test_a_graph_on_streams_is_one_line_that_tells_launch_and_source(changes: dict[str, object], line: str) -> None:
    assert str(replace(CLEAN, **changes)) == line  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "level", "text"),
    [
        (CLEAN, logging.INFO, LINE),
        (SERIAL, logging.WARNING, "b runs serially: plan: the gain is 1 %, less than min_gain"),
        (replace(SERIAL, verdict="refused"), logging.WARNING, "b runs serially: plan: the gain is 1 %, less than min_gain"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_each_verdict_is_said_in_one_line_and_kept(
    caplog: pytest.LogCaptureFixture, verdict: Verdict, level: int, text: str, cached: bool
) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"), listening() as found:
        loaded(verdict) if cached else say(verdict)
    assert (found.cached, found.known) == ([verdict] if cached else [], [])
    end = " (from a cache)" if cached else ""
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, f"graphstreams: {text}{end}")]
    assert graphstreams.reports() == [replace(verdict, from_cache=cached)]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("captured", [False, True])
def test_a_gain_that_nothing_captures_is_a_warning_in_the_same_line(
    caplog: pytest.LogCaptureFixture, captured: bool, direct: bool
) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"), config.patch({"triton.cudagraphs": captured}):
        say(replace(CLEAN, direct=direct))
    (record,) = caplog.records
    lost = not captured and not direct
    assert record.levelno == (logging.WARNING if lost else logging.INFO)
    assert record.getMessage().endswith(f"; {CAPTURE_IT}") is lost


def test_a_gain_that_an_engine_captures_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"):
        say(CLEAN, captured=True)
    (record,) = caplog.records
    assert record.levelno == logging.INFO and CAPTURE_IT not in record.getMessage()


def test_a_line_of_several_ranks_names_its_own(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("graphstreams.runtime.ranks.current_rank", lambda: 3)
    say(SERIAL)
    assert caplog.messages[0].startswith("graphstreams: rank 3: b runs serially")


def test_a_graph_that_this_process_compiled_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    own = Verdict("c", "serial", "read", "compiled here")
    compiled(own)
    with listening() as found:
        loaded(own)
    assert (found.cached, found.known) == ([], [own])
    assert caplog.records == [] and graphstreams.reports() == []


def test_a_graph_from_a_cache_is_said_once_whatever_thread_loads_it_again(caplog: pytest.LogCaptureFixture) -> None:
    loaded(SERIAL)
    thread = threading.Thread(target=loaded, args=(SERIAL,))
    thread.start()
    thread.join()
    with listening() as found:
        loaded(SERIAL)
    assert (found.cached, found.known) == ([], [SERIAL])
    assert graphstreams.reports() == [replace(SERIAL, from_cache=True)] and len(caplog.records) == 1


def test_of_a_known_graph_from_a_cache_nothing_new_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"):
        assert _say_of_cached("Linear", [torch.ones(1, 3)], known="0_inference") is None
    assert (
        "Linear: 0_inference was found in a cache; what was said of it before" in caplog.messages[0]
        and graphstreams.reports() == []
    )


def test_of_a_silent_graph_that_another_process_compiled_nothing_is_claimed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "graphstreams"):
        assert _say_of_cached("Linear", [torch.ones(1, 3)], known="", on_cuda=True) is None
    assert "its code does not say why" in caplog.messages[0] and "this process" not in caplog.messages[0]


def test_a_model_on_the_cpu_is_told_of_from_a_cache_also_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = _say_of_cached("Linear", [torch.ones(1, 3)], known="")
    assert said is not None and said.reason.startswith("it has no CUDA tensors")


class Hearer:
    def __init__(self) -> None:
        self.heard: list[Verdict] = []

    def hear(self, verdict: Verdict) -> None:
        self.heard.append(verdict)


def test_who_asked_last_is_told_what_the_thread_loads_as_long_as_it_is_there() -> None:
    first, last = Hearer(), Hearer()
    loaded(CLEAN)  # nobody has asked
    for hearer in (first, last):
        verdicts.tell(hearer.hear)
    loaded(CLEAN)
    compiled(SERIAL)
    loaded(SERIAL)  # one that the thread has compiled too
    assert (first.heard, last.heard) == ([], [CLEAN, SERIAL])
    thread = threading.Thread(target=loaded, args=(CLEAN,))
    thread.start()
    thread.join()
    heard = last.heard
    del last, hearer
    loaded(CLEAN)
    assert heard == [CLEAN, SERIAL]


def test_who_listens_inside_leaves_the_outer_list_and_name_alone() -> None:
    with listening("outer") as outer:
        with listening("inner") as inner:
            loaded(CLEAN)
        loaded(SERIAL)
    assert (inner.cached, outer.cached) == ([CLEAN], [SERIAL])
    announce(verdicts.json.dumps(verdicts.asdict(replace(CLEAN, name="c"))))  # nobody listens
    assert [verdict.module for verdict in graphstreams.reports()] == ["inner", "outer", ""]


def test_a_graph_that_is_known_has_an_entry_for_each_model_that_has_it(caplog: pytest.LogCaptureFixture) -> None:
    with listening("one"):
        loaded(SERIAL)
    for _ in range(2):
        verdicts.keep_for(SERIAL, "two")
    verdicts.keep_for(SERIAL, "one")
    assert graphstreams.reports() == [replace(SERIAL, module=name, from_cache=True) for name in ("one", "two")]
    assert len(caplog.records) == 1


def test_reports_are_found_by_model_or_graph() -> None:
    with listening("Attention"):
        say(CLEAN)
        say(SERIAL)
    with listening("Experts"):
        say(CLEAN)
    assert [verdict.name for verdict in graphstreams.reports("Attention")] == ["a", "b"]
    assert [verdict.module for verdict in graphstreams.reports("a")] == ["Attention", "Experts"]
    assert graphstreams.reports("none such") == []
    graphstreams.reports().clear()  # a list of the caller's own
    assert len(graphstreams.reports()) == 3


def test_reports_can_be_called_before_and_after_its_modules_are_imported() -> None:
    import graphstreams.reports.report

    assert callable(graphstreams.reports) and graphstreams.reports.report.Report


class Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() + 1


def function(x: torch.Tensor) -> torch.Tensor:
    return x.cos() + 1


def decorated(forward: Any) -> Any:
    @functools.wraps(forward)
    def wrapper(self: torch.nn.Module, x: torch.Tensor) -> Any:
        return forward(self, x)

    return wrapper


class Decorated(torch.nn.Module):
    """As models of transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([Inner(), Inner()])

    @decorated
    @decorated
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize(
    ("model", "name", "module"),
    [
        (Inner(), None, "Inner"),
        (Inner(), "decoder", "decoder"),
        (function, None, "function"),
        (Decorated(), None, "Decorated"),
        (Decorated().__call__, None, "Decorated"),
        (torch.no_grad()(Decorated().forward), None, "Decorated"),
        (torch.nn.Sequential(Inner(), Inner()), None, "Sequential"),
    ],
)
def test_the_report_has_the_name_of_the_model(model: object, name: str | None, module: str) -> None:
    torch._dynamo.reset()
    with torch.no_grad(), config.patch(force_disable_caches=True):
        torch.compile(model, backend="graphstreams", name=name)(torch.ones(3))  # type: ignore[call-overload]
    (verdict,) = graphstreams.reports()
    assert (verdict.module, verdict.verdict, verdict.stage) == (module, "serial", "read")


@pytest.mark.parametrize("records", [False, True])
def test_a_graph_whose_cached_code_says_nothing_is_told_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    if records:  # as on a machine with a GPU
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with nullcontext() if records else torch.no_grad():
        said = _say_of_cached("Linear", [torch.ones(1, 3), torch.nn.Linear(3, 3).weight], known="")
    assert said is not None and (said.verdict, said.stage, said.module) == ("serial", "read", "Linear")
    (message,) = caplog.messages
    assert ("it records gradients" if records else "it has no CUDA tensors") in message
    assert message.endswith(" (from a cache)") and len(graphstreams.reports("Linear")) == 1
