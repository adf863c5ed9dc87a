"""Check what a report says of what was measured, in its text and in report.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.report import Report
from graphstreams.reports.texts import headline, html_text

WHOLE = Measurement(serial_us=60.0, played_us=40.0, compiled_us=48.0, tried=32, plans=((39.5, 40.0), (41.0, 44.25)))


def report_of(measurement: Measurement | None, **fields: object) -> Report:
    graph = KernelGraph("g", (Kernel(0, "wa", "gemm"), Kernel(1, "wb", "gemm")), ())
    plan = plan_kernels(graph, [4.0, 3.0], streams=2)
    report = Report("g", "clean", kernels=graph, us=(4.0, 3.0), plan=plan, costs="measured", measurement=measurement)
    return replace(report, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measurement", "text"),
    [
        (
            WHOLE,
            "measured: 60.0 us on one stream, 40.0 us the plan's kernels (1.50x), 48.0 us the generated code (1.25x); "
            "32 plans measured now",
        ),
        (
            replace(WHOLE, compiled_us=0.0, from_disk=True),
            "measured: 60.0 us on one stream, 40.0 us the plan's kernels (1.50x); 32 plans measured by an earlier compile",
        ),
        (Measurement(60.0), "measured: 60.0 us on one stream; 0 plans measured now"),
        (
            replace(WHOLE, inductor_us=57.6),
            "measured: 60.0 us on one stream, 40.0 us the plan's kernels (1.50x), "
            "48.0 us the generated code (1.20x of Inductor's 57.6 us); 32 plans measured now",
        ),
    ],
)
def test_the_text_has_every_time_that_was_measured_and_its_speed_up(measurement: Measurement, text: str) -> None:
    assert str(measurement) == text
    assert text in str(report_of(measurement)).splitlines()


@pytest.mark.parametrize(
    ("measurement", "gain"),
    [
        (WHOLE, 0.2),  # of the generated code, 48 of 60 us
        (replace(WHOLE, inductor_us=64.0), 0.25),  # beside Inductor's serial code, 48 of 64 us
        (replace(WHOLE, compiled_us=0.0), 1 / 3),  # else of the kernels as played
        (Measurement(60.0), 0.0),
        (Measurement(60.0, 66.0), -0.1),
    ],
)
def test_the_gain_is_that_of_the_last_thing_measured(measurement: Measurement, gain: float) -> None:
    assert measurement.gain == pytest.approx(gain)


def test_the_file_has_every_number(tmp_path: Path) -> None:
    report_of(replace(WHOLE, from_disk=True, direct_us=90.0, direct_serial_us=80.0, direct_host_us=70.0)).save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["costs"] == "measured"
    assert data["measured"] == {
        "serial_us": 60.0,
        "played_us": 40.0,
        "compiled_us": 48.0,
        "inductor_us": 0.0,
        "direct_us": 90.0,
        "direct_serial_us": 80.0,
        "direct_host_us": 70.0,
        "tried": 32,
        "from_disk": True,
        "plans": [[39.5, 40.0], [41.0, 44.25]],
    }
    assert data["predicted_us"]["serial"] == 7.0  # beside it, what the simulator said


def test_without_a_measurement_there_is_no_line_and_the_file_has_none(tmp_path: Path) -> None:
    report = report_of(None, costs="roofline")
    assert "measured" not in str(report)
    report.save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["measured"], data["costs"], data["notes"]) == (None, "roofline", [])


def test_notes_are_in_the_text_and_in_the_file(tmp_path: Path) -> None:
    report = report_of(None, notes=("kernels were not measured: no memory",))
    assert str(report).splitlines()[-1] == "kernels were not measured: no memory"
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["notes"] == ["kernels were not measured: no memory"]


def test_a_page_begins_with_what_was_measured_and_tells_all_of_it() -> None:
    measured, modelled = report_of(replace(WHOLE, inductor_us=57.6)), report_of(None)
    predicted = "Predicted 4.0 us on 2 streams, 7.0 us on one (1.75x), bound 4.0 us. measured"
    assert headline(modelled) == f"g: clean. {predicted}"
    assert headline(measured) == f"g: clean. Measured 48.0 us on 2 streams, 57.6 us on one (1.20x). {predicted}"
    assert headline(report_of(Measurement(60.0))) == f"g: clean. {predicted}"  # no plan was
    assert headline(report_of(None, costs="/home/anna/costs.json")).endswith(" bound 4.0 us. .../costs.json")
    assert measured.kernels is not None
    collective = replace(measured.kernels, kernels=(replace(measured.kernels.kernels[0], collective="start"),))
    assert "Measured, but for collectives, 48.0 us" in headline(replace(measured, kernels=collective))
    assert str(measured.measurement).replace("'", "&#39;") in html_text(measured)


def test_the_page_of_a_serial_graph_says_what_decided_and_where_to_look() -> None:
    text = html_text(Report("g", "serial", "it has one kernel", "plan"))
    assert "g: serial (it has one kernel)" in text and "stage &#39;plan&#39; decided" in text and "docs/reports.md" in text
    assert "docs/reports.md" not in html_text(report_of(WHOLE))
