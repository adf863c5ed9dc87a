"""Times one plan at other sizes, in a process of its own: `python -m graphstreams.autotuning.benchmark_worker JOB`.

At another size an index may be out of range. On a GPU that ends all work of the process, so it must not be the caller's.
Each line of standard input is a JSON list of arguments as `synthetic_inputs.describe` returns them, and is answered by a line
`gain SHARE`. `worker_client.py` starts the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from graphstreams.autotuning.matmul_precision import set_precisions
from graphstreams.autotuning.recorded_launches import by_kernel, record_launches
from graphstreams.autotuning.replay import KernelReplayer
from graphstreams.autotuning.synthetic_inputs import synthesize
from graphstreams.autotuning.timing import means_over_captures
from graphstreams.ir.plan import Plan

ANSWER = "gain "
ROUNDS, REPEATS = 7, 8


def main(path: str) -> None:
    """Answer requests until standard input ends."""
    job = torch.load(path, weights_only=True)
    torch.cuda.set_device(job["device"])
    set_precisions(job["precisions"])
    for line in sys.stdin:
        with torch.no_grad():
            share = gain(job, [synthesize(each) for each in json.loads(line)])
        print(f"{ANSWER}{share!r}", flush=True)


def gain(job: Mapping[str, Any], arguments: Sequence[Any]) -> float:
    """Return the share of the serial time that the plan saves."""
    launches = record_launches(job["source"], job["lines"], job["constants"], arguments)
    replayer = KernelReplayer(by_kernel(launches, job["kernel_of_launch"], job["kernels"]))
    captures = [partial(replayer.capture_serial, job["order"]), partial(replayer.capture_plan, Plan.loads(job["plan"]))]
    serial, streamed = means_over_captures(captures, ROUNDS, REPEATS)
    return 1 - streamed / serial


if __name__ == "__main__":
    main(sys.argv[1])
