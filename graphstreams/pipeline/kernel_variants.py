"""Try a graph with other kernels for some of its products: plan each variant by measuring, and time all of them in turns."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.compile_ahead import start_compiling
from graphstreams.autotuning.garbage import NewGarbage
from graphstreams.autotuning.output_differences import largest_difference
from graphstreams.autotuning.plan_benchmark import BEHIND
from graphstreams.autotuning.timing import DISCARDED, LONG_ROUNDS, means_within, repeats_within, times_in_turns
from graphstreams.costs.few_rows import FormTime
from graphstreams.errors import Unmeasurable, Unsupported
from graphstreams.inductor.few_rows import replace_product, weight_products
from graphstreams.inductor.lowering import copy_graph
from graphstreams.ir.devices import device_at_hand
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.beside_others import weights_beside_others
from graphstreams.pipeline.compilation import Progress
from graphstreams.pipeline.run import ReadGraph, choose_plan, finish_stages, read_graph
from graphstreams.pipeline.select_plan import PlanChoice, Task

Forms = Mapping[str, FormTime]  # by the name of the product's node

SECONDS = 1.5  # for all variants in turns
DIRECT_REPEATS = 5  # calls that the host launches in a sample


@dataclass(frozen=True)
class GivenGraph:
    """A post-grad graph, and what is known of the call that it is compiled for."""

    module: fx.GraphModule
    options: Options
    name: str = "graph"
    inputs: Sequence[Any] = ()
    input_names: Sequence[str] = ()
    marked: Sequence[MarkedModule] = ()


def put_forms(gm: fx.GraphModule, forms: Forms) -> None:
    """Replace the products of a graph for which there is a form. Raises what keeps a product from being replaced."""
    for each in weight_products(gm.graph)[0]:
        if (taken := forms.get(each.node.name)) is not None:
            replace_product(gm, each, taken.form, taken.us)
    gm.graph.lint()
    gm.recompile()


@dataclass(frozen=True)
class Trial:
    """A variant of a graph, as it was planned by measuring, and what can time it further."""

    progress: Progress  # of reading and choosing, with which the recipe can go on
    task: Task
    graph: ReadGraph
    choice: PlanChoice
    autotuner: Autotuner

    @property
    def us(self) -> tuple[float, ...]:
        """The us of each kernel."""
        return self.progress.report.us

    @property
    def searched_us(self) -> float:
        """What the graph took in its search at best."""
        found = self.choice.measurement
        return min(found.serial_us, found.played_us or found.serial_us) if found else sum(self.us)

    @property
    def plan(self) -> Plan | None:
        """The plan that the graph is to have; None if it is to stay serial."""
        return None if self.choice.rejected else self.choice.plan


@dataclass(frozen=True)
class Times:
    """The us of one replay of a variant, in turns with those of others."""

    serial_us: float  # Inductor's serial code, with the user's settings
    plan_us: float | None  # the kernels as its plan places them
    direct_us: float = 0.0  # of one call of the serial code that the host launches

    @property
    def us(self) -> float:
        """What the variant takes in a CUDA graph."""
        return self.serial_us if self.plan_us is None else min(self.serial_us, self.plan_us)


class KernelVariants:
    """Variants of one graph on the GPU at hand. They hold the memory of each until they are closed."""

    def __init__(self, given: GivenGraph) -> None:
        """A plan that the user gives is for the kernels that are chosen here, and does not choose them."""
        self._given = replace(given, options=replace(given.options, plan=()))
        self._trials: list[Trial] = []
        self._open = contextlib.ExitStack()
        # The variants' own would look at all objects of the program once the first of them is closed.
        self._open.callback(NewGarbage().collect)

    def plan(self, *several: Forms) -> set[str]:
        """Plan the graph with each of these forms by measuring, and return the weights whose products the last one's plan puts
        beside other kernels.

        All are read before any is measured, so that their kernels compile meanwhile. The last is measured first: the search of
        another one ends early if it is clearly behind. Raises Unmeasurable if one can't be measured, and StaySerial or
        Unsupported if one can't be read.
        """
        read, planned = [self._read(forms) for forms in several], list[Trial]()
        for progress, task, graph in reversed(read):
            fastest = min((each.searched_us for each in (*self._trials, *planned)), default=None)
            planned.append(self._planned(progress, replace(task, beat_us=fastest), graph))
        self._trials += reversed(planned)
        plan = planned[0].plan
        return weights_beside_others(planned[0].graph.reading, plan) if plan else set()

    def _read(self, forms: Forms) -> tuple[Progress, Task, ReadGraph]:
        given, progress = self._given, Progress(self._given.name)
        graph = read_graph(progress, self._module(forms), given.options, given.input_names, None, None, given.marked)
        _check_measurable(graph.reading)
        start_compiling(graph.serial.source)
        return progress, Task(graph.reading, device_at_hand(), given.options, graph.joined), graph

    def _planned(self, progress: Progress, task: Task, graph: ReadGraph) -> Trial:
        choice, autotuner = choose_plan(progress, task, self._given.inputs, graph)
        if autotuner is None:
            raise Unmeasurable("; ".join(progress.report.notes[-1:]) or "the graph was not measured")
        self._open.callback(autotuner.close)
        return Trial(progress, task, graph, choice, autotuner)

    def times(self) -> list[Times]:
        """Return the times of all variants, in the order in which they were planned."""
        with unset_fake_temporarily(), torch.no_grad():
            captures = [each.autotuner.benchmark.captures(each.graph.serial, each.plan) for each in self._trials]
            longest = max(sum(each.us) for each in self._trials)
            flat = iter(means_within(SECONDS, [capture for own in captures for capture in own], longest))
            times = [Times(next(flat), next(flat) if len(own) > 1 else None) for own in captures]
            calls = [each.autotuner.benchmark.direct_call(each.graph.serial) for each in self._trials]
            repeats = repeats_within(SECONDS, longest, len(calls) * (LONG_ROUNDS + DISCARDED), DIRECT_REPEATS)
            direct = times_in_turns(calls, LONG_ROUNDS, repeats)
        return [replace(own, direct_us=statistics.median(us)) for own, us in zip(times, direct, strict=True)]

    def difference(self, number: int) -> float:
        """Return how far outputs and changed inputs of a variant lie from the first one's, on the inputs that are known."""
        with unset_fake_temporarily():
            both = (self._trials[0], self._trials[number])
            first, other = (each.autotuner.benchmark.outputs(each.graph.serial) for each in both)
            return largest_difference(first, other)

    def lasting(self, number: int, times: Times) -> tuple[float, str]:
        """Return what a variant takes in the end, once its code is generated, proved and timed, and what it runs as.

        What was read and compiled to time it is used on. The other variants are closed before.
        """
        trial = self._trials[number]
        self.keep(number)
        for other in self._trials:
            if other is not trial:
                other.autotuner.close()
        report = finish_stages(trial.progress, trial.task, trial.graph, trial.choice, trial.autotuner)
        made, found = report.measurement, trial.choice.measurement
        if report.verdict != "clean" or report.plan is None or made is None or not made.compiled_us:
            return times.serial_us, f"serially ({report.reason})" if report.reason else "serially"
        # The GPU's clock may have been another when the plan was searched.
        scale = times.plan_us / found.played_us if times.plan_us and found and found.played_us else 1.0
        return made.compiled_us * scale, f"on {report.plan.used} streams"

    def keep(self, number: int) -> None:
        """Keep the plan of a variant, for the compile that runs it, unless its search may have ended early."""
        trial = self._trials[number]
        behind = trial.task.beat_us is not None and trial.searched_us > BEHIND * trial.task.beat_us
        if trial.choice.plan is not None and trial.choice.measurement is not None and not behind:
            trial.autotuner.save(trial.us, trial.choice.plan, trial.choice.measurement)

    def close(self) -> None:
        """Free the memory of all variants, which can't be timed any more."""
        self._open.close()

    def _module(self, forms: Forms) -> fx.GraphModule:
        module = copy_graph(self._given.module)
        put_forms(module, forms)
        return module


def _check_measurable(reading: Reading) -> None:
    """Raise Unsupported if no compile of the graph can time it, which is no matter of memory or of what else runs."""
    if reading.kernels.has_collectives():
        raise Unsupported("it holds collectives, each of which takes all ranks")
    if unknown := [kernel.name for kernel in reading.kernels.kernels if kernel.exclusive]:
        raise Unsupported(f"what {unknown[0]!r} does when it is repeated is not known")
