"""Twins on a GPU: calls on both sides of the threshold have serial's bits, from one compile, however they are launched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from graphstreams.runtime.twin import Twin
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from graphstreams.rewriting.execution import equal_bits

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parent))
import deepseek_v32
from same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu

LARGEST = 16
OPTIONS: dict[str, Any] = {"max_tokens": LARGEST, "min_gain": 0.0, "costs": "roofline"}


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each call of a twin streamed."""
    found: list[bool] = []
    call = Twin.__call__

    def watched(self: Twin, inputs: Any) -> Any:
        found.append(self._streams(inputs))
        return call(self, inputs)

    monkeypatch.setattr(Twin, "__call__", watched)
    torch._dynamo.reset()
    counters.clear()
    yield found
    torch._dynamo.reset()


def layer_inputs(tokens: int, seed: int) -> list[torch.Tensor]:
    """The layer's inputs, every first dimension marked as dynamic."""
    values = list(deepseek_v32.example_inputs(deepseek_v32.Config(tp=8, tokens=tokens), "cuda", seed))
    for value in values:
        torch._dynamo.mark_dynamic(value, 0)
    return values


def copies(values: list[torch.Tensor]) -> list[torch.Tensor]:
    made = [value.clone() for value in values]
    for value in made:
        torch._dynamo.mark_dynamic(value, 0)
    return made


def compiled(directory: Path, **inductor: Any) -> tuple[Any, Any]:
    """The layer compiled by plain Inductor and by graphstreams."""
    module = deepseek_v32.build(deepseek_v32.Config(tp=8), "cuda")
    options = {**OPTIONS, "dump": str(directory), "inductor": {**SAME_KERNELS, **inductor}}
    return torch.compile(module, options=SAME_KERNELS), torch.compile(module, backend="graphstreams", options=options)


