"""The functions that need no torch to be called: planning a profile and verifying a wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from graphstreams.costs.profile import load_profile
from graphstreams.ir.plan import Plan
from graphstreams.messages import shown
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.verification.wrapper.read import verify

__all__ = ["plan", "verify"]

MOST_STREAMS = 32  # torch's pool has no more of one priority
LONGEST_WAIT_US = 1e6


def plan(profile: str | PathLike[str] | Mapping[str, Any], streams: int = 2, event_us: float = 0.0) -> Plan:
    """Plan the kernels of a profile (JSON: id, us and predecessors of each) on `streams` streams.

    `event_us` is what a wait for another stream costs, in us. Raises ProfileError for a profile that is not one, ValueError for
    numbers out of range.
    """
    check_limits(streams, event_us)
    graph, us = load_profile(profile)
    return plan_kernels(graph, us, streams, event_us)


def check_limits(streams: int, event_us: float) -> None:
    """Raise ValueError if so many streams, or a wait of so many us, can't be planned with."""
    if not 1 <= streams <= MOST_STREAMS:
        raise ValueError(f"streams is {shown(streams)}; it has to be from 1 to {MOST_STREAMS}")
    if not 0 <= event_us <= LONGEST_WAIT_US:
        raise ValueError(f"event_us is {shown(event_us)}; it has to be from 0 to {LONGEST_WAIT_US:g}")
