"""Check that `explain` plans what torch.compile compiles, from whatever people hand to it, on a machine without a GPU.

Inputs of each kind were found by handing public models to it: caches in plain objects (transformers' StaticCache), a list as an
index (Falcon), a grid sampler (RAFT), an empty tensor made on the GPU (transformers' DynamicCache), constants made on the CPU
(pytorch/torchdynamo#748).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing._internal.two_tensor import TwoTensor

from graphstreams.errors import CannotPlan, OptionError
from graphstreams.pipeline.explain import capture, explain, explain_graphs
from graphstreams.testing.equal_on_cpu import equal_on_cpu
from tests.support.sample_modules import FREE_EVENTS

X = torch.randn(4, 64)


class Two(nn.Module):
    """Two products of one input, with something done to them."""

    def __init__(self, end: Callable[..., Any] = lambda x, u, v: (u, v)) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False), end

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        return self.end(x, self.a(x), self.b(x), *others, **named)


def moved(make: Callable[[], Tensor]) -> Two:
    """Return a module that makes a constant on the CPU in forward and moves it to where its input is."""
    return Two(lambda x, u, v: (u * make().to(x.device), v + make().to(x)))


CLEAN: dict[str, tuple[Any, Any]] = {
    "a list as an index": (Two(lambda x, u, v: (u[..., [-2]], v[[0, 2]])), (X,)),
    "an empty tensor on the GPU": (
        Two(lambda x, u, v: (torch.cat([torch.tensor([], dtype=x.dtype, device=x.device).view(0, 64), u]), v)), (X,)
    ),
    "numbers on the GPU": (Two(lambda x, u, v: (u * torch.tensor([1.0, 2.0] * 32, device=x.device), v)), (X,)),
    "one number on the GPU": (Two(lambda x, u, v: (u * torch.tensor(3.0, device=x.device), v)), (X,)),
    "numbers moved to the GPU": (moved(lambda: torch.tensor([1.0, 2.0] * 32)), (X,)),
    "a number moved to the GPU": (moved(lambda: torch.tensor(2.0)), (X,)),
    "a mask moved to the GPU": (moved(lambda: torch.tril(torch.ones(4, 64))), (X,)),
    "one number for a list": (Two(lambda x, u, v: (torch._foreach_lerp([u, v], [x, x], 0.3), u @ v.t())), (X,)),
    "a function": ((lambda x, w1, w2: (x @ w1, x @ w2)), (X, torch.randn(64, 64), torch.randn(64, 64))),
    "a method": (Two().forward, (X,)),
    "a partial": (functools.partial(Two(), X), ()),
    "a compiled module": (torch.compile(Two()), (X,)),
    "keywords": (Two(lambda x, u, v, scale: (u, v * scale)), {"x": X, "scale": torch.ones(64)}),
    "one tensor": (Two(), X),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_what_people_pass_is_planned(name: str) -> None:
    module, inputs = CLEAN[name]
    report = explain(module, inputs, "h200", FREE_EVENTS)
    assert report.verdict == "clean", report.reason
    assert report.kernels_streamed == report.kernels_serial >= 2


@pytest.mark.parametrize("name", [name for name in CLEAN if "moved" in name or "GPU" in name or "index" in name])
def test_constants_are_the_same_numbers_on_streams(name: str) -> None:
    module, inputs = CLEAN[name]
    assert all(equal_on_cpu(module, inputs, "h200", FREE_EVENTS))


class Sampled(nn.Module):
    """cuDNN's grid sampler beside another."""

    def forward(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        return functional.grid_sample(x.sin(), grid, align_corners=True), functional.grid_sample(
            x.cos(), grid, align_corners=True
        )


def test_grid_samplers_are_kernels() -> None:
    (outcome,) = capture(Sampled(), (torch.randn(1, 3, 8, 8), torch.randn(1, 5, 6, 2)), "h200", FREE_EVENTS)
    assert outcome.reading is not None
    names = [kernel.name for kernel in outcome.reading.kernels.kernels]
    assert sum("grid_sampler" in name for name in names) == 2, outcome.report.reason


def test_an_operator_without_a_rule_for_fakes_is_asked_on_the_cpu() -> None:
    report = explain(Two(lambda x, u, v: (*torch.geqrf(u), v)), (X,), "h200", FREE_EVENTS)
    assert '"f32[4, 64]" = geqrf[0]' in report.graph_serial and '"f32[4]" = geqrf[1]' in report.graph_serial


class Cached(nn.Module):
    """A cache of keys and one of values, in whatever holds them."""

    def __init__(self, held: Callable[[Tensor, Tensor], Any], taken: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.k, self.v, self.taken = nn.Linear(64, 64), nn.Linear(64, 64), taken
        self.cache = held(torch.zeros(16, 64), torch.zeros(16, 64))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        keys, values = self.taken(self.cache)
        keys.index_copy_(0, place, self.k(x))
        values.index_copy_(0, place, self.v(x))
        return (x @ keys.t()) @ values


class Plain:
    """Tensors in a plain object."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


HOLDERS: dict[str, tuple[Callable[..., Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "object": (Plain, lambda cache: (cache.keys, cache.values)),
    "list": (lambda *both: list(both), tuple),
    "dict": (lambda keys, values: {"k": keys, "v": [values]}, lambda cache: (cache["k"], cache["v"][0])),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_caches_are_written_wherever_they_are_held(holder: str) -> None:
    module = Cached(*HOLDERS[holder])
    report = explain(module, (torch.randn(2, 64), torch.tensor([1, 3])), "h200", FREE_EVENTS)
    assert report.verdict == "clean", report.reason
    assert report.graph_serial.count("ops.aten.index_put_") == 2


class Shared(nn.Module):
    """A write to one input, which another may be a view of, beside what reads it."""

    def forward(self, first: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        first.add_(1.0)
        return second @ weight, weight @ weight


def order_of_write_and_read(first: Tensor, second: Tensor) -> bool:
    """Return whether the product of the second input is planned behind the write to the first."""
    (outcome,) = capture(Shared(), (first, second, torch.randn(64, 64)), "h200", FREE_EVENTS)
    assert outcome.reading is not None
    graph = outcome.reading.kernels
    writer = next(kernel.id for kernel in graph.kernels if kernel.kind != "gemm")
    product = next(kernel.id for kernel in graph.kernels if kernel.kind == "gemm" and kernel.id != writer)
    return any((edge.before, edge.after) == (writer, product) for edge in graph.edges)


def test_a_write_to_shared_memory_is_ordered_against_its_readers() -> None:
    base = torch.randn(6, 64)
    assert order_of_write_and_read(base[:4], base[2:])
    assert not order_of_write_and_read(torch.randn(4, 64), torch.randn(4, 64))


def test_a_buffer_that_is_a_view_of_another_is_written_before_that_is_read() -> None:
    module = Two(lambda x, u, v: (u @ module.whole, v, module.part.copy_(x)))
    module.register_buffer("whole", torch.zeros(64, 64))
    module.register_buffer("part", module.whole[:4])
    report = explain(module, (X,), "h200", FREE_EVENTS)
    assert report.graph_serial.count("as_strided") >= 2, report.graph_serial


def test_a_weight_of_two_tensors_is_two_inputs() -> None:
    module = Two()
    module.a.weight = nn.Parameter(TwoTensor(torch.randn(64, 64), torch.randn(64, 64)))
    (outcome,) = capture(module, (X,), "h200", FREE_EVENTS)
    assert outcome.report.graph_serial.count("aten.mm") == 3


class Item(Two):
    """A number that Python reads between two parts."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        number = self.a(x).sum().item()
        return self.a(x) * number, self.b(x), x @ x.t()


class Branch(Two):
    """A branch on a value."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        if self.a(x).sum() > 0:
            return self.a(x), self.b(x)
        return (x,)


@pytest.mark.parametrize("module", [Item(), Branch()], ids=["item", "branch"])
def test_each_graph_of_a_call_is_planned_and_numbered(module: nn.Module) -> None:
    reports = explain_graphs(module, (X,), "h200", FREE_EVENTS)
    assert [report.verdict for report in reports] == ["serial", "clean"]
    for number, report in enumerate(reports, 1):
        assert f"graph {number} of 2 that the call compiles" in report.notes
        assert any("values of tensors that Python reads" in note for note in report.notes)
    most = explain(module, (X,), "h200", FREE_EVENTS)
    assert most.kernels_serial == max(report.kernels_serial for report in reports)
    assert any(re.match(r"the call's other graphs: [12] \(", note) for note in most.notes)


class Fails(Two):
    """An error that only a number brings about."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        torch._dynamo.graph_break()
        return {}[self.a(x).sum().item()]  # type: ignore[no-any-return]


def test_what_fails_behind_a_graph_is_told() -> None:
    (report,) = explain_graphs(Fails(), (X,), "h200", FREE_EVENTS)
    assert any("behind graph 1 is not planned: KeyError: 1.0" in note for note in report.notes)


class Loop(Two):
    """A loop that reads a value, of which Dynamo traces nothing."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        for _ in range(3):
            x = self.a(x)
            if (x.argmax() == 2).item():
                break
        return x


@pytest.mark.parametrize(("module", "inputs"), [(Loop(), (X,)), (nn.Identity(), (3,))], ids=["loop", "no tensors"])
def test_a_call_without_a_graph_says_where_to_look(module: nn.Module, inputs: Any) -> None:
    with pytest.raises(CannotPlan, match=r"compiles to no graph: .*TORCH_LOGS=graph_breaks"):
        explain(module, inputs, "h200")


def test_values_are_unknown_again_outside() -> None:
    explain(Item(), (X,), "h200", FREE_EVENTS)
    with (
        torch._subclasses.fake_tensor.FakeTensorMode(),
        pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException),
    ):
        torch.ones(()).item()


def test_a_mode_and_settings_of_inductor_are_taken_as_the_backend_takes_them() -> None:
    (plain,) = explain_graphs(Two(), (X,), "h200", FREE_EVENTS)
    (told,) = explain_graphs(Two(), (X,), "h200", {**FREE_EVENTS, "mode": "max-autotune", "cpp_wrapper": True})
    assert plain.verdict == "clean" and told.verdict == "serial"
    assert told.reason == "Inductor's setting cpp_wrapper is on: only Python wrappers know streams"
    assert any(note.endswith("max_autotune") for note in told.notes) and not torch._inductor.config.cpp_wrapper
    with pytest.raises(OptionError, match="unknown option 'max_autotun'"):
        explain(Two(), (X,), "h200", {"max_autotun": True})


def test_a_dump_has_the_report_on_each_graph(tmp_path: Path) -> None:
    reports = explain_graphs(Item(), (X,), "h200", {**FREE_EVENTS, "dump": tmp_path / "dump"})
    assert len(reports) == 2
    for report in reports:
        data = json.loads((tmp_path / "dump" / report.name / "report.json").read_text())
        assert data["notes"] == list(report.notes) and data["verdict"] == report.verdict
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is no folder that can be written"):
        explain(Two(), (X,), "h200", {"dump": tmp_path / "file"})


def test_a_target_is_a_name_or_a_device() -> None:
    with pytest.raises(ValueError, match="the target is the name of a GPU, such as 'h200', or a Device, not 3"):
        explain(Two(), (X,), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "told"), [(1, True), (4, False)])
def test_sizes_that_torch_fixes_are_told_if_dynamic_ones_were_asked_for(rows: int, told: bool) -> None:
    report = explain(Two(), (torch.randn(rows, 64),), "h200", FREE_EVENTS, dynamic=True)
    assert any(note.startswith("no size is dynamic, as was asked for: torch fixes") for note in report.notes) is told
