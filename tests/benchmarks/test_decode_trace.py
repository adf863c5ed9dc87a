"""Check what is said of the two steps of a trace made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from decode_trace import busy, side_by_side, summarize


def event(category: str, name: str, start: float, us: float, stream: int = 7) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": us, "args": {"stream": stream}}


TRACE = {
    "traceEvents": [
        event("kernel", "gemm", 0, 10),
        event("kernel", "norm", 5, 10, stream=8),  # half of it beside the product
        event("kernel", "direct_copy_kernel", 20, 2),
        event("gpu_memcpy", "Memcpy DtoD", 30, 4),
        event("cuda_runtime", "cudaGraphLaunch", 0, 6),
        event("cuda_runtime", "cudaLaunchKernelExC", 6, 3),
        event("cuda_driver", "cuLaunchKernel", 9, 1),
        event("cuda_runtime", "cudaStreamSynchronize", 12, 20),
        event("cpu_op", "aten::mm", 0, 50),
        {"ph": "i", "name": "a mark", "ts": 3},
    ]
}


def test_figures_are_those_of_a_step() -> None:
    found = summarize(TRACE, 2)
    assert (found["kernels"], found["kernels us"]) == (1.5, 11.0)
    assert (found["copies"], found["copies us"]) == (1.0, 3.0)
    assert (found["busy us"], found["span us"], found["GPU streams"]) == (10.5, 17.0, 2)
    assert (found["graph launches"], found["graph launches us"]) == (0.5, 3.0)
    assert (found["kernel launches"], found["kernel launches us"]) == (1.0, 2.0)
    assert (found["waits for the GPU"], found["waits for the GPU us"]) == (0.5, 10.0)
    assert found["by name"]["gemm"] == [0.5, 5.0]


@pytest.mark.parametrize(("events", "us"), [
    ([], 0),
    ([(0, 4), (1, 2)], 4),
    ([(0, 4), (4, 2)], 6),
    ([(5, 1), (0, 2), (1, 3)], 5),
])  # fmt: skip
def test_time_in_which_several_events_run_counts_once(events: list[tuple[float, float]], us: float) -> None:
    assert busy({"ts": start, "dur": length} for start, length in events) == us


def test_an_empty_trace_has_zeros() -> None:
    assert summarize({"traceEvents": []}, 3)["busy us"] == 0


def test_the_kernel_that_differs_most_comes_first() -> None:
    other = {"traceEvents": [event("kernel", "gemm", 0, 11), event("kernel", "norm", 20, 40)]}
    lines = side_by_side({"inductor": summarize(TRACE, 1), "graphstreams": summarize(other, 1)}).splitlines()
    header = next(i for i, line in enumerate(lines) if "differ by us" in line)
    assert [line.split("|")[1].strip() for line in lines[header + 2 : header + 4]] == ["norm", "Memcpy DtoD"]
    assert "1 x, 10.0 us" in lines[header + 2] and "1 x, 40.0 us" in lines[header + 2]
