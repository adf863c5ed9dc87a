"""Define plans as files for people: which kernels a plan is for, and the stream, the place and the waits of each.

Names stand for kernels, and events have no numbers. The forks and joins of streams are left out, because the streams tell them.
`docs/plan.schema.json` describes the JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from graphstreams.errors import PlanFileError
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.messages import shown

VERSION = 1  # of the file; a key that is removed, or means something else, makes a new one
RUNS = ("streams", "serial")
MOST_STREAMS = 32
LOWEST_PRIORITY = -5
MOST_TOKENS = 2**31


@dataclass(frozen=True)
class PlannedKernel:
    """One kernel of a plan file. What is None is left out of the file."""

    name: str  # as in the report
    stream: int  # 0 is the caller's
    waits: tuple[str, ...] | None = None  # kernels whose end it waits for, beside what its own stream runs before it
    launches: tuple[str, ...] | None = None  # what it has to launch, in order
    bytes: int | None = None  # that it has to read and write


@dataclass(frozen=True)
class TokenRange:
    """For which numbers of tokens a plan runs, if each call chooses the number."""

    smallest: int = 0
    largest: int | None = None  # None: no limit


@dataclass(frozen=True)
class PlanFile:
    """The plan of one graph, whose kernels stand in the order in which the host enqueues them."""

    kernels: tuple[PlannedKernel, ...]
    graph: str = ""  # the name that the graph had; it decides nothing
    priority: int = 0  # CUDA priority of the aux streams
    runs: str = "streams"  # or "serial": that the graph stays as it is, and the rest of the plan is only told

    tokens: TokenRange | None = None  # None: fixed, or to be solved for

    @property
    def places_waits(self) -> bool:
        """Whether the file says what kernels wait for. If it does not, they wait for what they depend on."""
        return any(kernel.waits is not None for kernel in self.kernels)

    def of_any_size(self) -> PlanFile:
        """Return the plan for any graph with kernels of these names, whatever they launch and however much they touch."""
        return replace(self, kernels=tuple(replace(kernel, launches=None, bytes=None) for kernel in self.kernels))

    @staticmethod
    def of(plan: Plan, graph: KernelGraph, runs: str = "streams", tokens: TokenRange | None = None) -> PlanFile:
        """Return a plan of `graph` as a file holds it; `runs` says whether it is in effect, `tokens` for which calls."""
        waits: dict[int, list[str]] = {}
        for event in plan.events:
            for wait in event.waits if event.after >= 0 else ():
                waits.setdefault(wait.kernel, []).append(graph.kernels[event.after].name)
        kernels = tuple(
            PlannedKernel(
                place.name, place.stream, tuple(waits.get(place.kernel, ())),
                graph.kernels[place.kernel].launches, bytes_touched(graph.kernels[place.kernel]),
            )
            for place in plan.placements
        )  # fmt: skip
        return PlanFile(kernels, graph.name, plan.priority, runs, tokens)

    def dumps(self) -> str:
        """Return the file's text: JSON with one line for each kernel."""
        head: dict[str, Any] = {"version": VERSION, "graph": self.graph, "runs": self.runs, "priority": self.priority}
        if self.tokens is not None:
            head["tokens"] = {"smallest": self.tokens.smallest, "largest": self.tokens.largest}
        rows = ",\n".join(f"  {json.dumps(_row(kernel))}" for kernel in self.kernels)
        return json.dumps(head, indent=1).removesuffix("\n}") + f',\n "kernels": [\n{rows}\n ]\n}}\n'

    @staticmethod
    def loads(text: str) -> PlanFile:
        """Return the plan of a file's text. Raises PlanFileError, with the entry at fault, if it is not one."""
        data = _parsed(text)
        _check_keys(data, ("version", "graph", "runs", "priority", "tokens", "kernels"), "the plan")
        if (version := data.get("version")) != VERSION or isinstance(version, bool):
            raise PlanFileError(f"the plan has version {shown(version)}; this graphstreams reads version {VERSION}")
        graph, priority = data.get("graph", ""), _whole(data.get("priority", 0), LOWEST_PRIORITY, 0, "the plan's 'priority'")
        if not isinstance(graph, str):
            raise PlanFileError(f"the plan's 'graph' is {shown(graph)}; it has to be a name")
        if (runs := data.get("runs", "streams")) not in RUNS:
            raise PlanFileError(f"the plan's 'runs' is {shown(runs)}; it has to be 'streams' or 'serial'")
        entries = data.get("kernels")
        if not isinstance(entries, list) or not entries:
            raise PlanFileError("the plan has no list of 'kernels'")
        kernels = tuple(_kernel(entry, f"kernels[{place}]") for place, entry in enumerate(entries))
        _check_names(kernels)
        return PlanFile(kernels, graph, priority, runs, _tokens(data))


