"""Check what a report says of the threshold, and the two curves in its file."""

import json
from dataclasses import replace

import pytest

from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.threshold import Threshold
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.report import Report
from graphstreams.reports.tables import threshold_text

BELOW = ((2, 10.0, 8.0), (33, 133.0, 100.0), (34, 134.0, 100.0))
CURVE = (*BELOW, (300, 400.0, 300.0), (301, 401.0, 301.0), (512, 612.0, 512.2))


def of(largest, smallest=0, curve=CURVE):
    return Threshold("s0", largest, curve, "why", smallest)


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (
            of(300),
            "streams up to 300 tokens (s0: why): at 300 serial 400.0 us, streamed 300.0 us; at 301 serial 401.0 us, "
            "streamed 301.0 us",
        ),
        (
            of(300, smallest=34),
            "streams from 34 to 300 tokens (s0: why): at 33 serial 133.0 us, streamed 100.0 us; at 34 serial 134.0 us, "
            "streamed 100.0 us; at 300 serial 400.0 us, streamed 300.0 us; at 301 serial 401.0 us, streamed 301.0 us",
        ),
        (of(None), "streams at any number of tokens (s0: why): at 512 serial 612.0 us, streamed 512.2 us"),
        (
            of(None, smallest=34),
            "streams from 34 tokens on (s0: why): at 33 serial 133.0 us, streamed 100.0 us; at 34 serial 134.0 us, "
            "streamed 100.0 us; at 512 serial 612.0 us, streamed 512.2 us",
        ),
        (of(0), "streams at no number of tokens (s0: why): at 300 serial 400.0 us, streamed 300.0 us"),
        (
            replace(of(300), measured=((300, 0.03), (301, 0.01))),
            "streams up to 300 tokens (s0: why): predicted at 300 serial 400.0 us, streamed 300.0 us; predicted at 301 serial "
            "401.0 us, streamed 301.0 us",
        ),
        (of(16, curve=()), "streams up to 16 tokens (s0: why)"),
        (of(None, curve=()), "streams at any number of tokens (s0: why)"),
        (of(0, curve=()), "streams at no number of tokens (s0: why)"),
    ],
)
def test_the_text(threshold, text):
    assert threshold_text(threshold) == text


def report(threshold):
    graph = KernelGraph("g", (Kernel(0, "a", "gemm"), Kernel(1, "b", "gemm")), ())
    return Report("g", "clean", kernels=graph, us=(4.0, 3.0), plan=plan_kernels(graph, [4.0, 3.0], 2), threshold=threshold)


def test_the_report_has_the_text_and_the_curves(tmp_path):
    each = report(of(300, smallest=34))
    assert threshold_text(each.threshold) in str(each).splitlines()
    each.save(tmp_path)
    assert (tmp_path / "table.txt").read_text().endswith(threshold_text(each.threshold) + "\n")
    assert json.loads((tmp_path / "report.json").read_text())["threshold"] == {
        "symbol": "s0",
        "smallest": 34,
        "largest": 300,
        "reason": "why",
        "measured": [],
        "where": "",
        "curve": {
            "sizes": [2, 33, 34, 300, 301, 512],
            "serial_us": [10.0, 133.0, 134.0, 400.0, 401.0, 612.0],
            "streamed_us": [8.0, 100.0, 100.0, 300.0, 301.0, 512.2],
        },
    }


def test_the_text_names_the_inputs_that_have_the_size():
    each = replace(of(300), where="s0 is size 0 of 'ids'")
    assert "(s0, where s0 is size 0 of 'ids': why)" in threshold_text(each)


def test_a_static_graph_has_none(tmp_path):
    each = report(None)
    each.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["threshold"] is None
    assert "streams at" not in str(each) + (tmp_path / "table.txt").read_text()
