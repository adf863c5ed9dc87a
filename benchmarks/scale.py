"""Time how long it takes to price and plan random graphs, in CPU seconds by their number of kernels.

    python benchmarks/scale.py 2500 5000 10000 20000 40000

Needs no GPU. The kernels are in layers of twenty, each after two of the layer before; times are modelled for an H200.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import sympy
from tabulate import tabulate

from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.options import Options
from graphstreams.planning.modelled_plan import simulated_plan

WIDTH = 20


def graph_of(count: int, seed: int = 0) -> KernelGraph:
    """Return a graph of `count` kernels: matrix products, reductions and pointwise ones in turns."""
    rng = random.Random(seed)
    kernels = []
    for number in range(count):
        kind = ("gemm", "reduction", "pointwise")[number % 3]
        reads = (Access(f"input {number}", sympy.Integer(rng.randrange(10_000, 10_000_000))),)
        writes = (Access(f"output {number}", sympy.Integer(8192)),)
        flops = sympy.Integer(10**7) if kind == "gemm" else sympy.S.Zero
        kernels.append(Kernel(number, f"k{number}", kind, (), ("launch",), reads, writes, flops, "bfloat16"))
    edges = []
    for number in range(WIDTH, count):
        first = (number // WIDTH - 1) * WIDTH
        edges += [Edge(before, number, EdgeKind.RAW) for before in sorted(rng.sample(range(first, first + WIDTH), 2))]
    return KernelGraph(f"{count} kernels", tuple(kernels), tuple(edges))


def row(count: int) -> list[str]:
    """Return the cells of one number of kernels: seconds for prices, for the plan and for both, and its streams."""
    graph, device = graph_of(count), DEVICES["h200"]
    started = time.process_time()
    us = Roofline(device).price(graph)
    priced = time.process_time()
    plan = simulated_plan(graph, us, device, Options())
    ended = time.process_time()
    times = (priced - started, ended - priced, ended - started)
    return [f"{count:,}", *(f"{seconds:.1f}" for seconds in times), str(plan.streams)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line a number of kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", type=int, nargs="*", default=[2500, 5000, 10000, 20000, 40000])
    counts = parser.parse_args(argv).kernels
    print(tabulate([row(count) for count in counts], headers=["kernels", "prices s", "plan s", "both s", "streams"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
