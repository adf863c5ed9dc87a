"""Price the kernels of a graph, choose its plan, from modelled times or by measuring, and tell whether it gains enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.plan_benchmark import PlanBenchmark
from graphstreams.autotuning.stand_ins import cuts_a_collective
from graphstreams.costs.models import cost_model
from graphstreams.costs.roofline import Roofline
from graphstreams.errors import PlanRefused, StaySerial
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import TokenRange
from graphstreams.ir.reading import Reading
from graphstreams.messages import listed
from graphstreams.options import Options
from graphstreams.pipeline.what_holds import longest_path_us, what_holds
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.modelled_plan import plan_space, simulated_layers, simulated_plan
from graphstreams.planning.neighborhood import HIGH_PRIORITY
from graphstreams.planning.paths import serial_us
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.repeated_layers import Layers, part_of, repeated_layers
from graphstreams.planning.synchronization import check_plan

ROUNDING = 1e-9  # of sums taken in another order
TWO_PLANS = 2_000  # kernels of a graph up to which there is a plan for modelled times beside that for measured ones


@dataclass(frozen=True)
class Task:
    """What there is to plan, for which GPU, and how."""

    reading: Reading
    device: Device
    options: Options
    joined: tuple[frozenset[int], ...] = ()  # kernels by id of which the serial code makes one launch
    beat_us: float | None = None  # what another variant of the graph takes: a search ends early if it is clearly behind that


@dataclass(frozen=True)
class Prices:
    """The time of each kernel, and where the times come from."""

    us: tuple[float, ...]
    source: str  # as in the report: "measured", the roofline and its calibration, or a profile's path
    cached: tuple[Plan, Measurement] | None = None  # what an earlier compile of the same graph chose


@dataclass(frozen=True)
class PlanChoice:
    """A plan, what was measured of it, and why it is not used, if so. Without a plan no plan can gain enough."""

    plan: Plan | None
    measurement: Measurement | None = None
    rejected: str = ""
    tokens: TokenRange | None = None  # for which the plan runs, if that was given with it


class PlanSource(Protocol):
    """A source of times and of a plan."""

    def price(self, task: Task) -> Prices:
        """Return the time of each kernel."""

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan that the graph is to have."""


