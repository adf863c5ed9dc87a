"""Check the figures that a graph's line is made of: sizes on streams, and the times that belong together."""

from __future__ import annotations

import pytest

from graphstreams.ir.measurement import Measurement
from graphstreams.ir.threshold import Threshold


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [(0, None, ""), (0, 64, "s21 <= 64"), (2, 64, "2 <= s21 <= 64"), (2, None, "2 <= s21"), (0, 0, "s21 <= 0")],
)
def test_sizes_are_told_unless_all_run_on_streams(smallest: int, largest: int | None, sizes: str) -> None:
    assert Threshold("s21", largest, (), "why", smallest=smallest).sizes == sizes


@pytest.mark.parametrize(
    ("measured", "times", "gain"),
    [
        (Measurement(10.0), None, 0.0),
        (Measurement(10.0, played_us=8.0), (10.0, 8.0), 0.2),
        (Measurement(10.0, played_us=8.0, compiled_us=7.0), (10.0, 7.0), 0.3),
        (Measurement(10.0, played_us=8.0, compiled_us=6.0, inductor_us=8.0), (8.0, 6.0), 0.25),
    ],
)
def test_a_gain_is_by_what_was_measured_last(measured: Measurement, times: tuple[float, float] | None, gain: float) -> None:
    assert measured.replay_us == times
    assert measured.gain == pytest.approx(gain)
