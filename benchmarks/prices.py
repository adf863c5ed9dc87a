"""Compare predicted with measured serial times of whole models, each priced by a fit that has not seen its library.

    python benchmarks/prices.py [--kernels] [--out FILE] [--markdown FILE]

The models are those of benchmarks/data/zoo_h200.json and the workloads of benchmarks/data/kernels_h200.json, all measured on
one H200. They are put into groups by library, those of transformers into two in turns. A fit is made to the models of all
groups but one and to the kernels of the calibration run, benchmarks/data/calibration_h200.json, and tried on that group.
`--out` writes the fit to all of them: the calibration in the package. `--kernels` prints the kernels with the largest errors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from graphstreams.calibration.fit import fit
from graphstreams.calibration.samples import Sample, from_dict, load
from graphstreams.costs.calibration import Calibration, shipped
from graphstreams.costs.roofline import predicted
from graphstreams.costs.work import works_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel

DATA = Path(__file__).parent / "data"
MODELS, WORKLOADS, RUN = (DATA / f"{name}_h200.json" for name in ("zoo", "kernels", "calibration"))
DEVICE = DEVICES["h200"]
LIBRARIES = ("timm", "torchvision", "torchaudio", "diffusers", "deepctr", "vit-pytorch", "torch")  # how names of models begin
SHORTEST_US = 0.3  # of a kernel whose time a fit is made to: the clock of the measurements is not finer
HEADERS = ("model", "kernels", "measured us", "unseen us", "error", "all us", "error")


@dataclass(frozen=True)
class Model:
    """A model with the time of all its kernels on one stream, in us."""

    name: str
    group: str
    us: float
    kernels: tuple[tuple[Kernel, tuple[float, ...]], ...]  # each with the us of those that do the same; 0 if not measured

    def predicted(self, calibration: Calibration) -> float:
        """Return the us that the roofline predicts for the kernels one after another."""
        return sum(price(kernel, calibration) * len(us) for kernel, us in self.kernels)

    def samples(self) -> list[Sample]:
        """Return the measured kernels, those that do the same once, with the median of their us."""
        medians = [(kernel, statistics.median(us)) for kernel, us in self.kernels if kernel.kind != "none"]
        return [(kernel, {}, max(us, SHORTEST_US)) for kernel, us in medians if us > 0]


def price(kernel: Kernel, calibration: Calibration) -> float:
    """Return the us that the roofline predicts for a kernel."""
    return predicted([work.at({}) for work in works_of(kernel, DEVICE)], calibration)


def models(zoo: Path = MODELS, workloads: Path = WORKLOADS) -> list[Model]:
    """Return all models. Raises OSError, ValueError or KeyError if their data can't be read."""
    rows = json.loads(zoo.read_text(encoding="utf-8"))["models"]
    found = [
        Model(row["model"], _group(row["model"], place), row["serial"], _kernels(row["kernels"]))
        for place, row in enumerate(rows)
    ]
    for name, kernels in json.loads(workloads.read_text(encoding="utf-8"))["workloads"].items():
        one_each = ({**kernel, "us": [kernel["us"]]} for kernel in kernels)
        found.append(Model(f"deepseek {name}", "deepseek", sum(kernel["us"] for kernel in kernels), _kernels(one_each)))
    return found


def _group(name: str, place: int) -> str:
    library = next((each for each in LIBRARIES if name.startswith(f"{each}-")), "")
    return library or f"transformers {place % 2 + 1}"


def _kernels(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[Kernel, tuple[float, ...]], ...]:
    return tuple((from_dict({**row, "us": 0.0})[0], tuple(row["us"])) for row in rows)


def unseen(found: Sequence[Model], run: Sequence[Sample]) -> dict[str, Calibration]:
    """Return for each group the fit to the run and to the models of all other groups."""
    groups = dict.fromkeys(model.group for model in found)
    return {group: fit([*run, *samples_of(m for m in found if m.group != group)], DEVICE) for group in groups}


def fitted(found: Sequence[Model], run: Sequence[Sample], versions: Mapping[str, str]) -> Calibration:
    """Return the fit to the run and to all models, with the date of their measurements: the calibration in the package."""
    return fit([*run, *samples_of(found)], DEVICE, json.loads(MODELS.read_text(encoding="utf-8"))["date"], versions)


def samples_of(found: Iterable[Model]) -> list[Sample]:
    """Return the samples of all models."""
    return [sample for model in found for sample in model.samples()]


def rows_of(found: Sequence[Model], fits: Mapping[str, Calibration], known: Calibration) -> list[list[Any]]:
    """Return a row for each model: measured us, those predicted by the fit that has not seen it, and those by `known`."""
    rows = []
    for model in found:
        row: list[Any] = [model.name, sum(len(us) for _, us in model.kernels), f"{model.us:.1f}"]
        for calibration in (fits[model.group], known):
            us = model.predicted(calibration)
            row += [f"{us:.1f}", f"{us / model.us - 1:+.1%}"]
        rows.append(row)
    return rows


def summary(found: Sequence[Model], fits: Mapping[str, Calibration], known: Calibration) -> str:
    """Return the median and the largest error of both predictions."""
    lines = []
    for name, calibrations in (("unseen", fits), ("all", {group: known for group in fits})):
        errors = [abs(model.predicted(calibrations[model.group]) / model.us - 1) for model in found]
        over = f"{sum(error > 0.5 for error in errors)} of {len(errors)}"
        median, largest = statistics.median(errors), max(errors)
        lines.append(f"{name}: median error {median:.1%}, largest {largest:.1%}, over 50 %: {over} of {len(errors)}")
    return "\n".join(lines)


def worst(found: Iterable[Model], known: Calibration, count: int = 40) -> str:
    """Return a table of the kernels whose errors matter most to their models."""
    rows = []
    for model in found:
        for kernel, us in (pair for pair in model.kernels if any(pair[1])):
            time, median = price(kernel, known), statistics.median(us)
            rows.append([model.name, kernel.name, kernel.kind, len(us), median, time, (time - median) * len(us) / model.us])
    rows.sort(key=lambda row: -abs(row[-1]))
    for row in rows:
        row[-1] = f"{row[-1]:+.1%}"
    return tabulate(
        rows[:count], headers=["model", "kernel", "kind", "times", "us", "predicted", "of the model"], floatfmt=".1f"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison. Return 2 if the data can't be read."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", action="store_true", help="print the kernels with the largest errors too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fit to everything")
    parser.add_argument("--markdown", action="store_true", help="print a table for a document")
    arguments = parser.parse_args(argv)
    try:
        found = models()
        run, told = load(RUN)
    except (OSError, ValueError, KeyError) as error:
        print(repr(error), file=sys.stderr)
        return 2
    known = shipped()
    if arguments.out:
        known = fitted(found, run, told["versions"])
        known.save(arguments.out)
    fits = unseen(found, run)
    form = "github" if arguments.markdown else "simple"
    print(tabulate(rows_of(found, fits, known), headers=HEADERS, tablefmt=form, disable_numparse=True))
    print(f"\n{summary(found, fits, known)}")
    if arguments.kernels:
        print(f"\n{worst(found, known)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
