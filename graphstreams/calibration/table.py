"""Show a calibration as tables: how well it fits, and its parameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from graphstreams.calibration.fit import errors
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration, latency_of
from graphstreams.ir.devices import Device


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
