"""Check foreach kernels on streams: the plan's stream, serial's launches and kernels, the proof, and the numbers on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphstreams.inductor.conformance import lowered_steps, planned_steps
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured
from tests.support.sample_modules import FREE_EVENTS, lowered_with_code, plan_by_hand, rewritten_by_hand

SIZE = 64
Forward = Callable[..., Any]


class Arms(nn.Module):
    """Four projections, and a forward pass that is a function of them and the inputs."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function
        for name in "abcd":
            setattr(self, name, nn.Linear(SIZE, SIZE, bias=False))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def _scalar(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_add([m.a(x), m.b(y)], 1)
    return m.c(left), m.d(right)


def _lists(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_add([m.a(x), m.b(y)], [y, x], alpha=2)
    return m.c(left), m.d(right)


def _one_number_each(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_mul([m.a(x), m.b(y)], [2.0, 3.0])
    return m.c(left), m.d(right)


def _lerp(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_lerp([m.a(x), m.b(x)], [m.c(y), m.d(y)], [x, y])
    return left @ left, right @ right


def _one_behind_another(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_sqrt(torch._foreach_abs(torch._foreach_add([m.a(x), m.b(y)], [y, x])))
    return m.c(left), m.d(right)


def _sizes(m: Any, x: Tensor, y: Tensor) -> Any:
    p, q = m.a(x), m.b(y)
    left, right, *others = torch._foreach_add([p, q, p[:, :7], p.t()], [x, y, y[:, :7], y])
    return m.c(left), m.d(right), *others


def _many(m: Any, x: Tensor, y: Tensor) -> Any:
    p, q = m.a(x), m.b(y)
    rows = torch._foreach_add([*p.unbind(0), *q.unbind(0)], [*y.unbind(0), *x.unbind(0)])
    return m.c(rows[0][None]), m.d(rows[-1][None]), rows[1:-1]


def _addcmul(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_addcmul([m.a(x), m.b(y)], [x, y], [y, x], 0.5)
    return m.c(left), m.d(right)


def _side_by_side(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_add([m.a(x), m.b(x)], [x, x])
    one, other = torch._foreach_mul([m.c(y), m.d(y)], [y, y])
    return left @ right, one @ other


def _joined(m: Any, x: Tensor, y: Tensor) -> Any:
    left, right = torch._foreach_add([m.a(x), m.b(x)], [x, y])
    one, other = torch._foreach_mul([m.c(y), m.d(y)], [x, y])
    return left @ right, one @ other


def _in_place(m: Any, x: Tensor, y: Tensor) -> Any:
    torch._foreach_add_([x, y], [m.a(x), m.b(y)])
    return m.c(x), m.d(y)


def _in_place_crossed(m: Any, x: Tensor, y: Tensor) -> Any:
    p = m.a(x)
    torch._foreach_add_([x, y], [y, x])
    return m.c(p), m.d(y)


FORWARDS: dict[str, tuple[Forward, int]] = {  # and how many launches the foreach operators take
    "scalar": (_scalar, 1),
    "lists": (_lists, 1),
    "one_number_each": (_one_number_each, 1),
    "lerp": (_lerp, 1),
    "one_behind_another": (_one_behind_another, 1),
    "sizes": (_sizes, 2),  # a part that is read transposed has two dimensions
    "many": (_many, 2),  # 2 * 64 rows with three pointers each; a launch takes 250
    "addcmul": (_addcmul, 1),
    "side_by_side": (_side_by_side, 2),
    "joined": (_joined, 1),  # by Inductor, because they read the same values
    "in_place": (_in_place, 1),
    "in_place_crossed": (_in_place_crossed, 1),
}
# Inductor calls the operator, and then reuses memory whose layout its wrapper does not tell.
OPERATOR = ("one_number_each", "lerp")
SEVERAL = ("sizes", "many")


@functools.cache
def arms(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Arms(FORWARDS[name][0]), (torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE))


@functools.cache
def captured(name: str) -> GraphCompilation:
    (outcome,) = capture(*arms(name), "h200", FREE_EVENTS)
    return outcome


def foreach_kernels(outcome: GraphCompilation) -> list[int]:
    assert outcome.reading is not None
    return [kernel.id for kernel in outcome.reading.kernels.kernels if "foreach" in "".join((*kernel.launches, kernel.name))]


@pytest.mark.parametrize("name", FORWARDS)
def test_a_foreach_kernel_is_planned_as_any_other(name: str) -> None:
    outcome = captured(name)
    report = outcome.report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.plan is not None and report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    assert report.differences == () or name in OPERATOR
    assert outcome.reading is not None
    launches = [len(outcome.reading.kernels.kernels[kernel].launches) for kernel in foreach_kernels(outcome)]
    assert sum(launches) == FORWARDS[name][1]


@pytest.mark.parametrize("name", FORWARDS)
def test_it_computes_what_it_computes_serially(name: str) -> None:
    assert equal_as_captured(*arms(name), [captured(name)]) == [True]


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("name", FORWARDS)
def test_it_is_clean_on_every_stream(name: str, stream: int) -> None:
    """Whatever is before and behind it runs on two other streams in turns."""
    reading = captured(name).reading
    assert reading is not None
    foreach, others = foreach_kernels(captured(name)), [each for each in range(3) if each != stream]
    count = len(reading.kernels.kernels)
    on_caller = {kernel.id for kernel in reading.kernels.kernels if kernel.on_caller}
    streams = {kernel: stream if kernel in foreach else others[kernel % 2] for kernel in range(count)}
    plan = plan_by_hand(reading.kernels, range(count), streams | dict.fromkeys(on_caller, 0))
    module, outcome = rewritten_by_hand(reading, plan)
    assert (outcome.report.verdict, outcome.report.reason) == ("clean", "")
    assert outcome.report.kernels_streamed == outcome.report.kernels_serial
    lowered = lowered_with_code(module)
    with lowered.active():
        assert lowered_steps(lowered) == planned_steps(plan, reading.kernels)


def test_independent_foreach_kernels_run_on_two_streams() -> None:
    outcome = captured("side_by_side")
    plan = outcome.report.plan
    assert plan is not None
    streams = {plan.stream_of()[kernel] for kernel in foreach_kernels(outcome)}
    assert len(streams) == 2


@pytest.mark.parametrize("name", SEVERAL)
def test_a_foreach_kernel_of_several_launches_is_one_unit_and_the_report_says_why(name: str) -> None:
    (note,) = captured(name).report.notes[:1]
    assert "_foreach_add" in note
    assert "is a unit of 2 launches: one foreach operator has parts that need kernels of their own" in note
