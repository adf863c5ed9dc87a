"""Write a graph as readable FX code, each region headed by its kernel, stream, times and what it waits for.

The code is what `fx.GraphModule.print_readable` writes. Read in torch 2.15.0: `fx/graph.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.reports.tables import us_text, waited_for

Owners = Mapping[str, int]  # names of FX nodes -> kernel id

_INDENT = "        "  # of statements in `forward`
MOST_CODE, LEAST_CODE = 900_000, 300  # characters of code on a page: of all kernels, and of one at the least
# What `print_readable` writes above nodes without a stack trace, and of our streams, which the headings name.
_EMPTY = re.compile(r"\s*# (?:Annotation: \{'stream': \d+\} )?No stacktrace found for following nodes$")
_FREES = re.compile(r"(?m);  (?:\w+ = )+None$")
_STREAM = re.compile(r"(# )Annotation: \{'stream': \d+\} (?=File: )")


def readable(
    text: str, owners: Owners, headings: Mapping[int, Sequence[str]], top: Iterable[str] = (),
    inputs: Mapping[str, str] | None = None, events: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the code of a graph, as `print_readable` wrote it, with comments.

    `top` comes first; `inputs` are the names of the graph's inputs in the source, `events` comments for the nodes of events.
    The lines of `headings` are above the first node of each kernel, and its name where it goes on after another one.
    """
    lines = [*(f"# {line}".rstrip() for line in top), ""]
    current, headed = None, set[int]()
    for kernel, comments, line in _statements(text, owners):
        if kernel is not None and kernel != current and kernel in headings:
            again = f"---- {headings[kernel][0].removeprefix('==== ')}, continued"
            lines += ["", *(f"{_INDENT}# {each}" for each in ([again] if kernel in headed else headings[kernel]))]
            comments = comments[1:] if comments and not comments[0] else comments
            headed.add(kernel)
            current = kernel
        lines += [*comments, *(f"{_INDENT}# {each}" for each in [(events or {}).get(_assigned(line))] if each), line]
        if line.startswith("    def forward(") and inputs:
            lines += [f"{_INDENT}# {name}: {source}" for name, source in inputs.items() if source != name]
            inputs = None
    return "\n".join(lines).strip("\n") + "\n"


def code_by_kernel(text: str, owners: Owners) -> dict[int, str]:
    """Return the lines of each kernel in the code of a graph, with the comments above them."""
    found: dict[int, list[str]] = {}
    for kernel, comments, line in _statements(text, owners):
        if kernel is not None:
            found.setdefault(kernel, []).extend([*comments, line])
    return {kernel: "\n".join(line.removeprefix(_INDENT) for line in own).strip("\n") for kernel, own in found.items()}


def shortened_code(code: Mapping[int, str], file: str) -> dict[int, str]:
    """Return the lines of each kernel for a page: without what only frees, and cut if there would be too much in all.

    A last line says how many lines more are in `file`.
    """
    share = max(LEAST_CODE, MOST_CODE // max(1, len(code)))
    return {kernel: _cut(_FREES.sub("", text), share, file) for kernel, text in code.items()}


def _cut(text: str, longest: int, file: str) -> str:
    if len(text) <= longest:
        return text
    kept = text[:longest].rpartition("\n")[0].rstrip("\n")
    left = text[len(kept) :].strip("\n").split("\n")
    return "\n".join([*([kept] if kept else []), f"# ... {len(left)} more lines in {file}"])


def headings(graph: KernelGraph, us: Sequence[float], plan: Plan | None) -> dict[int, list[str]]:
    """Return the heading of each kernel's region: name, stream, times alone and in the plan, launches, inputs, waits."""
    places = {place.kernel: place for place in plan.placements} if plan else {}
    waits = waited_for(plan, graph) if plan else {}
    found = {}
    for kernel in graph.kernels:
        told = []
        if (place := places.get(kernel.id)) is not None:
            told += [f"stream {place.stream}", f"{us_text(place.end_us - place.start_us)} us in the plan"]
        if kernel.id < len(us):
            told.append(f"{us_text(us[kernel.id])} us alone")
        text = [f"==== {kernel.name}" + (f": {', '.join(told)}" if told else "")]
        text.append(f"     launches {', '.join(kernel.launches) or 'nothing'}")
        if kernel.parameters:
            text.append(f"     reads {', '.join(kernel.parameters)}")
        if waits.get(kernel.id):
            text.append(f"     waits for {', '.join(waits[kernel.id])}")
        found[kernel.id] = text
    return found


def _statements(text: str, owners: Owners) -> Iterator[tuple[int | None, list[str], str]]:
    """Yield each line of code with the kernel that it belongs to, if any, and the comments above it.

    Comments that say nothing are left out.
    """
    comments: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if _EMPTY.match(line):
            continue
        if not bare or bare.startswith("#"):
            if bare or not comments or comments[-1]:
                comments.append(_STREAM.sub(r"\1", line))
            continue
        # The name that a line assigns tells whose region it belongs to.
        yield (owners.get(_assigned(line)) if line.startswith(_INDENT) else None), comments, line
        comments = []


def _assigned(line: str) -> str:
    """Return the name that a line of code assigns, if it assigns one."""
    return re.split(r"[ :]", line.strip(), maxsplit=1)[0]
