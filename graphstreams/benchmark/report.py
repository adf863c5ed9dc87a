"""The report of a benchmark: all its tables as markdown, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphstreams.benchmark.tables import (
    OWN_GROUPS,
    bits_table,
    direct_table,
    host_table,
    policy_table,
    speed_table,
    stages_table,
    times_table,
)

SETTINGS = {"deterministic": "with Inductor's setting `deterministic`", "default": "with Inductor's own settings"}

_LEGEND = (
    "Serial is the time of one replay of a CUDA graph in us, all else how many times faster than serial in the same run. "
    "In brackets: the fastest variant, or that graphstreams left the graph serial. ≠: other bits than serial; !: wrong by "
    "more than rounding."
)
_POLICY_LEGEND = (
    "The kernels of the serial graph, launched on streams in the order of each policy, with the fewest events that keep it "
    "right: how many times faster than serial Inductor; in brackets: streams and waits. Nothing is compiled again for a plan."
)
_BITS_LEGEND = (
    "Runs with other outputs or caches than serial's / runs, as CUDA graphs and launched directly. Then the largest "
    "difference relative to the largest value, and how many of the wrong runs gave yet other bits when they were repeated."
)
_STAGES_LEGEND = (
    "Seconds of the host for kernels' times, for the plan (with the search), and for timing the generated code. Kernels that "
    "an earlier compile has timed are not timed again."
)
_HOST_LEGEND = (
    "Serial is the us until a call has returned, when its kernels may still run; all else how many times as long that takes, "
    "for the variant of each group whose calls return soonest. With more than a thousand launches a call waits for the GPU too."
)


def report(result: Mapping[str, Any]) -> str:
    """Return all tables of a result as markdown.

    The result has "title", "groups" of variants, the rows of each of "passes", and what `machine` needs.
    """
    groups = {**result["groups"], **OWN_GROUPS}
    parts = [f"# {result['title']}\n\n{machine(result)}"]
    for setting, rows in result["passes"].items():
        if rows:
            parts.append(f"## Speed, {SETTINGS[setting]}\n\n{speed_table(rows, groups)}\n\n{_LEGEND}")
        if setting == "deterministic" and rows:
            parts.append(f"### Policies on the same kernels\n\n{policy_table(rows)}\n\n{_POLICY_LEGEND}")
            parts.append(f"### Bits\n\n{bits_table(rows)}\n\n{_BITS_LEGEND}")
            parts.append(f"### Launched by the host, without CUDA graphs\n\n{direct_table(rows, groups)}")
            parts.append(f"### Host time of a call, without CUDA graphs\n\n{host_table(rows, groups)}\n\n{_HOST_LEGEND}")
        if rows:
            parts.append(f"### Choosing plans, {SETTINGS[setting]}\n\n{stages_table(rows)}\n\n{_STAGES_LEGEND}")
            parts.append(f"### Times, {SETTINGS[setting]}\n\n{times_table(rows)}")
    return "\n\n".join(parts) + "\n"


def machine(result: Mapping[str, Any]) -> str:
    """Return where and how the result was measured, in a sentence or two."""
    return (
        f"{versions(result)}. Medians of {result['rounds']} rounds of {result['repeats']} replays, all variants of a workload "
        f"in turns, over {result['captures']} captures of each; bits over {result['replays']} replays on fresh random inputs."
    )


def versions(result: Mapping[str, Any]) -> str:
    """Return what the result was measured on, and when, without a full stop."""
    software = f"torch {result['torch']} (CUDA {result['cuda']}), triton {result['triton']}, Python {result['python']}"
    return f"{result['device']} (driver {result['driver']}), {software}; {result['date']}"
