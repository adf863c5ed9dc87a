"""Summarize a profiler's trace of decode steps: GPU time of kernels and copies, launches, and what the host waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

GPU = ("kernel", "gpu_memcpy", "gpu_memset")
HOST = ("cuda_runtime", "cuda_driver")
CALLS = {  # a group of calls of the host -> what their names begin with
    "graph launches": ("cudaGraphLaunch", "cuGraphLaunch"),
    "kernel launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "copies enqueued": ("cudaMemcpy", "cuMemcpy"),
    "waits for the GPU": ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize"),
    "graphs instantiated": ("cudaGraphInstantiate", "cuGraphInstantiate"),
}
TOP = 15


def summarize(trace: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return counts and us of one step, on average, from a Chrome trace of so many steps."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    gpu = [event for event in events if event.get("cat") in GPU]
    kernels = [event for event in gpu if event["cat"] == "kernel"]
    copies = [event for event in gpu if event["cat"] != "kernel" or "copy" in event["name"].lower()]
    host = [event for event in events if event.get("cat") in HOST]
    result: dict[str, Any] = {
        "kernels": _per(len(kernels), steps),
        "kernels us": _per(sum(event["dur"] for event in kernels), steps),
        "copies": _per(len(copies), steps),
        "copies us": _per(sum(event["dur"] for event in copies), steps),
        "busy us": _per(busy(gpu), steps),
        "span us": _per(max((end(event) for event in gpu), default=0) - min((event["ts"] for event in gpu), default=0), steps),
        "GPU streams": len({event.get("args", {}).get("stream") for event in kernels}),
    }
    for name, beginnings in CALLS.items():
        own = [event for event in host if event["name"].startswith(beginnings)]
        result[name] = _per(len(own), steps)
        result[f"{name} us"] = _per(sum(event["dur"] for event in own), steps)
    totals: dict[str, list[float]] = defaultdict(list)
    for event in gpu:
        totals[event["name"]].append(event["dur"])
    result["by name"] = {name: [_per(len(own), steps), _per(sum(own), steps)] for name, own in sorted(totals.items())}
    return result


def end(event: Mapping[str, Any]) -> float:
    """Return when an event of a trace ends, in us."""
    return float(event["ts"] + event["dur"])


def busy(events: Iterable[Mapping[str, Any]]) -> float:
    """Return how many us at least one of the events runs."""
    total, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event["ts"]):
        total += max(0.0, end(event) - max(until, event["ts"]))
        until = max(until, end(event))
    return total


def _per(value: float, steps: int) -> float:
    return round(value / steps, 2)


def side_by_side(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Return two markdown tables: a line for each figure, and for the kernels whose time differs most between the sides."""
    names = [name for name in next(iter(sides.values())) if name != "by name"]
    lines = [[name, *(side[name] for side in sides.values())] for name in names]
    tables = [tabulate(lines, ["a step", *sides], tablefmt="github")]
    kernels = dict.fromkeys(name for side in sides.values() for name in side["by name"])
    rows: list[list[Any]] = []
    for kernel in kernels:
        own = [side["by name"].get(kernel, [0.0, 0.0]) for side in sides.values()]
        rows.append([_short(kernel), *(f"{count:g} x, {us:.1f} us" for count, us in own), _spread([us for _, us in own])])
    rows.sort(key=lambda row: -row[-1])
    tables.append(tabulate(rows[:TOP], ["kernel", *sides, "differ by us"], tablefmt="github", floatfmt=".1f"))
    return "\n\n".join(tables)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _short(name: str, limit: int = 70) -> str:
    name = name.replace("|", "/")
    return name if len(name) <= limit else f"{name[: limit - 3]}..."
