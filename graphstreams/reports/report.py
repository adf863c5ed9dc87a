"""Report on one graph: what was read, planned, rewritten and proved, and why; and the files that tell it.

A new file is a function in `texts`, and a line in FILES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.threshold import Threshold
from graphstreams.reports import record, texts
from graphstreams.reports.collectives import Overlap, overlaps
from graphstreams.reports.tables import plan_table, summary, threshold_text
from graphstreams.runtime.verdicts import Verdict


@dataclass(frozen=True)
class Report:
    """What every stage found out about one compiled graph. Stages that were not reached leave their fields empty."""

    name: str
    verdict: str  # "clean": runs on streams; "serial": no gain or nothing to do; "refused": a stage failed or a proof did
    reason: str = ""  # why the verdict is not "clean"
    stage: str = ""  # the stage that decided
    device: str = ""
    kernels: KernelGraph | None = None
    us: tuple[float, ...] = ()  # of each kernel
    plan: Plan | None = None
    plan_file: str = ""  # path of the file that the plan is from, if it was given
    graph_serial: str = ""  # readable FX code before and after
    graph_streams: str = ""
    owners_serial: Mapping[str, int] = field(default_factory=dict)  # nodes of either graph -> the kernel of their region
    owners_streams: Mapping[str, int] = field(default_factory=dict)
    event_nodes: Mapping[str, str] = field(default_factory=dict)  # of the rewritten graph -> what is recorded, or waited for
    inputs: Mapping[str, str] = field(default_factory=dict)  # of the graph -> what the source calls them
    wrapper: str = ""  # the code that runs, with both bodies; if the graph was refused, the code that was
    launch_lines: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # kernel -> lines of the wrapper on streams
    kernels_serial: int = 0  # launches
    kernels_streamed: int = 0
    own_kernels: int = 0  # Triton kernels that only the streamed body launches
    direct: bool = False  # whether the streams also run when the host launches the kernels, not only in CUDA graphs
    memory_serial: int = 0  # bytes of buffers alive at once, by Inductor's estimate
    memory_streamed: int = 0
    order_kept: bool | None = None  # whether every stream launches, records and waits in the plan's order
    races: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()  # launches on streams that are not the serial code's: where bits may differ, and why
    costs: str = ""  # where the kernels' times come from: "measured", "roofline, ..." with its calibration, or a profile's path
    measurement: Measurement | None = None  # what was timed on the GPU
    threshold: Threshold | None = None  # of the number of tokens, if calls choose it
    notes: tuple[str, ...] = ()  # what else there is to know
    seconds: dict[str, float] = field(default_factory=dict)  # host time of each stage
    graph_key: str = ""  # what the graph and its serial code are told apart by; empty if they can't be in a cache
    from_cache: bool = False  # whether the graph was found in a cache: then all of this is from the compile that put it there

    def as_dict(self) -> dict[str, Any]:
        """Return what `report.json` holds; `docs/report.schema.json` describes it."""
        shown = texts.planned(self)
        return {
            "version": record.VERSION,
            "name": self.name,
            "from_cache": self.from_cache,
            "verdict": self.verdict,
            "reason": self.reason,
            "stage": self.stage,
            "device": self.device,
            "kernels_serial": self.kernels_serial,
            "kernels_streamed": self.kernels_streamed,
            "own_kernels": self.own_kernels,
            "launched_by_the_host": "streams" if self.direct else "serial",
            "peak_memory_bytes": {"serial": self.memory_serial, "streamed": self.memory_streamed},
            "order_kept": self.order_kept,
            "races": list(self.races),
            "differences": list(self.differences),
            "events": len(self.plan.events) if self.plan else 0,
            "streams": self.plan.used if self.plan else 1,
            "plan_file": self.plan_file,
            "costs": self.costs,
            "predicted_us": self._predicted(),
            "collectives": [asdict(each) for each in self._overlaps()],
            "measured": asdict(self.measurement) if self.measurement else None,
            "threshold": self._threshold(),
            "notes": list(self.notes),
            "seconds": {stage: round(s, 4) for stage, s in self.seconds.items()},
            "inputs": dict(self.inputs),
            "critical_path": list(self.plan.critical_path) if self.plan else [],
            "regions": record.regions(shown.plan, shown.graph, shown.us) if shown else [],
            "edges": record.edges(self.kernels) if self.kernels else [],
        }

    def save(self, directory: str | Path) -> Path:
        """Write each file of the report that has a text into `directory`, which is made if it is missing, and return it.

        Files that an earlier report has left there are removed first, others stay.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        for name, text_of in FILES.items():
            if text := text_of(self):
                (path / name).write_text(text, encoding="utf-8")
        return path

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}" + (f" ({self.reason})" if self.reason else "")]
        lines += [f"the plan is that of {self.plan_file}"] if self.plan_file else []
        if shown := texts.planned(self):
            table = plan_table(shown.plan, shown.graph, shown.us)
            lines += ["", table, summary(shown.plan), *map(str, self._overlaps())]
        if self.kernels_serial:
            where = ""
            if self.verdict == "clean":
                where = "; launched by the host " + ("on streams too" if self.direct else "serially, on streams in CUDA graphs")
            lines.append(f"launches: {self.kernels_serial} serial, {self.kernels_streamed or '-'} on streams{where}")
        if self.measurement:
            lines.append(str(self.measurement))
        if self.threshold:
            lines.append(threshold_text(self.threshold))
        return "\n".join([*lines, *self.notes, *self.races, *self.differences])

    def as_verdict(self, verdict: str = "") -> Verdict:
        """Return what the wrapper carries of this report, with `verdict` if it is not in the report yet."""
        told = self._told(verdict or self.verdict)
        if not self.graph_key:
            return told
        # Plans that differ may have the same streams and times.
        return replace(told, report_key=told.digest(f"{self.graph_key}\n{self.plan}"))

    def _told(self, verdict: str) -> Verdict:
        if verdict != "clean":
            return Verdict(self.name, self.verdict, self.stage, self.reason)
        made, planned = self.measurement, self.plan
        times = made.replay_us if made else None
        serial_us, streamed_us = times or ((planned.serial_us, planned.streamed_us) if planned else (0.0, 0.0))
        direct = (made.direct_serial_us, made.direct_us) if made else (0.0, 0.0)
        return Verdict(
            self.name, "clean", streams=planned.used if planned else 1, serial_us=round(serial_us, 2),
            streamed_us=round(streamed_us, 2), measured=times is not None,
            collectives=self.kernels is not None and self.kernels.has_collectives(), direct=self.direct,
            direct_serial_us=round(direct[0], 2), direct_us=round(direct[1], 2), kernels_serial=self.kernels_serial,
            kernels_streamed=self.kernels_streamed, sizes=self.threshold.sizes if self.threshold else "",
            plan_file=self.plan_file,
        )  # fmt: skip

    def _predicted(self) -> dict[str, float] | None:
        if (plan := self.plan) is None:
            return None
        values = {"serial": plan.serial_us, "streamed": plan.streamed_us, "lower_bound": plan.lower_bound_us}
        values["critical_path"] = plan.critical_path_us
        return {name: round(us, 3) for name, us in values.items()}

    def _overlaps(self) -> list[Overlap]:
        return overlaps(self.plan, self.kernels) if self.plan and self.kernels else []

    def _threshold(self) -> dict[str, Any] | None:
        if self.threshold is None:
            return None
        data = asdict(self.threshold)
        sizes, serial, streamed = ([point[i] for point in self.threshold.curve] for i in range(3))
        rounded = {"serial_us": [round(us, 3) for us in serial], "streamed_us": [round(us, 3) for us in streamed]}
        return {**data, "curve": {"sizes": sizes, **rounded}}


def to_keep(report: Report, folder: Path) -> str:
    """Return how to keep the plan of a report that was saved in `folder`; empty if it has no plan in effect."""
    file = folder / "plan.json"
    if report.verdict != "clean" or not file.is_file():
        return ""
    return f"to keep this plan: options={json.dumps({'plan': str(file)})}"


FILES: Mapping[str, Callable[[Report], str]] = {  # an empty text makes no file
    "report.json": lambda report: json.dumps(report.as_dict(), indent=1) + "\n",
    "graph_serial.py": texts.serial_text,
    "graph_streams.py": texts.streams_text,
    "wrapper.py": attrgetter("wrapper"),
    "plan.json": texts.plan_text,
    "profile.json": texts.profile_text,
    "table.txt": texts.table_text,
    "timeline.json": texts.timeline_text,
    "report.html": texts.html_text,
    "plan.svg": texts.svg_text,
    "kernels.dot": texts.dot_text,
}
