"""Take this package's kernels for products of few rows, under the option `kernels="fast"`, before a graph is lowered.

What is planned, and both bodies, have them. Each product's forms are timed alone first. Then the whole graph is planned and
timed with torch's products, with the forms that are fastest alone, and with forms of few blocks for the products that run
beside other kernels. What is fastest is taken, and if that is not certain, torch's products.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

from graphstreams.autotuning.cache_keys import kernels_key, setting
from graphstreams.autotuning.few_rows_benchmark import times_of_products
from graphstreams.costs.few_rows import MARGIN, FormTime, ProductTimes, fastest_alone, fastest_beside
from graphstreams.errors import StaySerial, Unmeasurable, Unsupported
from graphstreams.inductor.disk_cache import Store, cache_folder
from graphstreams.inductor.few_rows import WeightProduct, weight_products
from graphstreams.inductor.lowering import copy_graph
from graphstreams.inductor.own_kernels import add_notes
from graphstreams.ir.devices import device_at_hand
from graphstreams.kernels.few_rows_forms import fields_of, form_of
from graphstreams.messages import with_type
from graphstreams.pipeline.fast_kernels_notes import notes_on_choice, notes_on_left, told_difference, told_direct
from graphstreams.pipeline.kernel_variants import Forms, GivenGraph, KernelVariants, Times, put_forms
from graphstreams.runtime.ranks import several_ranks

log = logging.getLogger("graphstreams")

NOT_AT_HAND = "kernels are chosen by measuring, and the GPU is not at hand"
KEEPS = 0.99  # of the time with torch's products, that a variant has to stay below: medians in turns differ by less


@dataclass(frozen=True)
class Decision:
    """The forms that products take, none for torch's own kernels everywhere, and notes on the whole graph."""

    forms: Forms
    notes: tuple[str, ...]


class Variants(Protocol):
    """What plans and times variants of a graph: KernelVariants."""

    def plan(self, *several: Forms) -> set[str]:
        """Plan variants, and return the weights whose products run beside other kernels in the last of them."""

    def times(self) -> list[Times]:
        """Return the times of all variants."""

    def difference(self, number: int) -> float:
        """Return how far a variant's outputs lie from those of the first."""

    def lasting(self, number: int, times: Times) -> tuple[float, str]:
        """Return what a variant takes once its code is generated, and what it runs as."""

    def keep(self, number: int) -> None:
        """Keep a variant's plan for the compile that runs it."""


def use_fast_kernels(given: GivenGraph, at_hand: bool = True) -> bool:
    """Replace products of the graph under `kernels="fast"` if that was measured to be faster; else say why not.

    Notes in the graph's meta say what was chosen, and why. `at_hand` says whether the GPU to plan for is there. Never raises
    what measuring raises: then all products stay as they are. Return whether it was decided: if measuring failed, a later
    compile may succeed, so this one's code must not be found in a cache. What a graph can't have is decided.
    """
    if given.options.kernels != "fast":
        return True
    try:
        add_notes(given.module, _replaced(given, at_hand))
        return True
    except Exception as error:  # faster kernels are not worth a compile
        log.debug("kernels can't be chosen", exc_info=True)
        known = isinstance(error, Unmeasurable | StaySerial | Unsupported)
        reason = str(error) if known else f"{with_type(error)}; please report it"
        if isinstance(error, torch.OutOfMemoryError):
            reason = "the GPU has not enough free memory to measure them"
        add_notes(given.module, [f"kernels='fast': all products stay torch's: {reason}"])
        return isinstance(error, StaySerial | Unsupported)


def _replaced(given: GivenGraph, at_hand: bool) -> list[str]:
    """Replace products as it is decided, and return notes on all of them. If that fails, the graph is as it was."""
    gm = given.module
    found, left = weight_products(gm.graph)
    notes = notes_on_left(left, given.input_names, gm)
    if not found:
        return [*notes, "kernels='fast': no product of up to 64 rows with a weight is there to be replaced"]
    if reason := _why_not(given, at_hand):
        return [*notes, f"kernels='fast': all products stay torch's: {reason}"]
    decision, times = _decision(given, found)
    own = notes_on_choice(found, times, decision.forms, given.input_names, gm)
    before = copy_graph(gm).graph
    try:
        put_forms(gm, decision.forms)
    except Exception:
        gm.graph = before
        gm.recompile()
        raise
    return [*notes, *own, *decision.notes]


