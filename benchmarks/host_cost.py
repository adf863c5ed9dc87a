"""What events and stream contexts cost the host in a direct call: generated code of several plans, timed in turns.

    python benchmarks/host_cost.py examples/deepseek_v32.py:bench --batch 1 16 --plans 16

MODULE:FUNCTION is what `graphstreams bench` takes: tokens -> (module, seed -> inputs). The plans are the simulator's for
modelled times and random changes of it, for they are to differ in events and contexts, and need not be fast. They are compared
with code of the same launches on one stream, generated under the same settings. The fit tells the numbers that stand in
`graphstreams/planning/host_cost.py`; Inductor's own serial code is timed beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from on_gpu import load
from tabulate import tabulate
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.choosing import inputs_by_position, plan_space
from graphstreams.costs.devices import device_at_hand
from graphstreams.costs.roofline import Roofline
from graphstreams.explaining import PostGradBackend
from graphstreams.graph.lowering import copy_graph, finish_post_grad_passes, lower
from graphstreams.graph.reading import Reading
from graphstreams.measuring import SerialCode, Unmeasurable, load_call
from graphstreams.options import Options
from graphstreams.pipeline import read_graph
from graphstreams.planning.assembly import assignment_of
from graphstreams.planning.host_cost import host_cost, launches_of, synchronisations
from graphstreams.planning.paths import Assignment
from graphstreams.planning.plan import Plan
from graphstreams.planning.search import search_on_simulator
from graphstreams.planning.space import Space
from graphstreams.rewriting import wrapper
from graphstreams.rewriting.regions import rewrite
from graphstreams.runtime.player import host_times_in_turns
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.wrapper import read_wrapper

ROUNDS = 200

Call = Callable[[], Any]


@dataclass(frozen=True)
class Sample:
    """A plan's records and waits together, its contexts, and what they add to a call's host time in us."""

    operations: int
    contexts: int
    us: float
    predicted_us: float


def different_plans(space: Space, count: int, seed: int = 0) -> list[Plan]:
    """The simulator's plan and changes of it, each of the next plan further from it."""
    dice, first = random.Random(seed), search_on_simulator(space)
    plans = [first]
    for changes in range(1, count):
        assignment = assignment_of(first)
        for _ in range(changes):
            assignment = space.changed(assignment, dice)
        plans.append(space.plan(assignment))
    return [plan for plan in plans if plan.streams > 1]


def call_of(module: fx.GraphModule, arguments: Sequence[Any], settings: AbstractContextManager[Any]) -> Call:
    """What calls the code that Inductor generates for a graph. Raises Unmeasurable where a race is found in it."""
    with settings:
        copy = copy_graph(module)
        finish_post_grad_passes(copy)
        lowered = lower(copy, generate_code=True)
    if races := find_races(read_wrapper(lowered.source)):
        raise Unmeasurable(f"the code has a race: {races[0]}")
    call = load_call(lowered)
    return lambda: call(list(arguments))


@dataclass(frozen=True)
class HostTimes:
    """Host times of a call in us: Inductor's serial code, ours on one stream, and what plans add to that."""

    inductor_us: float
    serial_us: float
    samples: tuple[Sample, ...]


def measured(reading: Reading, values: Mapping[int, Any], count: int) -> HostTimes:
    """`count` plans of a graph, their code generated, called once, and timed in turns.

    Raises Unmeasurable or RewriteError where the graph cannot be called again and again, or a plan's code cannot be had.
    """
    device = device_at_hand()
    with unset_fake_temporarily():
        arguments = SerialCode(reading).arguments(values)
    space = plan_space(reading.kernels, Roofline(device).prices(reading.kernels), device, Options())
    plans = different_plans(space, count)
    wrapper.register()
    calls = [call_of(reading.module, arguments, nullcontext())]
    one_stream = space.plan(Assignment(space.starts[0].order, [0] * len(space.us)))
    for plan in (one_stream, *plans):
        module = rewrite(reading, plan)
        calls.append(call_of(module, arguments, module.meta[wrapper.MARK].settings))
    with unset_fake_temporarily(), torch.no_grad():
        for call in calls:
            call()
        inductor, serial, *times = map(statistics.median, host_times_in_turns(calls, ROUNDS, 1))
    launches = launches_of(reading.kernels)
    samples = [
        Sample(*synchronisations(plan), us - serial, host_cost(plan) * serial / launches)
        for plan, us in zip(plans, times, strict=True)
    ]
    return HostTimes(inductor, serial, tuple(samples))


def fit(samples: Sequence[Sample]) -> tuple[float, float]:
    """The us of one record or wait, and of one context, that tell the samples' us with the least squares."""
    aa, ab, bb, ay, by = (
        sum(x * y for x, y in pairs)
        for pairs in (
            [(s.operations, s.operations) for s in samples],
            [(s.operations, s.contexts) for s in samples],
            [(s.contexts, s.contexts) for s in samples],
            [(s.operations, s.us) for s in samples],
            [(s.contexts, s.us) for s in samples],
        )
    )
    determinant = aa * bb - ab * ab
    if determinant == 0:
        raise ValueError("the plans do not differ in events and contexts")
    return (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant


def table(samples: Sequence[Sample]) -> str:
    """A line a plan: records and waits, contexts, the host time that they add and the predicted one."""
    lines = [[s.operations, s.contexts, f"{s.us:.1f}", f"{s.predicted_us:.1f}"] for s in samples]
    headers = ["records and waits", "contexts", "added us", "predicted us"]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and a fit a number of tokens; 2 where there is no GPU or the function cannot be loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="tokens -> (module, seed -> inputs)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="numbers of tokens (default 1)")
    parser.add_argument("--plans", type=int, default=16, help="plans that are compiled (default 16)")
    arguments = parser.parse_args(argv)
    if arguments.plans < 2 or min(arguments.batch) < 1:
        parser.error("--batch has to be 1 or more, --plans 2 or more")
    make = load(arguments.function)
    if make is None:
        return 2
    for tokens in arguments.batch:
        show(tokens, make, arguments.plans)
    return 0


def show(tokens: int, make: Callable[..., Any], plans: int) -> None:
    """Measure and print what there is to say of one number of tokens: of each of the module's graphs."""

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read_graph(gm, "graph", names)
        if len(reading.kernels.kernels) > 1:
            times = measured(reading, inputs_by_position(reading.module, values), plans)
            print(
                f"\n{tokens} token{'s' * (tokens > 1)}, {reading.launches} launches\n\n{told(times, reading.launches)}",
                flush=True,
            )

    torch._dynamo.reset()
    with torch.no_grad():
        module, inputs = make(tokens)
        torch.compile(module, backend=PostGradBackend(visit))(*inputs(0))


def told(times: HostTimes, launches: int) -> str:
    """The table and the fit of one graph."""
    launch = times.serial_us / launches
    lines = [
        f"one stream {times.serial_us:.1f} us, {launch:.1f} us a launch; Inductor's serial code {times.inductor_us:.1f} us",
        "",
        table(times.samples),
        "",
    ]
    try:
        fitted = zip(("a record or wait", "a context"), fit(times.samples), strict=True)
        lines.append("; ".join(f"{name} {us:.2f} us, {us / launch:.2f} launches" for name, us in fitted))
    except ValueError as problem:
        lines.append(f"no fit: {problem}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
