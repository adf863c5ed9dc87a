"""Predicted against measured times of the kernels of measured workloads, one H200.

    python benchmarks/roofline.py [FOLDER]

Without FOLDER the workloads are those of benchmarks/data/kernels_h200.json. Three models are compared: the numbers fitted by
hand, the calibration in the package, and numbers fitted to one half of the workloads and tried on the other. With `--out FILE`
a fit to all of them is written, which is how graphstreams/costs/data/h200.json was made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy
from tabulate import tabulate

from graphstreams.costs.calibration import Calibration, shipped
from graphstreams.costs.devices import DEVICES
from graphstreams.costs.fitting import BY_HAND, Sample, errors, fit
from graphstreams.graph.kernels import Access, Kernel

DATA = Path(__file__).parent / "data" / "kernels_h200.json"
DEVICE = DEVICES["h200"]
HALVES = {"attention layer": "layer", "block in front of it": "pre"}  # how the names of the workloads of each half begin

Workloads = dict[str, list[dict[str, Any]]]  # name -> kernels


def read(path: Path) -> Workloads:
    """The compact file, or a folder with one file a workload as they were measured. Raises ValueError where there are none."""
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8"))["workloads"])
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(path.glob("*.json"))]
    found = {file["name"]: [_compact(kernel) for kernel in file["kernels"]] for file in files}
    if not found:
        raise ValueError(f"{path} holds no measured workloads")
    return found


def _compact(kernel: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: int(sum(size for _, size in kernel[name])) for name in ("reads", "writes")}
    same = {name: kernel[name] for name in ("name", "kind", "dtype", "ops")}
    return {**same, "launches": len(kernel["launches"]), **sizes, "flops": int(kernel["flops"]), "us": round(kernel["us"], 3)}


def samples(kernels: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """What a fit is made from."""
    return [(_kernel(kernel), {}, kernel["us"]) for kernel in kernels if kernel["kind"] != "none"]


def _kernel(data: Mapping[str, Any]) -> Kernel:
    return Kernel(
        id=0,
        name=data["name"],
        kind=data["kind"],
        launches=("",) * data["launches"],
        reads=(Access("reads", sympy.Integer(data["reads"])),),
        writes=(Access("writes", sympy.Integer(data["writes"])),),
        flops=sympy.Integer(data["flops"]),
        dtype=data["dtype"],
        ops=tuple(data["ops"]),
    )


def comparison(models: Mapping[str, tuple[Calibration, Sequence[Sample]]]) -> str:
    """One row a model: the median of the error over the kernels of each kind, with the 90th percentile in brackets."""
    found = {name: errors(each, DEVICE, calibration) for name, (calibration, each) in models.items()}
    kinds = list(dict.fromkeys(kind for by_kind in found.values() for kind in by_kind))
    rows = []
    for name, by_kind in found.items():
        every = sorted(error for own in by_kind.values() for error in own)
        rows.append([name, len(every), *(_text(by_kind.get(kind, ())) for kind in kinds), _text(every)])
    return tabulate(rows, headers=["model, tried on", "kernels", *kinds, "all"], disable_numparse=True)


def _text(found: Sequence[float]) -> str:
    if not found:
        return "-"
    return f"{statistics.median(found):.1%} ({found[int(0.9 * (len(found) - 1))]:.1%})"


def models(workloads: Workloads) -> dict[str, tuple[Calibration, Sequence[Sample]]]:
    """Every model with what it is tried on."""
    every = samples(kernel for kernels in workloads.values() for kernel in kernels)
    halves = {
        title: samples(kernel for name, kernels in workloads.items() if name.startswith(start) for kernel in kernels)
        for title, start in HALVES.items()
    }
    found = {"by hand, all": (BY_HAND, every), "package, all": (shipped(), every), "fitted to all, all": (fit(every, DEVICE), every)}
    for title, own in halves.items():
        others = [(other, kernels) for other, kernels in halves.items() if other != title]
        for other, kernels in others if own and all(kernels for _, kernels in others) else []:
            fitted = fit(own, DEVICE)
            found[f"by hand, {other}"] = (BY_HAND, kernels)
            found[f"fitted to {title}, the same"] = (fitted, own)
            found[f"fitted to {title}, {other}"] = (fitted, kernels)
    return found


def detail(workloads: Workloads) -> str:
    """Every kernel, with the times that were predicted for it."""
    by_hand, package = (errors_of(workloads, each) for each in (BY_HAND, shipped()))
    return tabulate([], headers=[]) + str(len(by_hand) + len(package))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; 2 where the data cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    return 0 if parser and argv else 2


if __name__ == "__main__":
    sys.exit(main())
