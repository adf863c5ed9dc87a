"""Plan the blocks that diffusers' models repeat, with real widths, without a GPU.

    python -m benchmarks.engines.denoising_blocks [--models NAME...] [--batches 1 2] [--target h200] [--out FILE]

Needs diffusers. Models are on "meta": a step tells what each block is called with, and each kind of block with other shapes is
planned by `explain`, from modelled times. Exit status 1: a block could not be planned.
"""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.engines.diffusers_models import BUILDS, Denoiser, build
from benchmarks.workers import one_line
from graphstreams.messages import with_type
from graphstreams.pipeline.explain import capture, largest

HEADERS = ("model", "batch", "block", "verdict", "launches", "streams", "predicted us", "reason")
Call = tuple[nn.Module, dict[str, Any]]  # a block and its arguments by name


def calls_of(denoiser: Denoiser, batch: int, device: str) -> list[Call]:
    """Return the first call of each kind of block in one step: of each class with other weights or other inputs."""
    found: dict[Any, Call] = {}

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {**dict(zip(inspect.signature(block.forward).parameters, args, strict=False)), **kwargs}
        shapes = tuple((name, tuple(value.shape)) for name, value in named.items() if isinstance(value, Tensor))
        weights = tuple(tuple(value.shape) for value in block.parameters())
        found.setdefault((type(block), shapes, weights), (block, named))

    blocks = [block for name in denoiser.models for block in denoiser.compiled_blocks(name)]
    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    with torch.no_grad():
        denoiser(**{name: value.to(device) for name, value in denoiser.inputs(batch).items()})
    for handle in handles:
        handle.remove()
    return list(found.values())


def row(block: nn.Module, call: dict[str, Any], target: str) -> list[str]:
    """Return what becomes of a block: its class, verdict, launches, streams, predicted times, and why."""
    try:
        report = largest([each.report for each in capture(block, call, target)])
    except Exception as error:
        return [type(block).__name__, "crashed", "", "", "", one_line(with_type(error), 300)]
    plan = report.plan
    us = f"{plan.serial_us:.0f} > {plan.streamed_us:.0f} ({plan.serial_us / plan.streamed_us:.3f}x)" if plan else ""
    launches, streams = f"{report.kernels_serial} > {report.kernels_streamed}", str(plan.streams if plan else 1)
    return [type(block).__name__, report.verdict, launches, streams, us, one_line(report.reason, 200)]


def main(argv: Sequence[str] | None = None, make: Callable[[str, str, bool], Denoiser] = build) -> int:
    """Run the command. Return 1 if a block could not be planned."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines.denoising_blocks", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=BUILDS, metavar="NAME", default=list(BUILDS), help=f"of {', '.join(BUILDS)}")
    add("--batches", nargs="+", type=int, default=[1, 2], help="images at a time (default 1 2)")
    add("--target", default="h200", help="the GPU to plan for (default h200)")
    add("--out", type=Path, help="file for the table")
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.models:
        denoiser = make(name, "meta", False)
        for batch in arguments.batches:
            for block, call in calls_of(denoiser, batch, "meta"):
                rows.append([name, str(batch), *row(block, call, arguments.target)])
                print("; ".join(rows[-1]), flush=True)
    text = tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    return int(any("crashed" in each for each in rows))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
