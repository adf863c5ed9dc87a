"""Check the tables of a benchmark, from a result as it stands in bench.json."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from graphstreams.benchmark import tables
from graphstreams.benchmark.results import report


def times(median: float) -> dict[str, float]:
    return {"median": median, "first_quartile": median - 0.5, "third_quartile": median + 0.5}


def compiled(median: float, **changes: Any) -> dict[str, Any]:
    bits = {"wrong": {"graph": 0, "direct": 0}, "runs": {"graph": 50, "direct": 5}, "difference": 0.0, "unstable": 0}
    return {"graph": times(median), "direct": times(200.0), "host": times(2 * median), **bits, **changes}


def a_row() -> dict[str, Any]:
    rivals = {
        "serial": {"graph": times(100.0), "direct": times(150.0), "host": times(125.0)},
        "hand: phase 1": compiled(90.0),
        "hand: both": compiled(80.0, wrong={"graph": 50, "direct": 5}, difference=0.004),
        "hand: phase 2": {"failed": "RuntimeError: operation | failed\ndue to a capture"},
        "custom op: both": compiled(125.0, wrong={"graph": 9, "direct": 0}, difference=0.5, unstable=3),
        "graphstreams: roofline": compiled(
            100.0, verdict="serial", reason="the predicted gain is 1.0%", measured=None, stages={"read": 0.4, "plan": 0.05}
        ),
        "graphstreams: search": compiled(
            50.0, verdict="clean", reason="", measured={"tried": 32}, stages={"price": 0.123, "plan": 1.5, "measure": 0.3}
        ),
        "played: serial": {"graph": times(100.0)},
        "played: Nimble": {"graph": times(62.5), "streams": 5, "waits": 11},
    }
    return {"name": "w", "title": "layer, TP 8, 1 token", "rivals": rivals, "seconds": 20.4}


FAILED = {"name": "v", "title": "layer, TP 1, 1 token", "rivals": {}, "failed": "OutOfMemoryError: no | memory", "seconds": 1.0}


def cells(table: str, line: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[line].strip("|").split("|")]


GROUPS = {"streams by hand": "hand", "custom operators": "custom op"}
EVERY = {**GROUPS, **tables.OWN_GROUPS}


def a_result() -> dict[str, Any]:
    names = ("device", "driver", "cuda", "torch", "triton", "python", "date", "rounds", "repeats", "captures", "replays")
    told = {name: f"<{name}>" for name in names}
    passes = {"deterministic": [a_row(), FAILED], "default": [a_row()]}
    return {**told, "title": "A benchmark", "groups": GROUPS, "passes": passes}


def test_the_table_of_stages_has_what_each_took() -> None:
    table = tables.stages_table([a_row(), FAILED])
    name = "layer, TP 8, 1 token"
    assert cells(table, 0) == ["workload", "rival", "plans measured", "price s", "plan s", "measure s"]
    assert [cells(table, line) for line in range(2, len(table.splitlines()))] == [
        [name, "graphstreams: roofline", "-", "-", "0.05", "-"],
        [name, "graphstreams: search", "32", "0.12", "1.50", "0.30"],
    ]


def test_the_table_of_stages_tells_a_plan_that_an_earlier_compile_left() -> None:
    row = a_row()
    row["rivals"]["graphstreams: search"]["measured"]["from_disk"] = True
    assert cells(tables.stages_table([row]), 3)[2] == "32, by an earlier compile"


def test_the_table_of_speed_has_the_fastest_variant_and_marks_other_bits() -> None:
    table = tables.speed_table([a_row(), FAILED], EVERY)
    assert cells(table, 0)[:3] == ["workload", "serial us", "streams by hand"]
    row = ["layer, TP 8, 1 token", "100.0", "1.25x (both) ≠", "0.80x (both) !", "1.00x (serial)", "-", "2.00x"]
    assert cells(table, 2) == row
    assert cells(table, 3)[:2] == ["layer, TP 1, 1 token", "failed: OutOfMemoryError: no / memory"]


def test_the_table_of_policies_has_their_streams_and_waits() -> None:
    table = tables.policy_table([a_row()])
    assert cells(table, 0) == ["workload", "serial us", "serial", "Nimble"]
    assert cells(table, 2)[2:] == ["1.00x", "1.60x (5, 11)"]


def test_the_table_of_bits_tells_how_wrong() -> None:
    table = tables.bits_table([a_row(), FAILED])
    assert cells(table, 2) == ["layer, TP 8, 1 token", "hand: phase 1", "graph 0/50, direct 0/5", "-", "-"]
    assert cells(table, 4) == ["layer, TP 8, 1 token", "custom op: both", "graph 9/50, direct 0/5", "5.0e-01", "3"]


def test_the_table_of_times_has_quartiles_and_errors() -> None:
    table = tables.times_table([a_row(), FAILED])
    assert cells(table, 2) == [
        "layer, TP 8, 1 token",
        "serial",
        "100.0 (99.5-100.5)",
        "150.0 (149.5-150.5)",
        "125.0 (124.5-125.5)",
        "",
    ]
    assert "RuntimeError: operation / failed due to a capture" in table
    assert "the predicted gain is 1.0%" in table
    assert "failed: OutOfMemoryError" in table


def test_the_table_of_host_times_has_the_cheapest_variant_of_each_group() -> None:
    table = tables.host_table([a_row(), FAILED], EVERY)
    assert cells(table, 0)[:3] == ["workload", "serial us", "streams by hand"]
    assert cells(table, 2) == ["layer, TP 8, 1 token", "125.0", "1.28", "2.00", "1.60", "-", "0.80"]
    assert cells(table, 3) == ["layer, TP 1, 1 token", "-", "-", "-", "-", "-", "-"]


def test_a_group_of_which_all_failed_says_so() -> None:
    row = a_row()
    for name in ("hand: phase 1", "hand: both"):
        row["rivals"][name] = {"failed": "no"}
    assert cells(tables.speed_table([row], EVERY), 2)[2] == "failed"
    assert tables.best(row, "hand") is None
    assert tables.speedup(row, "hand: both") is None


def test_the_report_has_every_table_and_where_it_was_measured() -> None:
    text = report(a_result())
    assert text.startswith("# A benchmark\n")
    assert "<device> (driver <driver>)" in text
    for heading in (
        "with Inductor's setting `deterministic`",
        "with Inductor's own settings",
        "Policies",
        "Bits",
        "by the host",
        "Host time of a call",
    ):
        assert heading in text


def test_progress_is_one_line() -> None:
    line = tables.progress(a_row(), GROUPS)
    assert line.count("\n") == 0
    assert "serial 100.0 us" in line
    assert "streams by hand 1.25x (both)" in line
    assert line.endswith("failed: hand: phase 2 (20 s)")
    assert tables.progress(FAILED, GROUPS) == "layer, TP 1, 1 token: failed: OutOfMemoryError: no / memory"


def test_a_variant_alone_has_its_groups_name() -> None:
    row = {**a_row(), "rivals": {**a_row()["rivals"], "hand": compiled(50.0), "handmade: x": compiled(10.0)}}
    assert tables.best(row, "hand") == "hand"
    assert cells(tables.speed_table([row], EVERY), 2)[2] == "2.00x"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plot_draws_both_panels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import plot

    source = tmp_path / "bench.json"
    source.write_text(json.dumps(a_result()))
    assert plot.main([str(source), str(tmp_path / "docs")]) == 0
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"bench.png", "bench.svg"}
    bars = plot.compiled_bars([a_row()], GROUPS)
    assert bars["streams by hand"] == [1.25]
    assert bars["graphstreams, measured"] == [None]
    assert plot.policy_bars([a_row()])["Nimble"] == [1.6]
    source.write_text(json.dumps({**a_result(), "passes": {"deterministic": [FAILED]}}))
    assert plot.main([str(source), str(tmp_path)]) == 2
    assert "no workload has times" in capsys.readouterr().err
