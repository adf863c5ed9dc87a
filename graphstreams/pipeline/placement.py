"""Give kernels the streams that a user has asked for, by the options `pin` and `exclude` or by marks in the model's code."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from torch import fx

from graphstreams.errors import StaySerial
from graphstreams.inductor.compile import GRAPH_KINDS
from graphstreams.inductor.marked_modules import marked_modules
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.placement_rules import MarkedModule, PlacementRule, names_of, paths_of
from graphstreams.messages import listed, with_type
from graphstreams.options import Options
from graphstreams.runtime.matched_names import is_news, note_match
from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")

GRAPHS_AHEAD = 1000  # that a model with breaks may still have, of those whose name a pattern may be for
OF_GRAPHS = "graph of pin and exclude"
NEAREST = 3  # names that are told of those most alike to one that matches nothing


def marks_of(gm: fx.GraphModule) -> list[MarkedModule]:
    """Return the marked modules that a graph from Dynamo was traced through. If they can't be read, a warning says so."""
    try:
        return [MarkedModule(expression, stream) for expression, stream in marked_modules(gm)]
    except Exception as error:  # of another torch; a compile is worth more
        log.debug("marks are not read", exc_info=True)
        log.warning("graphstreams: marks by graphstreams.pin and graphstreams.exclude are not read: %s", with_type(error))
        return []


def placed(graph: KernelGraph, options: Options, marked: Sequence[MarkedModule] = ()) -> tuple[KernelGraph, list[str]]:
    """Return the graph with its kernels bound to the streams that were asked for, and what to note.

    A name that matches nothing, in this graph and those before it, is a warning. Raises StaySerial if a kernel is asked to be
    on two streams, or on one that there is not.
    """
    rules = [rule for rule in (*options.pin, *options.exclude) if rule.is_for(graph.name)]
    others = sorted({rule.graph for rule in (*options.pin, *options.exclude)} - {rule.graph for rule in rules})
    notes = [f"the options pin and exclude have names for other graphs only: {', '.join(map(repr, others))}"] if others else []
    for rule in rules:
        note_match(OF_GRAPHS, rule.graph)
    for other in others:
        _warn_if_nothing_has_that_name(other, graph.name)
    notes += [text for rule in rules if (text := _unmatched(rule, graph))]
    kernels = []
    for kernel in graph.kernels:
        asked = _asked(kernel, rules, marked)
        stream, reason = _agreed(kernel, asked, options.streams)
        if stream and kernel.on_caller:
            notes.append(f"kernel {kernel.name!r} is {reason}, but stays on the caller's stream: {kernel.why_on_caller}")
        elif stream is not None:
            kernel = replace(kernel, pinned=stream, pinned_reason=reason)
        kernels.append(kernel)
    return replace(graph, kernels=tuple(kernels)), notes


def _asked(kernel: Kernel, rules: Sequence[PlacementRule], marked: Sequence[MarkedModule]) -> dict[int, str]:
    """Return the streams that a kernel is asked to be on, each with the first reason. Of marks the innermost count."""
    found: dict[int, str] = {}
    for rule in rules:
        if rule.matches(kernel):
            found.setdefault(rule.stream, rule.reason)
    holding = [mark for mark in marked if mark.holds(kernel)]
    for mark in holding:
        if not any(mark.is_around(other) for other in holding):
            found.setdefault(mark.stream, mark.reason)
    return found


def _agreed(kernel: Kernel, asked: dict[int, str], streams: int) -> tuple[int | None, str]:
    """Return the one stream that a kernel is asked to be on, and why; None if there is none."""
    if len(asked) > 1:
        one, other = list(asked.values())[:2]
        raise StaySerial("refused", f"kernel {kernel.name!r} is {one}, and {other}{_why_both(kernel)}")
    for stream, reason in asked.items():
        if stream >= streams:
            raise StaySerial(
                "refused", f"kernel {kernel.name!r} is {reason}, and with streams={streams} they are 0 to {streams - 1}"
            )
        return stream, reason
    return None, ""


def _why_both(kernel: Kernel) -> str:
    """Return why a kernel may belong to several names, and what to do, as the end of a sentence."""
    if kernel.joined:
        return f"; its {len(kernel.launches)} launches are one unit: {kernel.joined}"
    paths = paths_of(kernel)
    innermost = [path for path in paths if not any(other.startswith((f"{path}.", f"{path}[")) for other in paths)]
    if len(innermost) < 2:
        return ""
    return f"; it is fused of {listed(list(map(repr, innermost)))}: name kernels in place of modules"


def _unmatched(rule: PlacementRule, graph: KernelGraph) -> str:
    """Return that a rule matches nothing, with the nearest names, and warn if none of the graphs before had a match."""
    if any(rule.matches(kernel) for kernel in graph.kernels):
        note_match(rule.option, rule.pattern)
        return ""
    names = sorted({name for kernel in graph.kernels for name in names_of(kernel)})
    near = get_close_matches(rule.pattern, names, n=NEAREST, cutoff=0.0)
    nearest = f"; the nearest names are {', '.join(map(repr, near))}" if near else ""
    text = f"{rule.pattern!r} of the option {rule.option} matches no kernel and no module of the graph{nearest}"
    if is_news(rule.option, rule.pattern):
        log.warning("graphstreams: %s: %s", on_rank(graph.name), text)
    return text


def _warn_if_nothing_has_that_name(pattern: str, graph: str) -> None:
    """Warn if a pattern of graphs has matched none so far, and is not one that a later graph can have."""
    number = re.match(r"\d+", graph)
    first = int(number[0]) if number else 0
    later = (f"{first + ahead}_{kind}" for ahead in range(GRAPHS_AHEAD) for kind in GRAPH_KINDS)
    if not any(fnmatch.fnmatchcase(name, pattern) for name in later) and is_news(OF_GRAPHS, pattern):
        log.warning(
            "graphstreams: %s: the options pin and exclude have names for a graph %r, and none of those planned so far is "
            "one, nor can be a later one; this one is %r",
            on_rank(graph), pattern, graph,
        )  # fmt: skip
