"""Run one rank of a small model with NCCL, serially and on streams, in CUDA graphs."""

from __future__ import annotations

import gc
import json
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import graphstreams  # noqa: F401 (the backend's name)
from graphstreams.benchmark.bits import equal_bits
from tests.support.collective_modules import EveryKind, TwoSums
from tests.support.same_kernels import SAME_KERNELS

WIDTH, ROWS, INPUTS = 1024, 8, 4
REPLAYS = 10_000
STREAMS = (2, 5)  # the most streams of each rank's own plan
OPTIONS: dict[str, Any] = {"min_gain": 0.0, "event_us": 0.0, "costs": "roofline", "inductor": SAME_KERNELS}

# Settings of Inductor that join or move collectives, ahead of the plan or in the scheduler.
SETTINGS: dict[str, dict[str, Any]] = {
    "bucket_all_reduces_fx": {"bucket_all_reduces_fx": "all"},
    "bucket_all_gathers_fx": {"bucket_all_gathers_fx": "all"},
    "bucket_reduce_scatters_fx": {"bucket_reduce_scatters_fx": "all"},
    "allow_comms_decompositions": {"aten_distributed_optimizations.allow_comms_decompositions": True},
    "reorder_for_compute_comm_overlap": {"reorder_for_compute_comm_overlap": True},
    "enable_overlap_scheduling": {"aten_distributed_optimizations.enable_overlap_scheduling": True},
}

Call = Callable[[Tensor], Any]


def main(rank: int, port: int, folder: str, results: Any) -> None:
    """Put into `results` what one of two ranks found: its number, and a dict, or the text of what failed."""
    torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60),
        device_id=torch.device("cuda", rank),
    )  # fmt: skip
    try:
        found: Any = _found(rank, Path(folder))
    except Exception:
        found = traceback.format_exc()
    results.put((rank, found))
    if isinstance(found, dict):  # a rank that has failed leaves its CUDA graphs, with which this would hang
        dist.destroy_process_group()


def _found(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(rank)
    module = TwoSums(WIDTH).cuda().bfloat16().eval()
    values = [torch.randn(ROWS, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(INPUTS)]
    with torch.no_grad():
        serial = torch.compile(module, options=SAME_KERNELS)
        expected = [_clones(serial(value)) for value in values]
        # All ranks call in the same order: a plan of two streams, each rank's own, and one of measured kernels.
        two = _compiled(module, folder / "two", 2)
        own = _compiled(module, folder / "own", STREAMS[rank])
        timed = _compiled(module, folder / "timed", 3, costs="measured")
        direct = [_equal(timed(value), want) for value, want in zip(values, expected, strict=True)]
        under = {name: _under(settings, values, folder / name, rank) for name, settings in SETTINGS.items()}
        graphs = [_Captured(function, values[0]) for function in (serial, two, own)]
    serial_graph, two_graph, own_graph = graphs
    found = {
        "direct": all(direct),
        "same plan": two_graph.equal(values, expected, 200),
        "own plans": own_graph.equal(values, expected, REPLAYS),
        "one serial": (serial_graph if rank == 0 else own_graph).equal(values, expected, 1000),
        "the other serial": (own_graph if rank == 0 else serial_graph).equal(values, expected, 1000),
        "settings": under,
        "reports": {name: _report(folder / name, rank) for name in ("two", "own", "timed")},
    }
    for graph in graphs:  # a CUDA graph with NCCL's kernels has to go before the process group
        graph.graph.reset()
    torch.cuda.synchronize()
    gc.collect()
    return found


def _under(settings: dict[str, Any], values: list[Tensor], folder: Path, rank: int) -> dict[str, Any]:
    """Return the report of a module with each kind of collective under some settings, and whether its bits are serial's."""
    torch.compiler.reset()
    torch.manual_seed(rank)
    module, inductor = EveryKind(WIDTH).cuda().bfloat16().eval(), {**SAME_KERNELS, **settings}
    serial = torch.compile(module, options=inductor)
    expected = [_clones(serial(value)) for value in values]
    graph = _Captured(_compiled(module, folder, 3, inductor=inductor), values[0])
    found = {**_report(folder, rank), "equal": graph.equal(values, expected, 250)}
    graph.graph.reset()
    return found


class _Captured:
    """One call of a function in a CUDA graph."""

    def __init__(self, function: Call, value: Tensor) -> None:
        self.input = value.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function(self.input)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # NCCL's watchdog asks for events in a thread of its own meanwhile.
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.output = function(self.input)

    def equal(self, values: list[Tensor], expected: list[Any], replays: int) -> bool:
        """Return whether replays on changing inputs give what is expected, each of the last ones of every 250."""
        wrong = 0
        for number in range(replays):
            which = number % len(values)
            self.input.copy_(values[which])
            self.graph.replay()
            if number % 250 >= 250 - len(values):
                wrong += not _equal(self.output, expected[which])
        torch.cuda.synchronize()
        return wrong == 0


def _compiled(module: torch.nn.Module, folder: Path, streams: int, **options: Any) -> Call:
    given = {**OPTIONS, "streams": streams, "dump": str(folder), **options}
    function = torch.compile(module, backend="graphstreams", options=given)
    function(torch.zeros(ROWS, WIDTH, device="cuda", dtype=torch.bfloat16))
    return function


def _clones(outputs: Any) -> list[Tensor]:
    return [output.clone() for output in outputs]


def _equal(outputs: Any, expected: list[Tensor]) -> bool:
    return equal_bits(list(outputs), expected)


def _report(folder: Path, rank: int) -> dict[str, Any]:
    """Return the report that a compile has left, with the stream of each kernel of its plan."""
    (path,) = (folder / f"rank{rank}").glob("*/report.json")
    report = json.loads(path.read_text())
    return {key: report[key] for key in ("verdict", "reason", "streams", "costs", "notes", "measured")} | {
        "plan": [(region["kernel"], region["stream"]) for region in report["regions"]]
    }
