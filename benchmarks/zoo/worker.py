"""Plan one case, and answer with what became of it. `benchmarks.workers` starts and ends this process.

python -m benchmarks.zoo.worker
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.workers import one_line, serve
from benchmarks.zoo.case import Case
from graphstreams.errors import CannotPlan
from graphstreams.ir.threshold import Threshold
from graphstreams.messages import with_type
from graphstreams.pipeline.explain import capture, largest
from graphstreams.reports.report import Report
from graphstreams.testing.equal_on_cpu import equal_as_captured

TARGET = "h200"
NO_GAIN_NEEDED = {"min_gain": 0.0}  # so that a tiny model is rewritten wherever streams are of any use


def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of the case that a request names: its full size planned, and the bits of its tiny one."""
    from benchmarks.zoo.cases import CASES

    case = CASES[request["case"]]
    record = {"case": case.name, "library": case.library, "version": version_of(case.library), **planned(case)}
    if record["verdict"] not in ("crashed", "not built") and request.get("bits", True):
        record["bits"] = bits(case)
    return record


def version_of(library: str) -> str:
    """Return the version of an installed library; empty if there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(library)
    return ""


def planned(case: Case) -> dict[str, Any]:
    """Return what becomes of the full size, with the seconds that building and planning took."""
    started = time.perf_counter()
    try:
        module, inputs = case.make(tiny=False)
    except Exception as error:
        return {"verdict": "not built", "reason": with_type(error)}
    built = time.perf_counter()
    try:
        found = told([each.report for each in capture(module, inputs, TARGET)])
    except CannotPlan as error:
        found = {"verdict": "refused", "reason": str(error), "stage": "explain"}
    except Exception as error:
        found = {"verdict": "crashed", "reason": with_type(error), "stage": "explain"}
    found["seconds"] = {"build": round(built - started, 1), "plan": round(time.perf_counter() - built, 1)}
    return found


def told(reports: Sequence[Report]) -> dict[str, Any]:
    """Return what the largest graph's report says, with that of each graph of the call in short."""
    report = largest(reports)
    plan = report.plan
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "stage": report.stage,
        "launches": [report.kernels_serial, report.kernels_streamed],
        "streams": plan.streams if plan else 1,
        "predicted_us": [round(plan.serial_us, 1), round(plan.streamed_us, 1)] if plan else None,
        "threshold": threshold_told(report.threshold),
        "extra_memory": report.memory_streamed - report.memory_serial if report.verdict == "clean" else None,
        "stages": {stage: round(seconds, 2) for stage, seconds in report.seconds.items()},
        "graphs": [graph_told(each) for each in reports],
        "holding": holding(report),
        "notes": [one_line(note, 300) for note in report.notes],
    }


def threshold_told(threshold: Threshold | None) -> dict[str, Any] | None:
    """Return for which values of a dynamic size the graph is on streams; beyond them its serial code runs."""
    if threshold is None:
        return None
    limits = {"smallest": threshold.smallest, "largest": threshold.largest}
    return {"size": threshold.symbol, **limits, "reason": threshold.reason, "where": threshold.where}


def graph_told(report: Report) -> dict[str, Any]:
    """Return a graph's verdict, launches and reason, and which of its launches are not the serial code's."""
    launches = [report.kernels_serial, report.kernels_streamed]
    told = {"verdict": report.verdict, "launches": launches, "stage": report.stage, "reason": one_line(report.reason, 300)}
    return {**told, "differences": [one_line(text) for text in report.differences]}


def holding(report: Report) -> list[str]:
    """Return which kernels keep their place against all others, and why."""
    kernels = report.kernels.kernels if report.kernels else ()
    return [f"{each.name}: {each.exclusive_reason or 'joined with such a kernel'}" for each in kernels if each.exclusive]


def bits(case: Case) -> str:
    """Return whether the tiny size computes on the CPU what it computed before: "equal", or else why it can't be said.

    If a size is dynamic, calls of other sizes are compared too, whichever body they would run.
    """
    try:
        module, inputs = case.make(tiny=True)
        with sdpa_kernel(SDPBackend.MATH):  # the CPU has none of the GPU's fused kernels
            compilations = capture(module, inputs, TARGET, NO_GAIN_NEEDED)
            if not any(each.module for each in compilations):
                return f"not rewritten: {one_line(largest([each.report for each in compilations]).reason)}"
            results = equal_as_captured(module, inputs, compilations)
            for other in case.dynamic.other_calls(inputs) if case.dynamic else ():
                results += equal_as_captured(module, other, compilations)
    except Exception as error:
        return f"failed: {with_type(error)}"
    return "equal" if all(results) else f"differs: {results.count(False)} of {len(results)} graphs"


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
