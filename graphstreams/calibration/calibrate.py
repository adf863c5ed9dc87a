"""Run the calibration: compile and time kernels of many kinds and sizes on the GPU at hand, and fit the roofline to them.

Its tables show how well the roofline fits, and its parameters.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from tabulate import tabulate

from graphstreams.benchmark.results import environment
from graphstreams.benchmark.variants import replayable_graphs
from graphstreams.calibration.fit import errors, fit
from graphstreams.calibration.microbenchmarks import GROUPS, Operations
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration
from graphstreams.costs.work import ROLES
from graphstreams.errors import Unmeasurable
from graphstreams.ir.devices import Device, device_at_hand

_NUMBERS = (
    ("overlap", "share of the shorter of moving and computing that shows", ""),
    ("cache_share", "bandwidth of operands that a float32 batch shares, of memory's", ""),
    ("gather_us", "indices that are read first", "us"),
    ("vectors_us", "each million results of products of matrices and vectors, float32", "us"),
    ("copy_us", "each copy of a convolution into another layout", "us"),
    ("narrow_us", "each 1,000 of K of a convolution of few channels", "us"),
    ("grouped_us", "each 1,000 of K of a convolution in groups", "us"),
)


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
        rows.append([kind, *_errors(found.get(kind, [])), floor])
    rows.append(["all", *_errors(every), ""])
    headers = ["kind", "kernels", "median error", "90th percentile", "floor us"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def _errors(found: Sequence[float]) -> list[str]:
    if not found:
        return ["0", "-", "-"]
    return [str(len(found)), *(f"{error:.1%}" for error in median_and_percentile(found))]


def median_and_percentile(found: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 90th percentile of at least one error."""
    return statistics.median(found), sorted(found)[int(0.9 * (len(found) - 1))]


def _parameters(calibration: Calibration, device: Device) -> str:
    rows = [_role(calibration, device, role) for role in ROLES]
    by_role = tabulate(
        rows, headers=["role", "latency us", "us by 1,000 of K", "bandwidth", "FLOP rate"], disable_numparse=True
    )
    numbers = [[text, _shown(calibration, name, f"{getattr(calibration, name):.2f}"), unit] for name, text, unit in _NUMBERS]
    for operation, (start, slope) in calibration.serial.items():
        text = _shown(calibration, f"serial.{operation}.0", f"{start:.1f}")
        numbers.append([operation, text, f"us and {slope:.2f} us for each MB"])
    return f"{by_role}\n\n{tabulate(numbers, headers=['parameter', 'value', ''], disable_numparse=True)}"


def _role(calibration: Calibration, device: Device, role: str) -> list[str]:
    """Return a row: a role's latency, what the inner dimension adds, and its shares of the data sheet's rates."""
    bandwidth = calibration.bandwidth_share[role]
    shown = partial(_shown, calibration)
    row = [
        shown(f"latency.{role}", f"{calibration.latency[role]:.2f}"),
        *([shown(f"inner_us.{role}", f"{calibration.inner_us[role]:.2f}")] if role in calibration.inner_us else ["-"]),
        f"{shown(f'bandwidth_share.{role}', f'{bandwidth:.3f}')}: {bandwidth * device.bandwidth / 1e12:.2f} TB/s",
        *([shown(f"flops_share.{role}", f"{calibration.flops_share[role]:.3f}")] if role in calibration.flops_share else ["-"]),
    ]
    return [role, *row]


def _shown(calibration: Calibration, name: str, text: str) -> str:
    return f"({text})" if name in calibration.undecided else text
