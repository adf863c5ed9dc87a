"""Check what is measured of products of few rows: the product in float64, its bound, and what is kept on disk."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from graphstreams.autotuning import few_rows_benchmark
from graphstreams.autotuning.few_rows_benchmark import allowed_error, times_of_products
from graphstreams.autotuning.synthetic_inputs import Layout
from graphstreams.costs.few_rows import FormTime, ProductTimes
from graphstreams.inductor.few_rows import WeightProduct
from graphstreams.ir.devices import DEVICES
from graphstreams.kernels.few_rows import product_of
from graphstreams.kernels.few_rows_forms import FLOAT8, MultiplyAndSum, TensorCores
from tests.support.few_rows_cases import Case, random_case, with_bias

H200 = DEVICES["h200"]


def found_in(case: Case) -> WeightProduct:
    """Return a case's product in a graph."""
    graph = fx.Graph()
    named = {"x": case.x, "w": case.w, "bias": case.bias, "scale_x": case.scale_x, "scale_w": case.scale_w}
    operands = {}
    for name, value in named.items():
        if value is not None:
            operands[name] = graph.placeholder(name)
            operands[name].meta["val"] = value
    product = product_of(case.x, case.w, case.bias, case.scale_x, case.scale_w, case.out_dtype)
    node = graph.call_function(torch.ops.aten.mm.default, (operands["x"], operands["w"]))
    return WeightProduct(node, product, operands, operands["w"])


class _Case(few_rows_benchmark._Case):
    """A case without a GPU's stream, with the values of a test."""

    def __init__(self, found: WeightProduct, case: Case) -> None:
        self._found = found
        self._tensors = {name: node.meta["val"] for name, node in found.operands.items()}
        self._weights = [case.w]


@pytest.mark.parametrize("scaling", ["none", "tensor", "output", "block"])
def test_the_product_in_float64_is_that_of_all_columns_with_their_scales(scaling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows_benchmark, "COLUMNS", 128)
    case = random_case(3, 256, 300, torch.bfloat16 if scaling == "none" else FLOAT8, scaling)
    case = with_bias(case, torch.bfloat16)
    expected, magnitude = _Case(found_in(case), case).expected()
    reference, of_magnitudes = case.reference()
    assert torch.allclose(expected, reference, rtol=1e-12) and torch.allclose(magnitude, of_magnitudes, rtol=1e-12)


def test_torchs_product_is_the_graphs_operator_on_a_copy_of_the_weight() -> None:
    case = random_case(3, 64, 20, torch.bfloat16)
    assert torch.equal(_Case(found_in(case), case).torchs(0), case.x @ case.w)


def test_the_bound_grows_with_the_length_of_sums_and_holds_for_torchs_product() -> None:
    case = random_case(3, 256, 30, torch.bfloat16)
    found = found_in(case)
    expected, magnitude = case.reference()
    allowed = allowed_error(found.product, MultiplyAndSum(), expected, magnitude)
    product = (case.x.float() @ case.w.float()).to(found.product.out).double()
    assert bool(((product - expected).abs() <= allowed).all())
    of_float8 = found_in(random_case(3, 256, 30, FLOAT8)).product
    assert bool((allowed_error(of_float8, TensorCores(), expected, magnitude) > 10 * allowed).all())


def test_times_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    times = ProductTimes(5.0, 1e-3, (FormTime(MultiplyAndSum(), 4.0, 1e-3, 1e-4, True),))
    measured: list[Any] = []

    def measure(found: WeightProduct, device: Any) -> ProductTimes:
        measured.append(found.product)
        return times

    monkeypatch.setattr(few_rows_benchmark, "_measured", measure)
    monkeypatch.setattr(few_rows_benchmark, "compile_ahead", lambda work: None)
    products = [found_in(random_case(rows, 64, 20, torch.bfloat16)) for rows in (1, 1, 2)]
    for _ in range(2):
        found = times_of_products(products, H200)
        assert found == {each.operation: times for each in products}
    assert len(measured) == 2
    times_of_products(products[:1], DEVICES["h100"])
    assert len(measured) == 3


def test_operators_that_compute_the_same_product_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them with another argument, such as the accumulation of float8, may take another time and have other errors."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    us = iter((5.0, 6.0, 7.0))
    monkeypatch.setattr(few_rows_benchmark, "_measured", lambda found, device: ProductTimes(next(us), 1e-3, ()))
    compiled: list[Any] = []
    monkeypatch.setattr(few_rows_benchmark, "compile_ahead", lambda work: compiled.extend(work))
    plain, same, fast = (found_in(random_case(1, 64, 20, torch.bfloat16)) for _ in range(3))
    fast.node.kwargs = {"use_fast_accum": True}
    other = found_in(random_case(1, 64, 20, torch.bfloat16))
    other.node.target = torch.ops.aten.mm.dtype
    assert plain.operation == same.operation and len({each.operation for each in (plain, fast, other)}) == 3
    for _ in range(2):
        found = times_of_products([plain, same, fast, other], H200)
        assert [found[each.operation].torch_us for each in (plain, same, fast, other)] == [5.0, 5.0, 6.0, 7.0]
    assert len(set(compiled)) == len(compiled)  # the forms are the same for all


class _Graph:
    """A captured graph that replays nothing."""

    overhead_us = 0.0

    def __init__(self, function: Any, stream: Any) -> None:
        function()


def test_forms_that_fail_have_no_time_and_wrong_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, failing, impossible = (
        MultiplyAndSum(2, 64), MultiplyAndSum(4, 64), TensorCores(16, 64), TensorCores(32, 64, splits=4),
    )  # fmt: skip
    launched = {8: right, 4: wrong, 1: failing}  # by the blocks of 16 columns

    def run(work: Any, operands: Any) -> torch.Tensor:
        form = launched[work.launches[0].grid[0]]
        if form == failing:
            raise RuntimeError("out of resources")
        product: torch.Tensor = operands["x"] @ operands["w"]
        return product * 1.5 if form == wrong else product

    monkeypatch.setattr(few_rows_benchmark, "run", run)
    monkeypatch.setattr(few_rows_benchmark, "candidates", lambda product, sms: (failing, wrong, right, impossible))
    monkeypatch.setattr(few_rows_benchmark, "CudaGraph", _Graph)
    monkeypatch.setattr(few_rows_benchmark, "capture_stream", lambda device: None)
    monkeypatch.setattr(few_rows_benchmark, "COPIES_LIMIT", 2)
    monkeypatch.setattr(few_rows_benchmark, "medians_in_turns", lambda graphs, *_: [20.0, 10.0, 8.0][: len(graphs)])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    times = few_rows_benchmark._measured(
        found_in(replace(random_case(3, 64, 16, torch.bfloat16), out_dtype=torch.bfloat16)), H200
    )
    assert times.torch_us == 10.0  # of two copies
    assert [(each.form, each.us) for each in times.forms] == [(wrong, 5.0), (right, 4.0)]
    assert [each.within for each in times.forms] == [False, True]
    assert times.forms[1].difference == 0.0 and times.forms[0].error > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_elements_that_share_memory_have_values_too(dtype: str) -> None:
    value = few_rows_benchmark.synthesized(Layout((3, 8), (0, 1), dtype, "cpu"))
    assert value.stride() == (0, 1) and torch.equal(value[0], value[2]) and len(set(value[0].tolist())) > 1
