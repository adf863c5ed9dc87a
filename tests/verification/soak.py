"""Run random graphs under random plans in random orders for long. Exit status 1 if any gives other bits.

python -m tests.verification.soak --cases 20000 --interleavings 5 [--jobs 2] [--seed 0]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import sys
import time
from dataclasses import dataclass, field

from graphstreams.rewriting.regions import rewrite
from tests.support import random_graphs as graphs
from tests.support.interleaving import interleavings

PLANS = 100  # of each graph: reading one takes as long as some hundred orders


@dataclass
class Counts:
    """What was tried, and what differed, in words that name the seeds."""

    cases: int = 0
    orders: int = 0
    differences: list[str] = field(default_factory=list)


def soak_graph(seed: int, plans: int, orders: int) -> Counts:
    """Try random plans of one random graph."""
    counts = Counts()
    for case in graphs.cases(seed, plans):
        counts.cases += 1
        module = rewrite(case.reading, case.plan)
        for order, found in enumerate(interleavings(module, case.inputs, orders, case.seed)):
            counts.orders += 1
            if not graphs.same_bits(case.expected, found):
                counts.differences.append(f"{case}, order {order}")
    return counts


def main() -> int:
    """Soak until `--cases` plans are done; print progress, every difference, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cases", 20000), ("interleavings", 5), ("jobs", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    one_graph = functools.partial(soak_graph, plans=min(PLANS, options.cases), orders=options.interleavings)
    total, started = Counts(), time.monotonic()
    # A worker keeps what Dynamo and Inductor cache for each graph; a new one now and then bounds its memory.
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=50) as pool:
        for number, counts in enumerate(pool.imap_unordered(one_graph, itertools.count(options.seed)), 1):
            total = Counts(total.cases + counts.cases, total.orders + counts.orders, total.differences + counts.differences)
            for difference in counts.differences:
                print(f"DIFFERS: {difference}", flush=True)
            if number % 20 == 0:
                print(f"{total.cases} cases of {number} graphs in {time.monotonic() - started:.0f} s", flush=True)
            if total.cases >= options.cases:
                pool.terminate()
                break
    print(f"{total.cases} cases, {total.orders} interleavings, {len(total.differences)} differences")
    return 1 if total.differences else 0


if __name__ == "__main__":
    sys.exit(main())
