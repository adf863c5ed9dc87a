"""Look into CUDA graphs and launches: the forks of each graph that is captured, the streams of a direct call.

Read in torch 2.15.0: `cuda/graphs.py` (the hook at the end of a capture), `_inductor/runtime/triton_heuristics.py` (what tunes
a kernel). The edges of a graph come from the driver's `cuGraphGetEdges_v2`, which is there from CUDA 12.3 on.
"""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from graphstreams.runtime import dispatch
from graphstreams.runtime.driver import check, driver

_EDGE_DATA = 8  # bytes of CUgraphEdgeData


def forks(nodes: int, edges: Sequence[tuple[int, int]]) -> int:
    """Return where a graph goes on in more than one way: at its start, and behind nodes. What one stream launched never does.

    A fork of the caller's stream ahead of its first kernel is no node: the graph then has several nodes to begin with.
    """
    successors = Counter(before for before, _ in edges)
    roots = nodes - len({after for _, after in edges})
    return sum(count > 1 for count in successors.values()) + (roots > 1)


def nodes_and_edges(graph: torch.cuda.CUDAGraph) -> tuple[int, list[tuple[int, int]]]:
    """Return how many nodes a graph has whose capture has just ended, and its edges as pairs of handles.

    An edge has data of its own if its second kernel may start before the first has ended, as cuBLAS's may: only the second
    version of the driver's function tells such edges.
    """
    count, nodes = ctypes.c_size_t(0), ctypes.c_size_t(0)
    handle = ctypes.c_void_p(graph.raw_cuda_graph())
    check(driver().cuGraphGetNodes(handle, None, ctypes.byref(nodes)), "count the nodes of a graph")
    check(driver().cuGraphGetEdges_v2(handle, None, None, None, ctypes.byref(count)), "count the edges of a graph")
    if not count.value:  # the driver refuses to fill no place; Inductor's CUDA graphs begin with the capture of an empty one
        return nodes.value, []
    before, after = ((ctypes.c_void_p * count.value)() for _ in range(2))
    data = (ctypes.c_ubyte * (_EDGE_DATA * count.value))()
    check(driver().cuGraphGetEdges_v2(handle, before, after, data, ctypes.byref(count)), "read the edges of a graph")
    return nodes.value, [(int(one or 0), int(other or 0)) for one, other in zip(before, after, strict=True)]


@contextmanager
def captures() -> Iterator[list[int]]:
    """Yield, within this context, the forks of every CUDA graph that is captured, whoever captures it.

    Raises at its end what kept it from counting them, because torch drops the errors of such hooks.
    """
    found: list[int] = []
    errors: list[Exception] = []

    def count(graph: torch.cuda.CUDAGraph) -> None:
        try:
            found.append(forks(*nodes_and_edges(graph)))
        except Exception as error:
            errors.append(error)

    handle = torch.cuda.graphs.register_graph_capture_end_hook(count)
    try:
        yield found
    finally:
        handle.remove()
    if errors:
        raise errors[0]


@contextmanager
def tuning_in_captures() -> Iterator[list[str]]:
    """Yield, within this context, the names of what compiles or benchmarks a Triton kernel while a graph is captured."""
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    found: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(CachingAutotuner, name)

        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if torch.cuda.is_current_stream_capturing():
                found.append(f"{name} of {self.fn.__name__}")
            return original(self, *arguments, **keywords)

        return call

    names = ("bench", "autotune_to_one_config", "_precompile_worker", "_make_launchers")
    kept = {name: watched(name) for name in names if hasattr(CachingAutotuner, name)}
    with mock.patch.multiple(CachingAutotuner, **kept):
        yield found


@contextmanager
def streams_in_direct_calls() -> Iterator[None]:
    """Let the host launch streamed bodies too within this context, as it does if they were measured to be no slower so."""
    # Not a Mock, which keeps a record of each call.
    with mock.patch.object(dispatch, "_capturing", _always):
        yield


def _always() -> bool:
    return True


def streams_of(call: Callable[[], Any]) -> set[int]:
    """Return the streams on which the kernels of a call run that captures and replays nothing."""
    activity = torch.profiler.ProfilerActivity
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return {event["args"]["stream"] for event in events if event.get("cat") == "kernel"}
