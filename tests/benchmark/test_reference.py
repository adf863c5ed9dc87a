"""Check that ratios are to the faster of serial Inductor and max-autotune, and where the largest differences stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphstreams.benchmark.bits import measure_differences
from graphstreams.benchmark.reference import asked_for, differences_table, reference, reference_table
from graphstreams.benchmark.variants import WorkloadRun

GROUPS = {"streams by hand": "hand", "graphstreams, fast kernels": "graphstreams: fast"}


def a_row(**us: float) -> dict[str, Any]:
    names = {"autotuned": "max-autotune", "fast": "graphstreams: fast"}
    rivals = {names.get(name, name): {"graph": {"median": each}} for name, each in us.items()}
    return {"title": "layer", "rivals": rivals}


def cells(table: str, line: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[line].strip("|").split("|")]


@pytest.mark.parametrize(
    ("autotuned", "faster", "ratio"), [(80.0, "max-autotune", "1.60x"), (125.0, "serial", "2.00x"), (100.0, "serial", "2.00x")]
)
def test_ratios_are_to_the_faster_of_the_two(autotuned: float, faster: str, ratio: str) -> None:
    row = a_row(serial=100.0, autotuned=autotuned, fast=50.0, hand=70.0)
    table = reference_table([row], GROUPS)
    assert reference(row) == faster
    assert cells(table, 0) == ["workload", "serial us", "max-autotune us", "faster", "graphstreams, fast kernels"]
    assert cells(table, 2) == ["layer", "100.0", f"{autotuned:.1f}", faster, ratio]


def test_without_a_time_of_max_autotune_there_is_no_ratio_but_a_reason() -> None:
    row = a_row(serial=100.0, fast=50.0)
    assert not asked_for([row])
    row["rivals"]["max-autotune"] = {"failed": "RuntimeError: no template | compiles"}
    assert asked_for([row]) and reference(row) is None
    assert cells(reference_table([row], GROUPS), 2) == ["layer", "100.0", "RuntimeError: no template / compiles", "-", "-"]
    unmeasured = {"title": "layer", "failed": "not run: 5 s had passed", "rivals": {"max-autotune": {"failed": "not run"}}}
    assert cells(reference_table([unmeasured], GROUPS), 2) == ["layer", *["not run: 5 s had passed"] * 2, "-"]


class Adds:
    """A variant whose output is its input and a number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def results(self, values: list[torch.Tensor], direct: bool = False) -> list[torch.Tensor]:
        return [values[0] + self.number]


def test_the_largest_difference_over_all_inputs_stands_beside_max_autotunes() -> None:
    run = WorkloadRun()
    run.compiled = {"serial": Adds(0.0), "max-autotune": Adds(0.5), "graphstreams: fast": Adds(0.25)}  # type: ignore[dict-item]
    run.records.update({"max-autotune": {}, "graphstreams: fast": {}})
    measure_differences(run, lambda seed: [torch.full((3,), 4.0 / seed)], 2)  # of the values 4 and 2
    assert run.records["max-autotune"]["difference"] == 0.25 and run.records["graphstreams: fast"]["difference"] == 0.125
    table = differences_table([{"title": "layer", "rivals": run.records}])
    assert cells(table, 2) == ["layer", "graphstreams: fast", "1.2e-01", "2.5e-01"]
