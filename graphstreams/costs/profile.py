"""Reads and writes profiles: kernels, their measured times and their order, in a JSON file.

The file is {"name": ..., "unit": "us", "kernels": [{"id": ..., "label": ..., "us": ..., "after": [ids]}, ...]};
"name", "label" and "after" may be left out. What else it holds is for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Any

import networkx as nx

from graphstreams.errors import ProfileError
from graphstreams.files import read_text
from graphstreams.ir.kernels import Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.messages import shortened, shown

LONGEST_US = 1e12  # time of one kernel: more than eleven days
MOST_KERNELS = 10_000
MOST_DEPENDENCES = 50_000  # entries of all 'after' together
LONGEST_NAME = 1000  # characters
MOST_TO_COMPARE = 2000  # names among which a similar one is looked for


def load_profile(source: str | PathLike[str] | Mapping[str, Any]) -> tuple[KernelGraph, list[float]]:
    """Return the kernels of a profile, given as a path or as the parsed JSON, and the time of each in us.

    Program order is the order of the file, unless a kernel is listed before one that it waits for: of the kernels that have
    nothing left to wait for, the first in the file comes next. Raises ProfileError if `source` is no profile or is too large,
    and OSError if the file can't be opened.
    """
    if isinstance(source, Mapping):
        return _graph(source)
    try:
        return _graph(_parsed(source))
    except ProfileError as error:
        raise ProfileError(f"{source}: {error}") from error.__cause__


def profile(graph: KernelGraph, us: Sequence[float], costs: str = "") -> str:
    """Return the text of a profile of `graph`, with one line for each kernel, which takes `us` us. `costs` is their source."""
    names = [kernel.name for kernel in graph.kernels]
    rows = []
    for kernel, before in zip(graph.kernels, graph.predecessors(), strict=True):
        label = {"label": ", ".join(kernel.launches)[:LONGEST_NAME]} if kernel.launches else {}
        row = {"id": kernel.name, **label, "us": us[kernel.id], "after": [names[each] for each in before]}
        rows.append(f"  {json.dumps(row)}")
    head = json.dumps({"name": graph.name, "unit": "us", "costs": costs}, indent=1).removesuffix("\n}")
    return head + ',\n "kernels": [\n' + ",\n".join(rows) + "\n ]\n}\n"


def _graph(data: Mapping[str, Any]) -> tuple[KernelGraph, list[float]]:
    entries = _entries(data)
    ids = _ids(entries)
    us = [_time(entry) for entry in entries]
    after = _all_after(entries, ids)
    order = _program_order(after, list(ids))
    position = {index: kernel for kernel, index in enumerate(order)}
    kernels = tuple(_kernel(position[i], entries[i]) for i in order)
    edges = tuple(Edge(before, position[i], EdgeKind.RAW) for i in order for before in sorted(position[b] for b in after[i]))
    return KernelGraph(_text(data, "name", "the profile") or "profile", kernels, edges), [us[i] for i in order]


def _parsed(source: str | PathLike[str]) -> Mapping[str, Any]:
    try:
        text = read_text(source)
    except ValueError as error:
        raise ProfileError(f"it is not a profile: {error}") from None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ProfileError(f"it is not JSON: {error}") from error
    except RecursionError:
        raise ProfileError("it is nested too deeply to be a profile") from None
    if not isinstance(data, dict):
        raise ProfileError(f"it is not a profile: an object with 'kernels' is needed, not {_json_type(data)}")
    return data


def _entries(data: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if (unit := data.get("unit")) != "us":
        raise ProfileError(f"the profile's unit is {shown(unit)}; it has to be 'us'")
    if "kernels" not in data:
        raise ProfileError("the profile has no 'kernels'")
    entries = data["kernels"]
    if not isinstance(entries, list | tuple):
        raise ProfileError(f"the profile's 'kernels' is not a list but {_json_type(entries)}")
    if not entries:
        raise ProfileError("the profile's 'kernels' is empty; at least one kernel is needed")
    if len(entries) > MOST_KERNELS:
        raise ProfileError(f"the profile has {len(entries)} kernels; at most {MOST_KERNELS} can be planned")
    return entries


def _ids(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the place of each id in the file, in the order of the file."""
    ids: dict[str, int] = {}
    for index, entry in enumerate(entries):
        name = _text(entry, "id", f"kernels[{index}]") if isinstance(entry, Mapping) else None
        if not name:
            raise ProfileError(f"kernels[{index}] has no 'id'; a non-empty string is needed")
        if name in ids:
            raise ProfileError(f"two kernels have the id {shown(name)}: kernels[{ids[name]}] and kernels[{index}]")
        ids[name] = index
    return ids


def _text(data: Mapping[str, Any], field: str, owner: str) -> str | None:
    """Return a field of printable text, None if it is left out."""
    value = data.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST_NAME or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ProfileError(f"{owner} has {field!r} {shown(value)}; a string of at most {LONGEST_NAME} characters is needed")
    return value


def _time(entry: Mapping[str, Any]) -> float:
    name = shown(entry["id"])
    if "us" not in entry:
        raise ProfileError(f"kernel {name} has no 'us'")
    us = entry["us"]
    is_number = isinstance(us, int | float) and not isinstance(us, bool)
    if not (is_number and 0 <= us <= LONGEST_US):
        raise ProfileError(f"kernel {name} has 'us' {shown(us)}; a number from 0 to {LONGEST_US:g} is needed")
    return float(us)


def _all_after(entries: Sequence[Mapping[str, Any]], ids: Mapping[str, int]) -> list[list[int]]:
    """Return, for each entry, the places in the file of the kernels that it waits for, without repeats."""
    found, count = [], 0
    for entry in entries:
        after = entry.get("after", [])
        if not isinstance(after, list | tuple):
            raise ProfileError(f"kernel {shown(entry['id'])} has an 'after' that is not a list but {_json_type(after)}")
        count += len(after)
        if count > MOST_DEPENDENCES:
            raise ProfileError(f"the profile's 'after' have more than {MOST_DEPENDENCES} entries; no more can be planned")
        for name in after:
            if not isinstance(name, str) or name not in ids:
                what = f"kernel {shown(entry['id'])} is after {shown(name)}, which is no kernel of the profile"
                raise ProfileError(what + _hint(name, ids))
        found.append(list(dict.fromkeys(ids[name] for name in after)))
    return found


def _hint(name: object, ids: Mapping[str, int]) -> str:
    if not isinstance(name, str) or len(name) > LONGEST_NAME or len(ids) > MOST_TO_COMPARE:
        return ""
    near = get_close_matches(name, ids, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _program_order(after: Sequence[Sequence[int]], names: Sequence[str]) -> list[int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(after)))
    graph.add_edges_from((before, index) for index, earlier in enumerate(after) for before in earlier)
    try:
        return list(nx.lexicographical_topological_sort(graph))
    except nx.NetworkXUnfeasible:
        cycle = [before for before, _ in nx.find_cycle(graph)]
        text = shortened(" -> ".join(names[index] for index in (*cycle, cycle[0])))
        raise ProfileError(f"the kernels wait for each other in a cycle: {text}") from None


def _kernel(position: int, entry: Mapping[str, Any]) -> Kernel:
    label = _text(entry, "label", f"kernel {shown(entry['id'])}")
    launches = (label,) if label else ()
    return Kernel(position, entry["id"], "profile", launches=launches)


def _json_type(value: object) -> str:
    """Return the JSON type of a parsed value that is not a list, with its article."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
