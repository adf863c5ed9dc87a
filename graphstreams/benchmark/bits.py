"""Compare the results of variants bit by bit with serial Inductor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import clones, copy_into, leaves
from graphstreams.benchmark.variants import OURS, SERIAL, BenchmarkSpec, CompiledVariant, Inputs, WorkloadRun
from graphstreams.inductor.compile import keep_addresses, mode_settings


def equal_bits(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two lists of tensors and numbers agree in type, shape and every bit, NaN included."""
    return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))


def _equal(first: Any, second: Any) -> bool:
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return type(first) is type(second) and first == second
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    as_bytes = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (first, second)]
    return torch.equal(*as_bytes)


def difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the largest difference relative to the largest value of its tensor; of integers, the share that differs.

    Infinite if number, type, dtype or shape of the values differ.
    """
    if len(expected) != len(found):
        return float("inf")
    return max((_difference(*pair) for pair in zip(expected, found, strict=True)), default=0.0)


def _difference(first: Any, second: Any) -> float:
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return 0.0 if type(first) is type(second) and first == second else float("inf")
    if first.shape != second.shape or first.dtype != second.dtype:
        return float("inf")
    if torch.equal(first, second):
        return 0.0
    if not first.is_floating_point():
        return float((first != second).float().mean())
    gap = float((first.float() - second.float()).abs().max() / first.float().abs().max())
    return gap if gap == gap else float("inf")


def compare_bits(run: WorkloadRun, inputs: Inputs, replays: int, direct_runs: int = 5) -> None:
    """Count the runs of each compiled variant whose outputs or changed inputs have other bits than serial's."""
    for name in run.compiled:
        runs = {"graph": replays, "direct": min(direct_runs, replays)}
        if name != SERIAL:
            run.records[name].update(wrong=dict.fromkeys(runs, 0), runs=runs, difference=0.0, unstable=0)
    for seed in range(1, replays + 1):
        fresh = inputs(seed)
        for way in ("graph", "direct") if seed <= direct_runs else ("graph",):
            expected = run.compiled[SERIAL].results(fresh, way == "direct")
            for name, other in run.compiled.items():
                if name != SERIAL:
                    with run.record(name) as record:
                        _compare(record, other, fresh, expected, way)
            run.drop_failed()


def measure_differences(run: WorkloadRun, inputs: Inputs, count: int) -> None:
    """Write down how far each compiled variant's outputs and changed inputs lie from serial's, on `count` fresh inputs."""
    for name in run.compiled:
        if name != SERIAL:
            run.records[name]["difference"] = 0.0
    for seed in range(1, count + 1):
        fresh = inputs(seed)
        expected = run.compiled[SERIAL].results(fresh)
        for name, other in run.compiled.items():
            if name != SERIAL:
                with run.record(name) as record:
                    record["difference"] = max(record["difference"], difference(expected, other.results(fresh)))
        run.drop_failed()


def _compare(record: dict[str, Any], other: CompiledVariant, fresh: Sequence[Any], expected: Sequence[Any], way: str) -> None:
    found = other.results(fresh, way == "direct")
    if not _count(record, expected, found, way):
        found = clones(found)
        record["unstable"] += not equal_bits(found, other.results(fresh, way == "direct"))


def _count(record: dict[str, Any], expected: Sequence[Any], found: Sequence[Any], way: str) -> bool:
    """Count a run with other bits. Return whether they are the same."""
    same = equal_bits(expected, found)
    if not same:
        record["wrong"][way] += 1
        record["difference"] = max(record["difference"], difference(expected, found))
    return same


def compare_reduce_overhead(
    run: WorkloadRun, module: torch.nn.Module, inputs: Inputs, spec: BenchmarkSpec, settings: Mapping[str, Any]
) -> None:
    """Compile our variants with Inductor's own CUDA graphs, and count the runs whose bits are other than serial's.

    Has to follow `compare_bits`. Inputs keep their addresses, because otherwise Inductor captures no graph that changes them.
    """
    way, inductor = "reduce-overhead", {**settings, **mode_settings("reduce-overhead")}
    for name, own in spec.own.items():
        if f"{OURS}: {name}" not in run.compiled:
            continue
        with run.record(f"{OURS}: {name}") as record:
            record["wrong"][way], record["runs"][way] = 0, spec.reduce_overhead_runs
            options: dict[str, Any] = {**spec.options, **own, "inductor": inductor}
            function = torch.compile(module, backend="graphstreams", options=options)
            static = clones(inputs(0))
            keep_addresses(static)
            for seed in range(spec.reduce_overhead_runs):
                fresh = inputs(seed)
                copy_into(static, fresh)
                torch.compiler.cudagraph_mark_step_begin()
                found = [*clones(leaves(function(*static))), *static]
                _count(record, run.compiled[SERIAL].results(fresh), found, way)
