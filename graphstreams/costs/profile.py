"""Profiles: kernels, their measured times and their order, read from a JSON file.

The file is {"name": ..., "unit": "us", "kernels": [{"id": ..., "label": ..., "us": ..., "after": [ids]}, ...]};
"source" and "label" may be left out, and so may "after" where a kernel waits for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from os import PathLike
from pathlib import Path
from sys import float_info
from typing import Any

from graphstreams.graph.kernels import Edge, EdgeKind, Kernel, KernelGraph


class ProfileError(ValueError):
    """A profile that cannot be read; the message names the kernel at fault."""


def load_profile(source: str | PathLike[str] | Mapping[str, Any]) -> tuple[KernelGraph, list[float]]:
    """The kernels of a profile, given as a path or as the parsed JSON, and the time of each in us.

    Program order is the order of the file, except where a kernel stands before one that it waits for: of those that
    wait for nothing any more, the first in the file comes next (Kahn, CACM 5(11), 1962). Raises ProfileError where
    the profile is not one, and OSError where the file cannot be opened.
    """
    data = _parsed(source)
    entries = _entries(data)
    ids = _ids(entries)
    us = [_time(entry) for entry in entries]
    after = [_after(entry, ids) for entry in entries]
    order = _program_order(after, list(ids))
    position = {index: kernel for kernel, index in enumerate(order)}
    kernels = tuple(_kernel(position[i], entries[i]) for i in order)
    edges = tuple(Edge(before, position[i], EdgeKind.RAW) for i in order for before in sorted(position[b] for b in after[i]))
    return KernelGraph(str(data.get("name", "profile")), kernels, edges), [us[i] for i in order]


def _parsed(source: str | PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    try:
        data = json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProfileError(f"{source} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ProfileError(f"{source} is not a profile: an object with 'kernels' is needed, not {_json_type(data)}")
    return data


def _entries(data: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if (unit := data.get("unit")) != "us":
        raise ProfileError(f"the profile's unit is {unit!r}; it has to be 'us'")
    if "kernels" not in data:
        raise ProfileError("the profile has no 'kernels'")
    entries = data["kernels"]
    if not isinstance(entries, list | tuple):
        raise ProfileError(f"the profile's 'kernels' is not a list but {_json_type(entries)}")
    if not entries:
        raise ProfileError("the profile's 'kernels' is empty; at least one kernel is needed")
    return entries


def _ids(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Place in the file of each id, in the order of the file."""
    ids: dict[str, int] = {}
    for index, entry in enumerate(entries):
        name = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not name:
            raise ProfileError(f"kernels[{index}] has no 'id'; a non-empty string is needed")
        if name in ids:
            raise ProfileError(f"two kernels have the id {name!r}: kernels[{ids[name]}] and kernels[{index}]")
        ids[name] = index
    return ids


def _time(entry: Mapping[str, Any]) -> float:
    if "us" not in entry:
        raise ProfileError(f"kernel {entry['id']!r} has no 'us'")
    us = entry["us"]
    is_number = isinstance(us, int | float) and not isinstance(us, bool)
    if not (is_number and 0 <= us <= float_info.max):
        raise ProfileError(f"kernel {entry['id']!r} has 'us' {us!r}; a finite number of at least 0 is needed")
    return float(us)


def _after(entry: Mapping[str, Any], ids: Mapping[str, int]) -> list[int]:
    """Places in the file of the kernels that `entry` waits for, without repeats."""
    after = entry.get("after", [])
    if not isinstance(after, list | tuple):
        raise ProfileError(f"kernel {entry['id']!r} has an 'after' that is not a list but {_json_type(after)}")
    for name in after:
        if not isinstance(name, str) or name not in ids:
            near = get_close_matches(str(name), ids, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ProfileError(f"kernel {entry['id']!r} is after {name!r}, which is no kernel of the profile{hint}")
    return list(dict.fromkeys(ids[name] for name in after))


def _program_order(after: Sequence[Sequence[int]], names: Sequence[str]) -> list[int]:
    followers: list[list[int]] = [[] for _ in after]
    for index, earlier in enumerate(after):
        for other in earlier:
            followers[other].append(index)
    missing = [len(earlier) for earlier in after]
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for index in followers[order[-1]]:
            missing[index] -= 1
            if not missing[index]:
                heappush(ready, index)
    if len(order) < len(after):
        raise ProfileError(f"the kernels wait for each other in a cycle: {_cycle(after, names)}")
    return order


def _cycle(after: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The members of one cycle, each followed by one that waits for it."""
    try:
        TopologicalSorter(dict(enumerate(after))).prepare()
    except CycleError as error:
        return " -> ".join(names[index] for index in error.args[1])
    raise AssertionError("no cycle")


def _kernel(position: int, entry: Mapping[str, Any]) -> Kernel:
    launches = (str(entry["label"]),) if entry.get("label") else ()
    return Kernel(position, entry["id"], "profile", launches=launches)


def _json_type(value: object) -> str:
    """The JSON type of a parsed value that is not a list, with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def price_from_profile(graph: KernelGraph, source: str | PathLike[str]) -> list[float]:
    """The time of each kernel of `graph` in us from a profile that names its kernels.

    Raises ProfileError where the profile lacks one, with the nearest name that it has.
    """
    profile, us = load_profile(source)
    times = {kernel.name: time for kernel, time in zip(profile.kernels, us, strict=True)}
    for kernel in graph.kernels:
        if kernel.name not in times:
            near = get_close_matches(kernel.name, times, n=1, cutoff=0.0)[0]
            raise ProfileError(f"the profile has no time for kernel {kernel.name!r}; the nearest name it has is {near!r}")
    return [times[kernel.name] for kernel in graph.kernels]
