"""Plan the step that `generate` compiles, for models of transformers with random weights, without a GPU.

    python -m benchmarks.engines.decode_step [--models NAME...] [--layers 2] [--tiny] [--target h200] [--out FILE]

Needs transformers 5. The prompt runs on the CPU in its full width, so that the cache is what `generate` makes it; the step is
planned by `explain`, from modelled times. Exit status 1: a model could not be planned.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.engines.generate_models import MODELS, SIX, build, prompt_of
from benchmarks.workers import one_line
from graphstreams.messages import with_type
from graphstreams.pipeline.explain import capture, largest

HEADERS = ("model", "verdict", "launches", "streams", "predicted us", "graphs", "reason, or what holds the order", "seconds")


class Stopped(Exception):
    """Raised by the first compiled call of `generate`, with the arguments of that call."""


def decode_call(model: Any, prompt: dict[str, torch.Tensor], tokens: int = 64) -> dict[str, Any]:
    """Return the keyword arguments of the call that `generate` would compile. Raises RuntimeError if it compiles none."""
    from transformers import CompileConfig

    def stop(**arguments: Any) -> None:
        raise Stopped(arguments)

    config = CompileConfig()
    config._compile_all_devices = True
    model.get_compiled_call = lambda _: stop
    try:
        with torch.no_grad():
            model.generate(
                **prompt, compile_config=config, cache_implementation="static", max_new_tokens=tokens, do_sample=False
            )
    except Stopped as stopped:
        if "grouped_mm" in model.get_experts_implementation().values():
            model.set_experts_implementation("batched_mm")  # as `generate` does on a GPU for all but the prompt
        found: dict[str, Any] = stopped.args[0]
        return found
    finally:
        del model.get_compiled_call
    raise RuntimeError("generate has compiled nothing")


def planned(name: str, arguments: argparse.Namespace) -> list[str]:
    """Return the row of a model. One that can't be built or planned has a row that says why."""
    started = time.perf_counter()
    try:
        model = build(name, arguments.layers, "cpu", arguments.tiny)
        call = decode_call(model, prompt_of(model.config, 32, 0, "cpu"))
        reports = [each.report for each in capture(model, call, arguments.target)]
    except Exception as error:
        return [name, "crashed", *[""] * 4, one_line(with_type(error), 300), f"{time.perf_counter() - started:.0f}"]
    report = largest(reports)
    plan = report.plan
    us = f"{plan.serial_us:.0f} > {plan.streamed_us:.0f} ({plan.serial_us / plan.streamed_us:.3f}x)" if plan else ""
    kernels = report.kernels.kernels if report.kernels else ()
    holding = [f"{each.name}: {each.exclusive_reason or 'joined with such a kernel'}" for each in kernels if each.exclusive]
    return [name, report.verdict, f"{report.kernels_serial} > {report.kernels_streamed}", str(plan.streams if plan else 1), us,
            ", ".join(each.verdict for each in reports), one_line("; ".join([report.reason, *holding]).strip("; "), 300),
            f"{time.perf_counter() - started:.0f}"]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a model could not be planned."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines.decode_step", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, metavar="NAME", default=list(SIX), help=f"of {', '.join(MODELS)}")
    add("--layers", type=int, default=2, help="decoder layers (default 2)")
    add("--tiny", action="store_true", help="tiny layers and 128 words")
    add("--target", default="h200", help="the GPU to plan for (default h200)")
    add("--out", type=Path, help="file for the table")
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.models:
        rows.append(planned(name, arguments))
        print("; ".join(rows[-1]), flush=True)
        torch._dynamo.reset()
        gc.collect()
    text = tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    return int(any(row[1] == "crashed" for row in rows))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
