"""Holds the cost models: sources of kernel times that need no GPU. A new one is a class like these, and a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from graphstreams.costs.profile_files import Profile
from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import Device
from graphstreams.ir.kernels import KernelGraph


class CostModel(Protocol):
    """A source of kernel times for one device."""

    @property
    def name(self) -> str:
        """The source in words, for the report."""

    def price(self, graph: KernelGraph) -> list[float]:
        """Return the time of each kernel in us, at the graph's example sizes."""


# By value of the option `costs`; the values that ask for measured times have the model that is used if nothing can be measured.
COST_MODELS: Mapping[str, Callable[[Device], CostModel]] = {"auto": Roofline, "measured": Roofline, "roofline": Roofline}


def cost_model(costs: str, device: Device) -> CostModel:
    """Return the model for a value of the option `costs`: one of `COST_MODELS`, or the path of a profile."""
    return COST_MODELS[costs](device) if costs in COST_MODELS else Profile(costs)
