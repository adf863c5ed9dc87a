"""The table of measured times."""

from graphstreams.benchmark.comparison import Comparison, Times
from graphstreams.benchmark.comparison_table import comparison_table


def test_times_are_a_median_with_quartiles() -> None:
    assert Times.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Times(3.0, 1.5, 4.5)


def test_a_row_shows_wrong_runs_times_and_the_ratio() -> None:
    pair = (Times(30.0, 29.0, 31.0), Times(20.0, 19.5, 20.5))
    done = Comparison("layer", "clean", "", {"direct": 0, "graph": 2}, {"direct": 20, "graph": 100}, pair, pair)
    assert not done.equal
    assert done.speedup == 1.5
    row = comparison_table([done]).splitlines()[2]
    for text in ("layer", "clean", "direct 0/20, graph 2/100", "30.0 (29.0-31.0)", "20.0 (19.5-20.5)", "1.50x"):
        assert text in row


def test_a_serial_verdict_shows_its_reason() -> None:
    assert "serial: its kernels form one chain" in comparison_table(
        [Comparison("layer", "serial", "its kernels form one chain")]
    )
