"""Check products of few rows in a graph: which are the kernels', by which launches they are replaced, and what stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams.inductor.few_rows import replace_product, weight_products
from graphstreams.kernels.few_rows_forms import FLOAT8, MultiplyAndSum, TensorCores

aten = torch.ops.aten
LAUNCH = torch.ops.higher_order.triton_kernel_wrapper_functional
MODE = FakeTensorMode()
BFLOAT16 = torch.bfloat16


def fake(*shape: int, dtype: torch.dtype = BFLOAT16, device: str = "cuda:0") -> Tensor:
    """Return a tensor of a device that need not be there."""
    return FakeTensor(MODE, torch.empty(shape, dtype=dtype, device="meta"), torch.device(device))


class Graph:
    """A graph in the making, whose nodes have fake values."""

    def __init__(self) -> None:
        self.graph = fx.Graph()

    def input(self, name: str, value: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = value
        return node

    def call(self, target: Any, *args: Any, value: Any = None, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        if value is None:
            given, named = fx.map_arg((args, kwargs), lambda each: each.meta["val"])
            with MODE:
                value = target(*given, **named)
        node.meta["val"] = value
        return node

    def module(self, *results: fx.Node) -> fx.GraphModule:
        self.graph.output(results)
        return fx.GraphModule(torch.nn.Module(), self.graph)


def linear(rows: int = 2, device: str = "cuda:0", dtype: torch.dtype = BFLOAT16) -> tuple[Graph, fx.Node, fx.Node]:
    """Return a graph with an input `[rows, 1024]` and the transpose of a weight `[512, 1024]`."""
    made = Graph()
    x, w = (
        made.input("x", fake(rows, 1024, dtype=dtype, device=device)),
        made.input("w", fake(512, 1024, dtype=dtype, device=device)),
    )
    return made, x, made.call(aten.permute.default, w, [1, 0])


def launches_of(gm: fx.GraphModule) -> list[fx.Node]:
    return gm.graph.find_nodes(op="call_function", target=LAUNCH)


def test_a_product_becomes_a_launch_that_is_given_the_weight_itself() -> None:
    made, x, w = linear()
    gm = made.module(made.call(aten.mm.default, x, w))
    (found,), left = weight_products(gm.graph)
    assert not left and found.weight.name == "w"
    replace_product(gm, found, MultiplyAndSum(2, 256), 3.0)
    gm.graph.lint()
    assert not gm.graph.find_nodes(op="call_function", target=aten.mm.default)
    (node,) = launches_of(gm)
    given = node.kwargs["kwargs"]
    assert (given["x"].name, given["w"].name) == ("x", "w") and given["bias"] is None
    assert (given["m"], given["n"], given["k"], given["w_stride_k"], given["w_stride_n"]) == (2, 512, 1024, 1, 1024)
    assert node.kwargs["tensors_to_clone"] == ["out"]
    (result,) = gm.graph.output_node().args[0]
    assert tuple(result.meta["val"].shape) == (2, 512) and result.meta["val"].dtype == BFLOAT16


def test_splits_hand_their_sums_on() -> None:
    made, x, w = linear()
    gm = made.module(made.call(aten.mm.default, x, w))
    (found,), _ = weight_products(gm.graph)
    replace_product(gm, found, TensorCores(32, 128, splits=4), 3.0)
    first, second = launches_of(gm)
    partial = second.kwargs["kwargs"]["partial"]
    assert partial.args == (first, "out") and tuple(partial.meta["val"].shape) == (4, 2, 512)


def test_two_products_of_a_computed_value_share_it_as_it_is_stored() -> None:
    made, x, w = linear()
    other = made.call(aten.permute.default, made.input("v", fake(64, 1024)), [1, 0])
    y = made.call(aten.mul.Tensor, x, x)
    gm = made.module(made.call(aten.mm.default, y, w), made.call(aten.mm.default, y, other))
    for found in weight_products(gm.graph)[0]:
        replace_product(gm, found, MultiplyAndSum(2, 256), 3.0)
    first, second = launches_of(gm)
    assert first.kwargs["kwargs"]["x"] is second.kwargs["kwargs"]["x"] is not y


def test_a_bias_and_an_output_of_another_type_belong_to_it() -> None:
    made, x, w = linear()
    bias = made.input("b", fake(512))
    gm = made.module(made.call(aten.addmm.default, bias, x, w))
    (found,), _ = weight_products(gm.graph)
    assert found.product.biased and found.operands["bias"] is bias
    made, x, w = linear()
    wide = made.call(aten.mm.dtype, x, w, torch.float32, value=fake(2, 512, dtype=torch.float32))
    (found,), _ = weight_products(made.module(wide).graph)
    assert found.product.out == torch.float32


def scaled(scale_x: Tensor, scale_w: Tensor, **changes: Any) -> tuple[list[Any], list[Any]]:
    made, x, w = linear(dtype=FLOAT8)
    scales = made.input("scale_x", scale_x), made.input("scale_w", scale_w)
    call = made.call(aten._scaled_mm.default, x, w, *scales, out_dtype=BFLOAT16, value=fake(2, 512), **changes)
    return weight_products(made.module(call).graph)


def test_float8_products_have_their_scales() -> None:
    float32 = torch.float32
    (found,), _ = scaled(fake(2, 1, dtype=float32), fake(1, 512, dtype=float32))
    assert found.product.scaling == "output" and {"scale_x", "scale_w"} < set(found.operands)
    _, (left,) = scaled(fake(2, 1, dtype=float32), fake(1, 4, dtype=float32))
    assert "are for no product" in left.reason


@pytest.mark.parametrize(("recipes", "known"), [((4, 5), True), ((4, 4), False), ((5, 5), False)])
def test_scales_are_what_their_recipes_say_and_not_what_their_shapes_allow(recipes: tuple[int, int], known: bool) -> None:
    made = Graph()
    x, weight = made.input("x", fake(2, 256, dtype=FLOAT8)), made.input("w", fake(256, 256, dtype=FLOAT8))
    w = made.call(aten.permute.default, weight, [1, 0])
    of_x, of_w = (made.input(f"scale_{i}", fake(rows, 2, dtype=torch.float32)) for i, rows in enumerate((2, 256)))
    of_w.meta["val"] = of_w.meta["val"] if recipes[1] == 4 else fake(2, 2, dtype=torch.float32).t()
    given = [of_x], [recipes[0]], [0], [of_w], [recipes[1]], [0], None, BFLOAT16
    call = made.call(aten._scaled_mm_v2.default, x, w, *given, value=fake(2, 256))
    found, left = weight_products(made.module(call).graph)
    assert bool(found) == known == (not left)
    assert known or left[0].reason == "its scales are for blocks that the kernels have nothing for"


@pytest.mark.parametrize("transposed", [True, False])
def test_square_scales_of_blocks_are_known_by_their_strides(transposed: bool) -> None:
    made = Graph()
    x, weight = made.input("x", fake(2, 256, dtype=FLOAT8)), made.input("w", fake(256, 256, dtype=FLOAT8))
    w = made.call(aten.permute.default, weight, [1, 0])
    scale = fake(2, 2, dtype=torch.float32)
    scales = made.input("scale_x", fake(2, 2, dtype=torch.float32)), made.input("scale_w", scale.t() if transposed else scale)
    call = made.call(aten._scaled_mm.default, x, w, *scales, out_dtype=BFLOAT16, value=fake(2, 256))
    found, left = weight_products(made.module(call).graph)
    assert bool(found) == transposed and [each.reason for each in left] == (
        [] if transposed else ["the scales of its weight's blocks may be meant as they are or transposed"]
    )


def reasons(changes: Mapping[str, Any], product: Any = aten.mm.default) -> list[str]:
    made, x, w = linear(**changes)
    return [each.reason for each in weight_products(made.module(made.call(product, x, w)).graph)[1]]


def test_what_cannot_be_measured_stays_with_a_reason() -> None:
    assert reasons({"rows": 0}) == ["it is empty"]
    made = Graph()
    weight = made.input("w", fake(1024, 1).expand(1024, 512))
    _, (left,) = weight_products(made.module(made.call(aten.mm.default, made.input("x", fake(2, 1024)), weight)).graph)
    assert left.reason == "elements of its weight share memory"


def test_what_the_kernels_cannot_do_stays_with_a_reason() -> None:
    assert "not for float32" in reasons({"dtype": torch.float32})[0]
    made, x, w = linear()
    residual = made.input("b", fake(2, 512))
    (left,) = weight_products(made.module(made.call(aten.addmm.default, residual, x, w)).graph)[1]
    assert "no vector" in left.reason
    with config.patch(triton_kernel_default_layout_constraint="flexible_layout"):
        assert "triton_kernel_default_layout_constraint" in reasons({})[0]


def test_dynamic_rows_stay_with_a_reason() -> None:
    made, _, w = linear()
    mode = FakeTensorMode(shape_env=ShapeEnv())
    known = mode.from_tensor(torch.empty(7, 1024, dtype=BFLOAT16), static_shapes=False)
    x = made.input("dynamic", known)
    call = made.call(aten.mm.default, x, w, value=fake(7, 512))
    (left,) = weight_products(made.module(call).graph)[1]
    assert "its sizes are dynamic" in left.reason


@pytest.mark.parametrize("changes", [{"rows": 65}, {"device": "cpu"}], ids=str)
def test_products_of_many_rows_and_of_the_cpu_are_none_of_ours(changes: dict[str, Any]) -> None:
    made, x, w = linear(**changes)
    assert weight_products(made.module(made.call(aten.mm.default, x, w)).graph) == ([], [])


def test_a_weight_is_an_input_that_nothing_writes() -> None:
    made, x, w = linear()
    computed = made.call(aten.mul.Tensor, w, w)
    gm = made.module(made.call(aten.mm.default, x, computed))
    assert weight_products(gm.graph) == ([], [])
    made, x, w = linear()
    product = made.call(aten.mm.default, x, w)
    base = w.args[0]
    changed = made.call(aten.copy_.default, base, base, value=base.meta["val"])
    assert weight_products(made.module(product, changed).graph) == ([], [])