def bytes_touched(kernel: Kernel) -> int | None:
    """Return how many bytes a kernel reads and writes; None if that depends on a dynamic size."""
    sizes = [access.bytes for access in (*kernel.reads, *kernel.writes)]
    return None if any(size.free_symbols for size in sizes) else sum(int(size) for size in sizes)


def near(name: str, known: Sequence[str]) -> str:
    """Return the known name that is nearest to `name`, as the end of a sentence; empty if there is none."""
    found = get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {found[0]!r}" if found else ""


def _row(kernel: PlannedKernel) -> dict[str, Any]:
    fields = {"name": kernel.name, "stream": kernel.stream, "waits": kernel.waits, "launches": kernel.launches}
    return {name: value for name, value in {**fields, "bytes": kernel.bytes}.items() if value is not None}


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except PlanFileError:
        raise
    except ValueError as error:
        raise PlanFileError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise PlanFileError("it is nested too deeply to be a plan") from None
    if not isinstance(data, dict):
        raise PlanFileError(f"it is no plan: an object with 'kernels' is needed, not {shown(data)}")
    return data


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        named = dict(pairs).get("name")
        raise PlanFileError(f"{f'kernel {named!r}' if isinstance(named, str) else 'the plan'} has {twice[0]!r} twice")
    return dict(pairs)


def _tokens(data: Mapping[str, Any]) -> TokenRange | None:
    found, what = data.get("tokens"), "the plan's 'tokens'"
    if found is None:
        return None
    if not isinstance(found, dict):
        raise PlanFileError(f"{what} is {shown(found)}; 'smallest' and 'largest' are needed")
    _check_keys(found, ("smallest", "largest"), what)
    smallest = _whole(found.get("smallest", 0), 0, MOST_TOKENS, f"'smallest' of {what}")
    largest = found.get("largest")
    return TokenRange(
        smallest, None if largest is None else _whole(largest, max(1, smallest), MOST_TOKENS, f"'largest' of {what}")
    )


def _kernel(entry: Any, place: str) -> PlannedKernel:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise PlanFileError(f"{place} has no 'name'")
    named = f"kernel {entry['name']!r}"
    _check_keys(entry, ("name", "stream", "waits", "launches", "bytes"), named)
    if "stream" not in entry:
        raise PlanFileError(f"{named} has no 'stream'")
    return PlannedKernel(
        entry["name"],
        _whole(entry["stream"], 0, MOST_STREAMS, f"the 'stream' of {named}"),
        _names(entry, "waits", named),
        _names(entry, "launches", named),
        None if entry.get("bytes") is None else _whole(entry["bytes"], 0, 2**63, f"the 'bytes' of {named}"),
    )


def _names(entry: Mapping[str, Any], key: str, named: str) -> tuple[str, ...] | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise PlanFileError(f"the {key!r} of {named} is {shown(value)}; a list of names is needed")
    return tuple(value)


def _whole(value: Any, least: int, most: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise PlanFileError(f"{what} is {shown(value)}; a whole number from {least} to {most} is needed")
    return value


def _check_keys(data: Mapping[str, Any], known: Sequence[str], owner: str) -> None:
    for key in data:
        if key not in known:
            raise PlanFileError(f"{owner} has {key!r}, which is not known{near(key, known)}")


def _check_names(kernels: Sequence[PlannedKernel]) -> None:
    twice = next((name for name, count in Counter(kernel.name for kernel in kernels).items() if count > 1), None)
    if twice is not None:
        raise PlanFileError(f"kernel {twice!r} is placed twice")
    without = [kernel.name for kernel in kernels if kernel.waits is None]
    if without and len(without) < len(kernels):
        raise PlanFileError(f"kernel {without[0]!r} has no 'waits', and others have; give them for each kernel or for none")