class ModelledPlans:
    """Times from the roofline or from a profile, plans from the simulator."""

    def price(self, task: Task) -> Prices:
        """Return the time of each kernel by the cost model that the option `costs` names."""
        model = cost_model(task.options.costs, task.device)
        return Prices(tuple(model.price(task.reading.kernels)), model.name)

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan that is fastest on the simulator."""
        return checked_choice(task, prices.us, simulated_plan(task.reading.kernels, prices.us, task.device, task.options))


@dataclass(frozen=True)
class MeasuredPlans:
    """Times and plans that are measured on the GPU at hand, or were by an earlier compile.

    Of a graph with collectives, each of which takes all ranks, they are measured with a pause in place of each.
    """

    autotuner: Autotuner

    def price(self, task: Task) -> Prices:
        """Return the measured time of each kernel. Raises Unmeasurable if the kernels can't be run by themselves."""
        if cached := self.autotuner.load_cached():
            us, plan, measurement = cached
            return Prices(tuple(us), self._source(task), (plan, measurement))
        return Prices(tuple(self.autotuner.times()), self._source(task))

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan that is fastest on the GPU.

        It is kept here, so that it is found once only, if it is not used or if no generated code will be timed.
        """
        if prices.cached:
            return checked_choice(task, prices.us, *prices.cached)
        if reason := path_too_long(task.reading.kernels, prices.us, task.options):
            return PlanChoice(None, rejected=reason)
        plan, measurement = self._search(replace(task, options=self.autotuner.options), prices.us)
        unused = task.reading.kernels.has_collectives() or plan.streams == 1 or measurement.gain < task.options.min_gain
        if unused and task.beat_us is None:  # a search that may have ended early is not for other compiles
            self.autotuner.save(prices.us, plan, measurement)
        return checked_choice(task, prices.us, plan, measurement)

    @staticmethod
    def _source(task: Task) -> str:
        return "measured, but for collectives" if task.reading.kernels.has_collectives() else "measured"

    def _search(self, task: Task, us: Sequence[float]) -> tuple[Plan, Measurement]:
        layers = repeated_layers(task.reading.kernels) if task.options.search else None
        if layers and cuts_a_collective(task.reading.kernels, layers.kernels(layers.count // 2)):
            layers = None
        part = self.autotuner.benchmark.part(layers.kernels(layers.count // 2)) if layers else None
        return self._search_layer(task, us, layers, part) if layers and part else self._search_graph(task, us)

    def _search_layer(
        self, task: Task, us: Sequence[float], layers: Layers, benchmark: PlanBenchmark
    ) -> tuple[Plan, Measurement]:
        """Return the plan in which all layers have the fastest of the middle one, or another if that is faster."""
        kernels, device, options = task.reading.kernels, task.device, task.options
        middle, blocks = layers.kernels(layers.count // 2), self.autotuner.blocks()
        own = {number: blocks[kernel] for number, kernel in enumerate(middle) if kernel in blocks}
        space = plan_space(part_of(kernels, middle), [us[kernel] for kernel in middle], device, options, own)
        layer, found = benchmark.search(space, [search_on_simulator(space)])
        whole = plan_space(kernels, us, device, options, blocks)
        tiled = simulated_layers(kernels, us, device, options, layers, assignment_of(layer))
        plan, measurement = self.autotuner.benchmark.fastest([whole.plan(tiled), search_on_simulator(whole)])
        return plan, replace(measurement, tried=found.tried, plans=found.plans)

    def _search_graph(self, task: Task, us: Sequence[float]) -> tuple[Plan, Measurement]:
        kernels, device, options = task.reading.kernels, task.device, task.options
        space = plan_space(kernels, us, device, options, self.autotuner.blocks())
        first = [search_on_simulator(space)]
        if len(us) <= TWO_PLANS:
            first.append(simulated_plan(kernels, Roofline(device).price(kernels), device, options))
            if options.priority is None:
                first.append(search_on_simulator(space.prioritized(HIGH_PRIORITY)))
        # Without a search these are measured too, because the simulator is not always right.
        benchmark = self.autotuner.benchmark
        return benchmark.search(space, first, task.beat_us) if options.search else benchmark.fastest(first)


def checked_choice(task: Task, us: Sequence[float], plan: Plan, measurement: Measurement | None = None) -> PlanChoice:
    """Return the choice of a plan, with why it gains too little, if so. Raises ValueError if it does not order its kernels.

    `us` has the us of each kernel.
    """
    check_plan(task.reading.kernels, plan)
    reason = gain_too_small(plan, measurement, task.options, task.device)
    return PlanChoice(plan, measurement, _with_cause(task, us, reason) if reason else "")


def _with_cause(task: Task, us: Sequence[float], reason: str) -> str:
    """Return why a plan gains too little, with what holds its kernels."""
    cause = what_holds(task.reading.kernels, us, task.options.min_gain) if task.options.streams > 1 else ""
    return f"{reason}: {cause}" if cause else reason


def gain_too_small(
    plan: Plan, measurement: Measurement | None, options: Options, device: Device, lost_fusions: int = 0, joined_us: float = 0.0
) -> str:
    """Return why a plan gains less than `options.min_gain`, measured if it was, else predicted; empty if it gains enough.

    `lost_fusions` is how many launches more than the serial code the plan's code has, without those that the serial code joins
    into one (combo kernels); those save it at most `joined_us` us. Neither counts once the generated code was measured.
    """
    # On one stream only another order beside collectives can be faster.
    if plan.streams == 1 and plan.streamed_us >= (1 - ROUNDING) * plan.serial_us:
        return "the option streams is 1" if options.streams == 1 else "no placement on several streams is faster"
    what = "predicted gain" if measurement is None else "plan's measured gain"
    serial_us, streamed_us = (plan.serial_us, plan.streamed_us) if measurement is None else measurement.replay_us or (1.0, 1.0)
    if measurement is not None and measurement.compiled_us:
        what, lost_fusions, joined_us = "generated code's measured gain", 0, 0.0
    # Each launch that the serial graph does not have costs at least the shortest kernel.
    streamed_us, serial_us = streamed_us + max(0, lost_fusions) * device.launch_us, serial_us - joined_us
    gain = 1 - streamed_us / serial_us if serial_us > 0 else 0.0
    if gain >= options.min_gain:
        return ""
    lost = f", {lost_fusions} launches more than serial counted in" if lost_fusions > 0 else ""
    lost += f", {joined_us:.1f} us that serial's combo kernels may save counted in" if joined_us > 0 else ""
    return f"the {what} is {gain:.1%}{lost}, less than min_gain={options.min_gain:.1%}"


def check_gain(
    task: Task, us: Sequence[float], plan: Plan, measurement: Measurement | None, lost_fusions: int = 0,
    joined_us: float = 0.0, split: frozenset[int] = frozenset(),
) -> None:  # fmt: skip
    """Raise StaySerial if a plan gains too little; PlanRefused if it gains enough without the launches that `split` has more.

    `split` are kernel ids, `us` has the us of each kernel. The other arguments are as for `gain_too_small`.
    """
    if reason := gain_too_small(plan, measurement, task.options, task.device, lost_fusions, joined_us):
        if gain_too_small(plan, measurement, task.options, task.device, 0, joined_us):
            raise StaySerial("serial", _with_cause(task, us, reason))
        names = [repr(task.reading.kernels.kernels[kernel].name) for kernel in sorted(split)]
        raise PlanRefused("serial", f"{reason}: {listed(names)} lost a fusion" if names else reason, split)


def path_too_long(graph: KernelGraph, us: Sequence[float], options: Options) -> str:
    """Return why no plan can gain enough, because side by side no kernel gets faster; empty if one can."""
    serial, longest = serial_us(graph, us), longest_path_us(graph, us)
    if longest <= (1 - options.min_gain) * serial:
        return ""
    share = 1 - longest / serial if serial else 0.0
    text = f"no plan can gain more than {share:.1%}, less than min_gain={options.min_gain:.1%}"
    cause = what_holds(graph, us, options.min_gain)
    return f"{text}: {cause}" if cause else text
