"""Check that the package's calibration is the fit to the kept kernels, and predicts better than numbers by hand."""

from pathlib import Path

import pytest
import roofline as benchmark

from graphstreams.calibration.fit import errors
from graphstreams.calibration.samples import load
from graphstreams.costs.calibration import Calibration, shipped
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


def test_the_package_has_the_fit_to_the_kept_kernels(tmp_path: Path) -> None:
    """Whoever runs the command gets the file that is there."""
    assert benchmark.main(["--out", str(tmp_path / "fit.json")]) == 0
    assert Calibration.load(tmp_path / "fit.json") == shipped()


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
    path, out = tmp_path / "run.json", tmp_path / "out.json"
    if text is not None:
        path.write_text(benchmark.RUN.read_text().replace("NVIDIA H200", "NVIDIA A100") if text == "A100" else text)
    assert benchmark.main(["--run", str(path), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err and complaint in err and not out.exists()


def median_of(by_kind: dict[str, list[float]]) -> float:
    every = sorted(error for own in by_kind.values() for error in own)
    return every[len(every) // 2]
