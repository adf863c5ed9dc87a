"""Check the traps of Inductor and of torch.compile (9, 15, 16): late passes, lost GEMMs, and the arguments of a backend."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from torch import fx
from torch._dynamo.utils import detect_fake_mode
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.virtualized import V

from graphstreams import Options, backend
from graphstreams.inductor.lowering import copy_graph, finish_post_grad_passes
from graphstreams.inductor.offline import offline
from graphstreams.ir.devices import DEVICES
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS, module_and_inputs

# --- 9: passes of Inductor's that run after ours


class Grab(CustomGraphPass):
    """Stands where the package's pass stands, and keeps the graph that it would get."""

    graph: fx.GraphModule

    def __call__(self, graph: fx.Graph) -> None:
        self.graph = copy_graph(graph.owning_module)

    def uuid(self) -> None:
        return None


def at_our_place(sample: str) -> fx.GraphModule:
    grab = Grab()
    with config.patch(post_grad_custom_post_pass=grab):
        capture(*module_and_inputs(sample), "h200", FREE_EVENTS)
    return grab.graph


def on_gpu(module: fx.GraphModule, function: Any, *arguments: Any) -> Any:
    mode = detect_fake_mode([n.meta["val"] for n in module.graph.find_nodes(op="placeholder")])
    with offline(DEVICES["h200"]), V.set_fake_mode(mode), torch.no_grad():
        return function(*arguments)


def after_last_passes(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy behind the passes of Inductor's that run after ours."""
    copy = copy_graph(module)
    on_gpu(module, finish_post_grad_passes, copy)
    return copy


def shape(module: fx.GraphModule) -> list[Any]:
    """Return the graph but for its names."""
    index = {node: i for i, node in enumerate(module.graph.nodes)}
    arguments = [fx.map_arg((n.args, n.kwargs), index.__getitem__) for n in index]
    targets = [str(n.target) if n.op == "call_function" else n.op for n in index]
    return list(zip(targets, arguments, strict=True))


REINPLACED = ["buffer_write", "custom_mutation", "ring", "scatter_into_zeros", "two_writes", "write_after_read"]


@pytest.mark.parametrize("sample", REINPLACED)
def test_trap_9_inductors_last_passes_find_nothing_to_do_a_second_time(sample: str) -> None:
    once = after_last_passes(at_our_place(sample))
    assert shape(after_last_passes(once)) == shape(once)


@pytest.mark.parametrize("sample", REINPLACED)
def test_trap_9_inductors_last_passes_leave_a_rewritten_graph_as_it_was_proved(sample: str) -> None:
    module = at_our_place(sample)
    outcome = on_gpu(module, functools.partial(backend.run_stages, device=DEVICES["h200"]), module, Options(**FREE_EVENTS))
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert shape(after_last_passes(outcome.module)) == shape(outcome.module)


@pytest.mark.parametrize("sample", ["buffer_write", "scatter_into_zeros", "write_after_read"])
def test_trap_9_if_they_had_not_run_before_they_would_change_it(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = at_our_place(sample)
    monkeypatch.setattr("graphstreams.pipeline.run.finish_post_grad_passes", lambda _: None)
    outcome = on_gpu(module, functools.partial(backend.run_stages, device=DEVICES["h200"]), module, Options(**FREE_EVENTS))
    assert shape(after_last_passes(outcome.module)) != shape(outcome.module)


# --- 15: GEMMs with one row


def gemms(sample: str) -> int:
    module, _ = module_and_inputs(sample)
    report = capture(module, (torch.empty(1, 64),), "h200", {"streams": 1})[0].report
    return sum(k.kind == "gemm" for k in report.kernels.kernels)


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead"])
def test_trap_15_coordinate_descent_tuning_is_left_alone(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    patches: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda gm, _, config_patches, **kw: patches.append(config_patches) or gm.forward,
    )
    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend="graphstreams", mode=mode)(torch.ones(2))
    torch._dynamo.reset()
    assert patches
    assert not any("coordinate_descent_tuning" in given for given in patches)


def test_trap_15_with_it_a_decode_step_loses_its_gemms() -> None:
    assert not config.coordinate_descent_tuning
    assert gemms("three_arms") == 3
    with config.patch(coordinate_descent_tuning=True):
        assert gemms("three_arms") == 0


# --- 16: the arguments of a backend


def test_trap_16_the_backend_takes_mode_and_options_as_keywords() -> None:
    parameters = inspect.signature(backend.graphstreams).parameters
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("mode", "options"))
    torch._dynamo.reset()
    function = torch.compile(lambda x: x * 2, backend="graphstreams", options={"streams": 2})
    assert torch.equal(function(torch.ones(2)), torch.full((2,), 2.0))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="unexpected keyword argument 'options'"):
        torch.compile(lambda x: x * 2, backend=lambda gm, inputs: gm.forward, options={"streams": 2})(torch.ones(2))
    torch._dynamo.reset()
