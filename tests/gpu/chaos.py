"""Streamed graphs under disturbance: spin kernels in front of random kernels, the allocator handing out poisoned blocks.

python tests/gpu/chaos.py --runs 10000
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from graphstreams.rewriting.execution import equal_bits

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

SAME_KERNELS = {"deterministic": True}  # of Inductor; else each compile tunes the block sizes of reductions by itself
CYCLES = 60_000  # at most, about 30 us: longer than most kernels of the layer


class _Late:
    """A compiled kernel, or a table of library kernels, that now and then starts late on its stream."""

    def __init__(self, inner: Any, dice: random.Random) -> None:
        self._inner, self._dice = inner, dice

    def __getattr__(self, name: str) -> Any:
        launch = getattr(self._inner, name)
        if not callable(launch):
            return launch

        def late(*args: Any, **kwargs: Any) -> Any:
            if self._dice.random() < 0.3:
                torch.cuda._sleep(self._dice.randrange(1, CYCLES))
            return launch(*args, **kwargs)

        return late


@contextmanager
def late_kernels(dice: random.Random) -> Iterator[int]:
    """Within this context the kernels of every loaded streamed wrapper start late at random. Yields how many wrappers."""
    from torch._inductor.codecache import PyCodeCache

    wrappers = [module for module in PyCodeCache.modules if hasattr(module, "_acquire_streams")]
    saved = [(module, dict(vars(module))) for module in wrappers]
    for module in wrappers:
        for name, value in list(vars(module).items()):
            if name == "extern_kernels" or (name.startswith("triton_") and hasattr(value, "run")):
                setattr(module, name, _Late(value, dice))
    try:
        yield len(wrappers)
    finally:
        for module, names in saved:
            vars(module).update(names)


def pressure(dice: random.Random) -> None:
    """Take blocks of sizes that layers use, fill them with NaN and give them back, on the current stream."""
    for _ in range(dice.randrange(4)):
        torch.full((dice.choice((64, 2112, 8192, 24576, 131072, 262144)),), float("nan"), device="cuda")


def wrong_runs(
    serial: Callable[..., Any],
    streamed: Callable[..., Any],
    inputs: Callable[[int], Sequence[Any]],
    runs: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, wrong: None,
) -> int:
    """How many of `runs` disturbed calls of `streamed` have other bits than `serial` on the same inputs."""
    dice = random.Random(seed)
    leaves = torch.utils._pytree.tree_leaves
    wrong = 0
    with torch.no_grad():
        streamed(*(value.clone() for value in inputs(0)))
        with late_kernels(dice) as wrappers:
            assert wrappers, "no streamed wrapper is loaded: the graph runs serially"
            for run in range(runs):
                first = list(inputs(run % 50))
                second = [value.clone() for value in first]
                expected = leaves(serial(*first))
                pressure(dice)
                found = leaves(streamed(*second))
                wrong += not (equal_bits(expected, found) and equal_bits(first, second))
                if run % 500 == 499:
                    progress(run + 1, wrong)
    return wrong


def layer(tokens: int, tp: int) -> tuple[Any, Callable[[int], Sequence[Any]]]:
    """The V3.2 layer and a maker of its inputs."""
    import deepseek_v32

    config = deepseek_v32.Config(tokens=tokens, tp=tp)
    return deepseek_v32.build(config, "cuda"), lambda seed: deepseek_v32.example_inputs(config, "cuda", seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the layer in several sizes and on two and three streams; exit status 1 if any run was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    cells = [(1, 8, 3), (1, 8, 2), (16, 8, 3), (1, 1, 3)]
    total = 0
    for tokens, tp, streams in cells:
        torch._dynamo.reset()
        module, inputs = layer(tokens, tp)
        options = {"min_gain": 0.0, "strict": True, "streams": streams, "inductor": SAME_KERNELS}
        streamed = torch.compile(module, backend="graphstreams", options=options)
        name = f"{tokens} tokens, tp {tp}, {streams} streams"
        wrong = wrong_runs(torch.compile(module, options=SAME_KERNELS), streamed, inputs, arguments.runs // len(cells))
        print(f"{name}: {arguments.runs // len(cells)} runs, {wrong} wrong", flush=True)
        total += wrong
    print(f"{arguments.runs} runs, {total} wrong")
    return int(total > 0)


if __name__ == "__main__":
    raise SystemExit(main())
