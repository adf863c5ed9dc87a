"""Define for which values of a dynamic size a graph runs on streams."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[int, float, float]  # size, serial us, streamed us


@dataclass(frozen=True)
class Threshold:
    """The values of a dynamic size for which a graph runs on streams."""

    symbol: str  # the size, such as "s21"
    largest: int | None  # the last that runs on streams; 0: none does; None: no limit in the range that was looked at
    curve: tuple[Point, ...]  # by size
    reason: str
    smallest: int = 0  # the first that runs on streams
    measured: tuple[tuple[int, float], ...] = ()  # (size, share of the serial time saved), by size
    where: str = ""  # which sizes of the inputs make it, such as "s21 is size 0 of 'ids'"

    @property
    def sizes(self) -> str:
        """The sizes that run on streams, such as "2 <= s21 <= 64"; empty if all do."""
        lower = f"{self.smallest} <= " if self.smallest else ""
        upper = "" if self.largest is None else f" <= {self.largest}"
        return f"{lower}{self.symbol}{upper}" if lower or upper else ""
