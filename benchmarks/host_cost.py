"""What events and stream contexts cost the host in a direct call: generated code of several plans, timed in turns.

    python benchmarks/host_cost.py examples/deepseek_v32.py:bench --batch 1 16 --plans 16

MODULE:FUNCTION is what `graphstreams bench` takes: tokens -> (module, seed -> inputs). The plans are the simulator's for
modelled times and random changes of it, for they are to differ in events and contexts, and need not be fast. Fitted are the
numbers in `graphstreams/planning/host_cost.py`: what a plan adds to the host time of serial code of the same launches.
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
from graphstreams.measuring import SerialCode, load_call
from graphstreams.options import Options
from graphstreams.pipeline import read_graph
from graphstreams.planning.assembly import assignment_of
from graphstreams.planning.host_cost import extra_host_time, synchronisations
from graphstreams.planning.plan import Plan
from graphstreams.planning.search import Space, search_on_simulator
from graphstreams.rewriting import wrapper
from graphstreams.rewriting.regions import rewrite
from graphstreams.runtime.player import host_times_in_turns

ROUNDS, REPEATS = 40, 5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Sample:
    """A plan's records and waits together, its contexts, and what they add to serial's host time of a call in us."""

    operations: int
    contexts: int
    us: float
    predicted_share: float  # of serial's host time


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
    """What calls the code that Inductor generates for a graph."""
    with settings:
        copy = copy_graph(module)
        finish_post_grad_passes(copy)
        call = load_call(lower(copy, generate_code=True))
    return lambda: call(list(arguments))


def samples_of(reading: Reading, values: Mapping[int, Any], count: int) -> tuple[float, list[Sample]]:
    """Serial's host time of a call in us, and a sample of each plan."""
    device = device_at_hand()
    with unset_fake_temporarily():
        arguments = SerialCode(reading).arguments(values)
    plans = different_plans(plan_space(reading.kernels, Roofline(device).prices(reading.kernels), device, Options()), count)
    wrapper.register()
    calls = [call_of(reading.module, arguments, nullcontext())]
    for plan in plans:
        module = rewrite(reading, plan)
        calls.append(call_of(module, arguments, module.meta[wrapper.MARK].settings))
    with unset_fake_temporarily(), torch.no_grad():
        for call in calls:
            call()
        serial, *times = map(statistics.median, host_times_in_turns(calls, ROUNDS, REPEATS))
    extra = [us - serial for us in times]
    shares = [extra_host_time(plan, reading.kernels) for plan in plans]
    pairs = map(synchronisations, plans)
    return serial, [Sample(*pair, us, share) for pair, us, share in zip(pairs, extra, shares, strict=True)]


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


def table(serial: float, samples: Sequence[Sample]) -> str:
    """A line a plan: records and waits, contexts, the share of serial's host time that it adds, and the predicted one."""
    lines = [[s.operations, s.contexts, f"{s.us / serial:.1%}", f"{s.predicted_share:.1%}"] for s in samples]
    headers = ["records and waits", "contexts", "added host time", "predicted"]
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
    """Measure and print what there is to say of one number of tokens: of the graph with the most launches."""
    found: list[tuple[Reading, float, list[Sample]]] = []

    def visit(gm: fx.GraphModule, names: list[str], values: Sequence[Any]) -> None:
        reading = read_graph(gm, "graph", names)
        found.append((reading, *samples_of(reading, inputs_by_position(reading.module, values), plans)))

    torch._dynamo.reset()
    with torch.no_grad():
        module, inputs = make(tokens)
        torch.compile(module, backend=PostGradBackend(visit))(*inputs(0))
    reading, serial, samples = max(found, key=lambda each: each[0].launches)
    event, context = fit(samples)
    launch = serial / reading.launches
    print(f"\n{tokens} token{'s' * (tokens > 1)}: serial {serial:.1f} us, {reading.launches} launches of {launch:.1f} us\n")
    print(table(serial, samples))
    print(f"\na record or wait {event:.2f} us, {event / launch:.2f} launches; a context {context:.2f} us, ", end="")
    print(f"{context / launch:.2f} launches", flush=True)


if __name__ == "__main__":
    sys.exit(main())
