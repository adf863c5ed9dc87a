"""Run the end of the recipe by itself: what becomes of two lowered bodies of one graph."""

from __future__ import annotations

from torch import fx

from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.compilation import GraphCompilation, Progress
from graphstreams.pipeline.run import Bodies, finish
from graphstreams.pipeline.select_plan import Task
from graphstreams.rewriting.wrapper_source import Host, find_host
from graphstreams.runtime.dispatch import Dispatch


def finished(
    reading: Reading, module: fx.GraphModule, plan: Plan, serial: Lowered, streamed: Lowered, options: Options,
    us: tuple[float, ...] = (), host: Host | None = None,
) -> GraphCompilation:  # fmt: skip
    """Return what the package makes of a graph, planned and rewritten for an H200, once both bodies are lowered."""
    progress = Progress(plan.name)
    progress.tell(kernels=reading.kernels, plan=plan, us=us, kernels_serial=reading.launches, memory_serial=reading.peak_memory)
    progress.keep(module=module, reading=reading)
    with progress.until_stopped():
        bodies = Bodies(serial, streamed, host or find_host(serial.source))
        finish(progress, Task(reading, DEVICES["h200"], options), bodies, Dispatch())
    return progress.compilation
