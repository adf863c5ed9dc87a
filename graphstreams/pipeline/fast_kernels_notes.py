"""Say for the report which products of a graph take which kernels, and which stay torch's, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import fx

from graphstreams.costs.few_rows import ProductTimes, right_forms
from graphstreams.inductor.few_rows import Left, WeightProduct
from graphstreams.kernels.few_rows_forms import form_name
from graphstreams.messages import listed
from graphstreams.pipeline.kernel_variants import Forms
from graphstreams.reading.naming import named_inputs

SLOWER = 1.02  # times what calls with torch's products take, from which on calls count as slower


def notes_on_choice(
    found: Sequence[WeightProduct], times: Mapping[str, ProductTimes], forms: Forms, input_names: Sequence[str],
    gm: fx.GraphModule,
) -> list[str]:  # fmt: skip
    """Return a note for the products of each shape that take the same kernel: which, and what was measured of both alone."""
    names, groups = named_inputs(gm, input_names), defaultdict[str, list[str]](list)
    for each in found:
        groups[_told(each, times[each.operation], forms)].append(repr(_name(each.weight, names)))
    return [f"kernels='fast': {listed(weights)}: {text}" for text, weights in groups.items()]


def notes_on_left(left: Sequence[Left], input_names: Sequence[str], gm: fx.GraphModule) -> list[str]:
    """Return a note for each reason for which products with weights are none of the kernels'."""
    names, groups = named_inputs(gm, input_names), defaultdict[str, list[str]](list)
    for each in left:
        groups[each.reason].append(repr(_name(each.weight, names)))
    return [f"kernels='fast': {listed(weights)} stays torch's: {reason}" for reason, weights in groups.items()]


def told_direct(us: float, torch_us: float) -> str:
    """Return what calls take that the host launches, and that they should be captured if they take longer, in words."""
    advice = "; it is only faster in a CUDA graph, so capture it" if us > SLOWER * torch_us else ""
    return f"launched by the host the serial code takes {us:.1f} us, with torch's products {torch_us:.1f}{advice}"


def told_difference(difference: float) -> str:
    """Return how far outputs and changed inputs lie from those of Inductor's serial code with torch's products, in words."""
    return (
        "the largest difference from Inductor's serial code with torch's products, measured on the inputs of this compile: "
        f"{difference:.1e} of a tensor's largest value, or of whole numbers that share differs, in outputs and changed inputs. "
        "max_autotune's difference from the same code, which it is to stay below, would take another compile: "
        "examples/bench_deepseek.py --autotuned measures both. The sums of each product lie within a bound computed from their "
        "length"
    )


def _told(found: WeightProduct, times: ProductTimes, forms: Forms) -> str:
    product, taken = found.product, forms.get(found.node.name)
    shape = f"{product.rows} x {product.depth} by {product.columns}, {str(product.dtype).removeprefix('torch.')}"
    if taken is not None:
        return (
            f"{shape}: {form_name(taken.form)}: {taken.us:.2f} us alone, torch's {times.torch_us:.2f}; error "
            f"{taken.error:.1e} of the largest value, torch's {times.torch_error:.1e}, difference {taken.difference:.1e}"
        )
    right = right_forms(times)
    fastest = f", the fastest form {right[0].us:.2f} ({form_name(right[0].form)})" if right else ", and no form did it"
    return f"{shape}: torch's: {times.torch_us:.2f} us alone{fastest}"


def _name(weight: fx.Node, names: Mapping[str, str]) -> str:
    name = names.get(weight.name, weight.name)
    return name.removesuffix(".weight")
