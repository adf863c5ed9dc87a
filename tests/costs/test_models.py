"""Check that every value of the option `costs` has a model, and that anything else is a profile's path."""

from pathlib import Path

import pytest

from graphstreams.costs.calibration import calibration_of
from graphstreams.costs.models import COST_MODELS, cost_model
from graphstreams.costs.profile import load_profile
from graphstreams.errors import ProfileError
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.options import COSTS

H200 = DEVICES["h200"]
PROFILE = Path(__file__).parents[1] / "data" / "dsv32_attention_39308.json"
GRAPH = KernelGraph("g", (Kernel(0, "k", "pointwise"), Kernel(1, "none", "none")), ())


def test_every_known_value_of_the_option_has_a_model() -> None:
    assert set(COST_MODELS) == set(COSTS)


@pytest.mark.parametrize("costs", COSTS)
def test_without_a_gpu_all_of_them_use_the_roofline(costs: str) -> None:
    model = cost_model(costs, H200)
    assert model.name == f"roofline, calibration of {calibration_of(H200).date}"
    assert model.price(GRAPH) == [calibration_of(H200).floors["pointwise"], 0.0]


def test_a_path_is_a_profile() -> None:
    graph, us = load_profile(PROFILE)
    model = cost_model(str(PROFILE), H200)
    assert (model.name, model.price(graph)) == (str(PROFILE), us)


def test_a_kernel_that_a_profile_lacks_is_named_with_the_nearest_that_it_has() -> None:
    graph, _ = load_profile(PROFILE)
    name = graph.kernels[0].name
    lacking = KernelGraph("g", (Kernel(0, f"{name}x", "gemm"),), ())
    with pytest.raises(ProfileError, match=f"has no time for kernel '{name}x'; the nearest name it has is '{name}'"):
        cost_model(str(PROFILE), H200).price(lacking)
