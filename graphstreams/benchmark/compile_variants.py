"""Compile and capture the variants of a workload, and capture plans of its serial graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphstreams.autotuning.cuda_graph import clones
from graphstreams.benchmark.results import largest_report
from graphstreams.benchmark.variants import (
    OURS,
    REPLAYED,
    SERIAL,
    BenchmarkSpec,
    CompiledVariant,
    Compiler,
    Settings,
    WorkloadRun,
    replayable_graphs,
)
from graphstreams.inductor.settings import under_settings
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.ir.plan_file import MOST_STREAMS, PlanFile
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.given_plan import given_plan
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.synchronization import check_plan

REPORTED = ("verdict", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured")


def compile_variants(
    run: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], compilers: Mapping[str, Compiler], settings: Settings
) -> None:
    """Compile and capture serial Inductor and the variants of `compilers`. Raises RuntimeError if serial fails."""
    serial: dict[str, Compiler] = {SERIAL: lambda module, settings: torch.compile(module, options=dict(settings))}
    for name, compiled in {**serial, **compilers}.items():
        with run.record(name):
            run.compiled[name] = CompiledVariant(compiled(module, settings), values)
    run.drop_failed()


def compile_own_variants(
    run: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], spec: BenchmarkSpec, settings: Settings
) -> dict[str, PlanFile]:
    """Compile and capture graphstreams under each of `spec.own`, and return the plans by the variant's name."""
    plans = {}
    for name, own in spec.own.items():
        with run.record(f"{OURS}: {name}") as record, tempfile.TemporaryDirectory() as directory:
            options = {**spec.options, **own, "inductor": dict(settings), "dump": directory}
            function = torch.compile(module, backend="graphstreams", options=options)
            run.compiled[f"{OURS}: {name}"] = CompiledVariant(function, values)
            folder, report = largest_report(Path(directory))
            record.update({key: report[key] for key in REPORTED}, stages=report["seconds"], notes=report.get("notes", []))
            if (plan := folder / "plan.json").exists():
                plans[name] = PlanFile.loads(plan.read_text())
    return plans


def load_serial_graph(run: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], settings: Settings) -> None:
    """Compile the kernels of the serial graph for replays. Has to come first, because it clears what Dynamo has compiled."""
    with run.record(f"{REPLAYED}: serial"), under_settings(settings):
        graphs = replayable_graphs(module, clones(values))
        if len(graphs) != 1:
            raise RuntimeError(f"policies are played on modules of one graph, and this one has {len(graphs)}")
        run.serial_graph = graphs[0]


def capture_plans(run: WorkloadRun, plans: Mapping[str, PlanFile], spec: BenchmarkSpec) -> None:
    """Add replays of the serial graph's kernels as `plans`, which are ours, and as the policies of `spec` place them."""
    if run.serial_graph is None:
        return
    with run.record(f"{REPLAYED}: serial"):
        graph, order, replayer = run.serial_graph.graph, run.serial_graph.order, run.serial_graph.replayer
        run.replayed[f"{REPLAYED}: serial"] = partial(replayer.capture_serial, order)
        measured = replayer.kernel_times(order)
        us = [measured.get(kernel.id, 0.0) for kernel in graph.kernels]
        shares = [max((b.share for b in replayer.blocks(kernel.id)), default=0.0) for kernel in graph.kernels]
        for name, file in plans.items():
            with run.record(f"{REPLAYED}: {OURS}, {name}") as record:
                plan = given_plan(file.of_any_size(), graph, MOST_STREAMS)
                record.update(_checked_counts(graph, plan))
                run.replayed[f"{REPLAYED}: {OURS}, {name}"] = partial(replayer.capture_plan, plan)
        for name, policy in (spec.policies or {}).items():
            with run.record(f"{REPLAYED}: {name}") as record:
                assignment = policy(graph, us, shares)
                record.update(spec.describe(graph, assignment))
                plan = plan_of(graph, assignment, us)
                record.update(_checked_counts(graph, plan))
                run.replayed[f"{REPLAYED}: {name}"] = partial(replayer.capture_plan, plan)


def plan_of(graph: KernelGraph, assignment: Assignment, us: Sequence[float]) -> Plan:
    """Return the plan with an assignment's streams and order of launches, and our events. Its times are places in the order."""
    start = [0.0] * len(us)
    for place, kernel in enumerate(assignment.order):
        start[kernel] = float(place)
    makespan = timed(assignment, graph.predecessors(), us, 0.0, graph.background()).makespan
    timing = Timing(start, [at + 1 for at in start], makespan)
    return assemble(graph, assignment, timing, us, 1 + max(assignment.stream, default=0), 0.0)


def _checked_counts(graph: KernelGraph, plan: Plan) -> dict[str, int]:
    """Check that a plan keeps the order of dependences, and return its numbers of streams, waits and events."""
    check_plan(graph, plan)
    waits = [(event.after, wait.kernel) for event in plan.events for wait in event.waits]
    inner = sum(after != FORK and kernel != JOIN for after, kernel in waits)
    return {"streams": plan.streams, "waits": len(waits), "inner_waits": inner, "events": len(plan.events)}
