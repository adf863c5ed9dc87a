"""Keep timed kernels as plain data, so that a roofline can be fitted to them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sympy

from graphstreams.costs.calibration import Calibration
from graphstreams.ir.kernels import Access, Kernel, value_of

Sample = tuple[Kernel, Mapping[str, int], float]  # a kernel, the dynamic sizes it ran at, its us

ABOUT = "Kernels of a calibration run: bytes read and written, FLOPs, us with the gap in front of each."


def as_dict(sample: Sample) -> dict[str, Any]:
    """Return what the roofline looks at, in numbers. Raises ValueError if a dynamic size has no value."""
    kernel, sizes, us = sample
    return {
        "name": kernel.name,
        "kind": kernel.kind,
        "dtype": kernel.dtype,
        "ops": list(kernel.ops),
        "launches": len(kernel.launches),
        "reads": int(sum(value_of(access.bytes, sizes) for access in kernel.reads)),
        "writes": int(sum(value_of(access.bytes, sizes) for access in kernel.writes)),
        "flops": int(value_of(kernel.flops, sizes)),
        "us": round(us, 3),
    }


def from_dict(data: Mapping[str, Any]) -> Sample:
    """Return the sample that `as_dict` wrote; all that it reads is one access, all that it writes another. Raises KeyError."""
    kernel = Kernel(
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
    return kernel, {}, data["us"]


def save(samples: Iterable[Sample], of: Calibration, path: Path) -> Path:
    """Write samples, one a line, below device, date and versions of the calibration of them. Raises OSError as `open`."""
    head = {"about": ABOUT, "device": of.device, "date": of.date, "versions": of.versions}
    lines = ",\n".join(f"  {json.dumps(as_dict(sample))}" for sample in samples)
    text = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text(f'{text},\n "kernels": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return path


def load(path: Path) -> tuple[list[Sample], dict[str, Any]]:
    """Return the samples of a file that `save` wrote, and its other fields.

    Raises ValueError, with the file's name, if it holds none; OSError as `open`.
    """
    try:
        data = dict(json.loads(path.read_text(encoding="utf-8")))
        samples = [from_dict(kernel) for kernel in data.pop("kernels")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: no kernels of a calibration run: {error!r}") from None
    if not samples:
        raise ValueError(f"{path}: no kernels of a calibration run: there are none")
    return samples, data
