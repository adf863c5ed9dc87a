"""Run the calibration: compile and time kernels of many kinds and sizes on the GPU at hand, and fit the roofline to them."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable

import torch

from graphstreams.benchmark.replayable import replayable_graphs
from graphstreams.calibration.fit import fit
from graphstreams.calibration.microbenchmarks import GROUPS, Operations
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import Calibration
from graphstreams.errors import Unmeasurable
from graphstreams.ir.devices import device_at_hand


def calibrate(progress: Callable[[str], None] = print) -> tuple[Calibration, list[Sample]]:
    """Time kernels on the GPU at hand and fit the roofline to them, in about ten seconds. Return the timed kernels too.

    `progress` gets a line after each step. Raises RuntimeError if there is no CUDA device or nothing can be timed.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("calibrating needs a CUDA device, and there is none here")
    samples: list[Sample] = []
    for title, make in GROUPS.items():
        started = time.perf_counter()
        try:
            found = _timed_kernels(make)
        except (Unmeasurable, RuntimeError) as error:
            progress(f"{title}: not timed: {error}")
            continue
        samples += found
        progress(f"{title}: {len(found)} kernels, {time.perf_counter() - started:.1f} s")
    if not samples:
        raise RuntimeError("no kernel could be timed")
    return fit(samples, device_at_hand(), versions=_versions()), samples


def _timed_kernels(make: Callable[[], Operations]) -> list[Sample]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        module = make()
    samples: list[Sample] = []
    for found in replayable_graphs(module, module.inputs):
        kernels = found.graph.kernels
        times = found.replayer.kernel_times(sorted(found.order))  # in program order, which keeps equal weights apart
        samples += [(kernels[kernel], found.graph.sizes, us) for kernel, us in times.items()]
        del found
    del module
    gc.collect()
    torch.cuda.empty_cache()
    return samples


def _versions() -> dict[str, str]:
    """Return the versions that decide the kernels, beside the device."""
    found = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    with contextlib.suppress(ImportError):
        import triton

        found["triton"] = str(triton.__version__)
    return found
