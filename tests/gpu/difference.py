"""Where bits differ from serial's: by how much, in which output, and whether they still do on one stream.

python tests/gpu/difference.py

Four float32 products on each of two branches (`test_runtime.Branches`), compiled with default options and from the roofline. If
the difference stays with all work on one stream, it is rounding; if serial differs from itself, it is not ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._inductor.codecache import PyCodeCache

sys.path.insert(0, str(Path(__file__).parent))
import test_runtime

from graphstreams.runtime.streams import acquire

SAME_KERNELS = {"deterministic": True, "emulate_precision_casts": True}
RUNS = 20


def largest(function: Callable[..., Any], other: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of outputs and changed inputs over some runs."""
    found = 0.0
    for _ in range(RUNS):
        first, second = ([value.clone() for value in inputs] for _ in range(2))
        results = [function(*first), *first], [other(*second), *second]
        torch.cuda.synchronize()
        found = max([found, *(float((a.double() - b.double()).abs().max()) for a, b in zip(*results, strict=True))])
    return found


def on_one_stream() -> None:
    """From here on every streamed wrapper that is loaded runs on its caller's stream."""

    def same(caller: torch.cuda.Stream, streams: int, events: int, priority: int = 0) -> tuple[Any, ...]:
        return (*[caller] * streams, *acquire(caller, streams, events, priority)[streams:])

    for module in PyCodeCache.modules:
        if hasattr(module, "_acquire_streams"):
            module._acquire_streams = same


def main() -> None:
    """Print the largest differences."""
    module, inputs = test_runtime.make()
    with torch.no_grad():
        for costs in ("roofline", "auto"):
            torch._dynamo.reset()
            serial = torch.compile(module, options=SAME_KERNELS)
            options = {"min_gain": 0.0, "costs": costs, "inductor": SAME_KERNELS}
            streamed = torch.compile(module, backend="graphstreams", options=options)
            print(f"{costs}: serial and serial {largest(serial, serial, inputs):.2e}")
            print(f"{costs}: serial and streams {largest(serial, streamed, inputs):.2e}")
            print(f"{costs}: streams and streams {largest(streamed, streamed, inputs):.2e}")
            on_one_stream()
            print(f"{costs}: serial and the same code on one stream {largest(serial, streamed, inputs):.2e}")


if __name__ == "__main__":
    main()
