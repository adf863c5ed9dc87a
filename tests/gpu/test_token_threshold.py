"""Check thresholds on a GPU: captured calls on both sides have serial's bits, and only one side has branches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deepseek_v32
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from graphstreams.autotuning.cuda_graph import copy_into, no_collection
from graphstreams.benchmark.bits import equal_bits
from tests.support.captured_graphs import captures, streams_of
from tests.support.processes import last_line
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu

LARGEST = 16
OPTIONS: dict[str, Any] = {"max_tokens": LARGEST, "min_gain": 0.0, "costs": "roofline"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def layer_inputs(tokens: int, seed: int) -> list[Tensor]:
    """Return the layer's inputs, every first dimension marked as dynamic."""
    values = list(deepseek_v32.example_inputs(deepseek_v32.Config(tp=8, tokens=tokens), "cuda", seed))
    return marked(values)


def marked(values: list[Tensor]) -> list[Tensor]:
    for value in values:
        torch._dynamo.mark_dynamic(value, 0)
    return values


def copies(values: Sequence[Tensor]) -> list[Tensor]:
    return marked([value.clone() for value in values])


def compiled(directory: Path, options: dict[str, Any], **inductor: Any) -> tuple[Any, Any]:
    """Return the layer compiled by plain Inductor and by graphstreams."""
    module = deepseek_v32.build(deepseek_v32.Config(tp=8), "cuda")
    given = {**options, "dump": str(directory), "inductor": {**SAME_KERNELS, **inductor}}
    return torch.compile(module, options=SAME_KERNELS), torch.compile(module, backend="graphstreams", options=given)


