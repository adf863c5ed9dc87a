"""Fit the constants of the model of contention to measured plans, and compare it on workloads that it has not seen.

    python benchmarks/fit_contention.py NAME,NAME [FOLDER ...]

The constants of graphstreams/costs/footprint.py and graphstreams/planning/simulator.py are searched one after another, for
the plans of the workloads named. Prints the constants found, and the comparison of contention.py with them. Writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contention import DATA, ZOO_DATA, Workload, comparison, error, read
from rank_correlation import spearman

from graphstreams.costs import footprint
from graphstreams.planning import simulator

# The start of the search, and its first step. BANDWIDTH is not searched, because little depends on it from 0.85 on.
CONSTANTS: dict[tuple[Any, str], tuple[float, float]] = {
    (simulator, "EVENT_US"): (0.4, 0.2),
    (simulator, "CROWDING"): (0.1, 0.1),
    (simulator, "PARTIAL"): (1.0, 0.5),
    (footprint, "EDGE_US"): (0.8, 0.2),
    (footprint, "GEMM_FILL"): (1.0, 0.1),
    (footprint, "GEMM_MOST"): (1.0, 0.01),
}
REFINEMENTS = 3  # the step is halved after each


def fit(workloads: Sequence[Workload]) -> dict[str, float]:
    """Set the constants to the best that a coordinate search finds, and return them."""
    for (module, name), (start, _) in CONSTANTS.items():
        setattr(module, name, start)
    best = score(workloads)
    for refinement in range(REFINEMENTS):
        improved = True
        while improved:
            improved = False
            for (module, name), (_, step) in CONSTANTS.items():
                kept = getattr(module, name)
                for tried in (kept + step / 2**refinement, max(0.0, kept - step / 2**refinement)):
                    setattr(module, name, tried)
                    if (found := score(workloads)) > best + 1e-4:
                        best, kept, improved = found, tried, True
                setattr(module, name, kept)
    return {name: round(getattr(module, name), 4) for module, name in CONSTANTS}


def score(workloads: Sequence[Workload]) -> float:
    """Return the mean of rank correlations, of random and good plans and half of that of all, less three times the error."""
    found = []
    for workload in workloads:
        predicted, measured = workload.with_contention(), workload.measured
        ranks = 0.5 * spearman(predicted, measured) - 3 * error(predicted, measured)
        for chosen in (workload.random, workload.good()):
            places = [place for place, use in enumerate(chosen) if use]
            ranks += spearman([predicted[i] for i in places], [measured[i] for i in places])
        found.append(ranks)
    return statistics.fmean(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, and print the constants and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", metavar="NAME,NAME", help="workloads to fit to")
    folders = [DATA, ZOO_DATA]
    parser.add_argument("folders", nargs="*", type=Path, default=folders, help="measured plans, one JSON file a workload")
    arguments = parser.parse_args(argv)
    workloads = [workload for folder in arguments.folders for workload in read(folder)]
    names = arguments.names.split(",")
    print(fit([workload for workload in workloads if workload.name in names]), end="\n\n")
    print(comparison(workloads))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
