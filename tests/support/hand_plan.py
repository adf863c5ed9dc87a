"""A plan of five kernels on two streams whose times, arrows and reasons are worked out by hand.

    stream 0   load 0-2 | long 2-8 (5 us alone)       | add 8-9
    stream 1             | short 2.5-5 (2 us alone)   |
    keep, which keeps its place, is the last: 9-10 on stream 0

The critical path is load, long, add, keep. Event 0 is behind load, for short; event 1 behind short, for add.
"""

from __future__ import annotations

import sympy

from graphstreams.ir.kernels import Access, Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.plan import Event, Placement, Plan, Wait

KERNELS = (
    Kernel(0, "load", "gemm", nodes=("mm",), launches=("extern_kernels.mm",), parameters=("load.weight",),
           reads=(Access("arg0", sympy.Integer(4096)), Access("arg1", sympy.Symbol("s0") * 2)),
           writes=(Access("buf0", sympy.Integer(512)),),
           modules=("L['self']._modules['layers']._modules['0']",
                    "L['self']._modules['layers']._modules['1']._modules['norm']")),
    Kernel(1, "short", "pointwise", nodes=("relu",), launches=("a", "b"), joined="they write the pieces of one buffer"),
    Kernel(2, "long", "reduction", nodes=("sum_1",), launches=("c",)),
    Kernel(3, "add", "pointwise", nodes=("add",), launches=("d",)),
    Kernel(4, "keep", "extern", nodes=("own",), launches=("e",), exclusive=True, exclusive_reason="nothing is declared of it"),
)  # fmt: skip
EDGES = (
    Edge(0, 1, EdgeKind.RAW, "buf0"), Edge(0, 2, EdgeKind.RAW, "buf0"), Edge(0, 2, EdgeKind.WAR, "arg1"),
    Edge(1, 3, EdgeKind.RAW, "buf1"), Edge(2, 3, EdgeKind.RAW, "buf2"),
    *(Edge(before, 4, EdgeKind.ORDER) for before in range(4)),
)  # fmt: skip
GRAPH = KernelGraph("g", KERNELS, EDGES, {"s0": 8})
US = (2.0, 2.0, 5.0, 1.0, 1.0)
PLACES = (
    Placement(0, "load", 0, 0.0, 2.0), Placement(2, "long", 0, 2.0, 8.0), Placement(1, "short", 1, 2.5, 5.0),
    Placement(3, "add", 0, 8.0, 9.0), Placement(4, "keep", 0, 9.0, 10.0),
)  # fmt: skip
EVENTS = (Event(0, 0, 0, (Wait(1, 1),)), Event(1, 1, 1, (Wait(0, 3),)))
PLAN = Plan("g", 2, PLACES, EVENTS, 11.0, 10.0, 9.0, 9.0, (0, 2, 3, 4), event_us=0.5)
