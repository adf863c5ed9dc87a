"""Lower each concatenation of a rewritten graph to the kind of kernel that it is in the serial graph.

Inductor computes a concatenation elementwise, in one kernel with what reads it, or has its pieces written into its buffer. It
looks at the nodes that read the concatenation and its pieces. In a rewritten graph these are others: a value that is stored is
read by a `control_deps`, and pieces are copied into the region of each reader. Read in torch 2.15.0: `_inductor/lowering.py`
(cat), `_inductor/config.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx
from torch._inductor import config, ir

from graphstreams.inductor.ir_values import without_boxes

KIND = "graphstreams_concatenation"  # key in node.meta; its value is one of the two below
STRIDES = "graphstreams_concatenation_strides"  # key in node.meta of one that was made from pieces; its value is a tuple
ELEMENTWISE, IN_PIECES = "elementwise", "in pieces"
_CAT = torch.ops.aten.cat.default
_SETTINGS: dict[str, dict[str, Any]] = {
    ELEMENTWISE: {"force_pointwise_cat": True},
    # More inputs than none are then too many to be computed elementwise.
    IN_PIECES: {"force_pointwise_cat": False, "max_pointwise_cat_inputs": 0, "max_complex_pointwise_cat_inputs": 0},
}


def note_kinds(values: Mapping[fx.Node, Any], elementwise: Collection[str] = ()) -> None:
    """Write into the metadata of each concatenation how it was lowered. `values` has the IR value of each node.

    Of those made from pieces the buffers `elementwise` are to be computed elementwise from here on.
    """
    for node, value in values.items():
        if node.target is _CAT and (kind := _kind(value)):
            node.meta[KIND] = kind
            stored = without_boxes(value)
            if kind == IN_PIECES and stored.get_name() in elementwise:
                node.meta.update({KIND: ELEMENTWISE, STRIDES: tuple(stored.layout.stride)})


def as_noted(node: fx.Node) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which Inductor lowers a node as was noted; it decides by itself if nothing was."""
    settings = _SETTINGS.get(node.meta.get(KIND, ""), {}) if node.target is _CAT else {}
    # A setting that this torch doesn't have can't be set.
    return config.patch({name: value for name, value in settings.items() if hasattr(config, name)})


def store_as_noted(node: fx.Node, value: Any) -> None:
    """Store the IR value of a concatenation that was made from pieces as it was then stored; leave other values."""
    if node.target is _CAT and STRIDES in node.meta:  # a copy of a concatenation has its metadata
        value.realize()
        without_boxes(value).freeze_layout_with_exact_strides(node.meta[STRIDES])


def _kind(value: Any) -> str:
    """Return the kind of a concatenation that Inductor generates code for; empty for one that a library computes."""
    value = without_boxes(value)
    if isinstance(value, ir.ConcatKernel):
        return IN_PIECES
    computed = value.data if isinstance(value, ir.ComputedBuffer) else value
    return ELEMENTWISE if isinstance(computed, ir.Pointwise) else ""
