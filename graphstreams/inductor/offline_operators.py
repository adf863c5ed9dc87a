"""Say what operators return without a GPU, where torch would ask the driver or run a kernel to find out.

Read in torch 2.15.0: `_subclasses/fake_tensor.py` (run_fallback_kernel), `_subclasses/fake_impls.py` (local_scalar_dense),
`aten/src/ATen/native/GridSampler.cpp`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch._guards import TracingContext
from torch._subclasses import fake_impls, fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from graphstreams.inductor.attention import attention_on
from graphstreams.ir.devices import Device

aten = torch.ops.aten
_ITEMS = (aten.item.default, aten._local_scalar_dense.default)
MOST_VALUES = 500  # that Python may read; each of them may lead to another graph


class ShapesOfGraphs(ShapeEnv):
    """Sizes that depend on data are unknown in graphs only: Python that runs between graphs would have numbers."""

    @property
    def allow_dynamic_output_shape_ops(self) -> bool:
        """Whether an operator such as `nonzero` may return a tensor of unknown size."""
        return TracingContext.try_get() is not None


@contextlib.contextmanager
def operators_without_a_gpu(device: Device) -> Iterator[None]:
    """Inside the context, let operators on fake CUDA tensors be traced as on `device`."""
    with torch.library._scoped_library("aten", "IMPL") as library, _fallback_on_cpu():
        library.impl("cudnn_grid_sampler", _grid, "Meta")
        for name in ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"):
            library.impl(name, _recurrent, "CompositeImplicitAutograd", allow_override=True)
        library.impl("scaled_dot_product_attention", attention_on(device), "CompositeImplicitAutograd", allow_override=True)
        yield


class TooManyValues(BaseException):
    """Python reads so many values of tensors that it may be a loop whose end depends on one. Not caught as an Exception is."""


@contextlib.contextmanager
def values_taken_for_one() -> Iterator[list[torch.dtype]]:
    """Inside the context, let a fake tensor's value be 1 for Python that runs between graphs.

    Returns the dtypes of the values that were asked for. What is traced into a graph stays unknown. Raises TooManyValues inside
    the context where more than `MOST_VALUES` are asked for.
    """
    taken: list[torch.dtype] = []

    def value(mode: FakeTensorMode, func: Any, tensor: FakeTensor) -> Any:
        if TracingContext.try_get() is not None:
            return fake_impls.local_scalar_dense(mode, func, tensor)
        if len(taken) == MOST_VALUES:
            raise TooManyValues(f"Python reads more than {MOST_VALUES} values of tensors, as a loop does that ends by one")
        taken.append(tensor.dtype)
        return _one(tensor.dtype)

    with mock.patch.dict(fake_impls.op_implementations_dict, dict.fromkeys(_ITEMS, value)):
        yield taken


def _one(dtype: torch.dtype) -> bool | int | float | complex:
    if dtype == torch.bool:
        return True
    if dtype.is_complex:
        return 1.0 + 0.0j
    return 1.0 if dtype.is_floating_point else 1


def _recurrent(
    value: torch.Tensor, state: Any, weights: Any, biases: bool, layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Return the results of a recurrent network, which torch.compile leaves to Python: outputs and last states."""
    if TracingContext.try_get() is not None:
        raise NotImplementedError(
            "recurrent networks in a graph can't be traced without a GPU; set torch._dynamo.config.allow_rnn off"
        )
    states = (state,) if isinstance(state, torch.Tensor) else tuple(state)
    output = value.new_empty(*value.shape[:2], (1 + bidirectional) * states[0].shape[-1])
    return output, *(each.new_empty(each.shape) for each in states)


def _grid(value: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Return the result of cuDNN's grid sampler: (N, C, H, W) for (N, C, ...) and a grid of (N, H, W, 2)."""
    return value.new_empty(value.shape[0], value.shape[1], grid.shape[1], grid.shape[2])


@contextlib.contextmanager
def _fallback_on_cpu() -> Iterator[None]:
    """Let an operator that has no rule for fake tensors run on zeros of the CPU, not of the GPU, to see what it returns."""
    run = fake_tensor.run_fallback_kernel

    def on_cpu(mode: FakeTensorMode, func: Any, flat_args: Any, spec: Any, error: RuntimeError) -> Any:
        device = next((value.device for value in flat_args if isinstance(value, FakeTensor)), torch.device("cpu"))
        arguments = [_moved(value, torch.device("cpu"), mode) for value in flat_args]
        try:
            result = run(mode, func, arguments, spec, error)
        except NotImplementedError:
            raise error from None
        return pytree.tree_map(lambda value: _moved(value, device, mode), result)

    with mock.patch.object(fake_tensor, "run_fallback_kernel", on_cpu):
        yield


def _moved(value: Any, device: torch.device, mode: FakeTensorMode) -> Any:
    if isinstance(value, torch.device):
        return device
    if not isinstance(value, FakeTensor):
        return value
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
