"""Check that the package's calibration is the fit to the kept models, and what it predicts of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace

import prices as benchmark
import pytest

from graphstreams.calibration.fit import BY_HAND
from graphstreams.calibration.samples import Sample, load
from graphstreams.costs.calibration import Calibration, shipped
from graphstreams.ir.devices import Device


def test_the_package_has_the_fit_to_the_kept_models() -> None:
    """Whoever runs the command gets the file that is there."""
    run, told = load(benchmark.RUN)
    assert benchmark.fitted(benchmark.models(), run, told["versions"]) == shipped()


def test_the_package_predicts_serial_times() -> None:
    errors = [abs(model.predicted(shipped()) / model.us - 1) for model in benchmark.models()]
    assert len(errors) == 37 and statistics.median(errors) < 0.05 and max(errors) < 0.5


def test_no_group_has_seen_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def fit(samples: Iterable[Sample], _: Device) -> Calibration:
        seen.append({kernel.name for kernel, _, _ in samples})
        return BY_HAND

    monkeypatch.setattr(benchmark, "fit", fit)
    template = benchmark.models()[0]
    found = [
        replace(template, name=name, group=name, kernels=((replace(template.kernels[0][0], name=name), (5.0,)),))
        for name in ("one", "two", "three")
    ]
    assert list(benchmark.unseen(found, [])) == ["one", "two", "three"]
    assert seen == [{"two", "three"}, {"one", "three"}, {"one", "two"}]


def test_a_table_tells_both_predictions() -> None:
    models = benchmark.models()[:2]
    fits = {model.group: BY_HAND for model in models}
    rows = benchmark.rows_of(models, fits, shipped())
    assert [row[0] for row in rows] == ["llama-decode", "qwen2-moe-decode"]
    assert rows[0][2] == f"{models[0].us:.1f}" and rows[0][5] == f"{models[0].predicted(shipped()):.1f}"
    assert benchmark.summary(models, fits, shipped()).count("median error") == 2
