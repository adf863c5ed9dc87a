"""Fits the constants of the model of contention to measured plans, and tries them on workloads that it has not seen.

    python benchmarks/fit_contention.py NAME,NAME [FOLDER]

The constants of graphstreams/costs/footprint.py and graphstreams/planning/simulation.py are searched one after another, for
the plans of the workloads named. Prints what is found, and the comparison of contention.py with it. Writes nothing.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contention import DATA, Workload, comparison, error, read, spearman

from graphstreams.costs import footprint
from graphstreams.planning import simulator

# Where the search starts, and its first step. Not searched: BANDWIDTH, on which little depends from 0.85 on.
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
    """Set the constants to the best that a coordinate search finds."""
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
    """Ranks count most: of the random plans and of all, in which the good ones are many. Then the error."""
    found = []
    for workload in workloads:
        predicted = workload.with_contention()
        random = [place for place, drawn in enumerate(workload.random) if drawn]
        ranks = spearman([predicted[i] for i in random], [workload.measured[i] for i in random])
        found.append(ranks + spearman(predicted, workload.measured) - 3 * error(predicted, workload.measured))
    return statistics.fmean(found)


if __name__ == "__main__":
    workloads = read(Path(sys.argv[2]) if len(sys.argv) > 2 else DATA)
    print(fit([workload for workload in workloads if workload.name in sys.argv[1].split(",")]), end="\n\n")
    print(comparison(workloads))
