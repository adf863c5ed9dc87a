"""Check prefetches in whole graphs: which weights get one, from when on, and that the launches survive and are planned."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._inductor import config

from graphstreams.inductor.prefetch import Behind, PrefetchPass, Rule, place, wanted_by
from graphstreams.kernels.prefetch import Prefetch
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS

FORM = Prefetch("load", programs=4, warps=4, step=1024)
WIDTH, WEIGHT = 512, 512 * 512 * 2  # bytes of a weight


class Layer(nn.Module):
    """A product, a long chain with a top-k, then another product. It returns places for prefetches, too."""

    def __init__(self, places: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.small = (
            nn.Linear(WIDTH, WIDTH, False),
            nn.Linear(WIDTH, WIDTH, False),
            nn.Linear(WIDTH, 8),
        )
        self.places = places
        self.to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        scores = self.first(x).float().sin()
        values = scores.topk(256, dim=-1, sorted=False).values.softmax(-1)
        y = self.second(torch.cat([values, values.cos()], -1).bfloat16())
        return self.small(y), [place(FORM, x.device) for _ in range(self.places)]


def rule(behind: Behind = "product", least: int = WEIGHT) -> Rule:
    return Rule(FORM, WEIGHT, least, behind)


@functools.cache
def compiled(behind: Behind | None = "product", places: int = 4) -> GraphCompilation:
    """Return what becomes of a layer with prefetches; without them for None."""
    given = PrefetchPass(None if behind is None else rule(behind))
    with torch.no_grad(), config.patch(post_grad_custom_post_pass=given):
        (found,) = capture(Layer(places), (torch.empty(2, WIDTH, dtype=torch.bfloat16),), "h200", FREE_EVENTS)
    return found


@functools.cache
def graph() -> fx.Graph:
    """Return the post-grad graph of a layer without prefetches."""
    seen: list[fx.Graph] = []

    class Kept(PrefetchPass):
        def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
            kept = fx.Graph()
            kept.output(kept.graph_copy(graph, {}))  # type: ignore[arg-type]
            seen.append(kept)

    with torch.no_grad(), config.patch(post_grad_custom_post_pass=Kept(None)):
        capture(Layer(), (torch.empty(2, WIDTH, dtype=torch.bfloat16),), "h200", FREE_EVENTS)
    return seen[0]


def kernels(found: GraphCompilation) -> dict[str, Any]:
    assert found.reading is not None
    return {each.name: each for each in found.reading.kernels.kernels}


@pytest.mark.parametrize(("behind", "count"), [("start", 2), ("product", 2), ("top-k", 1)])
def test_prefetches_survive_and_are_planned_and_proved(behind: Behind, count: int) -> None:
    report = compiled(behind).report
    assert report.verdict == "clean" and not report.races and verify(report.wrapper) == []
    own = {name: each for name, each in kernels(compiled(behind)).items() if each.launches == ("prefetch_by_loads",)}
    assert len(own) == count and "second.prefetch_by_loads" in own
    assert all(each.exclusive_reason == "" for each in own.values())
    assert report.wrapper.count("prefetch_by_loads_0.run(") == 2 * count  # in both bodies
    assert report.plan is not None and report.plan.streams > 1


def test_a_prefetch_depends_on_what_it_starts_behind_and_nothing_on_it() -> None:
    for behind, expected in (("start", ""), ("product", "first"), ("top-k", "first")):
        found = kernels(compiled(behind))  # type: ignore[arg-type]
        reading = compiled(behind).reading  # type: ignore[arg-type]
        assert reading is not None
        own = found["second.prefetch_by_loads"].id
        above: set[int] = set()
        for _ in found:
            above |= {edge.before for edge in reading.kernels.edges if edge.after in {own, *above}}
        assert (found["first"].id in above) == bool(expected)
        assert not [edge for edge in reading.kernels.edges if edge.before == own]


def test_other_kernels_keep_their_names() -> None:
    without = {name for name in kernels(compiled(None)) if "empty" not in name}
    assert {name for name in kernels(compiled("product")) if "prefetch" not in name} == without


@pytest.mark.parametrize(
    ("behind", "expected"),
    [("start", [None, None]), ("product", [None, "mm"]), ("top-k", ["sin"])],
)
def test_each_rule_starts_behind_its_own(behind: Behind, expected: list[str | None]) -> None:
    wanted = wanted_by(graph(), rule(behind))
    assert [each.after if each.after is None else each.after.name for each in wanted] == expected
    assert all(each.weight.op == "placeholder" for each in wanted)


def test_small_weights_have_no_prefetch() -> None:
    assert len(wanted_by(graph(), rule(least=8 * WIDTH * 2))) == 3 and not wanted_by(graph(), rule(least=WEIGHT + 1))


@pytest.mark.parametrize("target", [torch.ops.aten.copy_.default, torch.ops.aten.add_.Tensor])
@pytest.mark.parametrize("through_a_view", [False, True])
def test_a_weight_that_somebody_writes_has_none(target: Any, through_a_view: bool) -> None:
    made = fx.Graph()
    made.output(made.graph_copy(graph(), {}))  # type: ignore[arg-type]
    first, _ = wanted_by(made, rule("start"))
    with made.inserting_before(made.output_node()):
        written = made.call_function(torch.ops.aten.t.default, (first.weight,)) if through_a_view else first.weight
        made.call_function(target, (written, written))
    assert len(wanted_by(made, rule("start"))) == 1


def test_each_prefetch_needs_a_place() -> None:
    with pytest.raises(Exception, match="2 weights are to be prefetched, and the graph returns 1 places"):
        compiled("start", places=1)


def test_only_loads_can_be_planned() -> None:
    with pytest.raises(ValueError, match="only prefetches by loads"):
        PrefetchPass(Rule(Prefetch("bulk", warps=1), WEIGHT))
