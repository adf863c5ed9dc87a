"""Check that a copy that Inductor makes of an operand is a kernel of the plan, made once for all operators that want it."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import ScalingType, scaled_mm

from graphstreams.autotuning.cuda_graph import clones
from graphstreams.inductor.compile import fresh_dynamo
from graphstreams.inductor.lowering import copy_graph
from graphstreams.inductor.operand_copies import FORCE, OperandCopy, store_copies
from graphstreams.inductor.size_nodes import expressions
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.reading import reader
from graphstreams.testing.cpu_execution import run_on_cpu
from graphstreams.testing.equal_on_cpu import equal_as_captured
from tests.support.sample_modules import FREE_EVENTS, TORCH_2_14_0

RECIPES = (ScalingType.BlockWise1x128, ScalingType.BlockWise128x128)


def compiled(module: nn.Module, *inputs: Tensor) -> GraphCompilation:
    (found,) = capture(module.requires_grad_(False), inputs, "h200", FREE_EVENTS)
    assert (found.report.verdict, found.report.reason) == ("clean", "")
    return found


def products(found: GraphCompilation) -> list[Any]:
    return [kernel for kernel in found.report.kernels.kernels if kernel.kind == "gemm"]  # type: ignore[union-attr]


def copies(found: GraphCompilation) -> list[Any]:
    return [each for each in found.report.kernels.kernels if any("force_stride" in node for node in each.nodes)]  # type: ignore[union-attr]


class BlockScaled(nn.Module):
    """Products of an activation that is quantized in blocks of 128 columns, a column of scales at a time."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(width, 2048).to(torch.float8_e4m3fn) for width in widths)
        self.scales = nn.ParameterList(torch.rand(-(-width // 128), 16) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        blocks = x.unflatten(1, (-1, 128)).transpose(0, 1)
        scale = blocks.float().abs().amax(-1, keepdim=True) / 448
        values = (blocks.float() / scale).to(torch.float8_e4m3fn).transpose(0, 1).flatten(1)
        columns = scale.squeeze(-1).t()
        # What such an operator returns from the graph is allocated on the caller's stream.
        return [
            scaled_mm(values, weight.t(), columns, RECIPES[0], own.t(), RECIPES[1]).relu()
            for weight, own in zip(self.weights, self.scales, strict=True)
        ]


@pytest.mark.xfail(TORCH_2_14_0, reason="torch 2.14.0 copies the activation once for each product, in one kernel")
@pytest.mark.parametrize("rows", [4, 8, 32])
@pytest.mark.parametrize("widths", [(2048, 1024), (1536, 576, 128)])
def test_products_with_scales_of_blocks_share_one_quantized_activation(rows: int, widths: tuple[int, ...]) -> None:
    found = compiled(BlockScaled(widths), torch.randn(rows, 2048, dtype=torch.bfloat16))
    assert [len(kernel.launches) for kernel in products(found)] == [1] * len(widths)
    assert len(copies(found)) == 1
    stream = {place.kernel: place.stream for place in found.report.plan.placements}
    assert len({stream[kernel.id] for kernel in products(found)}) > 1
    assert found.report.kernels_streamed <= found.report.kernels_serial


class Flattened(nn.Module):
    """Products of a value that is stored with its first two dimensions in the other order."""

    def __init__(self, count: int, exponential: bool = False) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(24, 16 + 8 * number) for number in range(count))
        self.exponential = exponential

    def forward(self, x: Tensor) -> list[Tensor]:
        value = (x.softmax(-1) if self.exponential else x * 2).transpose(0, 1).flatten(1)
        return [value @ weight for weight in self.weights]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("exponential", [False, True])
def test_products_of_one_flattened_value_are_kernels_of_their_own(count: int, exponential: bool) -> None:
    module, values = Flattened(count, exponential), (torch.randn(3, 5, 8),)
    found = compiled(module, *values)
    assert [len(kernel.launches) for kernel in products(found)] == [1] * count
    assert found.report.kernels_streamed <= found.report.kernels_serial
    assert equal_as_captured(module, values, [found]) == [True]


@pytest.mark.parametrize("dimension", [0, 1])
@pytest.mark.parametrize("exponential", [False, True])
def test_products_of_one_flattened_value_of_dynamic_size(dimension: int, exponential: bool) -> None:
    module = Flattened(2, exponential) if dimension else FirstFlattened(exponential)

    def call(size: int) -> tuple[Tensor, ...]:
        value = torch.randn(3, size, 8) if dimension else torch.randn(size, 5, 8)
        torch._dynamo.mark_dynamic(value, dimension)
        return (value,)

    found = compiled(module, *call(6))
    assert [len(kernel.launches) for kernel in products(found)] == [1, 1]
    assert found.report.kernels_streamed <= found.report.kernels_serial
    for size in (2, 6, 11):
        assert equal_as_captured(module, call(size), [found]) == [True], size


class FirstFlattened(Flattened):
    """Products of such a value whose rows are the second dimension's, so that a row has the first one's size in it."""

    def __init__(self, exponential: bool) -> None:
        super().__init__(2, exponential)

    def forward(self, x: Tensor) -> list[Tensor]:
        value = x.softmax(-1) if self.exponential else x * 2
        rows = value.transpose(0, 1).flatten(0, 1)
        return [rows[:, :8] @ weight[:8] for weight in self.weights]


class Rewritten(nn.Module):
    """A product of a flattened state before it is written in place, and one after."""

    def forward(self, state: Tensor, weight: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        before = state.transpose(0, 1).flatten(1) @ weight
        state.mul_(2).add_(1)
        return before, state.transpose(0, 1).flatten(1) @ other


def test_each_operator_reads_what_a_state_holds_at_its_place() -> None:
    values = (torch.randn(3, 5, 8), torch.randn(24, 16), torch.randn(24, 32))
    module = Rewritten()
    found = compiled(module, *values)
    assert equal_as_captured(module, values, [found]) == [True]


class Images(nn.Module):
    """Two convolutions of one image, or of an image before and after it is written in place."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(16, 16, 1, bias=False), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.written = written

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.one(x)
        if self.written:
            x.mul_(2).add_(1)
        return before, self.other(x)


@pytest.mark.parametrize("written", [False, True])
def test_copies_change_no_result(written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module, shapes = Images(written), [(1, 16, 12, 12)]
    values, graphs, inputs = [torch.randn(shape) for shape in shapes], list[Any](), list[Any]()

    def recorded(gm: fx.GraphModule, *given: Any) -> None:
        before = copy_graph(gm)
        store_copies(gm, *given)
        graphs.append((before, copy_graph(gm)))

    def called(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        inputs.append(clones(example_inputs))
        return gm.forward

    monkeypatch.setattr(reader, "store_copies", recorded)
    capture(module.requires_grad_(False), values, "h200", FREE_EVENTS)
    with torch.no_grad(), fresh_dynamo():
        torch.compile(module, backend=called)(*clones(values))
    ((before, after),) = graphs
    assert len(after.graph.find_nodes(op="call_function", target=FORCE)) > 0
    for one, other in zip(run_on_cpu(before, inputs[0]), run_on_cpu(after, inputs[0]), strict=True):
        torch.testing.assert_close(one, other)  # a CPU rounds a convolution by its layout


@pytest.mark.parametrize("repeated", [False, True])
def test_copies_of_a_dynamic_size_change_no_result_at_any_size(repeated: bool) -> None:
    """Their sizes and strides are numbers that the host computes from the size."""

    def product(x: Tensor, weight: Tensor) -> Tensor:
        value = torch.ones(x.shape)[:, : 1 if repeated else 5].mul(2)
        return torch.mm(value.expand(x.shape) if repeated else value, weight + x.sum())

    gm = make_fx(product, tracing_mode="symbolic")(torch.randn(6, 5), torch.randn(5, 3))
    (operator,) = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    (value,) = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    before, sizes = copy_graph(gm), expressions(operator.args[0].meta["val"].shape)
    guards = list(value.meta["val"].shape[0].node.shape_env.guards)
    by_column = sympy.S.One, sizes[0]
    store_copies(gm, [OperandCopy(operator, operator.args[0], value, sizes, by_column)])
    gm.graph.lint()
    (forced,) = gm.graph.find_nodes(op="call_function", target=FORCE)
    assert expressions(forced.meta["val"].stride()) == by_column
    assert list(value.meta["val"].shape[0].node.shape_env.guards) == guards
    for size in (2, 6, 11):
        x, weight = torch.randn(size, 5), torch.randn(5, 3)
        torch.testing.assert_close(fx.Interpreter(gm).run(x, weight), fx.Interpreter(before).run(x, weight))
        assert fx.Interpreter(gm).run(x, weight).shape == (size, 3)


class Masked(nn.Module):
    """Layers of attention beside an MLP, each of which makes a bias of one mask, as transformers' models do."""

    def __init__(self, layers: int, places: int, padded: bool) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(128, 3 * 128, bias=False) for _ in range(layers))
        self.mlps = nn.ModuleList(nn.Linear(128, 128, bias=False) for _ in range(layers))
        self.places, self.padded = places, padded

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for projection, mlp in zip(self.projections, self.mlps, strict=True):
            heads = projection(x).view(1, self.places, 3, 4, 32).permute(2, 0, 3, 1, 4)
            bias = torch.where(mask, 0.0, -torch.inf).to(x.dtype)
            if self.padded:
                bias = nn.functional.pad(bias, (0, 8))[..., : self.places]
            bias = bias.expand(1, 4, self.places, self.places)
            attended = torch.ops.aten._scaled_dot_product_efficient_attention(*heads.unbind(), bias, False)[0]
            x = x + attended.transpose(1, 2).flatten(2) + mlp(x)
        return x


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("layers", "places"), [(2, 104), (3, 128)])
def test_a_mask_that_all_layers_read_joins_none_of_them(layers: int, places: int, padded: bool) -> None:
    with torch.device("meta"):
        module = Masked(layers, places, padded).bfloat16()
        values = torch.empty(1, places, 128, dtype=torch.bfloat16), torch.empty(1, 1, 1, places, dtype=torch.bool)
    report = compiled(module, *values).report
    assert report.kernels is not None and max(len(kernel.launches) for kernel in report.kernels.kernels) == 1
    assert report.kernels_streamed == report.kernels_serial
    assert report.plan is not None and report.plan.streams > 1


class Convolved(nn.Module):
    """A convolution and a product of one image: two operators that want it in layouts of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(144, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = x.relu()
        return self.convolution(value), self.linear(value.permute(0, 2, 3, 1).flatten(1)[:, :144])


def test_operators_that_want_other_layouts_have_copies_of_their_own() -> None:
    module, values = Convolved(), (torch.randn(2, 16, 12, 12),)
    found = compiled(module, *values)
    assert len(products(found)) == 1
    assert equal_as_captured(module, values, [found]) == [True]


class Residual(nn.Module):
    """A convolution's result that is normalized, and read by another convolution as it is, as in a U-Net."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.into, self.norm = nn.Conv2d(size, size, 3, padding=1), nn.GroupNorm(8, size)
        self.convolution, self.shortcut = nn.Conv2d(size, 2 * size, 3, padding=1), nn.Conv2d(size, 2 * size, 1)

    def forward(self, x: Tensor) -> Tensor:
        value = self.into(x)
        return torch.add(self.convolution(nn.functional.silu(self.norm(value))), self.shortcut(value))


def test_a_value_that_is_stored_for_an_operator_is_stored_beside_its_copy() -> None:
    """Else each kernel that reads the value computes it once more, and the copy is made by a kernel of its own."""
    module = Residual(64).bfloat16()
    report = compiled(module, torch.randn(1, 64, 32, 32, dtype=torch.bfloat16)).report
    assert report.kernels_streamed == report.kernels_serial
    assert report.differences == ()
