"""Run the calibration: compile and time kernels of many kinds and sizes on the GPU at hand, and fit the roofline to them.

Its tables show how well the roofline fits, and its parameters.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate

from graphstreams.benchmark.results import environment
from graphstreams.benchmark.variants import replayable_graphs
from graphstreams.calibration.fit import errors, fit
from graphstreams.calibration.microbenchmarks import GROUPS, Operations
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration, latency_of
from graphstreams.errors import Unmeasurable
from graphstreams.ir.devices import Device, device_at_hand


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
    versions = {name: value for name, value in environment().items() if name in ("torch", "cuda", "triton")}
    return fit(samples, device_at_hand(), versions=versions), samples


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


def calibration_table(calibration: Calibration, samples: Sequence[Sample], device: Device) -> str:
    """Return how well it predicts `samples`, by kind, and every parameter; those that no kernel decides are in brackets."""
    return f"{_fit(calibration, samples, device)}\n\n{_parameters(calibration, device)}"


def _fit(calibration: Calibration, samples: Sequence[Sample], device: Device) -> str:
    found = errors(samples, device, calibration)
    every = [error for own in found.values() for error in own]
    rows = []
    for kind in KINDS:
        floor = _shown(calibration, f"floors.{kind}", f"{calibration.floors[kind]:.2f}")
        rows.append([kind, *_errors(found.get(kind, [])), floor, f"{calibration.latency[latency_of(kind)]:.2f}"])
    rows.append(["all", *_errors(every), "", ""])
    headers = ["kind", "kernels", "median error", "90th percentile", "floor us", "latency us"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def _errors(found: Sequence[float]) -> list[str]:
    if not found:
        return ["0", "-", "-"]
    return [str(len(found)), *(f"{error:.1%}" for error in median_and_percentile(found))]


def median_and_percentile(found: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 90th percentile of at least one error."""
    return statistics.median(found), sorted(found)[int(0.9 * (len(found) - 1))]


def _parameters(calibration: Calibration, device: Device) -> str:
    bandwidth = calibration.bandwidth_share
    rows = [
        ["bandwidth, share of the data sheet's", _shown(calibration, "bandwidth_share", f"{bandwidth:.3f}"),
         f"{bandwidth * device.bandwidth / 1e12:.2f} TB/s"],
        ["FLOP rate, share of the data sheet's", _shown(calibration, "flops_share", f"{calibration.flops_share:.3f}"), ""],
        ["latency of a matrix product, more for each 1,000 of K",
         _shown(calibration, "inner_us", f"{calibration.inner_us:.2f}"), "us"],
    ]  # fmt: skip
    for operation, (start, slope) in calibration.serial.items():
        text = _shown(calibration, f"serial.{operation}.0", f"{start:.1f}")
        rows.append([operation, text, f"us and {slope:.2f} us for each MB"])
    return tabulate(rows, headers=["parameter", "value", ""], disable_numparse=True)


def _shown(calibration: Calibration, name: str, text: str) -> str:
    return f"({text})" if name in calibration.undecided else text
