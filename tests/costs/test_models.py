"""Check that every value of the option `costs` has a model, and that anything else is a profile's path."""

from pathlib import Path

import pytest

from graphstreams.costs.calibration import calibration_of
from graphstreams.costs.models import COST_MODELS, cost_model
from graphstreams.costs.profile import load_profile, profile
from graphstreams.costs.profile_files import hash_of_profiles
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


def graph_with(*names: str) -> KernelGraph:
    return KernelGraph("g", tuple(Kernel(place, name, "gemm") for place, name in enumerate(names)), ())


def test_of_a_folder_each_graph_takes_the_profile_that_is_most_like_it(tmp_path: Path) -> None:
    """A dump has a profile for each graph, or below each rank's folder; one with more kernels than the graph comes last."""
    for name, kernels in (("one", {"a": 1.0, "b": 2.0}), ("two", {"a": 3.0}), ("three", {"c": 4.0, "d": 5.0})):
        (tmp_path / name).mkdir()
        graph = graph_with(*kernels)
        (tmp_path / name / "profile.json").write_text(profile(graph, list(kernels.values())))
    model = cost_model(str(tmp_path), H200)
    assert [model.price(graph_with(*names)) for names in ("ab", "ba", "a", "b", "d")] == [
        [1.0, 2.0], [2.0, 1.0], [3.0], [2.0], [5.0],
    ]  # fmt: skip
    with pytest.raises(
        ProfileError, match=r"of 3 profiles none has the graph's kernels; the profile \S+three\S+ has no time for "
    ):
        model.price(graph_with("c", "d", "e"))
    before = hash_of_profiles(str(tmp_path))
    (tmp_path / "two" / "profile.json").write_text(profile(graph_with("a"), [3.5]))
    assert before != hash_of_profiles(str(tmp_path))


def test_a_folder_without_profiles_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=f"the folder {tmp_path} has no profile.json, nor one in a folder below it"):
        cost_model(str(tmp_path), H200).price(GRAPH)
    assert hash_of_profiles(str(tmp_path)) is None


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    """Some editors put one in front of what they save as UTF-8."""
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + PROFILE.read_bytes())
    assert load_profile(marked) == load_profile(PROFILE)
