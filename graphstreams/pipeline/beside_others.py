"""Tell which weights are read by kernels that a plan lets run beside others."""

from __future__ import annotations

from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading

OVERLAP_US = 0.5  # for which two kernels run at the same time if they run beside each other


def weights_beside_others(reading: Reading, plan: Plan) -> set[str]:
    """Return the inputs of a graph that are read by kernels which a plan lets run beside a kernel on another stream."""
    storages = {storage: node.name for node, storage in reading.storages.items() if node.op == "placeholder"}
    found: set[str] = set()
    for each in plan.placements:
        others = (other for other in plan.placements if other.stream != each.stream)
        if any(min(each.end_us, other.end_us) - max(each.start_us, other.start_us) > OVERLAP_US for other in others):
            read = {access.storage for access in reading.kernels.kernels[each.kernel].reads}
            found.update(name for storage, name in storages.items() if storage in read)
    return found
