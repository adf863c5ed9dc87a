"""Compile whole layers with and without prefetches of weights, and time them: what `bench_prefetch_layers.py` measures.

The plan without prefetches is found by graphstreams' measured search. With prefetches the same kernels have the same places,
and a stream more has the prefetches, each of which starts behind the kernel that its rule names. So what is compared is one
plan with and without. One variant of each rule is searched instead, with the prefetches as kernels like any other. All code is
compiled by graphstreams and proved. All are timed in turns with serial Inductor as CUDA graphs, and have their bits compared.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deepseek_decoder
import torch
from deepseek_cases import CASES
from deepseek_workloads import WORKLOADS

from graphstreams.benchmark.bits import compare_bits
from graphstreams.benchmark.compile_variants import compile_variants
from graphstreams.benchmark.results import largest_report
from graphstreams.benchmark.timing import time_in_turns
from graphstreams.benchmark.variants import OURS, CompiledVariant, Function, Inputs, WorkloadRun
from graphstreams.inductor.prefetch import Behind, PrefetchPass, Rule, place
from graphstreams.ir.plan_file import PlanFile, PlannedKernel
from graphstreams.kernels.prefetch import Prefetch

MEGABYTE = 10**6
STREAMS = 8  # the most that the option takes: one more than a plan without prefetches has
PLACES = 16  # prefetches that a layer may have at most
WITHOUT = f"{OURS}: search"  # the variant whose plan the others have
CONTROL = "the same plan from its file"
LAUNCHED = "prefetch_by_loads"  # the kernel of every prefetch here
RULES: tuple[Behind, ...] = ("top-k", "product", "start")
SETTINGS = {"deterministic": True}  # of Inductor: so that reductions are the same in all variants

Module = torch.nn.Module


def _decoder(name: str) -> tuple[Module, Inputs]:
    config = CASES[name].config
    module = deepseek_decoder.build(config, "cuda")
    return module, lambda seed: list(deepseek_decoder.example_inputs(config, "cuda", seed))


def _two_layers() -> tuple[Module, Inputs]:
    config = deepseek_decoder.Config.v32(layers=2)
    module = deepseek_decoder.build(config, "cuda")
    return module, lambda seed: list(deepseek_decoder.example_inputs(config, "cuda", seed))


LAYERS: dict[str, tuple[str, Callable[[], tuple[Module, Inputs]]]] = {
    "v32-tp8-1": ("V3.2 attention layer, TP 8, 1 token", WORKLOADS["layer-tp8-1"].make),
    "v32-tp1-1": ("V3.2 attention layer, TP 1, 1 token", WORKLOADS["layer-tp1-1"].make),
    "v32-decoder": ("V3.2 decoder layer, TP 8 shapes, 1 token, no process group", lambda: _decoder("v32-1")),
    "v32-decoder-2": ("V3.2, two decoder layers, TP 8 shapes, 1 token, no process group", _two_layers),
}


class WithPlaces(Module):
    """A module that also returns what its prefetches write."""

    def __init__(self, module: Module, form: Prefetch, places: int = PLACES) -> None:
        super().__init__()
        self.module, self.form, self.places = module, form, places

    def forward(self, *inputs: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
        """Return the module's result, and the places."""
        return self.module(*inputs), [place(self.form, inputs[0].device) for _ in range(self.places)]


@dataclass(frozen=True)
class Variant:
    """A rule for prefetches, and whether the plan is searched with them; otherwise it is the one without, and a stream more."""

    rule: Rule
    searched: bool = False

    @property
    def name(self) -> str:
        """Return the name that tables show."""
        form, places = self.rule.form, "searched" if self.searched else "a stream more"
        size = f"{self.rule.most / MEGABYTE:g} of weights from {self.rule.least / MEGABYTE:g} MB"
        return f"behind {self.rule.behind}, {form.programs} programs, {size}, {places}"


def variants_of(arguments: argparse.Namespace) -> list[Variant]:
    """Return the variants that the arguments ask for. The first of each rule is searched, with the most programs and bytes."""
    found = []
    for behind in arguments.behind:
        own = []
        for programs, size in itertools.product(arguments.programs, arguments.megabytes):
            form = Prefetch("load", programs, 8, 32_768)
            own.append(Variant(Rule(form, int(size * MEGABYTE), int(arguments.least * MEGABYTE), behind)))
        found += [replace(own[-1], searched=True), *own]
    return found


def with_prefetches(plan: PlanFile, searched: PlanFile) -> PlanFile:
    """Return a plan with the prefetches that `searched` has beside the same kernels: on a stream more, each before its product.

    Each kernel waits for what it depends on. Raises ValueError if the kernels are not the same otherwise, or if the plan has no
    product for a prefetch.
    """
    fetching = [each for each in searched.kernels if each.launches == (LAUNCHED,)]
    names = _names_in(plan, [each for each in searched.kernels if each not in fetching])
    kernels = [PlannedKernel(names[each.name], each.stream) for each in plan.kernels]
    stream = 1 + max(each.stream for each in kernels)
    for fetch in fetching:
        product = names[_product(plan, fetch.name.partition(f".{LAUNCHED}")[0])]
        at = next(place for place, each in enumerate(kernels) if each.name == product)
        kernels.insert(at, PlannedKernel(fetch.name, stream))
    return replace(plan, kernels=tuple(kernels))


