"""Check rewritten graphs: serial's bits and launches, the plan's order, no races, and values that live long enough.

Graphs run on the CPU, in FX; wrappers are generated for an H200 and checked as text.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._inductor.fx_passes.control_dependencies import control_deps

from graphstreams.benchmark.bits import equal_bits
from graphstreams.errors import RewriteError
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import JOIN, Plan
from graphstreams.pipeline.explain import capture
from graphstreams.rewriting import regions
from graphstreams.rewriting.regions import KERNEL, rewrite
from graphstreams.testing.cpu_execution import run_on_cpu
from graphstreams.testing.equal_on_cpu import equal_on_cpu
from tests.support.sample_modules import (
    FREE_EVENTS,
    STREAMABLE,
    captured,
    graph_inputs,
    kernels_of,
    module_and_inputs,
    plan_by_hand,
    reading_of,
    rewritten_by_hand,
    streamed_text,
)

ON_STREAMS = STREAMABLE
BY_HAND = ["concatenation", "custom_mutation", "diamond", "norms", "ring", "swap", "topk", "two_writes", "write_after_read"]


def same_numbers(reading, module, inputs):
    """Return whether both graphs give the same outputs and leave the inputs the same."""
    serial, streamed = (run_on_cpu(m, inputs) for m in (reading.module, module))
    return all(equal_bits(one, other) for one, other in zip(serial, streamed, strict=True))


@dataclass
class Memory:
    """One allocation of a wrapper: the stream that made it, its names, and the lines that matter."""

    stream: str
    names: set[str] = field(default_factory=set)
    used: dict[str, int] = field(default_factory=dict)  # stream -> the last line on it that touches the memory
    deleted: dict[str, bool] = field(default_factory=dict)  # name -> whether it may be freed where the name is dropped

    def freed_early(self) -> bool:
        """Return whether the memory goes before it may; never if the caller gets a name of it."""
        return self.names <= set(self.deleted) and not list(self.deleted.values())[-1]


class Clocks:
    """What each stream knows of the others: the last line of each that was enqueued before something it has waited for."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, int]] = {}
        self.recorded: dict[str, dict[str, int]] = {}

    def read(self, text: str, number: int) -> None:
        if not (event := re.match(r"(event\d+)\.(record|wait)\((\w+)\)", text)):
            return
        name, what, stream = event.groups()
        known = self.known.setdefault(stream, {})
        if what == "record":
            self.recorded[name] = {**known, stream: number}
        else:
            known.update({s: max(line, known.get(s, 0)) for s, line in self.recorded[name].items() if s != stream})

    def behind(self, stream: str, used: dict[str, int]) -> bool:
        """Return whether a stream has waited for all of these lines of other streams."""
        return all(self.known.get(stream, {}).get(s, 0) >= line for s, line in used.items() if s != stream)


def freed_too_early(wrapper: str) -> list[str]:
    """Return what is freed before its stream, or the caller's at the join, has waited for the others that touch it.

    From the text alone: inputs belong to the caller's stream, and views and reuse share memory.
    """
    memory: dict[str, Memory] = {}
    clocks = Clocks()
    body = streamed_text(wrapper).partition("\ndef call_on_streams")[2].splitlines()
    join = max((number for number, line in enumerate(body) if ".wait(default_stream)" in line), default=0)
    stream = "default_stream"
    for number, line in enumerate(body):
        text = line.strip().split("#")[0].strip()
        if text and len(line) - len(line.lstrip()) <= 12:  # within the device guard and what joins on an error
            entered = re.match(r"with (stream\d+):", text)
            stream = entered[1] if entered else "default_stream"
        clocks.read(text, number)
        if not text.startswith(("assert", "return", "args", "with")):
            _read_line(text, number, stream, memory, lambda m, at=number: at > join or clocks.behind(m.stream, m.used))
    return sorted(name for name, m in memory.items() if m.freed_early())


def _read_line(text: str, number: int, stream: str, memory: dict[str, Memory], may_go: Callable[[Memory], bool]) -> None:
    names = re.findall(r"\b(?:buf\d+|arg\d+_1)\b", text)
    made = re.match(r"(buf\d+) = (?:reinterpret_tensor\()?(buf\d+|arg\d+_1)?\b", text)
    if text.endswith("= args"):
        memory.update({name: Memory("default_stream", {name}) for name in names})
    elif text.startswith("del "):
        for name in names:
            memory[name].deleted[name] = may_go(memory[name])
    elif made:
        memory[made[1]] = memory[made[2]] if made[2] else Memory(stream)
        memory[made[1]].names.add(made[1])
        for name in set(names) - {made[1], made[2]}:
            memory[name].used[stream] = number
        if "; del " in text:
            memory[names[-1]].deleted[names[-1]] = may_go(memory[names[-1]])
    else:
        for name in names:
            memory[name].used[stream] = number


@pytest.mark.parametrize("sample", ON_STREAMS)
def test_the_plan_is_used_and_proved(sample):
    report = captured(sample).report
    assert report.verdict == "clean", f"{report.stage}: {report.reason}"
    assert report.order_kept is True
    assert report.races == ()


@pytest.mark.parametrize("sample", ON_STREAMS)
def test_the_rewritten_graph_launches_the_same_number_of_kernels(sample):
    report = captured(sample).report
    assert report.kernels_streamed == report.kernels_serial > 0


@pytest.mark.parametrize("sample", ON_STREAMS)
def test_the_rewritten_graph_has_the_serial_graphs_bits(sample):
    module, inputs = module_and_inputs(sample)
    assert equal_on_cpu(copy.deepcopy(module), inputs, "h200", FREE_EVENTS) == [True]


