"""Compile, capture and play what takes part in a contest."""

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
    PLAYED,
    SERIAL,
    VARIANTS,
    BenchmarkSpec,
    CompiledVariant,
    Maker,
    Settings,
    WorkloadRun,
)
from graphstreams.inductor.settings import under_settings
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import FORK, JOIN, Plan
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.paths import Assignment, Timing, timed
from graphstreams.planning.synchronization import check_plan


def enter(
    entrants: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], makers: Mapping[str, Maker], settings: Settings
) -> None:
    """Compile and capture serial Inductor and the rivals of `makers`. Raises RuntimeError where serial fails."""
    every: dict[str, Maker] = {SERIAL: lambda module, settings: torch.compile(module, options=dict(settings)), **makers}
    for name, make in every.items():
        with entrants.entry(name):
            entrants.compiled[name] = CompiledVariant(make(module, settings), values)
    entrants.drop_failed()


def enter_ours(
    entrants: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], options: Mapping[str, Any], settings: Settings
) -> dict[str, Plan]:
    """Compile and capture graphstreams under each of VARIANTS; returns the plans by name."""
    plans = {}
    for name, variant in VARIANTS.items():
        with entrants.entry(f"{OURS}: {name}") as record, tempfile.TemporaryDirectory() as directory:
            chosen = {**options, **variant, "inductor": dict(settings), "dump": directory}
            function = torch.compile(module, backend="graphstreams", options=chosen)
            entrants.compiled[f"{OURS}: {name}"] = CompiledVariant(function, values)
            verdict, plan = _verdict(Path(directory))
            record.update(verdict)
            if plan is not None:
                plans[name] = plan
    return plans


def _verdict(directory: Path) -> tuple[dict[str, Any], Plan | None]:
    """What the report on the largest graph says, and its plan."""
    folder, largest = largest_report(directory)
    names = ("verdict", "reason", "kernels_serial", "kernels_streamed", "streams", "events", "measured")
    kept = {**{name: largest[name] for name in names}, "stages": largest["seconds"]}
    plan = folder / "plan.json"
    return kept, Plan.loads(plan.read_text()) if plan.exists() else None


def enter_player(entrants: WorkloadRun, module: torch.nn.Module, values: Sequence[Any], settings: Settings) -> None:
    """Make the kernels of the serial graph ready to be played. Forgets what Dynamo has compiled, so it has to come first."""
    from graphstreams.benchmark.replayable import player_of

    with entrants.entry(f"{PLAYED}: serial"), under_settings(settings):
        graphs = player_of(module, clones(values))
        if len(graphs) != 1:
            raise RuntimeError(f"policies are played on modules of one graph, and this one has {len(graphs)}")
        entrants.playable = graphs[0]


def enter_policies(entrants: WorkloadRun, plans: Mapping[str, Plan], contest: BenchmarkSpec) -> None:
    """The kernels of the serial graph, to be played as our plans and as the policies of `contest` place them."""
    if entrants.playable is None:
        return
    with entrants.entry(f"{PLAYED}: serial"):
        graph, order, player = entrants.playable.graph, entrants.playable.order, entrants.playable.player
        entrants.played[f"{PLAYED}: serial"] = partial(player.serial, order)
        measured = player.kernel_times(order)
        us = [measured.get(kernel.id, 0.0) for kernel in graph.kernels]
        shares = [max((b.share for b in player.blocks(kernel.id)), default=0.0) for kernel in graph.kernels]
        for name, plan in plans.items():
            with entrants.entry(f"{PLAYED}: {OURS}, {name}") as record:
                _play(entrants, f"{PLAYED}: {OURS}, {name}", player, graph, plan, record)
        for name, policy in contest.policies.items():
            with entrants.entry(f"{PLAYED}: {name}") as record:
                assignment = policy(graph, us, shares)
                record.update(contest.told(graph, assignment))
                _play(entrants, f"{PLAYED}: {name}", player, graph, plan_of(graph, assignment, us), record)


def plan_of(graph: KernelGraph, assignment: Assignment, us: Sequence[float]) -> Plan:
    """The plan with an assignment's streams, its order of launches, and our events. Its times are places in that order."""
    start = [0.0] * len(us)
    for place, kernel in enumerate(assignment.order):
        start[kernel] = float(place)
    makespan = timed(assignment, graph.predecessors(), us, 0.0).makespan
    timing = Timing(start, [at + 1 for at in start], makespan)
    return assemble(graph, assignment, timing, us, 1 + max(assignment.stream, default=0), 0.0)


def _play(entrants: WorkloadRun, name: str, player: Any, graph: KernelGraph, plan: Plan, record: dict[str, Any]) -> None:
    check_plan(graph, plan)
    entrants.played[name] = partial(player.play, plan)
    waits = [(event.after, wait.kernel) for event in plan.events for wait in event.waits]
    inner = sum(after != FORK and kernel != JOIN for after, kernel in waits)
    record.update(streams=plan.streams, waits=len(waits), inner_waits=inner, events=len(plan.events))
