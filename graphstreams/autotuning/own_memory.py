"""Let the kernels of Inductor's serial code be launched in another order: no buffer gets the memory of an earlier one.

Serial code gives a buffer the memory of one whose last reader has run. In another order that reader may come later, and find
an index that is none. A kernel that works in place is let be, if all others that touch what it overwrites come before it in
every plan. Read in torch 2.15.0: `_inductor/codegen/wrapper.py` (ReuseLine, make_buffer_reuse, codegen_inplace_reuse).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import networkx as nx

from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.reading import Reading

_REUSE = re.compile(r"^(?P<indent> *)(?P<new>\w+) = (?P<old>[^;\n]+);.*# reuse$", re.MULTILINE)
_TAKEN = re.compile(r"^ *(\w+) = [^;\n]+;", re.MULTILINE)  # whatever lets go of a buffer in the line that gives its memory away


def repeatable_source(serial: Lowered, reading: Reading) -> str:
    """Return the wrapper of a serial lowering, with memory of its own for each buffer. Its lines are those of the wrapper.

    Empty if `reading` is of another lowering, if a plan might run a kernel behind one that overwrites its operand, if parts of
    the code are functions of their own, or if memory is given away in a form that is not known.
    """
    in_place: Mapping[str, str] = serial.graph.wrapper_code.reuses
    if not reading.of_serial or "\ndef partition_" in serial.source or not _ordered(reading, in_place):
        return ""
    source = _REUSE.sub(lambda match: match[0] if match["new"] in in_place else _allocated(match), serial.source)
    return source if in_place.keys() >= set(_TAKEN.findall(source)) else ""


def _allocated(match: re.Match[str]) -> str:
    old = match["old"]
    return f"{match['indent']}{match['new']} = {old}.new_empty_strided({old}.size(), {old}.stride())"


def _ordered(reading: Reading, in_place: Mapping[str, str]) -> bool:
    """Return whether each kernel that works in place comes behind all others that touch the buffer, by the dependences.

    `in_place` maps what a kernel makes to the buffer that it overwrites with it.
    """
    kernels = reading.kernels.kernels
    before = nx.DiGraph((edge.before, edge.after) for edge in reading.kernels.edges)
    before.add_nodes_from(kernel.id for kernel in kernels)
    touched: dict[str, set[int]] = {}
    for kernel in kernels:
        for access in (*kernel.reads, *kernel.writes):
            touched.setdefault(access.storage, set()).add(kernel.id)
    for new, old in in_place.items():
        owner = reading.owners.get(new)
        if owner is None or owner not in touched.get(old, ()):
            return False  # the buffer is a part of another, or not one that a kernel of the graph makes
        if touched[old] - {owner} - nx.ancestors(before, owner):
            return False
    return True
