"""Compare predicted with measured times of plans on one H200: does the model of contention rank them?

    python benchmarks/contention.py [FOLDER]

Without FOLDER the workloads are those of benchmarks/data/plans; benchmarks/data/zoo_plans has others. With `--compact OUT`
each file of FOLDER is also written to OUT, with only what is needed here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sympy
from rank_correlation import kendall, spearman
from tabulate import tabulate

from graphstreams.costs.footprint import footprints
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.planning import simulator
from graphstreams.planning.paths import Assignment, timed

DATA = Path(__file__).parent / "data" / "plans"
ZOO_DATA = DATA.with_name("zoo_plans")
DEVICE = DEVICES["h200"]
GOOD = 1.15
FEWEST = 30  # plans to rank


@dataclass(frozen=True)
class Workload:
    """The kernels of a graph, and measured plans of it."""

    name: str
    graph: KernelGraph
    us: list[float]  # of each kernel, alone; their sum is the time of the serial graph
    blocks: dict[int, list[tuple[int, int]]]
    plans: list[Assignment]
    measured: list[float]  # us of each plan
    random: list[bool]  # whether the plan was drawn at random

    def good(self) -> list[bool]:
        """Return of each plan whether it takes at most GOOD times what the best one does."""
        return [us <= GOOD * min(self.measured) for us in self.measured]

    def with_contention(self, estimated: bool = False) -> list[float]:
        """Return the predicted us of each plan; with `estimated` without the blocks measured."""
        found = footprints(self.graph, self.us, DEVICE, {} if estimated else self.blocks)
        predecessors = self.graph.predecessors()
        # Read at each call, because a fit changes it. The plans were measured as CUDA graphs, in which a fork is free.
        event_us = simulator.EVENT_US
        return [simulator.simulate(p, predecessors, self.us, found, event_us, 0.0).makespan for p in self.plans]

    def without(self, event_us: float) -> list[float]:
        """Return the predicted us of each plan if kernels side by side are as fast as alone."""
        predecessors = self.graph.predecessors()
        return [timed(p, predecessors, self.us, event_us).makespan for p in self.plans]


def compact(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workload as it was collected, with fewer digits and only what is needed here."""
    kernels = [
        {
            **{key: kernel[key] for key in ("name", "kind", "blocks")},
            "launches": kernel["launches"] if isinstance(kernel["launches"], int) else len(kernel["launches"]),
            **{key: [[storage, int(size)] for storage, size in kernel[key]] for key in ("reads", "writes")},
            "us": round(kernel["us"], 3),
        }
        for kernel in data["kernels"]
    ]
    plans = [{**plan, "serial": round(plan["serial"], 2), "us": round(plan["us"], 2)} for plan in data["plans"]]
    return {
        **{key: data[key] for key in ("name", "edges", "order")},
        "serial": data["serial"],
        "kernels": kernels,
        "plans": plans,
    }


def read(folder: Path) -> list[Workload]:
    """Return the workloads of a folder, compact or as collected, by name. Raises ValueError if there are none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError("no measured plans there")
    return [_workload(compact(json.loads(file.read_text(encoding="utf-8")))) for file in files]


def _workload(data: Mapping[str, Any]) -> Workload:
    kernels = tuple(_kernel(number, kernel) for number, kernel in enumerate(data["kernels"]))
    edges = tuple(Edge(before, after, EdgeKind(kind)) for before, after, kind in data["edges"])
    scale = data["serial"] / sum(kernel["us"] for kernel in data["kernels"])  # within two per cent of 1
    return Workload(
        name=data["name"],
        graph=KernelGraph(data["name"], kernels, edges),
        us=[kernel["us"] * scale for kernel in data["kernels"]],
        blocks={number: [(c, a) for c, a in kernel["blocks"]] for number, kernel in enumerate(data["kernels"])},
        plans=[Assignment(plan["order"], plan["stream"]) for plan in data["plans"]],
        # Each plan was timed in turns with the serial graph, which corrects for the clock at that moment.
        measured=[plan["us"] * data["serial"] / plan["serial"] for plan in data["plans"]],
        random=[plan["kind"] == "random" for plan in data["plans"]],
    )


def _kernel(number: int, data: Mapping[str, Any]) -> Kernel:
    reads, writes = (tuple(Access(name, sympy.Integer(size)) for name, size in data[key]) for key in ("reads", "writes"))
    return Kernel(number, data["name"], data["kind"], launches=("",) * data["launches"], reads=reads, writes=writes)


def error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the mean of |predicted / measured - 1|."""
    return statistics.fmean(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))


MODELS: dict[str, Callable[[Workload], list[float]]] = {
    "no, waits of 1 us": lambda workload: workload.without(1.0),
    "no, free waits": lambda workload: workload.without(0.0),
    "yes": lambda workload: workload.with_contention(),
    "yes, blocks estimated": lambda workload: workload.with_contention(estimated=True),
}


def comparison(workloads: Sequence[Workload]) -> str:
    """Return a table, a row for each workload and model: correlations of random, good and all plans, error and regret."""
    rows: list[list[Any]] = []
    for workload in workloads:
        rows += [[workload.name, name, *quality(workload, model(workload))] for name, model in MODELS.items()]
    for name in MODELS:
        columns = zip(*(row[2:] for row in rows if row[1] == name), strict=True)
        rows.append(["mean", name, *(_mean(column) for column in columns)])
    headers = ["workload", "contention", "random plans", "rho", "tau", "good plans", "rho", "tau", "all plans", "rho", "tau"]
    headers += ["error", "regret"]
    formats = ("", "", *(".0f", ".3f", ".3f") * 3, ".1%", ".1%")
    return tabulate(rows, headers=headers, floatfmt=formats, missingval="-")


def _mean(column: Iterable[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return statistics.fmean(known) if known else None


def quality(workload: Workload, predicted: Sequence[float]) -> list[float | None]:
    """Return the number, rho and tau of random, good and all plans, the mean error, and the regret.

    The regret is how much longer the plan takes that is predicted to be shortest than the one measured to be. Good plans have
    no correlation if there are fewer than FEWEST.
    """
    found: list[float | None] = []
    for chosen in (workload.random, workload.good(), [True] * len(predicted)):
        pairs = [(p, m) for p, m, use in zip(predicted, workload.measured, chosen, strict=True) if use]
        xs, ys = [p for p, _ in pairs], [m for _, m in pairs]
        found += [len(xs), spearman(xs, ys), kendall(xs, ys)] if len(xs) >= FEWEST else [len(xs), None, None]
    first = min(range(len(predicted)), key=predicted.__getitem__)
    regret = workload.measured[first] / min(workload.measured) - 1
    return [*found, error(predicted, workload.measured), regret]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison. Return 2 if the data can't be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA, help="measured plans, one JSON file a workload")
    parser.add_argument("--compact", type=Path, metavar="OUT", help="write the compact files to this folder")
    arguments = parser.parse_args(argv)
    try:
        if arguments.compact:
            _write(arguments.folder.glob("*.json"), arguments.compact)
        print(comparison(read(arguments.folder)))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        print(f"{arguments.folder}: {problem!r}", file=sys.stderr)
        return 2
    return 0


def _write(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        data = compact(json.loads(file.read_text(encoding="utf-8")))
        (folder / file.name).write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
