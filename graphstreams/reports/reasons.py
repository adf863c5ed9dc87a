"""Say in words why a kernel of a plan is where it is, and if nothing runs beside it, why not."""

from __future__ import annotations

from graphstreams.ir.kernels import Kernel
from graphstreams.messages import listed
from graphstreams.reports.relations import Relations, union_us
from graphstreams.reports.tables import us_text

TELLING = 0.1  # of a kernel's time: for less than that no reason is given why nothing runs beside it


def why_here(relations: Relations, kernel: int) -> str:
    """Return why a kernel starts when it does, and why it is on its stream if it has to be there."""
    reason = _why_on_stream(relations.graph.kernels[kernel])
    return " ".join(filter(None, (reason, _why_now(relations, kernel))))


def why_not_beside(relations: Relations, kernel: int) -> str:
    """Return why nothing runs beside a kernel; empty if something does for nearly all of its time, or it takes none."""
    own = relations.places[kernel]
    taken = own.end_us - own.start_us
    alone = taken - union_us(span for _, span in relations.beside[kernel])
    if alone <= TELLING * taken:
        return ""
    beside = "Nothing runs beside it" if alone >= taken * (1 - 1e-9) else f"For {us_text(alone)} us nothing runs beside it"
    return f"{beside}: {'; '.join(_why_alone(relations, kernel))}."


def why_one_unit(kernel: Kernel) -> str:
    """Return why several launches are one unit, which nothing can part; empty if it is one launch."""
    if len(kernel.launches) < 2:
        return ""
    reason = kernel.joined or "one operator makes them"
    return f"Its {len(kernel.launches)} launches are one unit, on one stream: {reason}."


def _why_on_stream(kernel: Kernel) -> str:
    if kernel.collective:
        return "Collectives, and the waits for them, stay on the caller's stream in the order of the serial code."
    if kernel.exclusive:
        return f"It keeps its place against every other kernel{_because(kernel)}, so it is on the caller's stream."
    if kernel.allocates_output:
        return "Its operator allocates what the graph returns, so it is on the caller's stream."
    if kernel.pinned is not None:
        where = " so it is on the caller's stream" if kernel.pinned == 0 else ""
        return f"It is {kernel.pinned_reason}{',' * bool(where)}{where}."
    return ""


def _because(kernel: Kernel) -> str:
    return f" ({kernel.exclusive_reason})" if kernel.exclusive_reason else ""


def _why_now(relations: Relations, kernel: int) -> str:
    names, places = relations.graph.kernels, relations.places
    before, needed = relations.on_stream_before[kernel], relations.awaited[kernel]
    free_us = 0.0 if before is None else places[before].end_us
    ready_us = relations.ready_us(kernel)
    if before is None and not needed:
        return "It needs no other kernel and is the first on its stream, so it starts with the graph."
    if needed and (before is None or ready_us > free_us):
        last = max(needed, key=lambda each: (places[each].end_us, -each))
        where = "" if places[last].stream == places[kernel].stream else f" on stream {places[last].stream}"
        return f"It waits for {names[last].name!r}{where}, the last that it needs, which ends at {us_text(ready_us)} us."
    assert before is not None
    if before in needed:
        return f"It follows {names[before].name!r} on its stream, which it needs, so there is no event between them."
    ready = f"What it needs is ready at {us_text(ready_us)} us" if needed else "It needs no other kernel"
    return f"{ready}; its stream is free at {us_text(free_us)} us, when {names[before].name!r} ends."


def _why_alone(relations: Relations, kernel: int) -> list[str]:
    own = relations.graph.kernels[kernel]
    if own.exclusive:
        return [f"it keeps its place against every other kernel{_because(own)}"]
    free = relations.free(kernel)
    order = _held_by_order(relations, kernel)
    if not free:
        chain = "the dependences put every other kernel before it or after it"
        return [chain, *order] if len(relations.places) > 1 else ["it is the only kernel"]
    if relations.plan.streams == 1 and not _on_the_same_stream(relations, kernel, free):
        return [f"{_named(relations, free)} could, but no plan on more streams was found to gain", *order]
    end = relations.places[kernel].end_us
    bound = _on_the_same_stream(relations, kernel, free)
    late = [other for other in free if relations.ready_us(other) >= end and other not in bound]
    beside = {other for other, _ in relations.beside[kernel]}
    other_places = [other for other in free if other not in late and other not in beside and other not in bound]
    reasons = [f"{_named(relations, bound)} {_verb('have', bound)} to be on the same stream"] if bound else []
    if other_places:
        could = _named(relations, other_places)
        reasons.append(f"the best plan that was found has {could}, which could, at another time (no gain)")
    if late:
        reasons.append(f"{_named(relations, late)} {_verb('need', late)} what is not ready before it ends")
    if not reasons:
        others = sorted(beside)
        reasons.append(f"all that could, {_named(relations, others)}, {_verb('take', others)} less time than it does")
    return [*reasons, *order]


def _held_by_order(relations: Relations, kernel: int) -> list[str]:
    held, kernels = relations.held_by_order(kernel), relations.graph.kernels
    fixed = [other for other in held if kernels[other].exclusive]
    others = [other for other in held if not kernels[other].exclusive]
    reasons = []
    if fixed:
        reasons.append(f"{_named(relations, fixed)} {_verb('keep', fixed)} every other kernel before or after")
    if others:
        reasons.append(f"{_named(relations, others)} could but for that order")
    return reasons


def _on_the_same_stream(relations: Relations, kernel: int, others: list[int]) -> list[int]:
    """Return those of others that have to be on the stream of a kernel, if it or they are there because a user says so."""
    kernels = relations.graph.kernels
    own = kernels[kernel]
    return [
        other
        for other in others
        if own.bound_stream is not None
        and kernels[other].bound_stream == own.bound_stream
        and (own.pinned is not None or kernels[other].pinned is not None)
    ]


def _verb(verb: str, subjects: list[int]) -> str:
    if verb == "have":
        return "has" if len(subjects) == 1 else verb
    return f"{verb}s" if len(subjects) == 1 else verb


def _named(relations: Relations, kernels: list[int]) -> str:
    return listed([repr(name) for name in relations.names(kernels)])
