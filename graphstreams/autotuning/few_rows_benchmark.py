"""Times the forms of products of few rows alone on the GPU at hand, beside torch's own product, and compares their sums.

A sample is a replay of a CUDA graph that multiplies with each copy of a weight once. The copies fill the L2 cache three times,
so each comes from memory, as the weights of a model do. Results are kept on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams.autotuning.cache_keys import setting, source_hash
from graphstreams.autotuning.cuda_graph import CudaGraph
from graphstreams.autotuning.synthetic_inputs import Layout
from graphstreams.autotuning.timing import medians_in_turns
from graphstreams.costs.few_rows import FormTime, ProductTimes
from graphstreams.inductor.disk_cache import Store, cache_folder
from graphstreams.inductor.few_rows import WeightProduct
from graphstreams.ir.devices import Device
from graphstreams.kernels.few_rows import kernel, program, run
from graphstreams.kernels.few_rows_candidates import candidates
from graphstreams.kernels.few_rows_forms import FLOAT8, SCALED, Form, Product, TensorCores
from graphstreams.runtime.streams import capture_stream

log = logging.getLogger("graphstreams")

CACHES = 3  # times the L2 cache that the copies of a weight fill
COPIES_LIMIT = 400
COLUMNS = 8192  # of a weight that are in float64 at once, a multiple of 128
ROUNDS, REPEATS = 5, 3  # samples of each time, and replays in a sample
# What an addition may lose, relative to its sum: tensor cores cut bits off, and Hopper's keep 14 bits of sums of float8.
UNIT, UNIT_OF_FLOAT8 = 2.0**-22, 2.0**-13
FURTHER_OPERATIONS = 8  # of an element besides the sum over K: scales, the bias, the sum of splits' ends
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}  # half a unit in the last place, of 1
SMALLEST = {torch.bfloat16: 0.0, torch.float16: 2.0**-25, torch.float32: 0.0}  # half the distance of the smallest numbers
TENSORS = {"scale_x": torch.float32, "scale_w": torch.float32, "partial": torch.float32}


def times_of_products(found: Sequence[WeightProduct], device: Device) -> dict[str, ProductTimes]:
    """Return, by operation, what forms of each product take alone, from disk or measured now on the GPU at hand.

    Raises what torch's own product raises. A form that can't be compiled or run has no time.
    """
    store = Store(cache_folder(), setting(device))
    times: dict[str, ProductTimes] = {}
    missing: dict[str, WeightProduct] = {}
    for each in found:
        kept = _kept(store.get(_key(each)))
        if kept is not None:
            times[each.operation] = kept
        else:
            missing.setdefault(each.operation, each)
    if missing:
        with unset_fake_temporarily(), torch.no_grad():
            products = dict.fromkeys(each.product for each in missing.values())
            compile_ahead([(each, form) for each in products for form in candidates(each, device.sm_count)])
            for operation, each in missing.items():
                times[operation] = _measured(each, device)
                store.put(_key(each), times[operation].as_dict())
            torch.cuda.empty_cache()
    return times


def compile_ahead(work: Sequence[tuple[Product, Form]], device: str = "cuda") -> None:
    """Compile the kernels of forms on all cores, for aligned operands. What fails to compile fails again when it is timed."""
    import triton

    with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for product, form in work:
            made = program(product, form)
            kinds = {**TENSORS, "x": product.dtype, "w": product.dtype, "bias": product.out, "out": product.out}
            for each in made.launches:
                named = {
                    parameter: torch.empty(64, dtype=kinds[name], device=device) for parameter, name in each.tensors.items()
                }
                arguments = {**named, **each.numbers, **each.constants}
                kernel(each.kernel).warmup(**arguments, grid=each.grid, num_warps=each.warps)


def _key(found: WeightProduct) -> str:
    return f"few rows {source_hash().hex()} {found.operation}"


def _kept(fields: object) -> ProductTimes | None:
    try:
        return ProductTimes.of_dict(fields)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None


def _measured(found: WeightProduct, device: Device) -> ProductTimes:
    case = _Case(found, device.l2)
    expected, magnitude = case.expected()
    largest = float(expected.abs().max()) or 1.0
    torchs, forms = case.torchs(0).double(), candidates(found.product, device.sm_count)
    graphs, right = [case.captured(case.torchs)], list[FormTime]()
    for form in forms:
        try:
            call = case.ours(form)
            result = call(0).double()
            graphs.append(case.captured(call))
        except Exception:
            log.debug("%s can't do %s", form, found.product, exc_info=True)
            continue
        gap, allowed = (result - expected).abs(), allowed_error(found.product, form, expected, magnitude)
        error, difference = (float(each.max()) / largest for each in (gap, (result - torchs).abs()))
        right.append(FormTime(form, 0.0, error, difference, bool((gap <= allowed).all())))
    torch_us, *times = (us / case.copies for us in medians_in_turns(graphs, ROUNDS, REPEATS))
    made = [replace(each, us=us) for us, each in zip(times, right, strict=True)]
    return ProductTimes(torch_us, float((torchs - expected).abs().max()) / largest, tuple(made))


def allowed_error(product: Product, form: Form, expected: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Return how far each element may lie from the product in float64; `magnitude` is the product of all magnitudes.

    In any order a sum of n terms loses at most n - 1 units of the sum of their magnitudes, to first order.
    """
    unit = UNIT_OF_FLOAT8 if product.dtype == FLOAT8 and isinstance(form, TensorCores) else UNIT
    operations = (product.depth + FURTHER_OPERATIONS) * unit
    sums = magnitude * operations / max(1 - operations, 0.1)
    return sums + (expected.abs() + sums) * ROUNDING[product.out] + SMALLEST[product.out]


