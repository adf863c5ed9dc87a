"""Check that calibrations are read as they were written or refused, and which one a device gets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graphstreams.backend import StreamPass
from graphstreams.calibration.fit import BY_HAND, fit
from graphstreams.costs import calibration as calibration_module
from graphstreams.costs.calibration import Calibration, calibration_of, fingerprint, shipped, user_file
from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import DEVICES
from tests.support.calibrations import PLANTED, kernel, synthetic_samples
from tests.support.sample_modules import captured

H200 = DEVICES["h200"]


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = fit(synthetic_samples(0.1), H200, "2026-11-21", {"torch": "2.15.0"})
    assert Calibration.loads(found.dumps()) == found
    assert Calibration.load(found.save(tmp_path / "new folder" / "file.json")) == found


def test_the_cost_of_a_wait_in_an_older_file_is_ignored() -> None:
    data = json.loads(BY_HAND.dumps())
    assert "event_us" not in data
    assert Calibration.loads(json.dumps({**data, "event_us": 0.2731})) == BY_HAND


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"floors": {"gemm": 3.0}}, "floors has gemm where gemm, template"),
        ({"floors": [3.0]}, "floors is no object"),
        ({"floors": {**BY_HAND.floors, "gemm": "3"}}, "floors.gemm is '3'"),
        ({"floors": {**BY_HAND.floors, "gemm": 0.1}}, "floors.gemm is 0.1; it has to be a number from 2.2"),
        ({"latency": {"gemm": 1.0}}, "latency has gemm"),
        ({"latency": {**BY_HAND.latency, "gemm": -1.0}}, "latency.gemm is -1.0"),
        ({"bandwidth_share": {**BY_HAND.bandwidth_share, "gemm": 0}}, "share.gemm is 0; it has to be a number from 0.01 to 1"),
        ({"bandwidth_share": 0.8}, "bandwidth_share is no object"),
        ({"flops_share": {**BY_HAND.flops_share, "gemm": True}}, "flops_share.gemm is True"),
        ({"inner_us": {"gemm": 0.5}}, "inner_us has gemm where gemm, float32, convolution, attention are needed"),
        ({"overlap": 80}, "overlap is 80"),
        ({"copy_us": None}, "copy_us is None"),
        ({"kernels": float("nan")}, "kernels is nan"),
        ({"error": float("inf")}, "error is inf"),
        ({"serial": {"topk": [1.0]}}, "serial.topk is no pair"),
        ({"serial": {"topk": 20.0}}, "serial.topk is no pair"),
        ({"serial": {"topk": [1.0, -1.0]}}, "serial.topk is -1.0"),
        ({"serial": None}, "serial is no object"),
        ({"device": ""}, "device is ''"),
        ({"date": "yesterday"}, "date is 'yesterday'"),
        ({"date": 20261121}, "date is 20261121"),
        ({"versions": {"torch": 2.15}}, "versions are not all text"),
        ({"undecided": "inner_us"}, "undecided is no list"),
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
    bandwidth = shipped().bandwidth_share["other"] * DEVICES["a100"].bandwidth
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
    assert model.name == "roofline, calibration of 2027-01-02"
    assert Roofline(DEVICES["a100"]).name == f"roofline, calibration of NVIDIA H200 of {shipped().date}"


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
