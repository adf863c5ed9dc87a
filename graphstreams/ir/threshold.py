"""TODO."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

Point = tuple[int, float, float]  # size, serial us, streamed us


@dataclass(frozen=True)
class Threshold:
    """For which values of a dynamic size a graph runs on streams. Plain data: `loads(dumps(threshold)) == threshold`."""

    symbol: str  # the size, such as "s21"
    largest: int | None  # streams up to this one; 0: at none; None: without a limit in the range looked at
    curve: tuple[Point, ...]  # (size, serial us, streamed us), by size
    reason: str
    smallest: int = 0  # and from this one on
    measured: tuple[tuple[int, float], ...] = ()  # (size, share of the serial time saved), by size

    @property
    def limits(self) -> bool:
        """Whether there are sizes for which it does not run on streams, as far as was looked."""
        return self.largest is not None or self.smallest > 0

    def dumps(self) -> str:
        """The threshold as indented JSON."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def loads(text: str) -> Threshold:
        """The threshold that `dumps` wrote. Raises ValueError where the text is not one."""
        try:
            data: dict[str, Any] = json.loads(text)
            curve = tuple((int(size), float(serial), float(streamed)) for size, serial, streamed in data.pop("curve"))
            measured = tuple((int(size), float(gain)) for size, gain in data.pop("measured", ()))
            return Threshold(curve=curve, measured=measured, **data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a threshold: {error}") from error
