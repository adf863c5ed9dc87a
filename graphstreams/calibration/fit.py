"""Fit the parameters of the roofline to timed kernels by robust coordinate descent. Pure Python, deterministic."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration, latency_of
from graphstreams.costs.roofline import predicted
from graphstreams.costs.work import ROLES, Work, works_of
from graphstreams.ir.devices import Device

Values = dict[str, float]  # parameters by a name such as "floors.gemm"
Timed = tuple[str, list[Work], float]  # the kind of a kernel, the work of its launches, its us
Move = dict[str, int]  # by which power of one factor each parameter is multiplied

# Each fit starts here, and parameters that no sample depends on keep these values. Fitted by hand to the kernels of V3.2
# decode layers on one H200 inside CUDA graphs. aten.topk selects in one block per row, the others sort.
BY_HAND = Calibration(
    device="NVIDIA H200",
    date="2026-11-21",
    versions={"torch": "2.15.0", "cuda": "13.2"},
    floors={"gemm": 3.4, "template": 3.4, "reduction": 1.8, "pointwise": 1.6, "triton": 2.0, "extern": 2.5},
    latency={"gemm": 2.2, "float32": 4.0, "convolution": 3.0, "attention": 5.5, "other": 1.2},
    inner_us={"gemm": 0.0, "float32": 2.0, "convolution": 2.0, "attention": 6.0},
    bandwidth_share={"gemm": 0.8, "float32": 0.8, "convolution": 0.8, "attention": 0.8, "other": 0.8},
    flops_share={"gemm": 1.0, "float32": 0.6, "convolution": 0.4, "attention": 0.5},
    overlap=0.3,
    # Without kernels that decide them these make no difference: what they are for is priced as everything else.
    gather_us=0.0,
    cache_share=1.0,
    vectors_us=0.0,
    copy_us=0.0,
    narrow_us=2.0,
    grouped_us=2.0,
    serial={"topk": (22.0, 0.0), "sort": (25.0, 0.0), "kthvalue": (25.0, 0.0), "nonzero": (15.0, 0.0)},
    kernels=0,
    error=0.0,
)

ROUNDING = 0.05  # logarithm of predicted over measured time up to which errors count as squares; larger ones count linearly
SMALLEST = 0.01  # us, of a parameter that starts at 0
FIRST_STEP, LAST_STEP = 0.5, 5e-4  # of the logarithm of a parameter
MOST_ROUNDS = 300
NOTHING = 1e-9  # the largest difference of losses that does not count
NUMBERS = ("overlap", "cache_share", "gather_us", "vectors_us", "copy_us", "narrow_us", "grouped_us")
TABLES = ("floors", "latency", "inner_us", "bandwidth_share", "flops_share")
COMPUTING = tuple(BY_HAND.inner_us)  # the roles whose FLOPs count


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

    start = _values(BY_HAND)
    parts = [_loss_of(own, start) for own in _alike(works)]

    def loss(values: Values) -> float:
        return math.fsum(part(values) for part in parts)

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
        error=round(statistics.median(abs(predicted(w, result) / us - 1) for _, w, us in works), 4),
        undecided=tuple(undecided),
    )


def errors(samples: Iterable[Sample], device: Device, calibration: Calibration) -> dict[str, list[float]]:
    """Return |predicted / measured - 1| of every sample, by kind of kernel, ascending."""
    found: dict[str, list[float]] = {}
    for kind, works, us in _works(samples, device):
        found.setdefault(kind, []).append(abs(predicted(works, calibration) / us - 1))
    return {kind: sorted(found[kind]) for kind in KINDS if kind in found}


def _works(samples: Iterable[Sample], device: Device) -> list[Timed]:
    works: list[Timed] = []
    for kernel, sizes, us in samples:
        if not (0 < us < math.inf):
            raise ValueError(f"kernel {kernel.name!r} has the time {us} us; a finite time above 0 is needed")
        if kernel.kind in KINDS:
            works.append((kernel.kind, [work.at(sizes) for work in works_of(kernel, device)], us))
    return works


def _alike(works: Iterable[Timed]) -> list[list[Timed]]:
    """Return timed kernels by what their times depend on: the kinds, roles and operators of their launches."""
    found: dict[frozenset[str], list[Timed]] = {}
    for kernel in works:
        found.setdefault(_traits(kernel), []).append(kernel)
    return list(found.values())


def _traits(kernel: Timed) -> frozenset[str]:
    _, works, _ = kernel
    return frozenset(trait for work in works for trait in (work.kind, work.role, latency_of(work.kind), work.operator))


def _loss_of(kernels: Sequence[Timed], names: Iterable[str]) -> Callable[[Values], float]:
    """Return the loss of kernels that are alike; it is computed again only if one of their parameters has another value."""
    traits = _traits(kernels[0])
    own = [name for name in names if "." not in name or name.split(".")[1] in traits]
    known: dict[tuple[float, ...], float] = {}

    def loss(values: Values) -> float:
        key = tuple(values[name] for name in own)
        if key not in known:
            calibration = _with(BY_HAND, values)
            ratios = (predicted(works, calibration) / us for _, works, us in kernels)
            known[key] = math.fsum(math.hypot(math.log(ratio), ROUNDING) for ratio in ratios)
        return known[key]

    return loss


def _values(calibration: Calibration) -> Values:
    found = {name: getattr(calibration, name) for name in NUMBERS}
    found |= {f"{name}.{key}": value for name in TABLES for key, value in getattr(calibration, name).items()}
    found |= {f"serial.{operation}.{i}": us for operation, line in calibration.serial.items() for i, us in enumerate(line)}
    return found


def _with(calibration: Calibration, values: Values) -> Calibration:
    """Return the calibration with other parameters. A floor is at least the latency, because no kernel is shorter than that."""
    tables: dict[str, Any] = {name: {key: values[f"{name}.{key}"] for key in getattr(calibration, name)} for name in TABLES}
    tables["floors"] = {kind: max(us, tables["latency"][latency_of(kind)]) for kind, us in tables["floors"].items()}
    serial = {name: (values[f"serial.{name}.0"], values[f"serial.{name}.1"]) for name in calibration.serial}
    numbers: dict[str, Any] = {name: values[name] for name in NUMBERS}
    return replace(calibration, **numbers, **tables, serial=serial)


def _moves(values: Values) -> list[Move]:
    """Return moves of each parameter by itself, and of pairs of which one can make up for the other."""
    pairs = [(f"latency.{role}", f"bandwidth_share.{role}") for role in ROLES]
    for role in COMPUTING:
        pairs += [(f"latency.{role}", f"flops_share.{role}"), (f"latency.{role}", f"inner_us.{role}")]
        pairs += [(f"inner_us.{role}", f"bandwidth_share.{role}")]
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
    shares = (name for name in values if name == "overlap" or name.partition(".")[0] in ("bandwidth_share", "flops_share"))
    return all(SMALLEST <= values[name] <= 1 for name in shares)


def _matters(name: str, values: Values, loss: Callable[[Values], float]) -> bool:
    changed = [{**values, name: values[name] * factor} for factor in (1.1, 1 / 1.1)]
    return any(abs(loss(each) - loss(values)) > NOTHING for each in changed if _possible(each))
