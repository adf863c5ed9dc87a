"""Check the executor on graphs whose races are known: right plans give serial's bits, and whatever is left out shows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import fx

from graphstreams.ir.plan import JOIN, Plan
from graphstreams.ir.reading import Reading
from graphstreams.rewriting.regions import rewrite
from tests.support import random_graphs as graphs
from tests.support.interleaving import execute, interleavings

ORDERS = 40


class Fan(torch.nn.Module):
    """Kernels 0 and 1 are independent, 2 reads both, 3 reads 2."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = x @ y, y @ x
        c = a @ b
        return c, c @ c


class Lives(torch.nn.Module):
    """Kernel 0 makes what 1 reads last; 2 and 3 allocate afterwards."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = x @ x
        return a @ x, y @ y, y @ y.t()


class Mutates(torch.nn.Module):
    """Kernel 0 reads the cache, kernel 1 writes it, kernel 2 reads it again."""

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = x @ cache
        cache.mul_(x)
        return before, x @ cache


@functools.cache
def reading(kind: type[torch.nn.Module], launches: int) -> Reading:
    found = graphs.read_module(kind(), (torch.empty(8, 8), torch.empty(8, 8)))
    assert found is not None and len(found.regions) == launches
    return found


def shows(of: Reading, module: fx.GraphModule) -> bool:
    """Return whether some order gives other bits than the serial graph."""
    inputs = graphs.random_inputs(of, 0)
    expected = graphs.serial(of, inputs)
    return not all(graphs.same_bits(expected, found) for found in interleavings(module, inputs, ORDERS))


def placed(of: Reading, streams: Sequence[int]) -> Plan:
    return graphs.plan_of(of.kernels, range(len(streams)), dict(enumerate(streams)))


def dropped(plan: Plan, kernel: int) -> Plan:
    """Return the plan without the waits of one kernel, or of the join."""
    events = (dataclasses.replace(e, waits=tuple(w for w in e.waits if w.kernel != kernel)) for e in plan.events)
    broken = dataclasses.replace(plan, events=tuple(events))
    assert broken != plan
    return broken


CASES: Mapping[type[torch.nn.Module], tuple[int, Sequence[Sequence[int]]]] = {
    Fan: (4, [(0, 1, 0, 0), (1, 2, 0, 1), (1, 1, 2, 3), (0, 0, 0, 0)]),
    Lives: (4, [(0, 1, 0, 0), (1, 0, 1, 1), (1, 2, 1, 0), (2, 2, 1, 1)]),
    Mutates: (3, [(0, 1, 0), (1, 0, 1), (1, 0, 2), (2, 1, 0)]),
}


@pytest.mark.parametrize(("kind", "streams"), [(kind, streams) for kind, (_, plans) in CASES.items() for streams in plans])
def test_every_order_of_a_right_plan_gives_serial_bits(kind: type[torch.nn.Module], streams: Sequence[int]) -> None:
    of = reading(kind, CASES[kind][0])
    assert not shows(of, rewrite(of, placed(of, streams)))


@pytest.mark.parametrize(
    ("kind", "streams", "kernel"),
    [
        (Fan, (0, 1, 0, 0), 2),
        (Fan, (0, 1, 0, 0), 1),
        (Fan, (1, 2, 0, 1), 2),
        (Fan, (1, 1, 2, 3), 3),
        (Mutates, (0, 1, 0), 1),
        (Mutates, (0, 1, 0), 2),
        (Mutates, (1, 0, 2), 1),
    ],
)
def test_a_missing_wait_shows(kind: type[torch.nn.Module], streams: Sequence[int], kernel: int) -> None:
    of = reading(kind, CASES[kind][0])
    assert shows(of, rewrite(of, dropped(placed(of, streams), kernel)))


@pytest.mark.parametrize(("kind", "streams"), [(Fan, (1, 1, 2, 3)), (Lives, (1, 0, 1, 1)), (Mutates, (0, 1, 1))])
def test_a_missing_join_shows(kind: type[torch.nn.Module], streams: Sequence[int]) -> None:
    of = reading(kind, CASES[kind][0])
    assert shows(of, rewrite(of, dropped(placed(of, streams), JOIN)))


@pytest.mark.parametrize("streams", [(0, 1, 0, 0), (1, 0, 1, 1), (0, 1, 2, 0)])
def test_a_missing_lifetime_shows(streams: Sequence[int]) -> None:
    of = reading(Lives, 4)
    module = rewrite(of, placed(of, streams))
    assert graphs.without_lifetimes(module)
    assert shows(of, module)


def test_a_missing_lifetime_of_an_input_shows() -> None:
    """The caller's last use of x is enqueued before kernel 2 allocates; kernel 1 reads x on another stream."""
    of = reading(Lives, 4)
    module = rewrite(of, graphs.plan_of(of.kernels, [0, 1, 2, 3], {0: 1, 1: 1, 2: 0, 3: 0}))
    assert graphs.without_lifetimes(module)
    assert shows(of, module)


def test_choices_are_followed() -> None:
    """Without its wait, kernel 2 is right if the other stream runs first, and wrong if its own does."""
    of = reading(Fan, 4)
    module = rewrite(of, dropped(placed(of, (0, 1, 0, 0)), 2))
    inputs = graphs.random_inputs(of, 0)
    expected = graphs.serial(of, inputs)
    assert graphs.same_bits(expected, execute(module, inputs, max))
    assert not graphs.same_bits(expected, execute(module, inputs, min))


def test_inputs_are_left_alone() -> None:
    of = reading(Mutates, 3)
    inputs = graphs.random_inputs(of, 0)
    before = [value.clone() for value in inputs]
    _, after = execute(rewrite(of, placed(of, (0, 1, 0))), inputs, max)
    assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(inputs, after, strict=True))
