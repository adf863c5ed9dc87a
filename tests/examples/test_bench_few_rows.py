"""Check the benchmark of products of few rows: its products, operands and tables, and the rule that is made of a result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_few_rows
import bench_few_rows_report
import few_rows_cases
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from graphstreams.kernels.few_rows_forms import FLOAT8, MultiplyAndSum, Product, TensorCores, fields_of, form_name, form_of

SUMS, DOTS = MultiplyAndSum(2, 1024), TensorCores(32, 128, splits=4)


def _times(**us: float) -> dict[str, dict[str, float]]:
    return {name: {"median": each, "first_quartile": each - 1, "third_quartile": each + 1} for name, each in us.items()}


def _row(rows: int, unstable: tuple[str, ...] = ()) -> dict[str, Any]:
    us = _times(cuBLAS=10.0, sums=8.0, dots=5.0)
    us[form_name(SUMS)], us[form_name(DOTS)] = us.pop("sums"), us.pop("dots")
    row = {"kind": "bfloat16", "rows": rows, "depth": 7168, "columns": 2112, "bytes": 24_000_000, "copies": 6, "us": us}
    row.update(errors=dict.fromkeys(us, 2e-3), wrong=[], unstable=list(unstable), failed_forms={}, left_out=0)
    row["forms"] = {form_name(form): fields_of(form) for form in (SUMS, DOTS)}
    return {**row, "best": form_name(SUMS if unstable else DOTS)}


@pytest.fixture
def result() -> dict[str, Any]:
    machine = {name: name for name in ("device", "driver", "cuda", "torch", "triton", "python", "date", "command")}
    failed = {"kind": "bfloat16", "rows": 64, "depth": 7168, "columns": 2112, "failed": "RuntimeError: out of memory"}
    settings = {"rounds": 10, "repeats": 3, "bandwidth": 4.8e12, "used_by": {"7168x2112": ["v32 tp 8 fused_qkv_a_proj"]}}
    return {**machine, **settings, "rows": [_row(1), failed]}


def test_shapes_are_those_of_the_layers() -> None:
    found = few_rows_cases.shapes(["v32", "v4-flash"], [8])
    assert found[7168, 2112] == ["v32 tp 8 fused_qkv_a_proj"]  # 1536 + 512 + 64
    assert found[1536, 3072] == ["v32 tp 8 q_b_proj"]  # 128 heads of 192 on 8 ranks
    assert found[2048, 7168] == ["v32 tp 8 o_proj"]
    assert found[1024, 4096] == ["v4-flash tp 8 wq_b", "v4-flash tp 8 wo_b"]
    assert (1536, 24_576) in few_rows_cases.shapes(["v32"], [1])


def test_scales_of_blocks_leave_out_what_has_no_blocks() -> None:
    wanted = {(7168, 2112): [], (100, 64): [], (128, 24): []}
    assert bench_few_rows.products(["float8-block", "float16"], wanted) == [
        ("float8-block", (7168, 2112)),
        ("float16", (7168, 2112)),
        ("float16", (100, 64)),
        ("float16", (128, 24)),
    ]


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("kind", few_rows_cases.KINDS)
def test_the_expected_product_is_torchs_within_rounding(kind: str, rows: int) -> None:
    case = few_rows_cases.case_of(kind, rows, [few_rows_cases.layer_of(kind, 256, 144)])
    expected = case.expected()
    assert tuple(expected.shape) == (rows, 144)
    assert bench_few_rows.difference(case.torchs(0)[:rows], expected) < 2.0**-7  # of bfloat16, and of float8's sums
    product = case.product
    scaling = {"float8-token": "output", "float8-block": "block"}.get(kind, "none")
    assert (product.rows, product.depth, product.columns, product.scaling) == (rows, 256, 144, scaling)
    assert (product.dtype == FLOAT8) == kind.startswith("float8") and product.w_strides == (1, 256)


def test_bytes_are_those_of_operands_scales_and_result() -> None:
    case = few_rows_cases.case_of("bfloat16", 3, [few_rows_cases.layer_of("bfloat16", 256, 144)])
    assert case.bytes_moved == 2 * (3 * 256 + 256 * 144 + 3 * 144)
    case = few_rows_cases.case_of("float8-token", 3, [few_rows_cases.layer_of("float8-token", 256, 144)])
    assert case.bytes_moved == 3 * 256 + 256 * 144 + 4 * (3 + 144) + 2 * 3 * 144


def test_copies_fill_the_cache_three_times() -> None:
    layer = few_rows_cases.layer_of("bfloat16", 64, 32)  # 4,096 bytes
    assert len(few_rows_cases.copies_of(layer, 4096 * 5)) == 15
    assert len(few_rows_cases.copies_of(layer, 4096 * 5, read=2048)) == 30
    copies = few_rows_cases.copies_of(layer, 1)
    assert len(copies) == 2 and copies[0].weight.data_ptr() != copies[1].weight.data_ptr()


def test_the_table_has_the_best_form_beside_cublas(result: dict[str, Any]) -> None:
    # 24 MB in 10 us are 2.4 TB/s, half of the bandwidth.
    assert bench_few_rows_report.cells(result["rows"][0], 4.8e12) == [
        "bfloat16", "1", "7168 x 2112", "10.00 (9.00..11.00)", "0.50", "-", form_name(DOTS), "5.00 (4.00..6.00)", "1.00",
        "2.00x", "2.0e-03", "2.0e-03", "0",
    ]  # fmt: skip
    text = bench_few_rows_report.tables(result)
    assert "failed: RuntimeError: out of memory" in text and form_name(SUMS) in text and "fused_qkv_a_proj" in text


def test_the_rule_has_forms_that_never_were_bad(result: dict[str, Any], tmp_path: Path) -> None:
    result["rows"].append(_row(8, unstable=(form_name(DOTS),)))
    source, target = tmp_path / "few_rows.json", tmp_path / "rule.json"
    source.write_text(json.dumps(result))
    assert bench_few_rows.main(["--rule", str(source), "--to", str(target)]) == 0
    rule = json.loads(target.read_text())
    assert {name: form_of(fields) for name, fields in rule["forms"].items()} == {form_name(SUMS): SUMS}
    assert rule["times"] == [
        {"kind": "bfloat16", "rows": rows, "depth": 7168, "columns": 2112, "us": {"cuBLAS": 10.0, form_name(SUMS): 8.0}}
        for rows in (1, 8)
    ]


def test_a_form_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_few_rows, "CapturedFunction", lambda function, values: function)
    case = few_rows_cases.case_of("float16", 2, [few_rows_cases.layer_of("float16", 64, 32)])

    def broken(index: int) -> torch.Tensor:
        raise RuntimeError(f"no product with copy {index}")

    calls = {"cuBLAS": case.torchs, "broken": broken, "off": lambda index: case.torchs(index) + 1}
    found = bench_few_rows.captured(calls, case, deadline=float("inf"))
    assert list(found.graphs) == ["cuBLAS", "off"] and found.failed == {"broken": "RuntimeError: no product with copy 0"}
    assert found.errors["off"] > bench_few_rows.WORSE * found.errors["cuBLAS"] and not found.unstable
    assert list(bench_few_rows.captured(calls, case, deadline=0.0).graphs) == ["cuBLAS"]


def test_kernels_are_compiled_ahead_for_the_launches_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    target, compiled = GPUTarget("cuda", 90, 32), []
    stand_in = {"get_current_target": lambda: target, "get_current_device": lambda: 0, "get_current_stream": lambda device: 0}
    monkeypatch.setattr(driver, "_active", SimpleNamespace(**stand_in))
    product = Product(3, 96, 512, torch.bfloat16, torch.bfloat16, (512, 1), (1, 512), biased=True)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["fn"].name.rpartition(".")[2])
        work = [(product, TensorCores(32, 64)), (product, MultiplyAndSum(2, 256, splits=2))]
        bench_few_rows.compile_ahead(work, "cpu")
    assert sorted(compiled) == ["few_rows_dot", "few_rows_splits", "few_rows_sum"]


def test_a_sweep_has_fewer_rows() -> None:
    assert bench_few_rows.parse_args(["--sweep"]).rows == [1, 8]
    assert bench_few_rows.parse_args(["--shapes", "7168x2112"]).shapes == [(7168, 2112)]


@pytest.mark.parametrize("given", [["--rows", "65"], ["--rows", "0"], ["--rounds", "1"], ["--tp", "0"]])
def test_the_command_line_refuses_what_cannot_run(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_few_rows.parse_args(given)
    assert "--rows have to be from 1 to 64" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_few_rows.main([]) == 2
    assert "bench_few_rows needs a CUDA device" in capsys.readouterr().err