def decide(found: Sequence[WeightProduct], times: Mapping[str, ProductTimes], sm_count: int, variants: Variants) -> Decision:
    """Return which products take which forms: those of the fastest variant of the graph, if it stays the fastest when compiled.

    The first variant has torch's products, so nothing is taken that makes the graph slower.
    """
    alone = {each.node.name: form for each in found if (form := fastest_alone(times[each.operation]))}
    if not alone:
        return Decision({}, (f"kernels='fast': no form takes less than {MARGIN:.0%} of the time of torch's product alone",))
    tried: list[Forms] = [{}, alone]
    beside = variants.plan(*tried)
    few = {
        each.node.name: form
        for each in found
        if each.weight.name in beside and (form := fastest_beside(each.product, times[each.operation], sm_count))
    }
    if few and {**alone, **few} != alone:
        tried.append({**alone, **few})
        variants.plan(tried[-1])
    measured = variants.times()
    us = [each.us for each in measured]
    told = f"{us[0]:.1f} us with torch's products, {', '.join(f'{each:.1f}' for each in us[1:])} with others, in turns"
    best = min(range(len(us)), key=us.__getitem__)
    if us[best] >= KEEPS * us[0]:
        variants.keep(0)
        return Decision({}, (f"kernels='fast': torch's products are as fast in the whole graph: {told}",))
    difference = variants.difference(best)
    lasting, runs = variants.lasting(best, measured[best])
    if lasting >= KEEPS * us[0]:
        told += f"; the generated code takes {lasting:.1f} us, {runs}"
        return Decision({}, (f"kernels='fast': torch's products are as fast in the whole graph: {told}",))
    kind = "few blocks beside other kernels" if best == 2 else "the fastest alone"
    text = f"the graph takes {lasting:.1f} us, {runs}, with {len(tried[best])} products replaced ({kind}): {told}"
    told_all = (text, told_direct(measured[best].direct_us, measured[0].direct_us), told_difference(difference))
    return Decision(tried[best], tuple(f"kernels='fast': {each}" for each in told_all))


def _why_not(given: GivenGraph, at_hand: bool) -> str:
    """Return why nothing can be measured; empty if it can."""
    options = given.options
    if not at_hand:
        return NOT_AT_HAND
    if options.costs not in ("auto", "measured"):
        return f"kernels are chosen by measuring, and costs={options.costs!r} measures nothing"
    if not given.inputs:
        return "kernels are chosen by measuring, and the inputs of the graph are not known; the backend knows them"
    if reason := why_not_now():
        return reason
    values = (node.meta.get("val") for node in given.module.graph.find_nodes(op="placeholder"))
    if any(_is_dynamic(value) for value in values):
        return "its sizes are dynamic, and kernels are chosen for one size"
    return ""


def why_not_now() -> str:
    """Return why this process can't measure kernels at the moment; empty if it can."""
    if not torch.cuda.is_available():
        return NOT_AT_HAND
    if torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured, and nothing can be measured meanwhile"
    return "several ranks have to compute the same, and each would choose by what it has measured" if several_ranks() else ""


def _is_dynamic(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    return isinstance(value, torch.SymInt)


def _decision(given: GivenGraph, found: Sequence[WeightProduct]) -> tuple[Decision, Mapping[str, ProductTimes]]:
    """Return what an earlier compile of the same graph has decided, or decide now, and the times of products alone."""
    device, started = device_at_hand(), time.perf_counter()
    placed = tuple(given.input_names), tuple(given.marked)
    store, key = Store(cache_folder(), setting(device)), f"kernels {kernels_key(given.module, given.options, placed)}"
    times = times_of_products(found, device)
    alone = time.perf_counter() - started
    if (kept := _kept(store.get(key))) is not None:
        return kept, times
    variants = KernelVariants(given)
    try:
        decision = decide(found, times, device.sm_count, variants)
    finally:
        variants.close()
    taken = f"kernels='fast': choosing took {time.perf_counter() - started:.1f} s, {alone:.1f} of them for products alone"
    log.info("graphstreams: %s: %s", given.name, taken)
    decision = replace(decision, notes=(*decision.notes, taken))
    forms = {name: {**asdict(each), "form": fields_of(each.form)} for name, each in decision.forms.items()}
    store.put(key, {"forms": forms, "notes": list(decision.notes)})
    return decision, times


def _kept(fields: Any) -> Decision | None:
    try:
        forms = {name: FormTime(**{**each, "form": form_of(each["form"])}) for name, each in fields["forms"].items()}
        return Decision(forms, (*map(str, fields["notes"]), "kernels='fast': this was decided by an earlier compile"))
    except (KeyError, TypeError, AttributeError):
        return None
