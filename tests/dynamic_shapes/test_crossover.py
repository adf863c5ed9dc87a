"""Check the number of tokens of real graphs, and for how many of them their plans gain."""

from dataclasses import astuple, replace

import pytest
import sympy
import torch
from torch._inductor import compile_fx as inductor

from graphstreams import Options
from graphstreams.costs import footprint
from graphstreams.costs.footprint import footprints
from graphstreams.costs.roofline import Roofline
from graphstreams.dynamic_shapes import cost_curves
from graphstreams.dynamic_shapes.crossover import (
    CostsBySize,
    Tokens,
    costs_by_size,
    dynamic_tokens,
    plan_for_fewer,
    token_count,
)
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Kernel, KernelGraph
from graphstreams.pipeline.explain import capture
from graphstreams.planning import simulator
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.paths import Timing, timed
from graphstreams.planning.simulator import simulate
from tests.support.sample_modules import captured

H200 = DEVICES["h200"]
ROWS = 40  # of the sample "sized"


def costs(example=ROWS, **changes):
    reading = captured("sized", dynamic=True).reading
    tokens = replace(dynamic_tokens(reading.module), example=example)
    kernels = replace(reading.kernels, sizes={str(tokens.size): example})
    return replace(costs_by_size(tokens, kernels, Roofline(H200).price(kernels), H200, 0.0), **changes)


def alone(example=ROWS, event_us=0.0, **changes):
    """Return the same if kernels side by side cost what they cost alone, so that plans of a list schedule are what they say."""
    each = costs(example, **changes)
    predecessors = each.kernels.predecessors()
    return replace(each, simulate=lambda assignment, us, size: timed(assignment, predecessors, us, event_us))


def plan_of(each: CostsBySize, event_us=0.0):
    return plan_kernels(each.kernels, each.times.at(each.tokens.example), 3, event_us)


def plan_at(kernels, us):
    return plan_kernels(kernels, us, 2, 0.0)


def test_the_tokens_of_a_dynamic_graph():
    tokens = dynamic_tokens(captured("sized", dynamic=True).reading.module)
    assert tokens.size.is_Symbol and tokens.example == ROWS
    assert tokens.limits == (2, 2**16)


class FixedFirst(torch.nn.Module):
    """A product of one row, then one of as many as the call has, as a model of images has for its step and its tokens."""

    def __init__(self):
        super().__init__()
        self.step, self.one, self.other = (torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, step, x):
        return self.one(x) + self.step(step), self.other(x)