def only_report(directory: Path) -> dict[str, Any]:
    (path,) = directory.glob("*/report.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def check_direct(serial: Any, ours: Any, first: list[Tensor]) -> None:
    """Check that a call that the host launches has serial's bits."""
    second = copies(first)
    assert torch.equal(serial(*first), ours(*second))
    assert equal_bits(first, second)


def check_captured(serial: Any, ours: Any, tokens: int) -> bool:
    """Check that a captured call with so many tokens replays serial's bits. Return whether its graph has branches."""
    static, graph = layer_inputs(tokens, 0), torch.cuda.CUDAGraph()
    ours(*copies(static))
    torch.cuda.synchronize()
    with captures() as found, no_collection(), torch.cuda.graph(graph):
        output = ours(*static)
    for seed in range(1, 4):
        fresh = layer_inputs(tokens, seed)
        copy_into(static, fresh)
        graph.replay()
        assert torch.equal(serial(*fresh), output), tokens
        assert equal_bits(fresh, static), tokens
    (forks,) = found
    return forks > 0


@pytest.mark.parametrize("sizes", [(4, 16, 17, 64, 2, 15, 61, 16), (64, 4, 16, 17, 33)])
def test_sizes_on_both_sides_are_equal_and_only_small_ones_are_captured_on_streams(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    serial, ours = compiled(tmp_path, OPTIONS)
    for seed, tokens in enumerate(sizes):
        check_direct(serial, ours, layer_inputs(tokens, seed))
    assert [check_captured(serial, ours, tokens) for tokens in sizes] == [tokens <= LARGEST for tokens in sizes]
    report = only_report(tmp_path)
    assert (report["verdict"], report["threshold"]["largest"]) == ("clean", LARGEST)
    # One graph each for serial and streamed: neither side of the threshold was compiled again.
    assert counters["stats"]["unique_graphs"] == 2


def test_the_host_launches_both_sides_serially(tmp_path: Path) -> None:
    """Nothing was measured, so no streams are known to be as fast in direct calls."""
    _, ours = compiled(tmp_path, OPTIONS)
    for tokens in (LARGEST, LARGEST + 1):
        values = layer_inputs(tokens, 0)
        ours(*copies(values))
        second = copies(values)
        assert len(streams_of(lambda second=second: ours(*second))) == 1
    assert only_report(tmp_path)["launched_by_the_host"] == "serial"


def test_sizes_on_both_sides_are_equal_under_reduce_overhead(tmp_path: Path) -> None:
    serial, ours = compiled(tmp_path, OPTIONS, **torch._inductor.list_mode_options("reduce-overhead"))
    sizes = (4, 16, 17, 64)
    # Inductor records a graph that writes inputs only where those stay where they are.
    static = {tokens: layer_inputs(tokens, 0) for tokens in sizes}
    for values in static.values():
        for value in values:
            torch._dynamo.mark_static_address(value, guard=False)
    branches: dict[int, list[int]] = {tokens: [] for tokens in sizes}
    for seed, tokens in enumerate([*sizes, *reversed(sizes)] * 4):
        first = layer_inputs(tokens, seed)
        copy_into(static[tokens], first)
        torch.compiler.cudagraph_mark_step_begin()
        expected = serial(*first)
        with captures() as found:
            output = ours(*static[tokens]).clone()
        branches[tokens] += found
        assert torch.equal(expected, output), tokens
        assert equal_bits(first, static[tokens]), tokens
    assert only_report(tmp_path)["verdict"] == "clean"
    assert all(found for found in branches.values()), branches
    # Cudagraph trees capture small graphs of their own too, without branches.
    assert {tokens: any(found) for tokens, found in branches.items()} == {tokens: tokens <= LARGEST for tokens in sizes}
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert counters["stats"]["unique_graphs"] == 2


def test_replays_on_alternating_sides_without_a_wait_between_them(tmp_path: Path) -> None:
    serial, ours = compiled(tmp_path, OPTIONS)
    static = {tokens: layer_inputs(tokens, 0) for tokens in (LARGEST, LARGEST + 1)}
    graphs, outputs = {}, {}
    for tokens, values in static.items():
        ours(*copies(values))
        graphs[tokens] = torch.cuda.CUDAGraph()
        with no_collection(), torch.cuda.graph(graphs[tokens]):
            outputs[tokens] = ours(*values)
    inputs = [layer_inputs(tokens, seed) for seed, tokens in enumerate((LARGEST, LARGEST + 1) * 20)]
    expected = [serial(*copies(values)) for values in inputs]
    found = []
    for values in inputs:
        tokens = len(values[0])
        copy_into(static[tokens], values)
        graphs[tokens].replay()
        found.append(outputs[tokens].clone())
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_threshold_that_is_solved_is_kept_too(tmp_path: Path) -> None:
    serial, ours = compiled(tmp_path, {"costs": "roofline", "min_gain": 0.1})
    check_direct(serial, ours, layer_inputs(4, 0))
    threshold = only_report(tmp_path)["threshold"]
    largest = threshold["largest"]
    assert 4 <= largest < 200 and len(threshold["curve"]["sizes"]) > 4
    assert [check_captured(serial, ours, tokens) for tokens in (largest, largest + 1)] == [True, False]


def test_a_threshold_is_confirmed_by_measuring(tmp_path: Path) -> None:
    """With default options: around the predicted crossover the plan is played at other sizes, beside the serial kernels."""
    serial, ours = compiled(tmp_path, {})
    with fresh_cache():
        check_direct(serial, ours, layer_inputs(4, 0))
        report = only_report(tmp_path)
        assert (report["verdict"], report["costs"]) == ("clean", "measured"), report["notes"]
        threshold = report["threshold"]
        told = threshold["reason"].partition("; measured gains: ")[2]
        gains = {int(size): float(gain.rstrip("%")) for size, gain in (each.split(": ") for each in told.split(", "))}
        largest = threshold["largest"]
        assert gains[largest] >= 2.0
        assert all(gain < 2.0 for size, gain in gains.items() if size > largest)
        assert [check_captured(serial, ours, tokens) for tokens in (largest, largest + 1)] == [True, False]


PROGRAM = """
import json, sys
import torch
from torch._dynamo.utils import counters
from tests.gpu import test_token_threshold as t
from tests.support.branches import build
module, (x, cache, position) = build()
mode = sys.argv[1]
inductor = {**t.SAME_KERNELS, **(torch._inductor.list_mode_options(mode) if mode != "default" else {})}
compiled = torch.compile(module, backend="graphstreams", options={**t.OPTIONS, "max_tokens": 4, "inductor": inductor})

def inputs(rows):
    made = [torch.randn(rows, 1024, device="cuda"), cache.clone(), torch.arange(rows, device="cuda")]
    for index in (0, 2):
        torch._dynamo.mark_dynamic(made[index], 0)
    # Inductor records a graph that writes inputs only where those stay where they are.
    torch._dynamo.mark_static_address(made[1], guard=False)
    return made

def run(values):
    if mode == "default":
        kept = values[1].clone()
        compiled(*values)  # these, for copies are not marked as dynamic
        values[1].copy_(kept)
        graph = torch.cuda.CUDAGraph()
        with t.captures() as found, t.no_collection(), torch.cuda.graph(graph):
            output = compiled(*values)
        graph.replay()
        return output, found
    static = [value.clone() for value in values]
    with t.captures() as found:
        for _ in range(4):
            values[1].copy_(static[1])
            torch.compiler.cudagraph_mark_step_begin()
            output = compiled(*values)
    return output, found

sums, branches = [], []
torch.manual_seed(1)
with torch.no_grad():
    for rows in (3, 4, 5, 16):
        values = inputs(rows)
        output, found = run(values)
        sums.append([float(output.double().sum()), float(values[1].double().sum())])
        branches.append(any(found))
print(json.dumps({"sums": sums, "branches": branches, "aot": counters["aot_autograd"]["autograd_cache_hit"],
                  "fx": counters["inductor"]["fxgraph_cache_hit"]}))
"""


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_second_process_finds_both_bodies_and_the_threshold_in_the_cache(tmp_path: Path, mode: str) -> None:
    results = []
    for _ in range(2):
        results.append(json.loads(last_line(PROGRAM, mode, more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})))
    first, second = results
    assert first["sums"] == second["sums"]
    assert first["branches"] == second["branches"] == [True, True, False, False]
    assert (first["aot"], first["fx"]) == (0, 0)
    # One wrapper has both bodies, so that either cache keeps it like any other.
    assert max(second["aot"], second["fx"]) > 0