class _Case:
    """A product's operands with synthetic values, and copies of its weight enough that none is in the cache at its turn."""

    def __init__(self, found: WeightProduct, l2: int) -> None:
        self._found = found
        self._tensors = {name: synthesized(Layout.of(node.meta["val"])) for name, node in found.operands.items()}
        if found.product.dtype != FLOAT8:
            self._tensors["w"].mul_(found.product.depth**-0.5)
        weight = self._tensors["w"]
        size = weight.numel() * weight.element_size()
        self.copies = min(max(2, -(-CACHES * l2 // size)), COPIES_LIMIT)
        layout = Layout.of(weight)
        self._weights = [weight, *(layout.empty().copy_(weight) for _ in range(self.copies - 1))]
        self._stream = capture_stream(torch.cuda.current_device())

    def torchs(self, index: int) -> Any:
        """Return the product with a copy of the weight as the graph's operator computes it."""
        given = {node: name for name, node in self._found.operands.items()}

        def value(node: fx.Node) -> Any:
            name = given[node]
            return self._weights[index] if name == "w" else self._tensors[name]

        arguments, named = fx.map_arg((self._found.node.args, self._found.node.kwargs), value)
        return self._found.node.target(*arguments, **named)  # type: ignore[operator]

    def ours(self, form: Form) -> Callable[[int], torch.Tensor]:
        """Return what computes the product with a copy of the weight by a form. Raises ValueError if the form can't."""
        work = program(self._found.product, form)
        return lambda index: run(work, {**self._tensors, "w": self._weights[index]})

    def captured(self, call: Callable[[int], Any]) -> CudaGraph:
        """Return a graph that multiplies with each copy of the weight once. The call has been made before."""
        with torch.cuda.stream(self._stream):
            call(0)
        return CudaGraph(partial(self._with_each, call), self._stream)

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the product in float64, and the same of all magnitudes."""
        x, bias = wide(self._tensors["x"], self._tensors.get("scale_x"), 1), self._tensors.get("bias")
        parts = [self._wide_weight(start) for start in range(0, self._found.product.columns, COLUMNS)]
        added = bias.double() if bias is not None else x.new_zeros(1)
        return torch.cat([x @ w for w in parts], 1) + added, torch.cat([x.abs() @ w.abs() for w in parts], 1) + added.abs()

    def _wide_weight(self, start: int) -> torch.Tensor:
        """Return columns of the weight from `start` on in float64: all of a large one would take much memory."""
        rows, scale = self._tensors["w"].t()[start : start + COLUMNS], self._tensors.get("scale_w")
        if scale is not None and scale.numel() > 1:
            step = SCALED if self._found.product.scaling == "block" else 1
            scale = scale.t()[start // step : -(-(start + COLUMNS) // step)]
        return wide(rows, scale, SCALED).t()

    def _with_each(self, call: Callable[[int], Any]) -> None:
        for index in range(self.copies):
            call(index)


def synthesized(layout: Layout) -> torch.Tensor:
    """Return a tensor of random numbers: normal ones, but for float32, which scales have, those from 0.5 to 1.5."""
    value = layout.empty()
    generator = torch.Generator(value.device).manual_seed(0)
    # All of its memory, since elements of an expanded tensor share some, and torch writes none of these.
    whole = value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,))
    if value.dtype == torch.float32:
        whole.uniform_(0.5, 1.5, generator=generator)
    else:
        whole.copy_(torch.randn(whole.shape, device=value.device, generator=generator))
    return value


def wide(rows: torch.Tensor, scale: torch.Tensor | None, rows_of_block: int) -> torch.Tensor:
    """Return rows in float64, times their scales: one, one a row, or one for 128 elements of as many rows as are given."""
    values = rows.double()
    if scale is None:
        return values
    if scale.numel() == 1:
        return values * scale.double().reshape(1, 1)
    if scale.shape[0] == rows.shape[0] and scale.shape[1] == 1:
        return values * scale.double()
    scale = scale.double().repeat_interleave(SCALED, 1).repeat_interleave(rows_of_block, 0)
    return values * scale[: rows.shape[0], : rows.shape[1]]
