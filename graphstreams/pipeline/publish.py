"""Bring the report on a graph to where it is looked for: the folder of `dump`, torch's structured trace, and our own folder.

The report on each graph that Inductor may put into a cache is kept beside that cache. If the graph is found there, by this
process or by another one, the report is taken from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from graphstreams.inductor.disk_cache import cache_folder, caches_graphs
from graphstreams.inductor.structured_trace import is_traced, write_artifact
from graphstreams.messages import with_type
from graphstreams.reports import kept, texts
from graphstreams.reports.folder import folder_for
from graphstreams.reports.report import FILES, Report
from graphstreams.runtime.ranks import folder_of_rank, on_rank
from graphstreams.runtime.verdicts import Verdict

log = logging.getLogger("graphstreams")

REPORTS = "reports"  # the folder of reports that are kept
ARTIFACTS: Mapping[str, tuple[str, Callable[[Report], str]]] = {  # of the structured trace: encoding, and text
    "graphstreams_report": ("json", FILES["report.json"]),
    "graphstreams_plan": ("string", texts.table_text),
    "graphstreams_graph": ("string", lambda report: texts.streams_text(report) or texts.serial_text(report)),
}


def publish(report: Report, dump: str | None) -> Path | None:
    """Write a report into a folder in `dump`, if there is one, and into the structured trace, if that is read.

    Return the folder. What can't be written is a warning: a report is not worth a compile.
    """
    folder = None
    try:
        if dump is not None:
            folder = report.save(folder_in(dump, report))
        if is_traced():
            _trace(report)
    except Exception as error:
        name = on_rank(report.name)
        log.debug("the report of %s failed", name, exc_info=True)
        log.warning("graphstreams: %s: its report is not written: %s", name, with_type(error))
    return folder


def folder_in(dump: str, report: Report) -> Path:
    """Return the folder for a report in that of `dump`, by rank and by the name of the graph."""
    return folder_for(Path(dump) / folder_of_rank() / report.name, report.as_verdict().report_key)


def publishes(dump: str | None) -> bool:
    """Return whether `publish` has anything to write."""
    return dump is not None or is_traced()


def keep_report(report: Report) -> None:
    """Keep the report on a graph that may be put into a cache. One that can't be written is missing there later."""
    if not caches_graphs():
        return
    try:
        kept.keep(report, cache_folder() / REPORTS)
    except Exception:
        log.debug("the report of %s is not kept", report.name, exc_info=True)


def cached_report(verdict: Verdict) -> Report:
    """Return the report on a graph that was found in a cache, as it was kept there, or else what its verdict tells."""
    folder = cache_folder() / REPORTS
    if verdict.report_key and (report := kept.kept(verdict.report_key, folder)) is not None:
        note = "found in a cache: this is the report of the compile that put it there"
        return replace(report, from_cache=True, notes=(*report.notes, note))
    note = f"found in a cache, and no report on it is kept in {folder}: all that is known is {verdict}"
    streams = verdict.verdict == "clean"
    return Report(
        verdict.name, verdict.verdict, verdict.reason, verdict.stage, kernels_serial=verdict.kernels_serial,
        kernels_streamed=verdict.kernels_streamed, direct=streams and verdict.direct, notes=(note,), from_cache=True,
    )  # fmt: skip


def _trace(report: Report) -> None:
    for name, (encoding, text_of) in ARTIFACTS.items():
        if text := text_of(report):
            write_artifact(name, encoding, text)
