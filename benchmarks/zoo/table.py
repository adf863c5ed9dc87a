"""Tell what became of the cases: a table, a summary, and which of them are faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.workers import one_line

Record = Mapping[str, Any]
HEADERS = (
    "case", "verdict", "launches", "predicted us", "gain", "dynamic size", "extra MiB", "graphs", "s", "bits",
    "reason, or notes",
)  # fmt: skip
LEGEND = (
    "Launches: serial > on streams, of the largest graph. Predicted: modelled us of one stream > of the plan. Dynamic size: "
    "the values of it that run on streams; beyond them the serial code runs. Extra: memory that streams need beside serial. "
    "Graphs: clean / all of the call. s: building the model and planning it. Bits: whether the rewritten graph of the tiny "
    "size computes on the CPU what it computed before; of a dynamic size also smaller and larger ones."
)


def launches_lost(record: Record) -> str:
    """Return which graph launches more kernels on streams than its serial code, because fusions are lost; empty if none."""
    return _other_launches(record, more=True)


def launches_saved(record: Record) -> str:
    """Return which graph launches fewer kernels on streams than its serial code, and one that only that has; empty if none.

    No fault by itself: kernels may be fused otherwise, or a constant filled once that serial fills for each operator.
    """
    return _other_launches(record, more=False)


def _other_launches(record: Record, more: bool) -> str:
    for number, graph in enumerate(record.get("graphs", ()), 1):
        serial, streamed = graph["launches"]
        if graph["verdict"] == "clean" and serial != streamed and (streamed > serial) == more:
            text = f"graph {number} has {serial} launches, and {streamed} on streams"
            return "; ".join([text, *graph.get("differences", ())[:1]])
    return ""


def fault(record: Record) -> str:
    """Return what is wrong with a case; empty if it was planned, on streams or not."""
    if record["verdict"] in ("crashed", "too slow", "not built"):
        return f"{record['verdict']}: {record['reason']}"
    if record.get("bits", "").startswith("differs"):
        return f"bits: {record['bits']}"
    return launches_lost(record)


def row(record: Record) -> list[str]:
    """Return the cells of a case."""
    serial_us, streamed_us = record.get("predicted_us") or (None, None)
    graphs, extra = record.get("graphs", []), record.get("extra_memory")
    clean = record["verdict"] == "clean"
    return [
        record["case"],
        record["verdict"],
        "{} > {}".format(*record["launches"]) if clean else str(record.get("launches", [""])[0]),
        f"{serial_us:.0f} > {streamed_us:.0f}" if serial_us else "",
        f"{serial_us / streamed_us:.3f}x" if serial_us and streamed_us else "",
        threshold_text(record),
        f"{extra / 2**20:.1f}" if extra is not None else "",
        f"{sum(graph['verdict'] == 'clean' for graph in graphs)}/{len(graphs)}" if graphs else "",
        f"{sum(record['seconds'].values()):.0f}" if record.get("seconds") else "",
        _cell(record.get("bits", ""), 90),
        _cell(why(record), 200),
    ]


def threshold_text(record: Record) -> str:
    """Return for which values of its dynamic size a case is on streams; empty if none is dynamic."""
    if not (found := record.get("threshold")):
        return ""
    size, smallest, largest = found["size"], found["smallest"], found["largest"]
    if largest is None:
        return f"{size} from {smallest}" if smallest else f"{size}: any"
    return f"{size} {f'{smallest} to' if smallest else 'to'} {largest}"


def why(record: Record) -> str:
    """Return why a case is not on streams, or what its report notes."""
    parts = [record.get("reason", "")]
    if holding := record.get("holding"):
        parts.append(f"{len(holding)} kernels hold the order: {holding[0]}")
    if record["verdict"] == "clean":
        parts += [
            launches_saved(record),
            _differences(record),
            *(note for note in record.get("notes", ()) if "is a unit of" not in note),
        ]
    return "; ".join(filter(None, parts))


def _differences(record: Record) -> str:
    count = sum(len(graph.get("differences", ())) for graph in record.get("graphs", ()))
    return f"{count} launches are in one body only" if count else ""


def _cell(text: str, limit: int) -> str:
    return one_line(text, limit).replace("|", "\\|")


def table(records: Sequence[Record]) -> str:
    """Return the table of all cases as markdown."""
    return tabulate([row(record) for record in records], HEADERS, "github", disable_numparse=True)


def summary(records: Sequence[Record]) -> str:
    """Return how many cases have each verdict, what becomes of their bits, and a line on each fault."""
    verdicts = Counter(record["verdict"] for record in records)
    bits = Counter(record["bits"].split(":")[0] for record in records if "bits" in record)
    faults = [f"- {record['case']}: {one_line(text, 300)}" for record in records if (text := fault(record))]
    lost, saved = (sum(bool(of(record)) for record in records) for of in (launches_lost, launches_saved))
    lines = [
        f"{len(records)} cases: {_counts(verdicts)}. With more launches on streams: {lost}, with fewer: {saved}.",
        f"Bits of the tiny sizes: {_counts(bits)}." if bits else "Bits were not compared.",
        *(["", "Faults:", *faults] if faults else ["No faults."]),
    ]
    return "\n".join(lines)


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items(), key=lambda item: -item[1]))


def document(result: Mapping[str, Any]) -> str:
    """Return the whole result as markdown: command, versions, summary and table."""
    records = result["records"]
    libraries = {record["library"]: record["version"] for record in records if record.get("version")}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))
    place = f"torch {result['torch']}, triton {result['triton']}, Python {result['python']}; {result['date']}"
    head = f"`{result['command']}`. Planned for an NVIDIA H200, without a GPU. {place}. {versions}. Commit {result['commit']}."
    missing = f"Not planned: {', '.join(result['missing'])}." if result.get("missing") else ""
    body = "\n\n".join(filter(None, [summary(records), missing, table(records), LEGEND]))
    return f"# Models of public libraries, planned without a GPU\n\n{head}\n\n{body}\n"


def write(result: Mapping[str, Any], stem: Path) -> None:
    """Write the result as STEM.json and STEM.md; the folder is made if it is missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(document(result), encoding="utf-8")
