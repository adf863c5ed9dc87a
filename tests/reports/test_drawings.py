"""Check that the drawings of a plan draw its picture, hold any name, and need nothing from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.dot import kernels_dot
from graphstreams.reports.page import page
from graphstreams.reports.picture import picture
from graphstreams.reports.svg import LEFT, RIGHT, WIDTH, plan_svg, ticks
from tests.support.hand_plan import GRAPH, KERNELS, PLAN, US

NASTY = "</script><b>\"a\\b'&{{ 7*7 }}\x01\n"
DRAWN = picture(PLAN, GRAPH, US, {0: "mm = ..."})
_SVG = "{http://www.w3.org/2000/svg}"


def _nasty() -> KernelGraph:
    kernels = (replace(KERNELS[0], name=NASTY, parameters=(NASTY,)), *KERNELS[1:])
    return replace(GRAPH, name=NASTY, kernels=kernels)


def _data(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_page_has_the_picture_as_data() -> None:
    data = _data(page("title", "notes", DRAWN))
    assert [lane["name"] for lane in data["lanes"]] == [lane.name for lane in DRAWN.lanes]
    assert data["cards"][0]["code"] == "mm = ..." and data["end_us"] == 11.0
    assert len(data["arrows"]) == 2


def test_the_page_needs_no_network() -> None:
    text = page("title", "notes", DRAWN)
    assert re.findall(r"""(?:src|href|url|@import|fetch|import)\s*[=(]""", text) == []
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_any_name_is_text_and_no_markup() -> None:
    text = page(NASTY, NASTY, picture(PLAN, _nasty(), US))
    assert text.count("</script>") == 3 and "<b>" not in text
    assert _data(text)["cards"][0]["name"] == NASTY
    assert "{{ 7*7 }}" in text and "49" not in re.sub(r"\d+\.\d+", "", text.partition("<style>")[0])


def test_a_report_without_a_plan_has_a_page_that_says_why() -> None:
    text = page("g: serial (it has one kernel)", "a note", None)
    assert "g: serial (it has one kernel)" in text and "a note" in text and 'id="data"' not in text


def test_the_templates_are_data_of_the_package() -> None:
    names = {each.name for each in (files("graphstreams.reports") / "templates").iterdir()}
    assert names == {"report.html", "report.css", "report.js", "theme.js"}
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"reports/templates/*"' in declared


def test_the_svg_draws_each_box_to_scale() -> None:
    root = ElementTree.fromstring(plan_svg(DRAWN, "title"))
    groups = root.findall(f"{_SVG}g")
    assert len(groups) == 10  # five kernels in the serial lane and five in the streams
    long = next(group for group in groups[5:] if group.findtext(f"{_SVG}title") == "long: 6.0 us, alone 5.0 us")
    own, pale, frame = long.findall(f"{_SVG}rect")
    scale = (WIDTH - LEFT - RIGHT) / 11.0
    assert float(own.attrib["x"]) == float(frame.attrib["x"]) == pytest.approx(LEFT + 2 * scale, abs=0.01)
    assert float(own.attrib["width"]) == pytest.approx(5 * scale, abs=0.01)
    assert float(pale.attrib["width"]) == pytest.approx(scale, abs=0.01)
    assert float(frame.attrib["width"]) == pytest.approx(6 * scale, abs=0.01)
    assert len(root.findall(f"{_SVG}circle")) == 2


def test_the_svg_of_any_name_is_xml() -> None:
    root = ElementTree.fromstring(plan_svg(picture(PLAN, _nasty(), US), NASTY))
    assert "</script><b>" in str(root.findtext(f"{_SVG}title"))


def test_nothing_can_be_drawn() -> None:
    graph = KernelGraph("empty", (), ())
    drawn = picture(plan_kernels(graph, []), graph, [])
    ElementTree.fromstring(plan_svg(drawn, "empty"))
    assert _data(page("empty", "", drawn))["cards"] == []


@pytest.mark.parametrize(
    ("end", "expected"),
    [(0.0, [0]), (11.0, [0, 2, 4, 6, 8, 10]), (10.0, list(range(11))), (0.45, [0.0, 0.05, 0.1]), (196.5, [0, 20, 40])],
)
def test_ticks_are_round(end: float, expected: list[float]) -> None:
    found = ticks(end)
    assert found[: len(expected)] == pytest.approx(expected)
    assert len(found) <= 11 and all(tick <= end + 1e-9 for tick in found)


def test_the_dot_has_kernels_and_dependences() -> None:
    text = kernels_dot(GRAPH, US, PLAN)
    assert text.splitlines()[0] == 'digraph "g" {'
    assert '  k2 [label="long\\n5.0 us alone\\nstream 0", fillcolor="#9ecae1", color=red, penwidth=2];' in text
    assert '  k1 [label="short\\n2.0 us alone\\nstream 1", fillcolor="#fdae6b"];' in text
    assert '  k0 -> k2 [label="RAW buf0\\nWAR arg1", color=red, penwidth=2];' in text
    assert '  k1 -> k4 [label="order", style=dashed];' in text
    assert text.count("->") == 8  # nine edges, two of them of one pair


def test_the_dot_escapes_names() -> None:
    graph = KernelGraph('a "b"\\', (Kernel(0, 'x"\\y', "gemm"),), ())
    lines = kernels_dot(graph, []).splitlines()
    assert lines[0] == 'digraph "a \\"b\\"\\\\" {'
    assert lines[2] == '  k0 [label="x\\"\\\\y", fillcolor="white"];'
