"""Check models whose calls choose a size: their plans, where the serial code takes over, and bits on both sides of that."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from math import fsum
from typing import Any

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import DEVICES
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.planning.build_plan import assignment_of
from graphstreams.planning.simulator import simulator
from graphstreams.runtime import dispatch
from graphstreams.runtime.dispatch import runs_on_streams
from graphstreams.testing.equal_on_cpu import equal_as_captured
from tests.support.dynamic_models import MODELS, arguments

OPTIONS: dict[str, Any] = {"costs": "roofline"}
MIN_GAIN = 0.02  # the option's default


@functools.cache
def planned(name: str) -> GraphCompilation:
    model = MODELS[name]
    (found,) = capture(model.made(tiny=False), model.call(False, model.sizes[0]), "h200", OPTIONS)
    return found


@arguments()
def test_it_runs_on_streams_at_the_size_of_the_example(name: str) -> None:
    report = planned(name).report
    assert (report.verdict, report.reason) == ("clean", "")
    assert report.kernels_streamed == report.kernels_serial
    assert report.threshold is not None and report.threshold.largest != 0


@arguments("bert, batch", "deepseek v3.2")
def test_the_threshold_tells_which_size_of_which_input_it_is_of(name: str) -> None:
    report = planned(name).report
    assert report.threshold is not None
    (symbol,) = re.findall(r"s\d+", report.threshold.symbol)
    first = "x" if name == "bert, batch" else "positions"  # in the graph's order
    assert report.threshold.where == f"{symbol} is size 0 of {first!r}"
    assert f"({report.threshold.symbol}, where {symbol} is size 0 of {first!r}: " in str(report)


def gain(found: GraphCompilation, rows: int) -> float:
    """Return the share of the serial time that the plan saves at a number of rows: every kernel priced at that number."""
    report, device = found.report, DEVICES["h200"]
    assert report.kernels is not None and report.plan is not None and report.threshold is not None
    (symbol,) = re.findall(r"s\d+", report.threshold.symbol)
    size, left = divmod(rows, eval(report.threshold.symbol, {symbol: 1}))
    assert left == 0, "no call has so many rows"
    graph = replace(report.kernels, sizes=dict.fromkeys(report.kernels.sizes, size))
    us = Roofline(device).price(graph)
    return 1 - simulator(graph, us, device)(assignment_of(report.plan)).makespan / fsum(us)


@arguments()
def test_beside_the_threshold_the_simulated_gain_changes_sides(name: str) -> None:
    """Computed once more, from prices of graphs whose size is a number, without the curves that the threshold is solved on."""
    found = planned(name)
    threshold, kernels = found.report.threshold, found.report.kernels
    assert threshold is not None and kernels is not None
    step = eval(threshold.symbol, dict.fromkeys(re.findall(r"s\d+", threshold.symbol), 1))  # rows from one size to the next
    if threshold.largest is None:
        largest = max(size for size, *_ in threshold.curve)
        assert gain(found, largest // step * step) >= MIN_GAIN
    else:
        within = threshold.largest // step * step
        assert gain(found, within) >= MIN_GAIN > gain(found, within + step)
    smallest = -(-max(threshold.smallest, 2 * step) // step) * step
    assert gain(found, smallest) >= MIN_GAIN


@arguments("bert, batch", "bert, length")
def test_a_mask_whose_size_is_dynamic_joins_no_launches(name: str) -> None:
    """Its copy in the layout that attention wants is a node of the graph, and a kernel of its own."""
    report = planned(name).report
    assert report.kernels is not None
    assert [kernel.name for kernel in report.kernels.kernels if len(kernel.launches) > 1] == []


CHECK = re.compile(r"if _runs_on_streams\(args, (.*)\):\n +return call_on_streams\(args\)\n +(.*) = args\n")


def streams_at(found: GraphCompilation, size: int) -> bool:
    """Return whether a captured call of this size runs the streamed body: by what is in the list of the wrapper's inputs."""
    assert found.reading is not None
    ((condition, names),) = CHECK.findall(found.report.wrapper)
    sizes = {n.name for n in found.reading.module.graph.find_nodes(op="placeholder") if isinstance(n.meta["val"], torch.SymInt)}
    values = [size if name in sizes else torch.empty(0) for name in names.split(", ")]
    return runs_on_streams(values, *eval(f"({condition},)"))


@functools.cache
def tiny(name: str, limit: int | None) -> GraphCompilation:
    model = MODELS[name]
    options = {**OPTIONS, "min_gain": 0.0, "event_us": 0.0, "max_tokens": limit}
    with sdpa_kernel(SDPBackend.MATH):  # the CPU has none of the GPU's fused kernels
        (found,) = capture(model.made(tiny=True), model.call(True, model.sizes[1]), "h200", options)
    return found


@arguments()
def test_calls_on_both_sides_of_a_limit_choose_by_their_size_and_have_the_same_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_capturing", lambda: True)
    model = MODELS[name]
    _, size, larger = model.sizes
    threshold = tiny(name, None).report.threshold
    assert threshold is not None
    rows = eval(threshold.symbol, dict.fromkeys(re.findall(r"s\d+", threshold.symbol), size))
    found = tiny(name, rows)
    assert (found.report.verdict, found.report.reason) == ("clean", "")
    assert [streams_at(found, each) for each in (2, size, size + 1, larger)] == [True, True, False, False]
    for each in (2, size, larger):  # whichever body runs, both have the same bits
        assert equal_as_captured(model.made(tiny=True), model.call(True, each), [found]) == [True], each


@arguments("bert, batch", "deepseek v3.2")
def test_the_line_tells_for_which_sizes_streams_run(name: str) -> None:
    _, size, _ = MODELS[name].sizes
    threshold = tiny(name, None).report.threshold
    assert threshold is not None
    rows = eval(threshold.symbol, dict.fromkeys(re.findall(r"s\d+", threshold.symbol), size))
    line = str(tiny(name, rows).report.as_verdict())
    assert re.search(rf": \d streams for {re.escape(threshold.symbol)} <= {rows}, ", line), line


def test_a_dlrm_of_which_one_input_is_marked_alone_fixes_its_batch_in_plain_torch_compile_too() -> None:
    """The other inputs have rows of the same batch, which the model joins with it."""
    model = MODELS["dlrm"]
    values = model.call(True, 5, marked=False)
    torch._dynamo.mark_dynamic(values[0], 0)
    torch._dynamo.reset()
    with pytest.raises(ConstraintViolationError, match="Constraints violated"):
        torch.compile(model.made(tiny=True), backend="eager")(*values)
    torch._dynamo.reset()
