"""Write the files of a report that show its plan and its graphs. Without what a file shows, its text is empty."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphstreams.costs.profile import profile
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import PlanFile, TokenRange
from graphstreams.reports.collectives import overlaps
from graphstreams.reports.dot import kernels_dot
from graphstreams.reports.dump import Owners, code_by_kernel, headings, readable, shortened_code
from graphstreams.reports.page import page
from graphstreams.reports.picture import Picture, picture
from graphstreams.reports.source_paths import short_path
from graphstreams.reports.svg import plan_svg
from graphstreams.reports.tables import plan_table, summary, threshold_text, us_text
from graphstreams.reports.timeline import timeline
from graphstreams.reports.wrapper_lines import wrapper_by_kernel

if TYPE_CHECKING:
    from graphstreams.reports.report import Report

WHAT_TO_DO = 'What to do about each reason is in docs/reports.md of graphstreams, under "Reading a verdict".'


@dataclass(frozen=True)
class Planned:
    """A plan with the kernels that it places, and the us of each alone."""

    plan: Plan
    graph: KernelGraph
    us: tuple[float, ...]


def planned(report: Report) -> Planned | None:
    """Return the plan of a report; None if there is none, or if its kernels or their times are not known."""
    if report.plan is None or report.kernels is None or len(report.us) != len(report.kernels.kernels):
        return None
    return Planned(report.plan, report.kernels, report.us)


def headline(report: Report) -> str:
    """Return the verdict, the measured and the predicted times, and where the kernels' times come from, in one line."""
    text = f"{report.name}: {report.verdict}" + (f" ({report.reason})" if report.reason else "")
    if (plan := report.plan) is None:
        return text
    streams = "1 stream" if plan.used == 1 else f"{plan.used} streams"
    times = report.measurement.replay_us if report.measurement else None
    but = ", but for collectives," if report.kernels and report.kernels.has_collectives() else ""
    measured = f"Measured{but} {_two_times(times[1], streams, times[0])}" if times else ""
    predicted = f"Predicted {_two_times(plan.streamed_us, streams, plan.serial_us)}, bound {us_text(plan.lower_bound_us)} us"
    return ". ".join(filter(None, (text, measured, predicted, short_path(report.costs))))


def _two_times(streamed_us: float, streams: str, serial_us: float) -> str:
    faster = serial_us / streamed_us if streamed_us else 1.0
    return f"{us_text(streamed_us)} us on {streams}, {us_text(serial_us)} us on one ({faster:.2f}x)"


def picture_of(report: Report) -> Picture | None:
    """Return the picture of a report's plan, with the code of each kernel; None without a plan."""
    if (shown := planned(report)) is None:
        return None
    text, owners, file = report.graph_streams, report.owners_streams, "graph_streams.py"
    if not text:
        text, owners, file = report.graph_serial, report.owners_serial, "graph_serial.py"
    code = shortened_code(code_by_kernel(text, owners), file)
    wrapper = wrapper_by_kernel(report.wrapper, report.launch_lines, shown.plan)
    return picture(shown.plan, shown.graph, shown.us, code, wrapper)


def html_text(report: Report) -> str:
    """Return the page of a report, which also says why there is no plan."""
    lines = [summary(report.plan)] if report.plan else []
    if report.verdict != "clean":
        lines.insert(0, f"Inductor's serial code runs: stage {report.stage or 'read'!r} decided. {WHAT_TO_DO}")
    lines += [str(report.measurement)] if report.measurement else []
    lines += [threshold_text(report.threshold)] if report.threshold else []
    return page(headline(report), "\n".join([*lines, *report.notes, *report.races, *report.differences]), picture_of(report))


def svg_text(report: Report) -> str:
    """Return the picture of the plan as an SVG."""
    drawn = picture_of(report)
    return plan_svg(drawn, headline(report)) if drawn else ""


def dot_text(report: Report) -> str:
    """Return the graph of kernels in DOT."""
    return kernels_dot(report.kernels, report.us, report.plan) if report.kernels else ""


def serial_text(report: Report) -> str:
    """Return the FX graph that Inductor lowers, as readable code."""
    return _readable(report, report.graph_serial, report.owners_serial)


def streams_text(report: Report) -> str:
    """Return the rewritten FX graph as readable code."""
    return _readable(report, report.graph_streams, report.owners_streams)


def _readable(report: Report, text: str, owners: Owners) -> str:
    if not text:
        return ""
    heads = headings(report.kernels, report.us, report.plan) if report.kernels else {}
    top = [headline(report), *(summary(report.plan).split("\n") if report.plan else ())]
    return readable(text, owners, heads, top, report.inputs, report.event_nodes)


def table_text(report: Report) -> str:
    """Return the plan as a table, and what it is predicted to gain."""
    if (shown := planned(report)) is None:
        return ""
    threshold = f"\n{threshold_text(report.threshold)}\n" if report.threshold else ""
    collectives = "".join(f"{each}\n" for each in overlaps(shown.plan, shown.graph))
    return f"{plan_table(shown.plan, shown.graph, shown.us)}\n\n{summary(shown.plan)}\n{collectives}{threshold}"


def plan_text(report: Report) -> str:
    """Return the plan as a file that the option `plan` takes, which says if the graph stays serial all the same."""
    if report.plan is None or report.kernels is None:
        return ""
    if report.verdict != "clean":
        return PlanFile.of(report.plan, report.kernels, "serial").dumps()
    limits = report.threshold
    tokens = TokenRange(limits.smallest, limits.largest) if limits else None
    return PlanFile.of(report.plan, report.kernels, "streams", tokens).dumps()


def profile_text(report: Report) -> str:
    """Return the kernels' times as a profile, which the option `costs` and `graphstreams plan` take."""
    if report.kernels is None or not report.us or len(report.us) != len(report.kernels.kernels):
        return ""
    return profile(report.kernels, report.us, report.costs)


def timeline_text(report: Report) -> str:
    """Return the plan and the serial kernels as a trace."""
    if (shown := planned(report)) is None:
        return ""
    return json.dumps(timeline(shown.plan, shown.graph, shown.us)) + "\n"
