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

from graphstreams.costs.work import PRODUCTS, ROLES
from graphstreams.inductor.disk_cache import cache_folder
from graphstreams.ir.devices import DEVICES, Device

log = logging.getLogger("graphstreams")

KINDS = ("gemm", "template", "reduction", "pointwise", "triton", "extern")  # of kernels that are launched
HIGHEST_US = 1e6
LEAST_SHARE = 0.01
_IGNORED = "event_us"  # a field that files may have: what a wait for another stream takes, on which no plan depends
_COMPUTING = tuple(role for role in ROLES if role != "other")
_TABLES = (
    ("floors", KINDS, 0.0, HIGHEST_US),
    ("latency", ROLES, 0.0, HIGHEST_US),
    ("inner_us", _COMPUTING, 0.0, HIGHEST_US),
    ("bandwidth_share", ROLES, LEAST_SHARE, 1.0),
    ("flops_share", _COMPUTING, LEAST_SHARE, 1.0),
)
_NUMBERS = (
    *((name, 0.0, HIGHEST_US) for name in ("gather_us", "vectors_us", "copy_us", "narrow_us", "grouped_us")),
    ("overlap", 0.0, 1.0),
    ("cache_share", LEAST_SHARE, 10.0),
    ("kernels", 0.0, math.inf),
    ("error", 0.0, math.inf),
)
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
    latency: dict[str, float]  # us that a launch runs below its full rate, by its role (`work.ROLES`)
    inner_us: dict[str, float]  # us that each 1,000 of the inner dimension, or keys of attention, add to it, by role
    bandwidth_share: dict[str, float]  # share of the data sheet's bandwidth that large kernels reach, by role
    flops_share: dict[str, float]  # share of the data sheet's FLOP rate that large kernels reach, by role
    overlap: float  # share of the shorter of moving and computing that the longer one does not hide
    gather_us: float  # us more of a launch that reads first where to read
    cache_share: float  # bandwidth at which a batch of float32 products reads what they share, over the data sheet's of memory
    vectors_us: float  # us for each million unaligned results of a batch of float32 products of a matrix and a vector
    copy_us: float  # us of each copy that a convolution makes of its operands and its result in another layout
    narrow_us: float  # `inner_us` of a convolution of fewer than 8 channels
    grouped_us: float  # `inner_us` of a convolution whose groups have several channels each, for each group
    serial: dict[str, tuple[float, float]]  # us, and us for each MB touched, by operation that runs in few blocks
    kernels: int  # number of kernels that the parameters were fitted to
    error: float  # median of |predicted / measured - 1| over those kernels
    undecided: tuple[str, ...] = ()  # parameters that no kernel of the fit depends on

    def __post_init__(self) -> None:
        for name, keys, low, high in _TABLES:
            _check_table(name, getattr(self, name), keys, low, high)
        for kind, floor in self.floors.items():
            _check(f"floors.{kind}", floor, self.latency[latency_of(kind)], HIGHEST_US)  # else it would be none
        for name in ("versions", "serial"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} is no object")
        for operation, line in self.serial.items():
            if not isinstance(line, Sequence) or len(line) != 2:
                raise ValueError(f"serial.{operation} is no pair of numbers")
            for value in line:
                _check(f"serial.{operation}", value, 0.0, HIGHEST_US)
        for name, low, high in _NUMBERS:
            _check(name, getattr(self, name), low, high)
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
            raise ValueError(f"{missing[0]!r} is missing, as in a file of an older version")
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
    """Return the key in `Calibration.latency` of the shortest latency that a kind of kernel has."""
    return "gemm" if kind in PRODUCTS else "other"


def calibration_of(device: Device) -> Calibration:
    """Return the user's calibration of a device, else the package's, else the package's calibration of the H200.

    The H200's can stand in because latencies and floors differ little between recent GPUs, and shares refer to each device's
    own data sheet. A user's file that holds no calibration is skipped with a warning.
    """
    try:
        return Calibration.load(user_file(device.name))
    except ValueError as error:
        log.warning("graphstreams: %s; graphstreams bench --calibrate writes a new one", error)
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
    """Return bytes that change with every calibration, and every other table of times, that could be used here."""
    files = [file for folder in (_PACKAGED, _user_folder()) for file in sorted(folder.rglob("*.json"))]
    return repr([(file.name, file.read_bytes()) for file in files]).encode()


def _check_table(name: str, found: Any, wanted: Sequence[str], low: float, high: float) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is no object")
    if set(found) != set(wanted):
        raise ValueError(f"{name} has {', '.join(sorted(found)) or 'nothing'} where {', '.join(wanted)} are needed")
    for key, value in found.items():
        _check(f"{name}.{key}", value, low, high)


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
