"""Check FLOPs of operators against torch's own counter, and against hand counts of what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from graphstreams.inductor.operator_arithmetic import Arithmetic, argument, arithmetic_of, total

aten = torch.ops.aten


def of(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def node_of(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """Return an FX node that calls `target`, whose result has the shape that torch gives it."""
    graph = fx.Graph()

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        node = graph.placeholder("x")
        node.meta["val"] = value
        return node

    node = graph.call_function(target, tuple(map(placed, args)), {name: placed(value) for name, value in kwargs.items()})
    node.meta["val"] = target(*args, **kwargs)
    return node


def convolution(image: Tensor, weight: Tensor, transposed: bool = False, groups: int = 1, stride: int = 1) -> Any:
    rank = image.dim() - 2
    ones, zeros = [1] * rank, [0] * rank
    return aten.convolution.default, image, weight, None, [stride] * rank, zeros, ones, transposed, zeros, groups


QUERY = of(2, 8, 64, 32)
KNOWN = {
    "product": (aten.mm.default, of(16, 32), of(32, 64)),
    "product and sum": (aten.addmm.default, of(64), of(16, 32), of(32, 64)),
    "batch": (aten.bmm.default, of(4, 16, 32), of(4, 32, 64)),
    "batch and sum": (aten.baddbmm.default, of(4, 16, 64), of(4, 16, 32), of(4, 32, 64)),
    "convolution": convolution(of(2, 16, 12, 12), of(32, 16, 3, 3)),
    "strided": convolution(of(2, 16, 12, 12), of(32, 16, 3, 3), stride=2),
    "groups": convolution(of(2, 16, 12, 12), of(32, 4, 3, 3), groups=4),
    "each channel": convolution(of(2, 16, 12, 12), of(16, 1, 3, 3), groups=16),
    "one dimension": convolution(of(2, 16, 40), of(32, 16, 3)),
    "three dimensions": convolution(of(1, 8, 6, 6, 6), of(16, 8, 3, 3, 3)),
    "transposed": convolution(of(2, 16, 12, 12), of(16, 8, 4, 4), transposed=True, stride=2),
    "flash attention": (aten._scaled_dot_product_flash_attention.default, QUERY, QUERY, QUERY),
    "cuDNN attention": (aten._scaled_dot_product_cudnn_attention.default, QUERY, QUERY, QUERY, None, False),
    "efficient attention": (aten._scaled_dot_product_efficient_attention.default, QUERY, QUERY, QUERY, None, False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    target, *args = KNOWN[name]
    with FlopCounterMode(display=False) as counter:
        target(*args)
    found = arithmetic_of(node_of(target, *args))
    assert found is not None and found.flops == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("name", "inner", "matrices", "channels"),
    [
        ("product", 32, 1, None),
        ("batch", 32, 4, None),
        ("convolution", 16 * 9, 1, 16),
        ("groups", 4 * 9, 4, 4),
        ("each channel", 9, 1, 1),
        ("flash attention", 64, 16, None),
    ],
)
def test_what_each_result_adds_up(name: str, inner: int, matrices: int, channels: int | None) -> None:
    found = arithmetic_of(node_of(*KNOWN[name]))
    assert found is not None and (found.inner, found.matrices) == (inner, matrices)
    assert channels is None or found.channels == channels


def test_causal_attention_counts_half() -> None:
    target = aten._scaled_dot_product_flash_attention.default
    whole, causal = (arithmetic_of(node_of(target, QUERY, QUERY, QUERY, 0.0, each)) for each in (False, True))
    assert whole is not None and causal is not None and 2 * causal.flops == whole.flops


def test_a_single_query_has_its_keys_divided() -> None:
    single = of(2, 8, 1, 32)
    found = arithmetic_of(node_of(aten._scaled_dot_product_cudnn_attention.default, single, QUERY, QUERY, None, False))
    assert found is not None and found.inner == 0 and found.flops == 2 * 16 * 64 * 64


@pytest.mark.parametrize(
    ("left", "right", "flops", "inner"),
    [
        (of(64, 32), of(4, 32, 16), 2 * 64 * 32 * 16, 32),
        (of(32, 64), of(64, 16), 2 * 32 * 64 * 16, 16),  # of each of 4 groups a part of the inner dimension
        (of(4, 64, 32), of(4, 32, 16), 2 * 4 * 64 * 32 * 16, 32),
    ],
)
def test_grouped_products(left: Tensor, right: Tensor, flops: int, inner: int) -> None:
    ends = None if left.dim() == right.dim() == 3 else torch.empty(4, dtype=torch.int32, device="meta")
    found = arithmetic_of(node_of(aten._grouped_mm.default, left, right, ends))
    assert found is not None and (found.flops, found.inner, found.matrices) == (flops, inner, 4)


def test_an_encoder_layer_is_its_products() -> None:
    width, hidden, length, batch = 32, 64, 16, 2
    vectors = [of(width) for _ in range(4)]
    layer = node_of(
        aten._transformer_encoder_layer_fwd.default,
        of(batch, length, width), width, 4, of(3 * width, width), of(3 * width), of(width, width), of(width),
        False, False, 1e-5, *vectors, of(hidden, width), of(hidden), of(width, hidden), of(width),
    )  # fmt: skip
    found = arithmetic_of(layer)
    tokens = batch * length
    projections = 2 * tokens * (4 * width * width + 2 * width * hidden)
    assert found is not None and found.flops == projections + 2 * 2 * batch * length * length * width


def test_what_bandwidth_bounds_has_no_arithmetic() -> None:
    assert arithmetic_of(node_of(aten.add.Tensor, of(4), of(4))) is None
    assert total([]) == Arithmetic()


def test_an_argument_is_found_by_its_name() -> None:
    node = node_of(aten._scaled_dot_product_cudnn_attention.default, QUERY, QUERY, QUERY, None, False, scale=0.5)
    assert argument(node, "is_causal") is False and argument(node, "scale") == 0.5 and argument(node, "none") is None
