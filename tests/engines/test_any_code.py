"""Compile without naming the backend: on the CPU it is asked for each graph, and without a GPU each way can be planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams.runtime import verdicts


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.arms = nn.ModuleList(nn.Linear(2048, 2048, dtype=torch.bfloat16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([arm(x).relu() for arm in self.arms]).sum(0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def compiled(model: Model) -> Any:
    return torch.compile(model, mode="reduce-overhead")


def decorated(model: Model) -> Any:
    @torch.compile
    def run(x: Tensor) -> Any:
        return model(x)

    return run


def regional(model: Model) -> Any:
    for block in model.blocks:
        block.compile()
    return model


def forward_replaced(model: Model) -> Any:
    model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    return model


def as_sglang_does(model: Model) -> Any:
    return torch.compile(torch.no_grad()(model.forward), mode="max-autotune-no-cudagraphs", dynamic=False)


WAYS = {
    compiled: ["Model"], decorated: ["decorated.<locals>.run"], regional: ["Block"], forward_replaced: ["Model"],
    as_sglang_does: ["Model"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdicts, "_said", [])
    torch._dynamo.reset()
    torch.compiler.set_default_backend("graphstreams")
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch.compiler.set_default_backend(None)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_default_backend_is_asked_and_the_result_is_right(way: Callable[[Model], Any]) -> None:
    torch.manual_seed(0)
    model, plain = Model(), Model()
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        x = torch.randn(1, 2048, dtype=torch.bfloat16)
        torch.testing.assert_close(way(model)(x), plain(x))
    said = graphstreams.reports()
    assert [verdict.module.rpartition(".")[2] for verdict in said] == [name.rpartition(".")[2] for name in WAYS[way]]
    assert all(verdict.reason.startswith("it has no CUDA tensors") for verdict in said)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_model_that_is_compiled_already_can_be_planned(way: Callable[[Model], Any]) -> None:
    with torch.device("meta"):
        model, x = Model(), torch.empty(1, 2048, dtype=torch.bfloat16)
    own = dict(vars(model))
    way(model)
    changed = dict(vars(model))
    report = graphstreams.explain(way(model), x, target="h200")
    assert report.verdict == "clean", report.reason
    assert (
        report.kernels_serial
        == graphstreams.explain(Model(), torch.empty(1, 2048, dtype=torch.bfloat16), "h200").kernels_serial
    )
    assert vars(model).keys() == changed.keys() >= own.keys()  # what planning took away is back


def test_without_a_default_inductor_is_asked() -> None:
    torch.compiler.set_default_backend(None)
    with torch.inference_mode():
        compiled(Model())(torch.randn(1, 2048, dtype=torch.bfloat16))
    assert graphstreams.reports() == []