def only_report(directory: Path) -> dict[str, Any]:
    (path,) = directory.glob("*/report.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def check_both_sides(serial: Any, streamed: Any, largest: int) -> None:
    """The largest number of tokens that streams, and the next one, have serial's bits."""
    for tokens in (largest, largest + 1):
        first = layer_inputs(tokens, tokens)
        second = copies(first)
        assert torch.equal(serial(*first), streamed(*second))
        assert equal_bits(first, second)


@pytest.mark.parametrize("sizes", [(4, 16, 17, 64, 2, 15, 61, 16), (64, 4, 16, 17, 33)])
def test_sizes_on_both_sides_are_equal_when_launched_directly(
    tmp_path: Path, choices: list[bool], sizes: tuple[int, ...]
) -> None:
    serial, streamed = compiled(tmp_path)
    with torch.no_grad():
        for seed, tokens in enumerate(sizes):
            first = layer_inputs(tokens, seed)
            second = copies(first)
            assert torch.equal(serial(*first), streamed(*second)), tokens
            assert equal_bits(first, second), tokens
    assert choices == [tokens <= LARGEST for tokens in sizes]
    report = only_report(tmp_path)
    assert (report["verdict"], report["threshold"]["largest"]) == ("clean", LARGEST)
    # One graph each for serial and streamed: neither side of the threshold was compiled again.
    assert counters["stats"]["unique_graphs"] == 2


def test_sizes_on_both_sides_are_equal_under_reduce_overhead(tmp_path: Path, choices: list[bool]) -> None:
    serial, streamed = compiled(tmp_path, **torch._inductor.list_mode_options("reduce-overhead"))
    sizes = (4, 16, 17, 64)
    # Inductor records a graph that writes inputs only where those stay where they are.
    static = {tokens: layer_inputs(tokens, 0) for tokens in sizes}
    for values in static.values():
        for value in values:
            torch._dynamo.mark_static_address(value, guard=False)
    order = [*sizes, *reversed(sizes)] * 4
    with torch.no_grad():
        for seed, tokens in enumerate(order):
            first = layer_inputs(tokens, seed)
            for target, value in zip(static[tokens], first, strict=True):
                target.copy_(value)
            torch.compiler.cudagraph_mark_step_begin()
            expected, found = serial(*first), streamed(*static[tokens]).clone()
            assert torch.equal(expected, found), tokens
            assert equal_bits(first, static[tokens]), tokens
    assert choices == [tokens <= LARGEST for tokens in order]
    assert only_report(tmp_path)["verdict"] == "clean"
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert counters["stats"]["unique_graphs"] == 2


def test_calls_on_alternating_sides_without_a_wait_between_them(tmp_path: Path, choices: list[bool]) -> None:
    serial, streamed = compiled(tmp_path)
    sizes = (16, 17) * 20
    with torch.no_grad():
        inputs = [layer_inputs(tokens, seed) for seed, tokens in enumerate(sizes)]
        expected = [serial(*copies(values)) for values in inputs]
        found = [streamed(*copies(values)) for values in inputs]
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert len(choices) == len(sizes)


def test_a_threshold_that_is_solved_is_kept_too(tmp_path: Path, choices: list[bool]) -> None:
    module = deepseek_v32.build(deepseek_v32.Config(tp=8), "cuda")
    options = {"costs": "roofline", "min_gain": 0.1, "dump": str(tmp_path), "inductor": SAME_KERNELS}
    serial, streamed = (
        torch.compile(module, options=SAME_KERNELS),
        torch.compile(module, backend="graphstreams", options=options),
    )
    with torch.no_grad():
        first = layer_inputs(4, 0)
        assert torch.equal(serial(*copies(first)), streamed(*copies(first)))
        threshold = only_report(tmp_path)["threshold"]
        largest = threshold["largest"]
        assert 4 <= largest < 200 and len(threshold["curve"]["sizes"]) > 4
        check_both_sides(serial, streamed, largest)
    assert choices == [True, True, False]


def test_a_threshold_is_confirmed_by_measuring(tmp_path: Path, choices: list[bool]) -> None:
    """With default options: around the predicted crossover the plan is played at other sizes, beside the serial kernels."""
    module = deepseek_v32.build(deepseek_v32.Config(tp=8), "cuda")
    options = {"dump": str(tmp_path), "inductor": SAME_KERNELS}
    serial = torch.compile(module, options=SAME_KERNELS)
    streamed = torch.compile(module, backend="graphstreams", options=options)
    with torch.no_grad(), fresh_cache():
        first = layer_inputs(4, 0)
        assert torch.equal(serial(*copies(first)), streamed(*copies(first)))
        report = only_report(tmp_path)
        assert (report["verdict"], report["costs"]) == ("clean", "measured"), report["notes"]
        threshold = report["threshold"]
        told = threshold["reason"].partition("; measured gains: ")[2]
        gains = {int(size): float(gain.rstrip("%")) for size, gain in (each.split(": ") for each in told.split(", "))}
        largest = threshold["largest"]
        assert gains[largest] >= 2.0
        assert all(gain < 2.0 for size, gain in gains.items() if size > largest)
        check_both_sides(serial, streamed, largest)
    assert choices == [True, True, False]


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from torch._dynamo.utils import counters
import test_twin as t
import test_runtime
choices, call = [], t.Twin.__call__
def watched(self, inputs):
    choices.append(self._streams(inputs))
    return call(self, inputs)
t.Twin.__call__ = watched
module, (x, cache, position) = test_runtime.make()
inductor = {**t.SAME_KERNELS, **(torch._inductor.list_mode_options(sys.argv[2]) if sys.argv[2] != "default" else {})}
compiled = torch.compile(module, backend="graphstreams", options={**t.OPTIONS, "max_tokens": 4, "inductor": inductor})
sums = []
torch.manual_seed(1)
with torch.no_grad():
    for rows in (3, 4, 5, 16, 4, 5):
        inputs = [torch.randn(rows, 1024, device="cuda"), cache.clone(), torch.arange(rows, device="cuda")]
        for index in (0, 2):
            torch._dynamo.mark_dynamic(inputs[index], 0)
        torch.compiler.cudagraph_mark_step_begin()
        sums.append([float(compiled(*inputs).double().sum()), float(inputs[1].double().sum())])
print(json.dumps({"sums": sums, "choices": choices, "aot": counters["aot_autograd"]["autograd_cache_hit"],
                  "fx": counters["inductor"]["fxgraph_cache_hit"]}))
"""


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_second_process_finds_both_halves_in_the_cache(tmp_path: Path, mode: str) -> None:
    results = []
    for _ in range(2):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), mode]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    first, second = results
    assert first["sums"] == second["sums"]
    assert first["choices"] == second["choices"] == [True, True, False, False, True, False]
    assert (first["aot"], first["fx"]) == (0, 0)
    # AOTAutograd's cache would keep one half only, and gets none; Inductor's has both.
    assert (second["aot"], second["fx"]) == (0, 2)
