"""Keep timed kernels as plain data, so that a roofline can be fitted to them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import sympy

from graphstreams.costs.calibration import Calibration
from graphstreams.ir.kernels import Access, Kernel, LaunchWork, value_of

Sample = tuple[Kernel, Mapping[str, int], float]  # a kernel, the dynamic sizes it ran at, its us

ABOUT = "Kernels of a calibration run: bytes read and written, FLOPs, us with the gap in front of each, what each launch does."
_DEFAULTS = {field.name: field.default for field in fields(LaunchWork)}


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
        **({"work": work_as_dicts(kernel.work, sizes)} if kernel.work else {}),
        "us": round(us, 3),
    }


def work_as_dicts(work: Iterable[LaunchWork], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the work of launches in numbers, without what is as by default."""
    found = [{name: _number(getattr(each, name), sizes) for name in _DEFAULTS} for each in work]
    return [{name: value for name, value in each.items() if value != _DEFAULTS[name]} for each in found]


def work_of_dicts(data: Iterable[Mapping[str, Any]]) -> tuple[LaunchWork, ...]:
    """Return the work that `work_as_dicts` wrote. Raises TypeError if a field is missing or unknown."""
    return tuple(LaunchWork(**{name: _expression(value) for name, value in each.items()}) for each in data)


def _number(value: Any, sizes: Mapping[str, int]) -> Any:
    return int(value_of(value, sizes)) if isinstance(value, sympy.Expr) else value


def _expression(value: Any) -> Any:
    return sympy.Integer(value) if isinstance(value, int) and not isinstance(value, bool) else value


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
        work=work_of_dicts(data.get("work", ())),
    )
    return kernel, {}, data["us"]


def save(samples: Iterable[Sample], of: Calibration, path: Path) -> Path:
    """Write samples, one a line, below device, date and versions of the calibration of them. Raises OSError as `open`."""
    head = {"about": ABOUT, "device": of.device, "date": of.date, "versions": of.versions}
    return write_lines(head, "kernels", [as_dict(sample) for sample in samples], path)


def write_lines(head: Mapping[str, Any], name: str, rows: Sequence[Any], path: Path) -> Path:
    """Write an object as JSON whose last field, `name`, has one row a line. Raises OSError as `open`."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text(f'{text},\n "{name}": [\n{lines}\n ]\n}}\n', encoding="utf-8")
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