@pytest.mark.parametrize("sample", ["ring", "swap", "two_writes", "write_after_read", "view_of_written_base", "buffer_write"])
def test_inputs_are_written_as_before(sample):
    inputs = graph_inputs(sample)
    _, serial = run_on_cpu(reading_of(sample).module, inputs)
    _, streamed = run_on_cpu(captured(sample).module, inputs)
    assert not equal_bits(serial, inputs)
    assert equal_bits(streamed, serial)


@pytest.mark.parametrize("sample", ON_STREAMS)
def test_what_two_streams_touch_is_freed_behind_the_last_use(sample):
    assert freed_too_early(captured(sample).report.wrapper) == []


@pytest.mark.parametrize("sample", ["norms", "three_arms", "diamond"])
def test_the_check_of_lifetimes_sees_an_early_free(sample, monkeypatch):
    reading = reading_of(sample)
    plan = plan_by_hand(reading.kernels, range(len(reading.kernels.kernels)), {k.id: k.id % 2 for k in reading.kernels.kernels})
    assert freed_too_early(rewritten_by_hand(reading, plan)[1].report.wrapper) == []
    monkeypatch.setattr(regions, "held_values", lambda *_: {})
    assert freed_too_early(rewritten_by_hand(reading, plan)[1].report.wrapper) != []


@pytest.mark.parametrize("sample", ["diamond", "write_after_read", "topk"])
def test_each_region_is_on_the_plans_stream(sample):
    outcome = captured(sample)
    stream_of = outcome.report.plan.stream_of()
    passed_on = set().union(*(n.users for n in outcome.module.graph.nodes if n.target is control_deps))
    regions = [n for n in outcome.module.graph.nodes if KERNEL in n.meta and n not in passed_on]
    assert {n.meta[KERNEL] for n in regions} == set(stream_of)
    assert all(n.meta.get("custom", {}).get("stream", 0) == stream_of[n.meta[KERNEL]] for n in regions)


@pytest.mark.parametrize("sample", ["diamond", "write_after_read", "topk"])
def test_each_record_and_wait_of_the_plan_is_in_the_graph(sample):
    outcome = captured(sample)
    names = [n.name for n in outcome.module.graph.nodes]
    events = outcome.report.plan.events
    assert sum(name.startswith("record_event") for name in names) == len(events)
    assert sum(name.startswith("wait_event") for name in names) == sum(len(e.waits) for e in events)


def test_rewriting_changes_no_graph_that_it_reads():
    reading = reading_of("diamond")
    before = str(reading.module.graph)
    rewrite(reading, captured("diamond").report.plan)
    assert str(reading.module.graph) == before


def test_a_plan_for_other_kernels_is_refused():
    with pytest.raises(RewriteError, match="other kernels"):
        rewrite(reading_of("three_arms"), captured("diamond").report.plan)


def alternating(graph: KernelGraph, streams: int) -> Plan:
    """Kernel i on stream i modulo `streams`, in program order."""
    order = range(len(graph.kernels))
    return plan_by_hand(graph, order, {k: k % streams for k in order})


def check(sample: str, plan: Plan) -> None:
    reading = reading_of(sample)
    module, outcome = rewritten_by_hand(reading, plan)
    report = outcome.report
    assert report.verdict == "clean", f"{report.stage}: {report.reason}"
    assert report.order_kept and not report.races
    assert report.kernels_streamed == reading.launches
    assert freed_too_early(report.wrapper) == []
    assert same_numbers(reading, module, graph_inputs(sample))


@pytest.mark.parametrize("streams", [2, 3])
@pytest.mark.parametrize("sample", BY_HAND)
def test_kernels_that_alternate_over_streams(sample, streams):
    check(sample, alternating(kernels_of(sample), streams))


@pytest.mark.parametrize("sample", ["diamond", "two_writes"])
def test_all_kernels_off_the_callers_stream(sample):
    graph = kernels_of(sample)
    plan = plan_by_hand(graph, range(len(graph.kernels)), dict.fromkeys(range(len(graph.kernels)), 1))
    assert {w.kernel for e in plan.events for w in e.waits} >= {JOIN}
    check(sample, plan)


def test_a_product_of_values_that_an_earlier_kernel_made_is_not_taken_for_that_kernel():
    graph = kernels_of("norms")
    streams = {k.id: int(k.name == "wb") for k in graph.kernels}
    check("norms", plan_by_hand(graph, range(len(graph.kernels)), streams))


@st.composite
def plans(draw, sample: str) -> Plan:
    """Return random streams, at least two, in a random topological order."""
    graph = kernels_of(sample)
    count = len(graph.kernels)
    waiting = [set(p) for p in graph.predecessors()]
    order: list[int] = []
    while len(order) < count:
        ready = [k for k in range(count) if k not in order and waiting[k] <= set(order)]
        order.append(draw(st.sampled_from(ready)))
    streams = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count).filter(any))
    used = {s: i for i, s in enumerate(sorted({0, *streams}))}
    return plan_by_hand(graph, order, {k: used[s] for k, s in enumerate(streams)})


@pytest.mark.parametrize("sample", ["norms", "swap", "topk", "two_writes"])
def test_random_plans_keep_bits_launches_order_and_lifetimes(sample):
    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(plans(sample))
    def holds(plan):
        check(sample, plan)

    holds()


def test_a_constant_of_the_graph_is_in_the_rewritten_module():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wa, self.wb = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))

        def forward(self, x):
            scale = torch.tensor([2.0, 3.0]).repeat(32).to(x.device)
            return self.wa(x).sin() @ self.wa.weight, self.wb(x).cos() * scale

    (outcome,) = capture(Scaled(), (torch.empty(4, 64),), "h200", {"min_gain": 0.0, "event_us": 0.0})
    assert outcome.report.verdict == "clean", outcome.report.reason