def _names_in(plan: PlanFile, kernels: Sequence[PlannedKernel]) -> dict[str, str]:
    """Return what `kernels` call the kernels of a plan, which may be numbered in other order.

    Those of one module with the same launches, in any order, and bytes are taken in the order of their numbers.
    """
    given, found = defaultdict[Any, list[str]](list), defaultdict[Any, list[str]](list)
    for own, planned in ((given, plan.kernels), (found, kernels)):
        for each in sorted(planned, key=lambda kernel: _number(kernel.name)):
            own[each.name.partition("#")[0], tuple(sorted(each.launches or ())), each.bytes].append(each.name)
    if other := sorted(str(key) for key in given.keys() | found.keys() if len(given[key]) != len(found[key])):
        raise ValueError(f"with prefetches other kernels differ: {other[0]}")
    return dict(pair for key in given for pair in zip(given[key], found[key], strict=True))


def _number(name: str) -> int:
    return int(name.partition("#")[2] or 1)


def _product(plan: PlanFile, owner: str) -> str:
    """Return the kernel that multiplies with the weight of a module."""
    own = [each for each in plan.kernels if each.name.partition("#")[0] == owner]
    products = [each.name for each in own if any("mm" in launch for launch in each.launches or ())]
    if len(products) != 1:
        raise ValueError(f"{len(products)} kernels of the plan are the product of {owner!r}")
    return products[0]


def compiled(module: Module, rule: Rule | None, options: Mapping[str, Any], record: dict[str, Any], folder: str) -> Function:
    """Return a module compiled by graphstreams with prefetches, which returns what the module does.

    Its first call writes what became of it to `record`, and the plan into `folder`. It raises RuntimeError if the graph does
    not run on streams.
    """
    settings: dict[str, Any] = {**SETTINGS, "post_grad_custom_post_pass": PrefetchPass(rule)}
    wrapped = WithPlaces(module, Prefetch("load"), 0) if rule is None else WithPlaces(module, rule.form)
    given: dict[str, Any] = {**options, "inductor": settings, "dump": folder}
    function = torch.compile(wrapped, backend="graphstreams", options=given)

    def call(*inputs: Any) -> Any:
        result = function(*inputs)[0]
        if "verdict" not in record:
            path, report = largest_report(Path(folder))
            record.update({key: report[key] for key in ("verdict", "reason", "streams", "kernels_streamed")}, folder=str(path))
            if report["verdict"] != "clean":
                raise RuntimeError(f"it does not run on streams: {report['reason']}")
        return result

    return call


def compile_variant(
    run: WorkloadRun, name: str, module: Module, values: Sequence[Any], rule: Rule | None, plan: PlanFile | None = None
) -> PlanFile | None:
    """Compile and capture a variant with a plan, which it has to take, or else with a search. Return its plan if it has one."""
    with run.record(name) as record, tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"costs": "measured"}
        if plan is not None:
            path = Path(directory) / "given.json"
            path.write_text(plan.dumps(), encoding="utf-8")
            options = {"plan": str(path), "streams": STREAMS, "costs": "roofline", "search": 0, "strict": True}
        dump = Path(directory) / "dump"
        dump.mkdir()
        run.compiled[name] = CompiledVariant(compiled(module, rule, options, record, str(dump)), values)
        return PlanFile.loads((Path(record.pop("folder")) / "plan.json").read_text(encoding="utf-8"))
    return None


def compile_all(
    run: WorkloadRun, module: Module, values: Sequence[Any], variants: Sequence[Variant], deadline: float
) -> list[str]:
    """Compile and capture all variants, and return the names of those for which there was no time left.

    Raises RuntimeError if serial fails, or if there is no plan without prefetches to compare with.
    """
    compile_variants(run, module, values, {}, SETTINGS)
    plan = compile_variant(run, WITHOUT, module, values, None)
    if plan is None:
        raise RuntimeError(f"there is no plan without prefetches: {run.records[WITHOUT].get('failed')}")
    bare = replace(plan, kernels=tuple(replace(each, waits=None) for each in plan.kernels))
    compile_variant(run, CONTROL, module, values, None, bare)
    searched: dict[Behind, PlanFile | None] = {}
    left = []
    for variant in variants:
        rule, name = variant.rule, variant.name
        if time.monotonic() > deadline:
            left.append(name)
        elif variant.searched:
            searched[rule.behind] = compile_variant(run, name, module, values, rule)
        elif (found := searched.get(rule.behind)) is not None:
            with run.record(name) as record:
                given = with_prefetches(plan, found)
            if "failed" not in record:
                compile_variant(run, name, module, values, rule, given)
        else:
            run.records[name] = {"failed": "the searched variant failed, which tells the kernels' names"}
    return left


def measure_layer(name: str, variants: Sequence[Variant], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all about one layer as plain data. Errors of a variant are in its record, others are raised."""
    run, started = WorkloadRun(), time.monotonic()
    title, make = LAYERS[name]
    torch.compiler.reset()
    with torch.no_grad():
        module, inputs = make()
        values = inputs(0)
        left = compile_all(run, module, values, variants, started + arguments.limit)
        compiled_after = time.monotonic() - started
        compare_bits(run, inputs, arguments.replays, direct_runs=1)
        time_in_turns(run, values, arguments.rounds)
    return {
        "name": name, "title": title, "variants": run.records, "left_out": left,
        "seconds": {"compile": round(compiled_after, 1), "all": round(time.monotonic() - started, 1)},
    }  # fmt: skip
