"""Check that the code that Inductor generates for every example is read and free of races, with the torch that runs."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Mapping
from typing import Any

import pytest

from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.verification.trace import CALLER, PREPARATIONS, LaunchStep, RecordStep, Trace, WaitStep
from graphstreams.verification.vector_clocks import find_races
from graphstreams.verification.wrapper.read import read_bodies
from tests.support.paths import EXAMPLES
from tests.support.sample_modules import streamed_text

TREES = {path.stem: ast.parse(path.read_text()) for path in sorted(EXAMPLES.glob("*.py"))}


def models(example: str) -> list[str]:
    """Return the example's functions that can be called with nothing and return a model with its inputs."""
    return [
        node.name
        for node in TREES[example].body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and len(node.args.args) == len(node.args.defaults)
        and ast.unparse(node.returns or ast.Constant(None)).startswith("tuple[")
    ]


def imported(example: str) -> set[str]:
    """Return the other examples that it imports, anywhere in its code."""
    nodes = list(ast.walk(TREES[example]))
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return (names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}) & TREES.keys()


MODELS = [(example, model) for example in TREES for model in models(example)]


def test_every_file_has_a_model_or_is_about_that_of_another() -> None:
    assert {("deepseek_v32", "layer"), ("deepseek_v32", "tiny")} <= set(MODELS)
    for example in TREES:
        assert models(example) or imported(example) or any(example in imported(other) for other in TREES), example


@pytest.mark.parametrize(("example", "model"), MODELS)
def test_both_bodies_of_an_example_are_read_and_free_of_races(example: str, model: str) -> None:
    check(*getattr(importlib.import_module(example), model)())


@pytest.mark.parametrize("changes", [{"tp": 8}, {"tokens": 64}, {"fp8": True}, {"fp8": True, "tp": 8, "tokens": 16}], ids=str)
def test_both_bodies_of_the_measured_layers_are_too(changes: Mapping[str, Any]) -> None:
    v32 = importlib.import_module("deepseek_v32")
    config = v32.Config(**changes)
    check(v32.build(config, "meta"), v32.example_inputs(config, "meta"))


def check(module: Any, inputs: Any) -> None:
    outcomes = capture(module, inputs, "h200", {"min_gain": 0.0})
    assert outcomes
    for outcome in outcomes:
        report = outcome.report
        assert report.verdict == "clean", f"{report.stage}: {report.reason}"
        streamed, serial = read_bodies(report.wrapper)
        check_serial(outcome, serial)
        check_streamed(outcome, streamed)


def launches(trace: Trace) -> int:
    return sum(isinstance(step, LaunchStep) and step.name not in PREPARATIONS for step in trace.steps)


def check_serial(outcome: GraphCompilation, trace: Trace) -> None:
    assert find_races(trace) == []
    assert {step.stream for step in trace.steps} == {CALLER}
    assert launches(trace) == outcome.report.kernels_serial > 0


def check_streamed(outcome: GraphCompilation, trace: Trace) -> None:
    report = outcome.report
    assert find_races(trace) == []
    assert len({step.stream for step in trace.steps if isinstance(step, LaunchStep)}) == report.plan.streams > 1
    assert launches(trace) == report.kernels_streamed
    assert sum(isinstance(step, RecordStep) for step in trace.steps) == len(report.plan.events)
    assert sum(isinstance(step, WaitStep) for step in trace.steps) == sum(len(event.waits) for event in report.plan.events)
    operations = sum(isinstance(step, RecordStep | WaitStep) for step in trace.steps)
    assert report.plan.synchronizations == operations
    check_handles(streamed_text(report.wrapper))


def check_handles(wrapper: str) -> None:
    """Check that a variable is given a stream's handle only if it does not hold it already."""
    held, context, depth = dict[str, str](), "default_stream", 0
    for line in wrapper[wrapper.index("\ndef call") :].splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= depth:
            context, depth = "default_stream", 0
        if entered := re.match(r" *with (stream\d+):", line):
            context, depth = entered[1], indent
        if asked := re.match(r" *(\w+) = get_raw_stream\(", line):
            assert held.get(asked[1]) != context
            held[asked[1]] = context
    assert held
