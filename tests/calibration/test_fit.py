"""Check that parameters planted in synthetic times are found again."""

import random

import pytest
import sympy

from graphstreams.calibration.fit import BY_HAND, errors, fit
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import KINDS, Calibration
from graphstreams.ir.devices import DEVICES
from tests.support.calibrations import PLANTED, kernel, kernels, product, synthetic_samples

H200 = DEVICES["h200"]
TOKENS = sympy.Symbol("s0", integer=True, positive=True)


def parameters(found: Calibration) -> dict[str, float]:
    """Return the parameters that the synthetic kernels decide."""
    floors = {kind: found.floors[kind] for kind in ("gemm", "reduction", "pointwise", "extern")}
    topk = dict(zip(("topk", "topk for each MB"), found.serial["topk"], strict=True))
    shares = {"bandwidth": found.bandwidth_share["gemm"], "flops": found.flops_share["gemm"]}
    gemm = {"gemm latency": found.latency["gemm"], "inner": found.inner_us["gemm"]}
    return {**floors, **topk, **shares, **gemm, "memory": found.bandwidth_share["other"]}


@pytest.mark.parametrize(("noise", "outliers", "tolerance"), [(0.0, 0.0, 0.01), (0.05, 0.0, 0.1), (0.05, 0.1, 0.15)])
def test_planted_parameters_are_found_again(noise: float, outliers: float, tolerance: float) -> None:
    found = fit(synthetic_samples(noise, outliers), H200)
    assert parameters(found) == pytest.approx(parameters(PLANTED), rel=tolerance)
    assert found.error <= noise + 0.01
    assert found.kernels == len(kernels())


def test_what_no_kernel_decides_is_named_and_stays_as_it_was() -> None:
    few = [sample for sample in synthetic_samples() if sample[0].flops == 0 and not sample[0].ops]
    found = fit(few, H200)
    undecided = {"floors.triton", "flops_share.gemm", "inner_us.gemm", "serial.topk.0", "serial.topk.1", "copy_us"}
    assert undecided <= set(found.undecided)
    assert not {"floors.pointwise", "floors.reduction", "bandwidth_share.other"} & set(found.undecided)
    assert (found.floors["triton"], found.flops_share, found.inner_us) == (2.0, BY_HAND.flops_share, BY_HAND.inner_us)
    assert found.serial == BY_HAND.serial


def test_equal_samples_give_equal_fits_in_any_order() -> None:
    samples = synthetic_samples(0.1, 0.1)
    shuffled = random.Random(1).sample(samples, len(samples))
    assert fit(samples, H200, "2026-01-02") == fit(samples, H200, "2026-01-02") == fit(shuffled, H200, "2026-01-02")


def test_a_dynamic_kernel_is_fitted_at_the_sizes_it_ran_at() -> None:
    samples = synthetic_samples()
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
    found = errors(synthetic_samples(), H200, PLANTED)
    assert list(found) == [kind for kind in KINDS if kind in ("gemm", "reduction", "pointwise", "extern")]
    assert all(error == 0 for own in found.values() for error in own)
