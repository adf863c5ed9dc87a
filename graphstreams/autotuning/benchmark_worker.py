"""Time one plan at other sizes, in a process of its own: `python -m graphstreams.autotuning.benchmark_worker JOB`.

At such a size an index may be out of range. On a GPU that ends all work of the process, so it must not be the caller's.
Each line of standard input is a JSON list of arguments as `made_up.described` writes them; for each one line `gain SHARE` is
printed. `graphstreams/elsewhere.py` starts it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from graphstreams.autotuning.recorded_launches import by_kernel, record_launches
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.synthetic_inputs import made
from graphstreams.autotuning.timing import means_over_captures
from graphstreams.ir.plan import Plan

ANSWER = "gain "
ROUNDS, REPEATS = 7, 8
REDUCTIONS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


def precisions() -> dict[str, Any]:
    """What this process allows in products of matrices, for `set_precisions` in another: it decides which kernels run.

    Plain data. A setting that this torch does not have is missing.
    """
    matmul = torch.backends.cuda.matmul
    found: dict[str, Any] = {}
    with contextlib.suppress(RuntimeError):  # where precisions were set by torch's newer attributes
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    for name in ("fp32_precision", "allow_fp16_accumulation"):
        if hasattr(matmul, name):
            found[name] = getattr(matmul, name)
    for name in REDUCTIONS:
        allowed = getattr(matmul, name)
        split = getattr(matmul, f"{name}_split_k", None)
        found[name] = allowed if split is None else (allowed, split)
    return found


def set_precisions(found: Mapping[str, Any]) -> None:
    """Allow in this process what `precisions` returned in another."""
    rest = dict(found)
    if "float32_matmul_precision" in rest:
        # First, for it sets `fp32_precision` too, and not always to what that was.
        torch.set_float32_matmul_precision(rest.pop("float32_matmul_precision"))
    for name, value in rest.items():
        setattr(torch.backends.cuda.matmul, name, value)


def main(path: str) -> None:
    """Answer requests until standard input ends."""
    job = torch.load(path, weights_only=True)
    torch.cuda.set_device(job["device"])
    set_precisions(job["precisions"])
    for line in sys.stdin:
        with torch.no_grad():
            share = gain(job, [made(each) for each in json.loads(line)])
        print(f"{ANSWER}{share!r}", flush=True)


def gain(job: Mapping[str, Any], arguments: Sequence[Any]) -> float:
    """The share of the serial time that the plan saves."""
    launches = record_launches(job["source"], job["lines"], job["constants"], arguments)
    player = KernelReplayer(by_kernel(launches, job["kernel_of_launch"], job["kernels"]))
    captured = [partial(player.serial, job["order"]), partial(player.play, Plan.loads(job["plan"]))]
    serial, streamed = means_over_captures(captured, ROUNDS, REPEATS)
    return 1 - streamed / serial


if __name__ == "__main__":
    main(sys.argv[1])
