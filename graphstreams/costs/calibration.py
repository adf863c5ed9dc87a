"""Holds the parameters of the roofline that were measured on one GPU, in a JSON file with the date of the measurements."""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from graphstreams.inductor.disk_cache import cache_folder
from graphstreams.ir.devices import DEVICES, Device

log = logging.getLogger("graphstreams")

KINDS = ("gemm", "template", "reduction", "pointwise", "triton", "extern")  # of kernels that are launched
HIGHEST_US = 1e6
_IGNORED = "event_us"  # a field that files may have: what a wait for another stream takes, on which no plan depends
_PACKAGED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Calibration:
    """How the kernels of one GPU compare with its data sheet. Times are in us, and include the gap in front of a kernel.

    Plain data: `loads(dumps(calibration)) == calibration`. Raises ValueError for a value out of range.
    """

    device: str  # the driver's name of the GPU that was measured
    date: str  # of the measurements, YYYY-MM-DD
    versions: dict[str, str]  # of torch, CUDA and so on
    floors: dict[str, float]  # us of the shortest launch, by kind of kernel
    latency: dict[str, float]  # us that a kernel runs below its full rate: "gemm", which templates share, and "other"
    inner_us: float  # us that each 1,000 of the inner dimension add to the latency of a matrix product
    bandwidth_share: float  # share of the data sheet's bandwidth that large kernels reach
    flops_share: float  # share of the data sheet's FLOP rate that large kernels reach
    serial: dict[str, tuple[float, float]]  # us, and us for each MB touched, by operation that runs in few blocks
    kernels: int  # number of kernels that the parameters were fitted to
    error: float  # median of |predicted / measured - 1| over those kernels
    undecided: tuple[str, ...] = ()  # parameters that no kernel of the fit depends on

    def __post_init__(self) -> None:
        for name in ("floors", "latency", "versions", "serial"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} is no object")
        _check_keys("floors", self.floors, KINDS)
        _check_keys("latency", self.latency, ("gemm", "other"))
        for kind, latency in self.latency.items():
            _check(f"latency.{kind}", latency, 0.0, HIGHEST_US)
        for kind, floor in self.floors.items():
            _check(f"floors.{kind}", floor, self.latency[latency_of(kind)], HIGHEST_US)  # else it would be none
        for operation, line in self.serial.items():
            if not isinstance(line, Sequence) or len(line) != 2:
                raise ValueError(f"serial.{operation} is no pair of numbers")
            for value in line:
                _check(f"serial.{operation}", value, 0.0, HIGHEST_US)
        for name, high in (("inner_us", HIGHEST_US), ("kernels", math.inf), ("error", math.inf)):
            _check(name, getattr(self, name), 0.0, high)
        for name in ("bandwidth_share", "flops_share"):
            _check(name, getattr(self, name), 0.01, 1.0)
        _check_texts(self.device, self.date, self.versions)

    def dumps(self) -> str:
        """Return the calibration as indented JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def loads(text: str) -> Calibration:
        """Return the calibration that `dumps` wrote. Raises ValueError, which says why, if the text is not one."""
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(data, dict):
            raise ValueError("it is no object")
        data.pop(_IGNORED, None)
        known = {field.name for field in fields(Calibration)}
        if unknown := sorted(data.keys() - known):
            raise ValueError(f"{unknown[0]!r} is no field")
        if missing := sorted(known - data.keys()):
            raise ValueError(f"{missing[0]!r} is missing")
        if isinstance(data["serial"], dict):
            data["serial"] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["serial"].items()}
        if not isinstance(data["undecided"], list):
            raise ValueError("undecided is no list")
        return Calibration(**{**data, "undecided": tuple(map(str, data["undecided"]))})

    @staticmethod
    def load(path: Path) -> Calibration:
        """Return the calibration in a file.

        Raises OSError if the file can't be read, and ValueError, which names the file, if it holds no calibration.
        """
        try:
            return Calibration.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a calibration: {error}") from None

    def save(self, path: Path) -> Path:
        """Write the calibration to `path`, whose folder is made if it is missing, and return `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.dumps(), encoding="utf-8")
        return path


def latency_of(kind: str) -> str:
    """Return the key in `Calibration.latency` of a kind of kernel."""
    return "gemm" if kind in ("gemm", "template") else "other"


def calibration_of(device: Device) -> Calibration:
    """Return the user's calibration of a device, else the package's, else the package's calibration of the H200.

    The H200's can stand in because latencies and floors differ little between recent GPUs, and shares refer to each device's
    own data sheet. A user's file that holds no calibration is skipped with a warning.
    """
    try:
        return Calibration.load(user_file(device.name))
    except ValueError as error:
        log.warning("%s; graphstreams bench --calibrate writes a new one", error)
    except OSError:
        pass  # the user has none
    own = [key for key, known in DEVICES.items() if known.name == device.name and (_PACKAGED / f"{key}.json").is_file()]
    return shipped(own[0] if own else "h200")


@cache
def shipped(key: str = "h200") -> Calibration:
    """Return the package's calibration of the device with this key in `DEVICES`. Raises ValueError if it has none."""
    file = _PACKAGED / f"{key}.json"
    if not file.is_file():
        raise ValueError(f"the package has no calibration of {key!r}")
    return Calibration.load(file)


def user_file(name: str) -> Path:
    """Return the path of the user's calibration of the GPU that the driver calls `name`."""
    return _user_folder() / (re.sub(r"\W+", "_", name.lower()) + ".json")


def _user_folder() -> Path:
    return cache_folder() / "calibration"


def fingerprint() -> bytes:
    """Return bytes that change with every calibration that could be used here."""
    files = [file for folder in (_PACKAGED, _user_folder()) for file in sorted(folder.glob("*.json"))]
    return repr([(file.name, file.read_bytes()) for file in files]).encode()


def _check_keys(name: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    if set(found) != set(wanted):
        raise ValueError(f"{name} has {', '.join(sorted(found)) or 'nothing'} where {', '.join(wanted)} are needed")


def _check(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (low <= value <= high and value < math.inf):
        raise ValueError(f"{name} is {value!r}; it has to be a number from {low:g} to {high:g}")


def _check_texts(device: Any, date: Any, versions: Mapping[Any, Any]) -> None:
    if not isinstance(device, str) or not device:
        raise ValueError(f"device is {device!r}; it has to be the driver's name of a GPU")
    if not all(isinstance(text, str) for pair in versions.items() for text in pair):
        raise ValueError("versions are not all text")
    try:
        datetime.date.fromisoformat(date)
    except (TypeError, ValueError):
        raise ValueError(f"date is {date!r}; it has to be YYYY-MM-DD") from None
