"""What was measured about one GPU: the parameters of the roofline, a JSON file with the date of the measurements."""

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
_PACKAGED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Calibration:
    """How kernels of one GPU compare with its data sheet. Times are in us, each with the gap in front of a kernel.

    Plain data: `loads(dumps(calibration)) == calibration`. Raises ValueError for a number that cannot be one.
    """

    device: str  # the driver's name of the GPU that was measured
    date: str  # of the measurements, YYYY-MM-DD
    versions: dict[str, str]  # of torch, CUDA and so on
    floors: dict[str, float]  # us of the shortest launch, by kind of kernel
    latency: dict[str, float]  # us until a kernel runs at full rate, and after: "gemm", templates too, and "other"
    inner_us: float  # us that the latency of a matrix product grows by with each 1,000 of its inner dimension
    bandwidth_share: float  # of the data sheet's, reached by large kernels
    flops_share: float  # of the data sheet's, the same
    serial: dict[str, tuple[float, float]]  # by operation that few blocks do: us, and us more for each MB it touches
    # What a wait for another stream adds inside a CUDA graph. To be read: plans are made with what fits measured plans best,
    # `planning.simulation.EVENT_US` and `choosing.LISTED_WAIT_US`.
    event_us: float
    kernels: int  # how many were fitted
    error: float  # the median of |predicted / measured - 1| over them
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
        for name, high in (("inner_us", HIGHEST_US), ("event_us", HIGHEST_US), ("kernels", math.inf), ("error", math.inf)):
            _check(name, getattr(self, name), 0.0, high)
        for name in ("bandwidth_share", "flops_share"):
            _check(name, getattr(self, name), 0.01, 1.0)
        _check_texts(self.device, self.date, self.versions)

    def dumps(self) -> str:
        """The calibration as indented JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def loads(text: str) -> Calibration:
        """The calibration that `dumps` wrote. Raises ValueError where the text is not one; the message says why."""
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(data, dict):
            raise ValueError("it is no object")
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
        """The calibration in a file. Raises ValueError, which names the file, where it holds none; OSError as `open`."""
        try:
            return Calibration.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a calibration: {error}") from None

    def save(self, path: Path) -> Path:
        """Write the file, and the folder it is in where that is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.dumps(), encoding="utf-8")
        return path

    def described(self, device: str) -> str:
        """One line on where the numbers come from when they are used for `device`."""
        other = "" if device == self.device else f" of {self.device}"
        return f"calibration{other} of {self.date}"


def latency_of(kind: str) -> str:
    """Which latency a kind of kernel has."""
    return "gemm" if kind in ("gemm", "template") else "other"


def calibration_of(device: Device) -> Calibration:
    """The user's own calibration of such a device, else the package's, else the package's of the H200.

    The last for want of a better one: latencies and floors differ little between GPUs of the last generations, and shares
    are of each device's own data sheet. A file of the user's that holds none is passed over with a warning.
    """
    try:
        return Calibration.load(user_file(device.name))
    except ValueError as error:
        log.warning("%s; graphstreams bench --calibrate writes a new one", error)
    except OSError:
        pass  # there is none, or no folder
    keys = [key for key, known in DEVICES.items() if known.name == device.name]
    return next((found for key in keys if (found := _packaged(key))), None) or shipped()


def shipped(key: str = "h200") -> Calibration:
    """The calibration of a listed device that came with the package. Raises ValueError where there is none."""
    found = _packaged(key)
    if found is None:
        raise ValueError(f"the package has no calibration of {key!r}")
    return found


@cache
def _packaged(key: str) -> Calibration | None:
    file = _PACKAGED / f"{key}.json"
    return Calibration.load(file) if file.is_file() else None


def user_file(name: str) -> Path:
    """Where the user's own calibration of the device with that name of the driver's belongs."""
    return _user_folder() / (re.sub(r"\W+", "_", name.lower()) + ".json")


def _user_folder() -> Path:
    return cache_folder() / "calibration"


def fingerprint() -> bytes:
    """Changes with every calibration that could be used here."""
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
