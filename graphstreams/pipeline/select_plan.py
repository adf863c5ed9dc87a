"""Price the kernels of a graph and choose its plan: from modelled times, or by measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.costs.models import cost_model
from graphstreams.costs.roofline import Roofline
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import Device
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.gain import gain_too_small, path_too_long
from graphstreams.planning.modelled_plan import plan_space, simulated_plan
from graphstreams.planning.policies import search_on_simulator
from graphstreams.planning.synchronization import check_plan

TWO_PLANS = 2_000  # kernels of a graph up to which there is a plan for modelled times beside that for measured ones


@dataclass(frozen=True)
class Task:
    """What there is to plan, for which GPU, and how."""

    reading: Reading
    device: Device
    options: Options


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


class PlanSource(Protocol):
    """A way to price kernels and to choose a plan."""

    def price(self, task: Task) -> Prices:
        """Return the time of each kernel."""

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the best plan for these times. Raises ValueError for a plan that is not sound."""


class ModelledPlans:
    """Times from the roofline or from a profile, plans from the simulator."""

    def price(self, task: Task) -> Prices:
        """Return the time of each kernel by the cost model that the option `costs` names."""
        model = cost_model(task.options.costs, task.device)
        return Prices(tuple(model.price(task.reading.kernels)), model.name)

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan that is fastest on the simulator."""
        plan = simulated_plan(task.reading.kernels, prices.us, task.device, task.options)
        return _checked(task, plan)


@dataclass(frozen=True)
class MeasuredPlans:
    """Times and plans that are measured on the GPU at hand, or were by an earlier compile."""

    autotuner: Autotuner

    def price(self, task: Task) -> Prices:
        """Return the measured time of each kernel. Raises Unmeasurable if the kernels can't be run by themselves."""
        if cached := self.autotuner.load_cached():
            us, plan, measurement = cached
            return Prices(tuple(us), "measured", (plan, measurement))
        return Prices(tuple(self.autotuner.times()), "measured")

    def choose(self, task: Task, prices: Prices) -> PlanChoice:
        """Return the plan that is fastest on the GPU, and keep one that is not used, so that it is found out once only."""
        if prices.cached:
            return _checked(task, *prices.cached)
        if reason := path_too_long(task.reading.kernels, prices.us, task.options):
            return PlanChoice(None, rejected=reason)
        plan, measurement = self._search(task, prices.us)
        if plan.streams == 1 or measurement.gain < task.options.min_gain:
            self.autotuner.save(prices.us, plan, measurement)
        return _checked(task, plan, measurement)

    def _search(self, task: Task, us: Sequence[float]) -> tuple[Plan, Measurement]:
        kernels, device, options = task.reading.kernels, task.device, task.options
        space = plan_space(kernels, us, device, options, self.autotuner.blocks())
        first = [search_on_simulator(space)]
        if len(us) <= TWO_PLANS:
            first.append(simulated_plan(kernels, Roofline(device).price(kernels), device, options))
        return self.autotuner.search(space, first) if options.search else self.autotuner.without_search(first)


def times_code(choice: PlanChoice) -> bool:
    """Return whether the code that is generated for a plan has to be timed: if it was measured, but no compile has done so."""
    measured = choice.measurement
    return measured is not None and not (measured.from_disk and measured.compiled_us)


def time_code(
    autotuner: Autotuner, us: Sequence[float], plan: Plan, measurement: Measurement, source: str, serial: Lowered
) -> Measurement:
    """Return the measurement with the times of the generated code, and keep it for the next compile.

    `source` is the wrapper with both bodies, proved, in which every call runs the streamed one; `serial` has the serial code.
    """
    measured = autotuner.time_generated_code(source, serial, measurement)
    autotuner.save(us, plan, measured)
    return measured


def _checked(task: Task, plan: Plan, measurement: Measurement | None = None) -> PlanChoice:
    check_plan(task.reading.kernels, plan)
    return PlanChoice(plan, measurement, gain_too_small(plan, measurement, task.options, task.device))
