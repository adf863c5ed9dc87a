"""The calibration run: kernels of many kinds and sizes, compiled, played and timed on the GPU at hand, then fitted to."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import torch

from graphstreams.autotuning.timing import medians_in_turns
from graphstreams.benchmark.replayable import player_of
from graphstreams.calibration.fit import fit
from graphstreams.calibration.microbenchmarks import GROUPS, Diamonds, Each
from graphstreams.calibration.samples import Sample
from graphstreams.costs.calibration import Calibration
from graphstreams.errors import Unmeasurable
from graphstreams.ir.devices import device_at_hand
from graphstreams.ir.kernels import KernelGraph
from graphstreams.planning.build_plan import assemble
from graphstreams.planning.paths import Assignment, timed

LONGEST_WAIT = 50.0  # us
ROUNDS, REPLAYS = 11, 20  # of a graph that is timed as a whole


def calibrate(progress: Callable[[str], None] = print) -> tuple[Calibration, list[Sample]]:
    """Time kernels on the GPU at hand and fit the roofline to them, in about ten seconds. Gives the timed kernels too.

    `progress` gets a line after each step. Raises RuntimeError where there is no CUDA device, or nothing can be timed.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("calibrating needs a CUDA device, and there is none here")
    samples: list[Sample] = []
    for title, make in GROUPS.items():
        started = time.perf_counter()
        try:
            found = _timed_kernels(make)
        except (Unmeasurable, RuntimeError) as error:
            progress(f"{title}: not timed: {error}")
            continue
        samples += found
        progress(f"{title}: {len(found)} kernels, {time.perf_counter() - started:.1f} s")
    if not samples:
        raise RuntimeError("no kernel could be timed")
    return fit(samples, device_at_hand(), versions=_versions(), event_us=_event_us(progress)), samples


def _timed_kernels(make: Callable[[], Each]) -> list[Sample]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        module = make()
    samples: list[Sample] = []
    for playable in player_of(module, module.inputs):
        kernels = playable.graph.kernels
        times = playable.player.kernel_times(sorted(playable.order))  # in program order, which keeps equal weights apart
        samples += [(kernels[kernel], playable.graph.sizes, us) for kernel, us in times.items()]
        del playable
    del module
    gc.collect()
    torch.cuda.empty_cache()
    return samples


def _event_us(progress: Callable[[str], None]) -> float | None:
    started = time.perf_counter()
    try:
        found = measured_event_us()
    except (RuntimeError, Unmeasurable) as error:
        progress(f"a wait between streams: not timed: {error}")
        return None
    progress(f"a wait between streams: {found:.2f} us, {time.perf_counter() - started:.1f} s")
    return found


def measured_event_us() -> float:
    """What a wait for another stream adds in us: with it the planner predicts for forks and joins what they take.

    Raises RuntimeError where the kernels were compiled otherwise than expected, Unmeasurable where they cannot be timed.
    """
    with torch.device("cuda"):
        inputs = [torch.eye(64, dtype=torch.bfloat16) for _ in range(3)]
    playable = player_of(Diamonds(), inputs)[0]
    graph, player = playable.graph, playable.player
    assignment = two_streams(graph)
    times = player.kernel_times(assignment.order)
    us = [times[kernel] for kernel in assignment.order]
    plan = assemble(graph, assignment, timed(assignment, graph.predecessors(), us, 0.0), us, 2, 0.0)
    serial, streamed = medians_in_turns([player.serial(assignment.order), player.play(plan)], ROUNDS, REPLAYS)
    return event_us_of(graph, assignment, us, streamed * sum(us) / serial)


def two_streams(graph: KernelGraph) -> Assignment:
    """The second kernel of each fork of `Diamonds` on another stream. Raises RuntimeError where the graph is another one."""
    predecessors = graph.predecessors()
    count = len(graph.kernels)
    if count % 3 or any(predecessors[join] != [join - 2, join - 1] for join in range(2, count, 3)):
        raise RuntimeError("the kernels that waits are timed with were not compiled as they were written")
    return Assignment(order=range(count), stream=[int(kernel % 3 == 1) for kernel in range(count)])


def event_us_of(graph: KernelGraph, assignment: Assignment, us: Sequence[float], measured_us: float) -> float:
    """The cost of a wait in us with which the predicted end is `measured_us`; 0 where waits seem to save time."""
    low, high = 0.0, LONGEST_WAIT
    while high - low > 1e-3:
        middle = (low + high) / 2
        if timed(assignment, graph.predecessors(), us, middle).makespan < measured_us:
            low = middle
        else:
            high = middle
    return low


def _versions() -> dict[str, str]:
    """What decides the kernels, beside the device."""
    try:
        import triton
    except ImportError:
        return {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    return {"torch": str(torch.__version__), "cuda": str(torch.version.cuda), "triton": str(triton.__version__)}
