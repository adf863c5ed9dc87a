"""Check that planning a graph adds no guard: calls of other sizes compile as often as plain Inductor's do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.inductor.compile import PostGradBackend, fresh_dynamo
from graphstreams.inductor.fakes import faked
from graphstreams.inductor.lowering import copy_graph, finish_post_grad_passes, lower
from graphstreams.inductor.offline import offline
from graphstreams.ir.devices import DEVICES
from graphstreams.options import Options
from graphstreams.pipeline.run import run_stages
from tests.support.dynamic_models import MODELS, DynamicModel, arguments

FREE = {"costs": "roofline", "min_gain": 0.0, "event_us": 0.0}
SIZES = (3, 8, 2, 17, 5, 64)
UNMARKED_SIZES = (3, 8, 5, 64)


def guards_of(model: DynamicModel, sizes: Sequence[int], options: dict[str, Any] | None, marked: bool) -> list[list[str]]:
    """Return the guards on sizes of each graph that calls of these sizes compile, once its code is generated.

    Without `options` Inductor's serial code alone is; with them the graph is planned too.
    """
    found: list[list[str]] = []

    def visit(gm: fx.GraphModule, names: list[str], _: Sequence[Any]) -> None:
        if options is None:
            copied = copy_graph(gm)
            finish_post_grad_passes(copied)
            lower(copied, generate_code=True)
        else:
            report = run_stages(gm, Options.from_dict(options), device=DEVICES["h200"]).report
            assert report.verdict == "clean", report.reason
        (env,) = {size.node.shape_env for size in _sizes(gm)} or {None}
        found.append(sorted(str(guard.expr) for guard in env.guards) if env is not None else [])

    module = model.made(tiny=True)
    calls = [model.call(True, size, marked) for size in sizes]
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with offline(DEVICES["h200"]), faked(module, calls, mode) as (called, fakes), mode, torch.no_grad(), fresh_dynamo():
        compiled = torch.compile(called, backend=PostGradBackend(visit))
        for values in fakes:
            compiled(*values)
    return found


def _sizes(gm: fx.GraphModule) -> list[torch.SymInt]:
    values = [node.meta.get("val") for node in gm.graph.find_nodes(op="placeholder")]
    return [value for value in values if isinstance(value, torch.SymInt)]


@arguments()
def test_a_planned_graph_has_the_guards_of_its_serial_code(name: str) -> None:
    plain, planned = (guards_of(MODELS[name], SIZES, options, marked=True) for options in (None, FREE))
    assert planned == plain
    # Of a text's length attention needs a mask whose rows begin at multiples of 16 bytes: one graph is for such lengths.
    assert len(plain) == (2 if name == "bert, length" else 1)


@functools.cache
def plain_guards() -> list[list[str]]:
    """Return the guards that Inductor's serial code has."""
    return guards_of(MODELS["mmoe"], UNMARKED_SIZES, None, marked=False)


@pytest.mark.parametrize("limit", [None, 8])
def test_sizes_that_become_dynamic_by_themselves_compile_as_often(limit: int | None) -> None:
    """The first graph is for one size, the second for all: a limit of tokens makes no third."""
    plain = plain_guards()
    assert guards_of(MODELS["mmoe"], UNMARKED_SIZES, {**FREE, "max_tokens": limit}, marked=False) == plain
    assert len(plain) == 2
