"""Check that the package's calibration predicts measured kernels better than numbers by hand."""

from pathlib import Path

import pytest
import roofline as benchmark

from graphstreams.calibration.fit import errors
from graphstreams.calibration.samples import load
from graphstreams.ir.devices import DEVICES

H200 = DEVICES["h200"]


def test_the_package_predicts_measured_kernels_better_than_numbers_by_hand() -> None:
    workloads = benchmark.read(benchmark.DATA)["workloads"]
    run, _ = load(benchmark.RUN)
    found = {name: errors(each, H200, used) for name, (used, each) in benchmark.models(workloads, run).items()}
    median = {name: median_of(by_kind) for name, by_kind in found.items()}
    assert median["package, all"] < median["by hand, all"] < 0.15
    assert median["fitted to the run, all"] < median["by hand, all"]
    layer, block = benchmark.HALVES
    for own, rest in ((layer, block), (block, layer)):
        assert median[f"fitted to {own}, {rest}"] < median[f"by hand, {rest}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "no kernels of a calibration run"),
        (None, "No such file"),
        ("A100", "of NVIDIA A100, and the workloads are of NVIDIA H200"),
    ],
)
def test_a_run_that_cannot_be_used_is_named(
    text: str | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(benchmark.RUN.read_text().replace("NVIDIA H200", "NVIDIA A100") if text == "A100" else text)
    assert benchmark.main(["--run", str(path)]) == 2
    printed = capsys.readouterr()
    assert str(path) in printed.err and complaint in printed.err and not printed.out


def median_of(by_kind: dict[str, list[float]]) -> float:
    every = sorted(error for own in by_kind.values() for error in own)
    return every[len(every) // 2]
