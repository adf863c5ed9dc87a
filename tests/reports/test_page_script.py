"""Run the script of a report's page in Node on a small stand-in for a document, and act as a user would."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from graphstreams.reports.page import page
from graphstreams.reports.picture import picture
from tests.support.hand_plan import GRAPH, PLAN, US

NODE = shutil.which("node")
LEFT, SCALE = 150, 1000 / 11.0  # px to the axis, and px a us: the stand-in is as wide as makes the axis 1000 px long
ZOOM = math.exp(-120 / 400)  # by one turn of the wheel

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("page") / "report.html"
    drawn = picture(PLAN, GRAPH, US, {2: "sum_1 = code()"}, {2: "12: launch()"})
    file.write_text(page("g", "", drawn), encoding="utf-8")
    script = Path(__file__).with_name("page_in_node.js")
    done = subprocess.run([str(NODE), script, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_box_is_drawn_to_scale(said: Any) -> None:
    assert len(said["frames"]) == 10
    text, x, width = next(frame for frame in said["frames"][5:] if frame[0].startswith("long"))
    assert text == "long: 6.0 us, alone 5.0 us"
    assert (x, width) == (pytest.approx(LEFT + 2 * SCALE), pytest.approx(6 * SCALE))
    assert said["circles"] == [pytest.approx(LEFT + 2.5 * SCALE), pytest.approx(LEFT + 8 * SCALE)]


def test_the_table_is_in_the_order_of_the_plan(said: Any) -> None:
    assert [row[0] for row in said["rows"]] == ["load", "long", "short", "add", "keep"]
    assert said["rows"][2] == ["short", "1", "2.5", "5.0", "2.5", "2.0", "load (stream 0)", "long"]


def test_pointing_at_a_kernel_shows_its_card(said: Any) -> None:
    assert said["hovered"].startswith("short, stream 1")
    assert "2.5 us in the plan (2.5 to 5.0), 2.0 us alone" in said["hovered"]
    assert "they write the pieces of one buffer" in said["hovered"]


def test_a_click_keeps_a_card_until_escape(said: Any) -> None:
    assert said["kept"].startswith("long, stream 0, on the critical path")
    assert "sum_1 = code()" in said["kept"] and "12: launch()" in said["kept"]
    assert "For 3.5 us nothing runs beside it" in said["kept"]
    assert said["chosen"] == ["long"]
    assert said["row"].startswith("keep, stream 0") and "nothing is declared of it" in said["row"]


def test_the_wheel_zooms_and_a_drag_moves(said: Any) -> None:
    """The wheel turns over the start of the axis, which stays; a drag of 100 of 1000 px moves by a tenth of what is shown."""
    assert said["zoomed"] == [pytest.approx(LEFT), pytest.approx(2 * SCALE / ZOOM)]
    assert said["dragged"] == [pytest.approx(LEFT + 2 * SCALE / ZOOM - 100), pytest.approx(6 * SCALE / ZOOM)]
    assert said["whole"] == [pytest.approx(LEFT), pytest.approx(2 * SCALE)]


def test_the_switch_changes_the_theme(said: Any) -> None:
    assert said["theme"] == ["dark", "light"]
