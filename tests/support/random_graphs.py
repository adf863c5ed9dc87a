"""Make random modules, random plans for them, and plans from which one thing is missing, to try proofs on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import heapq
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import detect_fake_mode
from torch._inductor.fx_passes.control_dependencies import control_deps
from torch._inductor.virtualized import V

from graphstreams.benchmark.bits import equal_bits
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.offline import offline
from graphstreams.inductor.streamed_code import streamed_code
from graphstreams.ir.devices import device_by_name
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import JOIN, Placement, Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.explain import capture
from graphstreams.planning.synchronization import check_plan, place_events
from graphstreams.reports.report import Report
from graphstreams.rewriting.regions import rewrite
from graphstreams.testing.cpu_execution import run_on_cpu
from tests.support.finishing import finished
from tests.support.interleaving import Choose, Enqueued, Garbage, Result
from tests.support.random_modules import SIZE, RandomModule


def read_module(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Reading | None:
    """Return what the package reads of a module of one graph; None if it leaves the graph serial whatever the plan."""
    # With one stream the package stops behind reading, pricing and planning.
    outcomes = capture(module, inputs, "h200", Options(streams=1))
    return outcomes[0].reading if len(outcomes) == 1 else None


@functools.lru_cache(maxsize=16)
def random_reading(seed: int) -> Reading | None:
    """Return a random graph; None if it has no kernel, or if torch refuses to run the program without compiling it."""
    torch.manual_seed(seed)
    state, cache, where = torch.zeros(SIZE, SIZE), torch.zeros(2 * SIZE, SIZE), torch.zeros(SIZE, dtype=torch.int64)
    module, inputs = RandomModule(seed), (torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE), state, cache, where)
    return None if _copies_onto_itself(module, inputs) else read_module(module, inputs)


def _copies_onto_itself(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> bool:
    """Return whether it copies a part of a tensor to where a part of it lies, which has no defined result."""
    try:
        with torch.no_grad():
            module(*(value.clone() for value in inputs))
    except RuntimeError as error:
        if "refer to a single memory location" in str(error):
            return True
        raise
    return False


def random_inputs(reading: Reading, seed: int) -> list[Any]:
    """Return CPU tensors for the inputs of a graph; integers are valid row numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = [node.meta["val"] for node in reading.module.graph.find_nodes(op="placeholder")]
    return [_random_tensor(value, generator) for value in values]


