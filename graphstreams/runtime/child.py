"""Measures one plan at sizes that no call has had yet, in a process of its own: `python -m graphstreams.runtime.child JOB`.

At such a size an index may be out of range. On a GPU that ends all work of the process, so it must not be the caller's.
Each line of standard input is a JSON list of arguments as `made_up.described` writes them; for each one line `gain SHARE` is
printed. `graphstreams/elsewhere.py` starts it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphstreams.planning.plan import Plan
from graphstreams.runtime.launches import record_launches
from graphstreams.runtime.made_up import made
from graphstreams.runtime.player import Player, medians_in_turns

ANSWER = "gain "
ROUNDS, REPEATS = 7, 8


def main(path: str) -> None:
    """Answer requests until standard input ends."""
    job = torch.load(path, weights_only=True)
    torch.cuda.set_device(job["device"])
    torch.set_float32_matmul_precision(job["precision"])
    for line in sys.stdin:
        with torch.no_grad():
            share = gain(job, [made(each) for each in json.loads(line)])
        print(f"{ANSWER}{share!r}", flush=True)


def gain(job: Mapping[str, Any], arguments: Sequence[Any]) -> float:
    """The share of the serial time that the plan saves."""
    launches = record_launches(job["source"], job["lines"], job["constants"], arguments)
    grouped: list[list[Any]] = [[] for _ in range(job["kernels"])]
    for kernel, launch in zip(job["kernel_of_launch"], launches, strict=True):
        grouped[kernel].append(launch)
    player = Player(grouped)
    graphs = [player.serial(job["order"]), player.play(Plan.loads(job["plan"]))]
    serial, streamed = medians_in_turns(graphs, ROUNDS, REPEATS)
    return 1 - streamed / serial


if __name__ == "__main__":
    main(sys.argv[1])
