"""Check what is declared of operators of other libraries, and what the plan makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.autotuning.serial_code import check_repeatable
from graphstreams.errors import OptionError, Unmeasurable
from graphstreams.inductor import exclusivity
from graphstreams.ir import declarations
from graphstreams.ir.declarations import parse, resources_of
from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_on_cpu
from tests.support.sample_modules import FREE_EVENTS

NAMESPACE = "graphstreams_declared"


@torch.library.custom_op(f"{NAMESPACE}::double", mutates_args={"out"})
def double(out: Tensor, x: Tensor) -> None:
    """Write twice `x` into `out`, as the norms and activations of serving engines write their outputs."""
    out.copy_(x * 2)


@torch.library.custom_op(f"{NAMESPACE}::clipped", mutates_args=())
def clipped(x: Tensor) -> Tensor:
    return x.clamp(min=0.0)


@clipped.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{NAMESPACE}::noisy", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def noisy(x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


@noisy.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declarations, "_of_authors", {})


class Branches(nn.Module):
    """Two branches of products, each with an operator of another library between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(256, 256, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        product = self.a(x)
        doubled = torch.empty_like(product)
        double(doubled, product)
        return self.c(doubled) + self.d(clipped(self.b(x)))


def report_of(**options: Any) -> Any:
    module = Branches().requires_grad_(False)
    return graphstreams.explain(module, (torch.randn(8, 256),), "h200", {**FREE_EVENTS, **options})


def exclusive(report: Any) -> set[str]:
    return {launch for k in report.kernels.kernels if k.exclusive for launch in k.launches if NAMESPACE in launch}


def test_undeclared_operators_hold_the_order_and_the_report_says_what_that_costs() -> None:
    report = report_of()
    assert len(exclusive(report)) == 2
    (note,) = [note for note in report.notes if "hold the order" in note]
    assert f"{NAMESPACE}::clipped, {NAMESPACE}::double" in note
    then, now = (float(part.split()[-1]) for part in (note.partition(" us are")[0], note))
    assert then < now == pytest.approx(report.plan.streamed_us, abs=0.06)


@pytest.mark.parametrize(
    "operators",
    [
        [f"{NAMESPACE}::double", f"{NAMESPACE}::clipped"],
        f"{NAMESPACE}::*",
        {f"{NAMESPACE}::d*": [], f"{NAMESPACE}::clipped": ()},
    ],
)
def test_pure_operators_are_ordinary_kernels(operators: Any) -> None:
    report = report_of(operators=operators)
    assert (report.verdict, report.reason) == ("clean", "")
    assert exclusive(report) == set() and report.notes == ()
    assert report.plan.streams > 1
    assert report.plan.streamed_us < report_of().plan.streamed_us


def test_pure_operators_on_streams_have_serial_bits() -> None:
    options = {**FREE_EVENTS, "operators": [f"{NAMESPACE}::*"]}
    assert equal_on_cpu(Branches().requires_grad_(False), (torch.randn(8, 256),), "h200", options) == [True]


def test_operators_of_one_resource_keep_their_order_only_among_each_other() -> None:
    both = report_of(operators={f"{NAMESPACE}::*": ["cache"]})
    own = report_of(operators={f"{NAMESPACE}::double": ["cache"], f"{NAMESPACE}::clipped": ["other"]})
    assert both.verdict == own.verdict == "clean"
    assert exclusive(both) == exclusive(own) == set()

    def ordered(report: Any) -> bool:
        first, second = (k.id for k in report.kernels.kernels if NAMESPACE in "".join(k.launches))
        return any((edge.before, edge.after) == (first, second) for edge in report.kernels.edges)

    assert ordered(both) and not ordered(own)


def test_what_touches_a_resource_is_not_repeated_to_measure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    (outcome,) = capture(
        Branches().requires_grad_(False), (torch.randn(8, 256),), "h200",
        {**FREE_EVENTS, "operators": {f"{NAMESPACE}::*": ["cache"]}},
    )  # fmt: skip
    with pytest.raises(Unmeasurable, match="touches the resource cache"):
        check_repeatable(outcome.reading)
    (outcome,) = capture(
        Branches().requires_grad_(False), (torch.randn(8, 256),), "h200", {**FREE_EVENTS, "operators": f"{NAMESPACE}::*"}
    )
    check_repeatable(outcome.reading)


@pytest.mark.parametrize("operator", [clipped, torch.ops.graphstreams_declared.clipped, f"{NAMESPACE}::clipped",
                                      torch.ops.graphstreams_declared.clipped.default])  # fmt: skip
def test_an_author_declares_an_operator(operator: Any) -> None:
    assert graphstreams.declare(operator) is operator
    assert resources_of(f"{NAMESPACE}::clipped", ()) == ()
    assert len(exclusive(report_of())) == 1


def test_the_users_word_comes_before_the_authors() -> None:
    graphstreams.declare(clipped, touches=["cache"])
    assert resources_of(f"{NAMESPACE}::clipped", ()) == ("cache",)
    assert resources_of(f"{NAMESPACE}::clipped", parse([f"{NAMESPACE}::*"])) == ()
    assert resources_of("_C::rms_norm", ()) == ()
    assert resources_of("_C::paged_attention_v1", ()) is None


def test_declarations_are_read_from_the_environment() -> None:
    environment = {"GRAPHSTREAMS_OPERATORS": "lib::norm, lib::attention*=cache+pages"}
    options = graphstreams.Options.from_dict({}, environment)
    assert options.operators == (("lib::norm", ()), ("lib::attention*", ("cache", "pages")))


@pytest.mark.parametrize("wrong", [3, ["norm"], [3], {"lib::norm": "cache"}, {"lib::norm": [1]}, {3: []}, "norm"])
def test_what_names_no_operator_is_an_error(wrong: Any) -> None:
    with pytest.raises(OptionError):
        graphstreams.Options(operators=wrong)


@pytest.mark.parametrize("wrong", [len, 3, "norm"])
def test_only_operators_can_be_declared(wrong: Any) -> None:
    with pytest.raises(OptionError):
        graphstreams.declare(wrong)


def test_what_draws_random_numbers_keeps_its_place_declared_or_not() -> None:
    class Noisy(Branches):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(noisy(self.a(x))) + self.d(clipped(self.b(x)))

    module = Noisy().requires_grad_(False)
    report = graphstreams.explain(module, (torch.randn(8, 256),), "h200", {**FREE_EVENTS, "operators": f"{NAMESPACE}::*"})
    (kept,) = (kernel for kernel in report.kernels.kernels if kernel.exclusive)
    assert "draws random numbers" in kept.exclusive_reason and kept.undeclared == ""


def test_no_pattern_declares_operators_of_torch() -> None:
    for name in ("_c10d_functional", "c10d", "symm_mem", "aten"):
        assert name in exclusivity._OWN
