"""Which values have to outlive the join.

The allocator hands a freed block to the next allocation on the stream that allocated it, at the moment the host frees it.
So a value that a second stream reads may be freed only once the allocating stream has waited for that read. After the join
that holds for every stream: the caller's stream has waited for all work, and the next call forks from it.
"""

from __future__ import annotations

from torch import fx

from graphstreams.graph.reading import Reading
from graphstreams.planning.plan import Plan


def held_values(reading: Reading, plan: Plan) -> list[fx.Node]:
    """Values, and inputs of the graph, that a stream other than the one that allocates them touches. In graph order."""
    stream_of = plan.stream_of()
    home = {target: stream_of[region.kernel] for region in reading.regions for target in region.targets}
    held: dict[fx.Node, None] = {}
    for region in reading.regions:
        stream = stream_of[region.kernel]
        for value in region.inputs:
            if value.op != "get_attr" and home.get(value, 0) != stream:
                held[value] = None
    order = {node: i for i, node in enumerate(reading.module.graph.nodes)}
    return sorted(held, key=order.__getitem__)
