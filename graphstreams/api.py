"""The functions that need no torch to be called: planning a profile and verifying a wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from graphstreams.costs.profile import load_profile
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.planning.plan import Plan
from graphstreams.verification.wrapper import verify

__all__ = ["plan", "verify"]


def plan(profile: str | PathLike[str] | Mapping[str, Any], streams: int = 2, event_us: float = 0.0) -> Plan:
    """Plan the kernels of a profile (JSON: id, us and predecessors of each) on `streams` streams.

    `event_us` is what a wait for another stream costs, in us. Raises ProfileError for a profile that is not one.
    """
    graph, us = load_profile(profile)
    return plan_kernels(graph, us, streams, event_us)
