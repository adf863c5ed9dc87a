"""Parameters that were put into made-up times are found again; files are read as they were written, or refused."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sympy
from sample_modules import captured

from graphstreams.backend import StreamPass
from graphstreams.calibration.fit import BY_HAND, errors, fit, predicted
from graphstreams.calibration.samples import Sample, load
from graphstreams.costs import calibration as calibration_module
from graphstreams.costs.calibration import KINDS, Calibration, calibration_of, fingerprint, shipped, user_file
from graphstreams.costs.roofline import Roofline, work_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Kernel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import roofline as benchmark

H200 = DEVICES["h200"]
TOKENS = sympy.Symbol("s0", integer=True, positive=True)
PLANTED = replace(
    BY_HAND,
    floors={"gemm": 4.0, "template": 4.0, "reduction": 2.5, "pointwise": 1.1, "triton": 2.0, "extern": 3.5},
    latency={"gemm": 3.0, "other": 0.9},
    inner_us=0.8,
    bandwidth_share=0.65,
    flops_share=0.7,
    serial={**BY_HAND.serial, "topk": (30.0, 4.0)},
)


def kernel(kind: str, size: int, **changes: object) -> Kernel:
    return Kernel(0, "k", kind, reads=(Access("a", sympy.Integer(size)),), **changes)


def product(rows: object, n: int, k: int) -> Kernel:
    reads = (Access("x", 2 * sympy.sympify(rows) * k), Access("w", sympy.Integer(2 * n * k)))
    writes = (Access("y", 2 * sympy.sympify(rows) * n),)
    return Kernel(0, "k", "gemm", reads=reads, writes=writes, flops=2 * rows * n * k, dtype="bfloat16")


def kernels() -> list[Kernel]:
    weights = [(64, 64), (192, 7168), (2112, 7168), (3072, 1536), (7168, 2048), (4096, 4096), (24576, 1536), (7168, 16384)]
    found = [product(rows, n, k) for rows in (1, 16, 64, 2048, 8192) for n, k in weights]
    sizes = [4**i for i in range(3, 14)]
    found += [kernel(kind, size, launches=("",) * n) for kind in ("pointwise", "reduction") for size in sizes for n in (1, 2)]
    found += [kernel("extern", size) for size in (64, 256, 4096, 2**24, 2**26)]
    return found + [kernel("extern", size, ops=("topk",)) for size in (2**14, 2**18, 2**20, 2**22, 2**24)]


def made_up(noise: float = 0.0, outliers: float = 0.0) -> list[Sample]:
    """Times that the planted parameters give, each off by a random share, some three times too long."""
    chance = random.Random(0)
    samples: list[Sample] = []
    for each in kernels():
        us = predicted(work_of(each, H200).at({}), PLANTED) * (1 + chance.uniform(-noise, noise))
        samples.append((each, {}, 3 * us if chance.random() < outliers else us))
    return samples


def parameters(found: Calibration) -> dict[str, float]:
    """Those that the made-up kernels decide."""
    floors = {kind: found.floors[kind] for kind in ("gemm", "reduction", "pointwise", "extern")}
    topk = dict(zip(("topk", "topk for each MB"), found.serial["topk"], strict=True))
    shares = {"bandwidth": found.bandwidth_share, "flops": found.flops_share}
    return {**floors, **topk, **shares, "gemm latency": found.latency["gemm"], "inner": found.inner_us}


@pytest.mark.parametrize(("noise", "outliers", "tolerance"), [(0.0, 0.0, 0.01), (0.05, 0.0, 0.1), (0.05, 0.1, 0.15)])
def test_planted_parameters_are_found_again(noise: float, outliers: float, tolerance: float) -> None:
    found = fit(made_up(noise, outliers), H200)
    assert parameters(found) == pytest.approx(parameters(PLANTED), rel=tolerance)
    assert found.error <= noise + 0.01
    assert found.kernels == len(kernels())


def test_what_no_kernel_decides_is_named_and_stays_as_it_was() -> None:
    few = [sample for sample in made_up() if sample[0].flops == 0 and not sample[0].ops]
    found = fit(few, H200)
    assert {"floors.triton", "flops_share", "inner_us", "serial.topk.0", "serial.topk.1", "event_us"} <= set(found.undecided)
    assert not {"floors.pointwise", "floors.reduction", "bandwidth_share"} & set(found.undecided)
    assert (found.floors["triton"], found.flops_share, found.inner_us) == (2.0, 1.0, 0.0)
    assert (found.serial, found.event_us) == (BY_HAND.serial, BY_HAND.event_us)


def test_equal_samples_give_equal_fits_in_any_order() -> None:
    samples = made_up(0.1, 0.1)
    shuffled = random.Random(1).sample(samples, len(samples))
    assert fit(samples, H200, "2026-01-02") == fit(samples, H200, "2026-01-02") == fit(shuffled, H200, "2026-01-02")


def test_a_dynamic_kernel_is_fitted_at_the_sizes_it_ran_at() -> None:
    samples = made_up()
    dynamic: list[Sample] = [(product(TOKENS, 7168, 2048), {"s0": 16}, 20.0), *samples]
    fixed: list[Sample] = [(product(16, 7168, 2048), {}, 20.0), *samples]
    assert fit(dynamic, H200) == fit(fixed, H200)
    with pytest.raises(ValueError, match="'s0'"):
        fit([(product(TOKENS, 64, 64), {}, 20.0)], H200)


@pytest.mark.parametrize("us", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(us: float) -> None:
    with pytest.raises(ValueError, match="above 0 is needed"):
        fit([(kernel("gemm", 64), {}, us)], H200)


def test_there_have_to_be_kernels_that_are_launched() -> None:
    with pytest.raises(ValueError, match="no kernels to fit"):
        fit([(kernel("none", 64), {}, 1.0)], H200)


def test_errors_are_by_kind() -> None:
    found = errors(made_up(), H200, PLANTED)
    assert list(found) == [kind for kind in KINDS if kind in ("gemm", "reduction", "pointwise", "extern")]
    assert all(error == 0 for own in found.values() for error in own)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = fit(made_up(0.1), H200, "2026-11-21", {"torch": "2.15.0"}, event_us=0.7)
    assert Calibration.loads(found.dumps()) == found
    assert Calibration.load(found.save(tmp_path / "new folder" / "file.json")) == found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"floors": {"gemm": 3.0}}, "floors has gemm where gemm, template"),
        ({"floors": [3.0]}, "floors is no object"),
        ({"floors": {**BY_HAND.floors, "gemm": "3"}}, "floors.gemm is '3'"),
        ({"floors": {**BY_HAND.floors, "gemm": 0.1}}, "floors.gemm is 0.1; it has to be a number from 2.2"),
        ({"latency": {"gemm": 1.0}}, "latency has gemm"),
        ({"latency": {"gemm": -1.0, "other": 1.0}}, "latency.gemm is -1.0"),
        ({"bandwidth_share": 0}, "bandwidth_share is 0; it has to be a number from 0.01 to 1"),
        ({"bandwidth_share": 80}, "bandwidth_share is 80"),
        ({"flops_share": True}, "flops_share is True"),
        ({"inner_us": None}, "inner_us is None"),
        ({"event_us": float("nan")}, "event_us is nan"),
        ({"error": float("inf")}, "error is inf"),
        ({"serial": {"topk": [1.0]}}, "serial.topk is no pair"),
        ({"serial": {"topk": 20.0}}, "serial.topk is no pair"),
        ({"serial": {"topk": [1.0, -1.0]}}, "serial.topk is -1.0"),
        ({"serial": None}, "serial is no object"),
        ({"device": ""}, "device is ''"),
        ({"date": "yesterday"}, "date is 'yesterday'"),
        ({"date": 20261121}, "date is 20261121"),
        ({"versions": {"torch": 2.15}}, "versions are not all text"),
        ({"undecided": "event_us"}, "undecided is no list"),
        ({"speed": 1.0}, "'speed' is no field"),
    ],
)
def test_a_file_that_holds_no_calibration_is_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**json.loads(BY_HAND.dumps()), **changes}))
    with pytest.raises(ValueError, match="not a calibration") as raised:
        Calibration.load(path)
    assert str(path) in str(raised.value) and complaint in str(raised.value)


@pytest.mark.parametrize(
    ("text", "complaint"), [("", "Expecting"), ("[]", "no object"), ("{}", "is missing"), ("\x00", "Expecting")]
)
def test_a_text_that_is_no_calibration_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Calibration.loads(text)


def test_the_package_brings_a_calibration_of_the_h200() -> None:
    found = shipped()
    assert found.device == H200.name and found.kernels > 100
    for file in Path(calibration_module.__file__).parent.glob("data/*.json"):
        assert Calibration.load(file).device == DEVICES[file.stem].name


def test_a_device_that_the_package_has_none_of_gets_the_h200s() -> None:
    assert calibration_of(DEVICES["a100"]) == calibration_of(H200) == shipped()
    with pytest.raises(ValueError, match="no calibration of 'a100'"):
        shipped("a100")
    large = kernel("pointwise", 2**30)
    bandwidth = shipped().bandwidth_share * DEVICES["a100"].bandwidth
    assert Roofline(DEVICES["a100"]).us(large) == pytest.approx(shipped().latency["other"] + 2**30 / bandwidth * 1e6)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibration_module, "_user_folder", lambda: tmp_path)
    return tmp_path


def test_the_users_own_calibration_comes_first(cache: Path) -> None:
    assert calibration_of(H200) == shipped()
    own = replace(PLANTED, date="2027-01-02")
    path = own.save(user_file(H200.name))
    assert path == cache / "nvidia_h200.json"
    assert calibration_of(H200) == own
    assert calibration_of(DEVICES["a100"]) == shipped()
    model = Roofline(H200)
    assert model.us(kernel("pointwise", 64)) == PLANTED.floors["pointwise"]
    assert str(model) == "roofline, calibration of 2027-01-02"
    assert str(Roofline(DEVICES["a100"])) == f"roofline, calibration of NVIDIA H200 of {shipped().date}"


@pytest.mark.usefixtures("cache")
def test_a_file_of_the_users_that_cannot_be_read_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    path = user_file(H200.name)
    path.write_text("{}")
    assert calibration_of(H200) == shipped()
    assert str(path) in caplog.text and "bench --calibrate" in caplog.text


@pytest.mark.usefixtures("cache")
def test_another_calibration_is_a_cache_miss() -> None:
    before = fingerprint(), StreamPass().uuid()
    path = PLANTED.save(user_file(H200.name))
    after = fingerprint(), StreamPass().uuid()
    assert before[0] != after[0] and before[1] != after[1]
    path.unlink()
    assert (fingerprint(), StreamPass().uuid()) == before


def test_the_report_says_which_calibration() -> None:
    assert captured("diamond").report.costs == f"roofline, calibration of {calibration_of(H200).date}"


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
