"""Choose forms of products of few rows by what they were measured to take alone, beside what torch's own product takes.

A form counts only if it was right: its error may be a few times that of torch's product, as another order of a sum makes it,
and has to lie within what its length allows. One that is faster than torch's alone by more than medians differ is tried in the
whole graph, and so is one that leaves room for a neighbour: there the time of the graph decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphstreams.kernels.few_rows import program
from graphstreams.kernels.few_rows_forms import Form, Product, fields_of, form_of

MARGIN = 0.97  # of the time of torch's product, that a form has to stay below: medians of equal launches differ by up to 2 %
# Of the largest value: if torch's product lies farther from the one in float64, the operands mean something else to torch.
ANOTHER_PRODUCT = 0.05
WORSE = 4.0  # times the error of torch's product that is more than another order of a sum makes
# Blocks for each SM that a form has at most if a neighbour is to run beside it, and how much of the time of torch's product
# it may take alone for that: first those that leave half of the SMs free, then those that are all there from the start.
BESIDE = ((0.5, 1.1), (2.0, 1.0))


@dataclass(frozen=True)
class FormTime:
    """What a form was measured to take alone, in us, with its weight in memory, and how far its sums lie from others.

    `error` is the largest distance from the product in float64, `difference` that from torch's product, both as shares of the
    product's largest value. `within` says whether no element lies farther from float64 than the length of its sum allows.
    """

    form: Form
    us: float
    error: float
    difference: float
    within: bool


@dataclass(frozen=True)
class ProductTimes:
    """What was measured of one product: torch's own kernels (cuBLAS on a GPU), and the forms that could run."""

    torch_us: float
    torch_error: float
    forms: tuple[FormTime, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what `of_dict` reads."""
        return {**asdict(self), "forms": [{**asdict(each), "form": fields_of(each.form)} for each in self.forms]}

    @staticmethod
    def of_dict(fields: Mapping[str, Any]) -> ProductTimes:
        """Return the times with these fields. Raises KeyError or TypeError for others."""
        forms = tuple(FormTime(**{**each, "form": form_of(each["form"])}) for each in fields["forms"])
        return ProductTimes(float(fields["torch_us"]), float(fields["torch_error"]), forms)


def right_forms(times: ProductTimes) -> list[FormTime]:
    """Return the forms whose sums are as exact as they have to be, the fastest first; none if torch computes something else."""
    if not times.torch_error <= ANOTHER_PRODUCT:
        return []
    right = [each for each in times.forms if each.within and each.error <= WORSE * times.torch_error]
    return sorted(right, key=lambda each: each.us)


def fastest_alone(times: ProductTimes) -> FormTime | None:
    """Return the form that is fastest alone; None if torch's product is about as fast."""
    return next((each for each in right_forms(times) if each.us < MARGIN * times.torch_us), None)


def fastest_beside(product: Product, times: ProductTimes, sm_count: int) -> FormTime | None:
    """Return the fastest form of few blocks, which leaves room to a neighbour; None if each takes too long for that."""
    for blocks, share in BESIDE:
        few = [each for each in right_forms(times) if blocks_of(product, each.form) <= blocks * sm_count]
        if few and few[0].us < share * times.torch_us:
            return few[0]
    return None


def blocks_of(product: Product, form: Form) -> int:
    """Return how many blocks the first launch of a form has, which does the product."""
    return int(program(product, form).launches[0].grid[0])
