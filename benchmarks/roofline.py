"""Compare predicted with measured times of the kernels of measured workloads, on one H200.

    python benchmarks/roofline.py [FOLDER] [--run FILE]

Without FOLDER the workloads are those of benchmarks/data/kernels_h200.json. The models compared are the numbers fitted by hand,
the calibration in the package, numbers fitted to one half of the workloads and tried on kernels that only the other half has,
and numbers fitted to a calibration run, whose kernels are in no workload. The run is the one of
benchmarks/data/calibration_h200.json, or what `graphstreams bench --calibrate --kernels FILE` wrote. The package's calibration
is fitted to the run, these workloads and whole models; benchmarks/prices.py writes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from graphstreams.calibration.calibrate import median_and_percentile
from graphstreams.calibration.fit import BY_HAND, errors, fit
from graphstreams.calibration.samples import Sample, from_dict, load
from graphstreams.costs.calibration import Calibration, shipped
from graphstreams.costs.roofline import predicted
from graphstreams.costs.work import works_of
from graphstreams.ir.devices import DEVICES

DATA = Path(__file__).parent / "data" / "kernels_h200.json"
RUN = DATA.with_name("calibration_h200.json")
DEVICE = DEVICES["h200"]
HALVES = {"attention layer": "layer", "block in front of it": "pre"}  # how the names of the workloads of each half begin

Workloads = Mapping[str, Sequence[Mapping[str, Any]]]  # name -> kernels


def read(path: Path) -> dict[str, Any]:
    """Return the data of the compact file, or of a folder with one file a workload. Raises ValueError if there are none."""
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(path.glob("*.json"))]
    if not files:
        raise ValueError("no measured workloads there")
    return {"workloads": {file["name"]: [_compact(kernel) for kernel in file["kernels"]] for file in files}}


def _compact(kernel: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: int(sum(size for _, size in kernel[name])) for name in ("reads", "writes")}
    same = {name: kernel[name] for name in ("name", "kind", "dtype", "ops")}
    counts = {"launches": len(kernel["launches"]), **sizes, "flops": int(kernel["flops"])}
    return {**same, **counts, "us": round(kernel["us"], 3)}


def samples(kernels: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """Return the samples that a fit is made from."""
    return [from_dict(kernel) for kernel in kernels if kernel["kind"] != "none"]


def samples_of(workloads: Workloads) -> list[Sample]:
    """Return the samples of all workloads."""
    return samples(kernel for kernels in workloads.values() for kernel in kernels)


def comparison(models: Mapping[str, tuple[Calibration, Sequence[Sample]]]) -> str:
    """Return a table, one row a model: the median of the error by kind of kernel, with the 90th percentile in brackets."""
    found = {name: errors(each, DEVICE, calibration) for name, (calibration, each) in models.items()}
    kinds = list(dict.fromkeys(kind for by_kind in found.values() for kind in by_kind))
    rows = []
    for name, by_kind in found.items():
        every = [error for own in by_kind.values() for error in own]
        rows.append([name, len(every), *(_text(by_kind.get(kind, ())) for kind in kinds), _text(every)])
    return tabulate(rows, headers=["model, tried on", "kernels", *kinds, "all"], disable_numparse=True)


def _text(found: Sequence[float]) -> str:
    return "{:.1%} ({:.1%})".format(*median_and_percentile(found)) if found else "-"


def models(workloads: Workloads, run: Sequence[Sample]) -> dict[str, tuple[Calibration, Sequence[Sample]]]:
    """Return every model with the samples it is tried on. `run` has the kernels of a calibration run."""
    every = samples_of(workloads)
    halves = {
        title: samples(kernel for name, kernels in workloads.items() if name.startswith(start) for kernel in kernels)
        for title, start in HALVES.items()
    }
    of_run = fit(run, DEVICE)
    calibrations = {
        "by hand": BY_HAND,
        "package": shipped(),
        "fitted to all": fit(every, DEVICE),
        "fitted to the run": of_run,
    }
    found: dict[str, tuple[Calibration, Sequence[Sample]]] = {
        f"{name}, all": (calibration, every) for name, calibration in calibrations.items()
    }
    found |= {"fitted to the run, the same": (of_run, run), "package, the run": (shipped(), run)}
    for title, own in halves.items():
        (rest,) = (half for half in halves if half != title)
        seen = {_what(sample) for sample in own}
        unseen = [sample for sample in halves[rest] if _what(sample) not in seen]
        if own and unseen:
            fitted = fit(own, DEVICE)
            found[f"by hand, {rest}"] = (BY_HAND, unseen)
            found[f"fitted to {title}, the same"] = (fitted, own)
            found[f"fitted to {title}, {rest}"] = (fitted, unseen)
    return found


def _what(sample: Sample) -> tuple[Any, ...]:
    kernel, _, _ = sample
    return kernel.kind, len(kernel.launches), kernel.reads, kernel.writes, kernel.flops


def each_kernel(workloads: Workloads) -> str:
    """Return a table of every kernel: the us measured, and those that the numbers by hand and the package's predict."""
    rows = []
    for workload, kernels in workloads.items():
        for kernel, sizes, us in samples(kernels):
            work = [each.at(sizes) for each in works_of(kernel, DEVICE)]
            rows.append([workload, kernel.name, kernel.kind, us, predicted(work, BY_HAND), predicted(work, shipped())])
    return tabulate(rows, headers=["workload", "kernel", "kind", "measured us", "by hand", "package"], floatfmt=".1f")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison. Return 2 if the data can't be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA, help="measured workloads, one JSON file each")
    parser.add_argument("--kernels", action="store_true", help="print every kernel too")
    parser.add_argument("--run", type=Path, metavar="FILE", default=RUN, help="the kernels of a calibration run")
    arguments = parser.parse_args(argv)
    try:
        run, told = load(arguments.run)
        if told["device"] != DEVICE.name:
            raise ValueError(f"{arguments.run}: of {told['device']}, and the workloads are of {DEVICE.name}")
    except (OSError, ValueError, KeyError) as error:
        print(error if isinstance(error, ValueError) else f"{arguments.run}: {error!r}", file=sys.stderr)
        return 2
    try:
        workloads = read(arguments.folder)["workloads"]
        if arguments.kernels:
            print(each_kernel(workloads), end="\n\n")
        print("|predicted / measured - 1|: median (90th percentile)\n")
        print(comparison(models(workloads, run)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments.folder}: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