class Images(torch.nn.Module):
    """Convolutions alone."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (torch.nn.Conv2d(3, 8, 3) for _ in range(2))

    def forward(self, x):
        return self.one(x), self.other(x)


@pytest.mark.parametrize(("module", "shapes", "count"), [
    (FixedFirst, [(1, 64), (40, 64)], 40),
    (Images, [(6, 3, 16, 16)], 6),
])  # fmt: skip
def test_a_size_is_found_behind_products_of_fixed_rows_and_without_any_product(module, shapes, count):
    values = [torch.randn(shape) for shape in shapes]
    torch._dynamo.mark_dynamic(values[-1], 0)
    options = {"min_gain": 0.0, "event_us": 0.0, "costs": "roofline"}
    (found,) = capture(module().requires_grad_(False), values, "h200", options)
    tokens = dynamic_tokens(found.reading.module)
    assert tokens.size.is_Symbol and tokens.example == count
    assert found.report.threshold.symbol == str(tokens.size)


def test_a_static_graph_has_no_dynamic_tokens():
    assert dynamic_tokens(captured("diamond").reading.module) is None


def test_asking_for_the_tokens_adds_no_guard():
    module = captured("sized", dynamic=True).reading.module
    shape_env = token_count(module).node.shape_env
    before = list(shape_env.guards)
    dynamic_tokens(module)
    assert list(shape_env.guards) == before


def test_limits_that_the_model_gives_are_kept():
    seen = []

    def backend(gm, example_inputs):
        def inner(graph, inputs, **_):
            seen.append(dynamic_tokens(graph))
            return inductor.compile_fx_inner(graph, inputs, **_)

        return inductor.compile_fx(gm, example_inputs, inner_compile=inner)

    x = torch.randn(16, 8)
    torch._dynamo.mark_dynamic(x, 0, min=8, max=64)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(lambda x: x @ x.new_ones(8, 8), backend=backend)(x)
    assert [(tokens.example, tokens.limits) for tokens in seen] == [(16, (8, 64))]


def test_at_the_example_the_curve_is_the_plan():
    each = alone()
    plan = plan_of(each)
    found = each.threshold(plan, Options(min_gain=0.0))
    curve = {size: (serial, streamed) for size, serial, streamed in found.curve}
    assert curve[ROWS] == (pytest.approx(plan.serial_us), pytest.approx(plan.streamed_us))
    assert found.largest is None


def test_the_user_decides():
    each = costs()
    found = each.threshold(plan_of(each), Options(max_tokens=7))
    assert (found.largest, found.reason) == (7, "max_tokens=7")


def test_a_gain_that_was_measured_corrects_the_prediction():
    each = costs()
    plan = plan_of(each)
    _, serial, streamed = each.curves(plan).at(ROWS)
    predicted = 1 - streamed / serial
    assert each.corrected(plan, predicted).slowdown == pytest.approx(1)
    assert each.corrected(plan, None) is each
    curve = each.corrected(plan, 0.1).threshold(plan, Options(min_gain=0.0)).curve
    serial, streamed = next(point[1:] for point in curve if point[0] == ROWS)
    assert 1 - streamed / serial == pytest.approx(0.1)


def test_times_that_were_measured_are_kept_at_the_example():
    each = costs()
    us = [10.0 + i for i in range(len(each.kernels.kernels))]
    assert costs_by_size(each.tokens, each.kernels, us, H200).times.at(ROWS) == pytest.approx(us)


def test_fewer_tokens_where_the_example_has_too_many():
    each = alone(example=2**14)
    found = plan_for_fewer(each, Options(min_gain=0.0), 0.0, plan_at)
    assert found.costs.tokens.example == 2**13
    assert found.costs.tokens.limits == (2, 2**14 - 1)
    assert found.us == tuple(each.times.at(2**13))
    assert found.plan == plan_at(each.kernels, found.us)
    threshold = found.costs.threshold(found.plan, Options(min_gain=0.0))
    assert threshold.largest == 2**14 - 1
    assert threshold.reason.endswith(f": {2**14} gain less")


def test_fewer_tokens_are_those_that_the_user_allows():
    asked = []

    def watched(kernels, us):
        asked.append(list(kernels.sizes.values()))
        return plan_at(kernels, us)

    found = plan_for_fewer(alone(), Options(min_gain=0.0, max_tokens=5), 0.0, watched)
    assert found.costs.tokens.example == 5
    assert asked == [[5]]


@pytest.mark.parametrize("options", [Options(min_gain=0.99), Options(min_gain=0.99, max_tokens=5), Options(max_tokens=1)])
def test_no_number_of_tokens_gains(options):
    assert plan_for_fewer(alone(), options, 0.0, plan_at) is None


def test_what_serial_code_joins_counts_where_fewer_tokens_are_looked_for():
    each = alone(example=2**14)
    every = (frozenset(kernel.id for kernel in each.kernels.kernels),)  # one launch of all, as long as the longest
    joined = replace(each, joined=every)
    plan = plan_of(each)
    (size, serial, streamed), with_joins = each.curves(plan).at(64), joined.curves(plan).at(64)
    longest, total = max(each.times.at(64)), sum(each.times.at(64))
    assert with_joins == (size, pytest.approx(serial - total + longest), streamed)
    assert plan_for_fewer(joined, Options(min_gain=0.0), 0.0, plan_at) is None


def test_a_slowdown_counts_where_fewer_tokens_are_looked_for():
    assert plan_for_fewer(alone(slowdown=10.0), Options(), 0.0, plan_at) is None


def test_kernels_that_share_the_gpu_gain_less_the_more_tokens_there_are():
    crowded = costs()
    plan = plan_of(crowded)
    free, shared = (each.curves(plan) for each in (alone(), crowded))
    for rows in (2, ROWS, 2**12, 2**20):
        (_, serial, streamed), (_, same, longer) = free.at(rows), shared.at(rows)
        assert same == serial and longer >= streamed - 1e-9
    gains = [1 - shared.at(rows)[2] / shared.at(rows)[1] for rows in (ROWS, 2**20)]
    assert gains[0] > gains[1]
    corrected = crowded.corrected(plan, 0.1)
    assert 1 - corrected.curves(plan).at(ROWS)[2] / corrected.curves(plan).at(ROWS)[1] == pytest.approx(0.1)


def test_waits_can_cost_more_than_few_tokens_gain():
    # 5 us a wait: two products of 2 ** 16 rows gain side by side; at 6.9 us each they do not.
    each = alone(example=2**16, event_us=5.0)
    found = each.threshold(plan_of(each, event_us=5.0), Options(min_gain=0.02))
    assert found.largest is None and found.smallest > 64


def test_times_at_other_sizes_are_those_of_the_roofline():
    each = costs()
    for rows in (2, ROWS, 2**12):
        there = replace(each.kernels, sizes=each.times.sizes(rows))
        assert each.times.at(rows) == pytest.approx(Roofline(H200).price(there))


def test_simulated_kernels_take_what_they_take_at_each_size(monkeypatch):
    each = costs()
    plan, taken = plan_of(each), []
    monkeypatch.setattr(simulator, "simulate", lambda *arguments, **_: taken.append(arguments[3]) or Timing([], [], 1.0))
    for rows in (2, ROWS, 2**12, 2**20):
        each.curves(plan).at(rows)
        there = replace(each.kernels, sizes=each.times.sizes(rows))
        expected = footprints(there, each.times.at(rows), H200)
        # The last field, launches, is nested, which approx does not take.
        assert [astuple(one)[:-1] for one in taken[-1]] == [pytest.approx(astuple(one)[:-1]) for one in expected]
        assert [one.launches for one in taken[-1]] == [one.launches for one in expected]


def test_a_threshold_of_many_kernels_takes_few_simulations_and_puts_no_size_into_an_expression(monkeypatch):
    rows = sympy.Symbol("s0", integer=True, positive=True)
    kernels = []
    for i, width in enumerate(range(1000, 2000, 10)):
        reads, writes = (Access("x", 2048 * rows), Access(f"w{i}", 2048 * width)), (Access(f"y{i}", 2 * width * rows),)
        kernels.append(Kernel(i, f"k{i}", "gemm", (), (), reads, writes, 2048 * width * rows, "bfloat16"))
    graph, simulated = KernelGraph("g", tuple(kernels), (), {"s0": 4}), []

    def counted(*arguments, **named):
        simulated.append(arguments)
        return simulate(*arguments, **named)

    def refused(*_):
        raise AssertionError("to put sizes into expressions takes long")

    monkeypatch.setattr(simulator, "simulate", counted)
    us = Roofline(H200).price(graph)
    each = costs_by_size(Tokens(rows, 4, (2, 2**16)), graph, us, H200)
    monkeypatch.setattr(footprint, "value_of", refused)
    monkeypatch.setattr(cost_curves, "_substituted", refused)
    found = each.threshold(plan_of(each), Options(min_gain=0.1))
    powers, edges = 16, 2 * 16
    assert len(simulated) <= powers + 1 + edges
    assert len(found.curve) >= powers
