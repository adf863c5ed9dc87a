"""Whether a plan gains enough to be used."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.plan import Plan
from graphstreams.options import Options
from graphstreams.planning.paths import bottom_levels


def gain_too_small(
    plan: Plan, measurement: Measurement | None, options: Options, device: Device, lost_fusions: int = 0, joined_us: float = 0.0
) -> str:
    """Return why a plan gains less than `options.min_gain`, measured if it was, else predicted; empty if it gains enough.

    `lost_fusions` is how many launches more than the serial code the plan's code has, without those that the serial code joins
    into one (combo kernels); those save it at most `joined_us` us. With a measurement neither counts.
    """
    if plan.streams == 1:
        chain = "its kernels form one chain, or no placement on several streams is faster"
        return "the option streams is 1" if options.streams == 1 else chain
    needed = f"less than min_gain={options.min_gain:.1%}"
    if measurement is not None:
        what = "generated code's" if measurement.compiled_us else "plan's"
        enough = measurement.gain >= options.min_gain
        return "" if enough else f"the {what} measured gain is {measurement.gain:.1%}, {needed}"
    # Each launch that the serial graph does not have costs at least the shortest kernel.
    streamed_us, serial_us = plan.streamed_us + max(0, lost_fusions) * device.launch_us, plan.serial_us - joined_us
    gain = 1 - streamed_us / serial_us if serial_us > 0 else 0.0
    if gain >= options.min_gain:
        return ""
    lost = f", {lost_fusions} launches more than serial counted in" if lost_fusions > 0 else ""
    lost += f", {joined_us:.1f} us that serial's combo kernels may save counted in" if joined_us > 0 else ""
    return f"the predicted gain is {gain:.1%}{lost}, {needed}"


def path_too_long(graph: KernelGraph, us: Sequence[float], options: Options) -> str:
    """Return why no plan can gain enough, because side by side no kernel gets faster; empty if one can."""
    serial, longest = fsum(us), max(bottom_levels(graph.successors(), us), default=0.0)
    if longest <= (1 - options.min_gain) * serial:
        return ""
    share = 1 - longest / serial if serial else 0.0
    text = f"its longest path of kernels leaves {share:.1%} of the serial time to gain"
    return f"{text}, less than min_gain={options.min_gain:.1%}"
