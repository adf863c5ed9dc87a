"""Predicts how long a collective runs: the better of NCCL's two ring protocols for small and for large messages.

The form and the latencies are those of NCCL's own model (`tuning.cc`, as torch 2.15.0 has them in
`_inductor/comm_analysis.py`): a start, a latency for each step of the ring, and the bytes that each rank sends over its link.
Assumed, and not measured here, are that all ranks are in one node, that NCCL reaches LINK_SHARE of the data sheet's rate of one
direction, and half of that with the protocol for small messages, which sends a flag with every word.
"""

from __future__ import annotations

from typing import Any

import sympy

LINK_SHARE = 0.8
SMALL_US, SMALL_STEP_US, SMALL_SHARE = 6.6, 0.6, 0.5  # protocol LL: us to start, us a step, share of the rate that it reaches
LARGE_US, LARGE_STEP_US = 8.4, 3.4  # protocol Simple


def steps(operator: str, ranks: int) -> int:
    """Return how many steps a ring of `ranks` ranks takes for a collective, such as "all_reduce_"."""
    return (2 if operator.startswith("all_reduce") else 1) * (ranks - 1)


def sent_share(operator: str, ranks: int) -> float:
    """Return how many bytes each rank sends for each byte of the message.

    The message is what a rank reduces, gathers or exchanges, as nccl-tests counts it: the whole result of an all-gather, the
    whole input of a reduce-scatter.
    """
    return 1.0 if operator.startswith("broadcast") else steps(operator, ranks) / ranks


def collective_us(moving_us: Any, count: Any) -> Any:
    """Return the us of a collective of `count` steps that sends for `moving_us` us at the data sheet's rate.

    Both are numbers, or expressions in the dynamic sizes.
    """
    moving_us = moving_us / LINK_SHARE
    times = SMALL_US + SMALL_STEP_US * count + moving_us / SMALL_SHARE, LARGE_US + LARGE_STEP_US * count + moving_us
    return sympy.Min(*times) if any(isinstance(us, sympy.Expr) for us in times) else min(times)
