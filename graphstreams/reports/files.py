"""Tell what the files of a report hold. A new one is a function, in a module of its own, and a line in FILES."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

from graphstreams.reports.tables import plan_table, summary, threshold_text
from graphstreams.reports.timeline import timeline

if TYPE_CHECKING:
    from graphstreams.reports.report import Report


def _report_json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=1) + "\n"


def _plan_json(report: Report) -> str:
    return report.plan.dumps() + "\n" if report.plan and report.kernels else ""


def _table(report: Report) -> str:
    if not report.plan or not report.kernels:
        return ""
    threshold = f"\n{threshold_text(report.threshold)}\n" if report.threshold else ""
    return f"{plan_table(report.plan, report.kernels)}\n\n{summary(report.plan)}\n{threshold}"


def _timeline(report: Report) -> str:
    return json.dumps(timeline(report.plan, report.kernels)) + "\n" if report.plan and report.kernels else ""


FILES: Mapping[str, Callable[[Report], str]] = {  # an empty text makes no file
    "report.json": _report_json,
    "graph_serial.py": attrgetter("graph_serial"),
    "graph_streams.py": attrgetter("graph_streams"),
    "wrapper.py": attrgetter("wrapper"),
    "plan.json": _plan_json,
    "table.txt": _table,
    "timeline.json": _timeline,
}
