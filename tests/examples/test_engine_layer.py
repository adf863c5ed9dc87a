"""Check that a layer of an engine's operators, once declared, is planned as the same layer of native operators is."""

from __future__ import annotations

import engine_layer as example
import pytest
import torch

from graphstreams.testing.equal_on_cpu import equal_on_cpu

TINY = example.Config.tiny()


def test_the_operators_compute_what_native_ones_do() -> None:
    for values in ([*example.example_inputs(TINY, "cpu", seed)] for seed in range(3)):
        other = [value.clone() for value in values]
        native, own = (example.build(TINY, "cpu", native) for native in (True, False))
        assert torch.equal(native(*values), own(*other))
        assert torch.equal(values[2], other[2])


def test_declared_operators_gain_what_native_ones_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = example.reports(example.Config(), "h200")
    assert {name: report.verdict for name, report in found.items()} == {
        "native": "clean", "undeclared": "serial", "declared": "clean",
    }  # fmt: skip
    assert example.predicted(found["declared"]) == pytest.approx(example.predicted(found["native"]), rel=0.05)
    assert found["declared"].kernels_streamed == found["declared"].kernels_serial
    assert any("hold the order" in note for note in found["undeclared"].notes)
    monkeypatch.setattr(example, "reports", lambda config, target: found)
    assert example.main(["--tokens", "1"]) == 0
    text = capsys.readouterr().out
    assert text.count("x predicted") == 2 and "undeclared operators: serial" in text


def test_declared_operators_on_streams_have_serial_bits() -> None:
    options = {"operators": example.DECLARED, "min_gain": 0.0, "event_us": 0.0}
    assert equal_on_cpu(example.build(TINY, "cpu"), example.example_inputs(TINY, "cpu"), "h200", options) == [True]
