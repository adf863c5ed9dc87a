"""Check what vLLM sees of the pass: how it finds it, what its caches are keyed by, and for which sizes a piece is planned."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

import graphstreams
from graphstreams.errors import OptionError
from graphstreams.integrations import vllm_plugin
from tests.support.vllm_stub import InductorPass, Range, config_of, configurations_in_the_documents, stubbed

NAME = "graphstreams.integrations.vllm.vllm_pass"
KEY = "post_grad_custom_post_pass"


@pytest.fixture
def passes() -> Iterator[Any]:
    with stubbed() as found:
        yield found


@pytest.fixture
def ours(passes: Any) -> Any:
    return importlib.import_module("graphstreams.integrations.vllm")


def looked_up(name: str) -> Any:
    """Return what vLLM finds by a dotted name."""
    module, _, last = name.rpartition(".")
    return __import__(module).__dict__[last]


def test_vllm_finds_the_pass_by_its_name(passes: Any) -> None:
    found = looked_up(NAME)
    assert isinstance(found, InductorPass) and isinstance(found, graphstreams.StreamPass)
    assert found.is_applicable_for_range(Range(1, 8))


def test_the_documents_name_the_pass_and_the_switch() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines" / "vllm.md").read_text(encoding="utf-8")
    assert NAME in text and "GRAPHSTREAMS_VLLM=1" in text


def test_configurations_in_the_documents_are_json() -> None:
    for text in configurations_in_the_documents():
        assert isinstance(json.loads(text), dict)


def test_keys_cover_options_and_what_is_declared(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ours.VllmPass().uuid()
    assert plain == ours.VllmPass().uuid()
    assert plain != ours.VllmPass({"streams": 2}).uuid()
    assert plain != graphstreams.StreamPass().uuid()
    monkeypatch.setenv("GRAPHSTREAMS_MIN_GAIN", "0.5")
    assert plain != ours.VllmPass().uuid()


def test_a_pass_that_cannot_be_identified_is_never_found_in_a_cache(ours: Any, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"kernels": []}')
    unreadable = ours.VllmPass({"costs": str(profile)})
    profile.unlink()
    assert unreadable.uuid() != unreadable.uuid()


def test_the_pass_is_copied_and_sent_to_workers(ours: Any) -> None:
    for other in (copy.deepcopy(ours.vllm_pass), pickle.loads(pickle.dumps(ours.vllm_pass))):
        assert other.uuid() == ours.vllm_pass.uuid() and other.options == ours.vllm_pass.options


def context(start: int, end: int) -> SimpleNamespace:
    return SimpleNamespace(compile_range=Range(start, end))


def with_tokens(count: Any) -> fx.GraphModule:
    """Return a graph with a product of `count` rows."""
    graph = fx.Graph()
    rows, weight = graph.placeholder("rows"), graph.placeholder("weight")
    product = graph.call_function(torch.ops.aten.mm.default, (rows, weight))
    graph.output((product,))
    for node, shape in ((rows, (count, 8)), (weight, (8, 8)), (product, (count, 8))):
        node.meta["val"] = torch.empty(shape, device="meta")
    return fx.GraphModule({}, graph)


def dynamic(example: int) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())
    value = torch.empty(example, 8)
    return mode.from_tensor(
        value, symbolic_context=StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC])
    ).shape[0]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "end", "most"), [(None, 8, 8), (4, 8, 4), (None, 8192, None), (64, 8192, 64)]
)  # fmt: skip
def test_a_range_is_planned_for_its_end(ours: Any, passes: Any, given: int | None, end: int, most: int | None) -> None:
    passes._pass_context = context(1, end)
    each = ours.VllmPass({"max_tokens": given})
    options, inputs = each.planned_with(with_tokens(dynamic(8192)))
    assert options.max_tokens == most and not inputs
    assert each.name_of("0_inference") == f"0_inference_tokens_1_{end}"


def test_without_a_gpu_a_single_size_is_not_measured(ours: Any, passes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes._pass_context = context(8, 8)
    assert ours.VllmPass().planned_with(with_tokens(8)) == (ours.VllmPass().options, ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ours, "synthetic_inputs", lambda gm, declared: ["inputs", declared])
    assert ours.VllmPass().planned_with(with_tokens(8))[1] == ["inputs", ours.DECLARED]
    assert ours.VllmPass({"costs": "roofline"}).planned_with(with_tokens(8))[1] == ()


def test_an_engine_goes_on_if_no_inputs_can_be_made(
    ours: Any, passes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(gm: fx.GraphModule, declared: Any) -> None:
        raise torch.OutOfMemoryError("no memory is left")

    passes._pass_context = context(8, 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ours, "synthetic_inputs", full)
    assert ours.VllmPass().planned_with(with_tokens(8))[1] == ()
    assert "is planned from modelled times" in caplog.text


def test_the_pass_outside_of_a_piece_is_a_stream_pass(ours: Any) -> None:
    each = ours.VllmPass()
    assert each.name_of("0_inference") == "0_inference"
    assert each.planned_with(with_tokens(8)) == (each.options, ())


# --- the plugin


def test_the_package_tells_vllm_of_the_plugin() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.platform_plugins"]["graphstreams"].partition(":")
    assert getattr(importlib.import_module(module), function) is vllm_plugin.platform


@pytest.mark.parametrize(("variables", "found"), [
    ({}, None), ({"GRAPHSTREAMS_VLLM": "0"}, None), ({"GRAPHSTREAMS_VLLM": "1"}, vllm_plugin.PLATFORM),
    ({"GRAPHSTREAMS_VLLM": "1", "GRAPHSTREAMS_DISABLE": "1"}, None),
])  # fmt: skip
def test_the_plugin_does_nothing_unless_it_is_switched_on(
    variables: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GRAPHSTREAMS_VLLM", "GRAPHSTREAMS_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with stubbed():
        assert vllm_plugin.platform() == found
    with stubbed(cuda=False):
        assert vllm_plugin.platform() is None


def test_a_switch_that_is_no_switch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSTREAMS_VLLM", "yes please")
    with pytest.raises(OptionError, match="GRAPHSTREAMS_VLLM='yes please' is neither 0 nor 1"):
        vllm_plugin.platform()


def test_the_platform_adds_the_pass(passes: Any) -> None:
    module, _, name = vllm_plugin.PLATFORM.rpartition(".")
    platform, config = getattr(importlib.import_module(module), name), config_of()
    platform.check_and_update_config(config)
    assert config.updated
    assert config.compilation_config.inductor_compile_config[KEY] is looked_up(NAME)
    platform.check_and_update_config(config)  # as for a configuration that is made from another one


def test_a_pass_of_the_user_stays(passes: Any, ours: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = InductorPass.__new__(type("Other", (InductorPass,), {"__call__": lambda self, graph: None}))
    config = config_of(**{KEY: other})
    ours.add_pass(config)
    assert config.compilation_config.inductor_compile_config[KEY] is other
    assert "is given another post_grad_custom_post_pass" in caplog.text