def _random_tensor(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return made.normal_(generator=generator) if like.is_floating_point() else made.random_(SIZE, generator=generator)


def random_plan(graph: KernelGraph, generator: random.Random) -> Plan:
    """Return a random linear extension of the dependences on two to four streams, with the events that it needs."""
    streams = generator.randint(2, 4)  # those that get no kernel count too
    order = _linear_extension(graph, generator)
    # A low chance to change streams gives long runs on one, as the planner's plans have.
    change, stream = generator.choice([0.2, 0.5, 1.0]), 0
    stream_of: dict[int, int] = {}
    movable = not all(kernel.allocates_output for kernel in graph.kernels)
    while len(stream_of) < len(order) or (movable and max(stream_of.values()) == 0):
        for kernel in order:
            if generator.random() < change:
                stream = generator.randrange(streams)
            stream_of[kernel] = 0 if graph.kernels[kernel].allocates_output else stream
    return plan_of(graph, order, stream_of)


def plan_of(graph: KernelGraph, order: Sequence[int], stream_of: Mapping[int, int]) -> Plan:
    """Return the kernels in this order on these streams, with the events that they need."""
    placements = tuple(Placement(k, graph.kernels[k].name, stream_of[k], 0.0, 0.0) for k in order)
    events = place_events(graph, order, stream_of)
    # So large a gain that no launch which the serial graph did not have can outweigh it.
    plan = Plan(graph.name, 1 + max(stream_of.values()), placements, events, 1e9, 1.0, 0.0, 0.0, ())
    check_plan(graph, plan)
    return plan


def _linear_extension(graph: KernelGraph, generator: random.Random) -> list[int]:
    waiting = [len(before) for before in graph.predecessors()]
    after = graph.successors()
    ready = [(generator.random(), k) for k, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, kernel = heapq.heappop(ready)
        order.append(kernel)
        for later in after[kernel]:
            waiting[later] -= 1
            if not waiting[later]:
                heapq.heappush(ready, (generator.random(), later))
    return order


@dataclasses.dataclass(frozen=True)
class Case:
    """One plan of one graph, with inputs and what the serial graph makes of them. The seeds give it again."""

    seed: int
    graph_seed: int
    reading: Reading = dataclasses.field(repr=False)
    plan: Plan = dataclasses.field(repr=False)
    inputs: Sequence[Any] = dataclasses.field(repr=False)
    expected: Result = dataclasses.field(repr=False)


def cases(graph_seed: int, plans: int) -> Iterator[Case]:
    """Yield random plans of one random graph, no two of them the same, so fewer if it has few; none if it stays serial."""
    reading = random_reading(graph_seed)
    if reading is None or len(reading.regions) < 2:
        return
    inputs = random_inputs(reading, graph_seed)
    expected = serial(reading, inputs)
    seen: set[Plan] = set()
    for seed in range(1000 * graph_seed, 1000 * graph_seed + plans):
        plan = random_plan(reading.kernels, random.Random(seed))
        if plan not in seen:
            seen.add(plan)
            yield Case(seed, graph_seed, reading, plan, inputs, expected)


def without_wait(plan: Plan, generator: random.Random, join: bool = False) -> Plan | None:
    """Return the plan without one wait of a kernel, or of the join; None if it has none."""
    waits = [(e, w) for e in plan.events for w in e.waits if (w.kernel == JOIN) == join]
    if not waits:
        return None
    event, dropped = generator.choice(waits)
    fewer = dataclasses.replace(event, waits=tuple(w for w in event.waits if w != dropped))
    return dataclasses.replace(plan, events=tuple(fewer if e is event else e for e in plan.events))


def without_lifetimes(module: fx.GraphModule) -> bool:
    """Take out what holds values for other streams; False if nothing does."""
    holds = [n for n in module.graph.find_nodes(op="call_function", target=control_deps) if n.name.startswith("lifetimes")]
    for node in reversed(holds):
        for user in list(node.users):  # a later operation of the stream, which still comes after the wait
            user.args = (tuple(dict.fromkeys([*(d for d in user.args[0] if d is not node), *node.args[0]])), *user.args[1:])
        module.graph.erase_node(node)
    module.recompile()
    return bool(holds)


def mutant(reading: Reading, plan: Plan, generator: random.Random) -> fx.GraphModule | None:
    """Return the rewritten graph with one thing missing: a wait, a part of the join, or the lifetimes. None if it has none."""
    kind = generator.choice(["wait", "join", "lifetimes"])
    if kind == "lifetimes":
        module = rewrite(reading, plan)
        return module if without_lifetimes(module) else None
    broken = without_wait(plan, generator, kind == "join")
    if broken is None:
        return None
    module = rewrite(reading, broken)
    if not any(wait.stream == 0 for event in broken.events for wait in event.waits):
        without_lifetimes(module)  # behind no wait at all, which Inductor does not lower
    return module


def serial(reading: Reading, inputs: Sequence[Any]) -> Result:
    """Return what the graph computes before it is rewritten."""
    return run_on_cpu(reading.module, inputs)


def same_bits(expected: Result, found: Result | None) -> bool:
    """Return whether an order gave what the serial graph gives."""
    return found is not None and all(equal_bits(one, other) for one, other in zip(expected, found, strict=True))


def differs(module: fx.GraphModule, case: Case, orders: Iterable[Choose]) -> bool:
    """Return whether one of the orders gives other bits. Only what the code surely does is taken to happen to memory."""
    enqueued = Enqueued(module, case.inputs, pessimistic=False)
    for choose in orders:
        try:
            if not same_bits(case.expected, enqueued.run(choose)):
                return True
        except Garbage:
            return True
    return False


@contextlib.contextmanager
def _as_on_gpu(reading: Reading) -> Iterator[None]:
    values = [node.meta["val"] for node in reading.module.graph.find_nodes(op="placeholder")]
    with offline(device_by_name("h200")), V.set_fake_mode(detect_fake_mode(values)), torch.no_grad():
        yield


def generated(reading: Reading, module: fx.GraphModule) -> Lowered:
    """Return the code on streams that Inductor generates for a rewritten graph."""
    with _as_on_gpu(reading):
        return streamed_code(module)


def proved(reading: Reading, plan: Plan, module: fx.GraphModule) -> Report:
    """Return the package's own verdict on the code for a rewritten graph, with the serial body beside the streamed one."""
    with _as_on_gpu(reading):
        serial, streamed = lower(copy_graph(reading.module), generate_code=True), streamed_code(module)
        outcome = finished(reading, module, plan, serial, streamed, Options(min_gain=0.0))
    return outcome.report
