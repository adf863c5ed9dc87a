"""Fit the parameters of the roofline to timed kernels by robust coordinate descent. Pure Python, deterministic."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration, latency_of
from graphstreams.costs.roofline import Work, candidates, work_of
from graphstreams.ir.devices import Device

Values = dict[str, float]  # parameters by a name such as "floors.gemm"
Move = dict[str, int]  # by which power of one factor each parameter is multiplied

# Each fit starts here, and parameters that no sample depends on keep these values. Fitted by hand to the kernels of V3.2
# decode layers on one H200 inside CUDA graphs. aten.topk selects in one block per row, the others sort.
BY_HAND = Calibration(
    device="NVIDIA H200",
    date="2026-11-21",
    versions={"torch": "2.15.0", "cuda": "13.2"},
    floors={"gemm": 3.4, "template": 3.4, "reduction": 1.8, "pointwise": 1.6, "triton": 2.0, "extern": 2.5},
    latency={"gemm": 2.2, "other": 1.2},
    inner_us=0.0,
    bandwidth_share=0.8,
    flops_share=1.0,
    serial={"topk": (22.0, 0.0), "sort": (25.0, 0.0), "kthvalue": (25.0, 0.0), "nonzero": (15.0, 0.0)},
    kernels=0,
    error=0.0,
)

ROUNDING = 0.05  # logarithm of predicted over measured time up to which errors count as squares; larger ones count linearly
SMALLEST = 0.01  # us, of a parameter that starts at 0
FIRST_STEP, LAST_STEP = 0.5, 5e-4  # of the logarithm of a parameter
MOST_ROUNDS = 300
NOTHING = 1e-9  # the largest difference of losses that does not count
LATENCIES = ("latency.gemm", "latency.other")


def fit(
    samples: Iterable[Sample],
    device: Device,
    date: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> Calibration:
    """Return the parameters with which the roofline of `device` comes nearest to the samples, by the logarithm of time.

    Parameters that no sample ever depends on stay those of `BY_HAND`. `date` is today by default.
    Raises ValueError if there are no samples, or one has no time above 0.
    """
    works = _works(samples, device)
    if not works:
        raise ValueError("there are no kernels to fit")

    def loss(values: Values) -> float:
        calibration = _with(BY_HAND, values)
        return math.fsum(math.hypot(math.log(predicted(w, calibration) / us), ROUNDING) for w, us in works)

    start = _values(BY_HAND)
    found = _descend(start, loss, _moves(start))
    undecided = [name for name in found if not _matters(name, found, loss)]
    for name in undecided:
        before = {**found, name: start[name]}
        found = before if loss(before) <= loss(found) + NOTHING else found
    result = _with(BY_HAND, {name: float(f"{value:.4g}") for name, value in found.items()})
    return replace(
        result,
        device=device.name,
        date=date or datetime.date.today().isoformat(),
        versions=dict(versions or {}),
        kernels=len(works),
        error=round(statistics.median(abs(predicted(w, result) / us - 1) for w, us in works), 4),
        undecided=tuple(undecided),
    )


def predicted(work: Work, calibration: Calibration) -> float:
    """Return the us of a kernel whose work is given in numbers."""
    return float(max(candidates(work, calibration)))


def errors(samples: Iterable[Sample], device: Device, calibration: Calibration) -> dict[str, list[float]]:
    """Return |predicted / measured - 1| of every sample, by kind of kernel, ascending."""
    found: dict[str, list[float]] = {}
    for work, us in _works(samples, device):
        found.setdefault(work.kind, []).append(abs(predicted(work, calibration) / us - 1))
    return {kind: sorted(found[kind]) for kind in KINDS if kind in found}


def _works(samples: Iterable[Sample], device: Device) -> list[tuple[Work, float]]:
    works = []
    for kernel, sizes, us in samples:
        if not (0 < us < math.inf):
            raise ValueError(f"kernel {kernel.name!r} has the time {us} us; a finite time above 0 is needed")
        if kernel.kind in KINDS:
            works.append((work_of(kernel, device).at(sizes), us))
    return works


def _values(calibration: Calibration) -> Values:
    found = {f"floors.{kind}": us for kind, us in calibration.floors.items()}
    found.update({f"latency.{kind}": us for kind, us in calibration.latency.items()})
    found.update({name: getattr(calibration, name) for name in ("inner_us", "bandwidth_share", "flops_share")})
    for operation, line in calibration.serial.items():
        found.update({f"serial.{operation}.{i}": us for i, us in enumerate(line)})
    return found


def _with(calibration: Calibration, values: Values) -> Calibration:
    """Return the calibration with other parameters. A floor is at least the latency, because no kernel is shorter than that."""
    return replace(
        calibration,
        floors={k: max(values[f"floors.{k}"], values[f"latency.{latency_of(k)}"]) for k in calibration.floors},
        latency={kind: values[f"latency.{kind}"] for kind in calibration.latency},
        inner_us=values["inner_us"],
        bandwidth_share=values["bandwidth_share"],
        flops_share=values["flops_share"],
        serial={name: (values[f"serial.{name}.0"], values[f"serial.{name}.1"]) for name in calibration.serial},
    )


def _moves(values: Values) -> list[Move]:
    """Return moves of each parameter by itself, and of pairs of which one can make up for the other."""
    pairs = [(latency, share) for latency in LATENCIES for share in ("bandwidth_share", "flops_share")]
    pairs += [("latency.gemm", "inner_us"), ("inner_us", "bandwidth_share")]
    pairs += [(name, f"{name[:-1]}1") for name in values if name.startswith("serial.") and name.endswith(".0")]
    return [*({name: 1} for name in values), *({one: 1, other: sign} for one, other in pairs for sign in (1, -1))]


def _descend(start: Values, loss: Callable[[Values], float], moves: Sequence[Move]) -> Values:
    """Try one move after another by ever smaller steps, and keep each that lowers the loss."""
    best = {name: value or SMALLEST for name, value in start.items()}
    lowest, step = loss(best), FIRST_STEP
    for _ in range(MOST_ROUNDS):
        before = lowest
        for move in moves:
            for factor in (math.exp(step), math.exp(-step)):
                tried = {**best, **{name: best[name] * factor**power for name, power in move.items()}}
                if _possible(tried) and (new := loss(tried)) < lowest - NOTHING:
                    best, lowest = tried, new
        if lowest == before:
            step /= 2
        if step < LAST_STEP:
            break
    return best


def _possible(values: Values) -> bool:
    return all(SMALLEST <= values[name] <= 1 for name in ("bandwidth_share", "flops_share"))


def _matters(name: str, values: Values, loss: Callable[[Values], float]) -> bool:
    changed = [{**values, name: values[name] * factor} for factor in (1.1, 1 / 1.1)]
    return any(abs(loss(each) - loss(values)) > NOTHING for each in changed if _possible(each))
