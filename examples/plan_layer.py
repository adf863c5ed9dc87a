"""Plan an attention layer of the DeepSeek examples, and on a GPU run it: what their command lines share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

Inputs = Sequence[Any]


@dataclass(frozen=True)
class Layer:
    """A layer of one size, with functions that make it and its inputs on a device."""

    config: Any
    build: Callable[..., torch.nn.Module]
    inputs: Callable[..., Inputs]

    def on(self, device: str) -> tuple[torch.nn.Module, Inputs]:
        """Return the module and inputs for it, random but for "meta"."""
        return self.build(self.config, device), self.inputs(self.config, device)

    def on_gpu(self) -> tuple[torch.nn.Module, Callable[[int], Inputs]]:
        """Return the module on the GPU and a maker of fresh inputs from a seed."""
        return self.build(self.config, "cuda"), lambda seed: self.inputs(self.config, "cuda", seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every layer takes."""
    parser.add_argument("--tp", type=int, help="ranks that share the attention heads")
    parser.add_argument("--tokens", type=int, help="sequences, each decoding one token; or the tokens of a prefill")
    parser.add_argument("--context", type=int, help="slots of each sequence's cache")
    parser.add_argument("--tiny", action="store_true", help="a layer small enough for a CPU")
    parser.add_argument("--streams", type=int, help="most streams of a plan, the caller's included")
    parser.add_argument("--target", default="h200", help="the GPU to plan for if there is none")
    parser.add_argument("--dump", help="directory for the report's files")


def plan_layer(title: str, layer: Layer, small: Layer, args: argparse.Namespace) -> int:
    """Plan `layer`, show the plan, check the rewritten graph of `small` on the CPU, and on a GPU compare bits and times.

    Return 0 if the layer is planned and has serial's bits wherever it ran.
    """
    from graphstreams import explain
    from graphstreams.testing.equal_on_cpu import equal_on_cpu

    options = {} if args.streams is None else {"streams": args.streams}
    gpu = torch.cuda.is_available()
    started = time.perf_counter()
    report = explain(*layer.on("meta"), None if gpu else args.target, options)
    print(report)
    print(f"planned for {report.device} in {time.perf_counter() - started:.1f} s")
    if args.dump:
        print(f"report: {report.save(args.dump)}")
    # A tiny layer gains nothing from streams: rewrite it all the same.
    same = equal_on_cpu(*small.on("cpu"), args.target, {**options, "min_gain": 0.0})
    print(f"tiny layer on the CPU: the rewritten graph has {'the same bits' if all(same) else 'OTHER BITS'} as the serial one")
    equal = all(same) and report.verdict == "clean"
    return int(not (equal and (not gpu or _measure(title, layer, options))))


def side_by_side(report: Any) -> list[tuple[str, str]]:
    """Return pairs of matrix products that a plan has on different streams at the same time, by the names of their modules."""
    if report.plan is None:
        return []
    kernels = report.kernels.kernels
    products = [place for place in report.plan.placements if kernels[place.kernel].kind == "gemm"]
    pairs = (pair for pair in combinations(products, 2) if pair[0].stream != pair[1].stream)
    beside = [pair for pair in pairs if max(p.start_us for p in pair) < min(p.end_us for p in pair)]
    return [(kernels[one.kernel].name, kernels[other.kernel].name) for one, other in beside]


def _measure(title: str, layer: Layer, options: dict[str, Any]) -> bool:
    from graphstreams.benchmark.results import sound
    from graphstreams.benchmark.run import prepared, run_workload
    from graphstreams.benchmark.tables import bits_table, speed_table, times_table
    from graphstreams.benchmark.variants import OURS, BenchmarkSpec

    spec = BenchmarkSpec(options=options, own={"default": {}}, replays=1000, direct_runs=20, reduce_overhead_runs=20)
    with prepared():
        row = run_workload(title, layer.on_gpu, spec)
    record = row["rivals"].get(f"{OURS}: default", {})
    print(f"verdict: {record.get('verdict', 'none')} {record.get('reason', '')}".rstrip())
    for table in (speed_table([row], {"graphstreams": OURS}), bits_table([row]), times_table([row])):
        print(f"\n{table}")
    return sound([row])
