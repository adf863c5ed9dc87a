"""Measure one case on the GPU at hand. `benchmarks.workers` starts and ends this process.

python -m benchmarks.zoo.gpu_worker

A request is to prepare the case, which compiles everything once so that it is in the caches, or to measure it, for which the
GPU should have nothing else to do.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, cycle, permutations
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from benchmarks.direct_side import no_collection
from benchmarks.loaded_code import NotCached, forget_loaded_code
from benchmarks.workers import serve
from benchmarks.zoo.case import Case
from benchmarks.zoo.measured_plans import kernels_measured, plans_measured
from benchmarks.zoo.state import State
from graphstreams.autotuning.cuda_graph import clones
from graphstreams.autotuning.timing import device_us
from graphstreams.benchmark.bits import difference, equal_bits
from graphstreams.benchmark.results import largest_report, reports_in
from graphstreams.benchmark.timing import DIRECT_REPEATS, REPEATS, samples_over_captures, summary
from graphstreams.benchmark.variants import CompiledVariant, ReplayableGraph, replayable_graphs
from graphstreams.messages import with_type

SETTINGS = {"deterministic": True}  # of Inductor, on both sides: without it bits differ from compile to compile
ROUNDS, DIRECT_ROUNDS, BITS = 20, 60, 10
REPORTED = ("verdict", "reason", "stage", "kernels_serial", "kernels_streamed", "streams", "measured", "differences", "notes")


class Measured:
    """A case on the GPU, from its preparation to its measurement."""

    def __init__(self, case: Case) -> None:
        """Build the case, and compile its serial code. Raises what these raise."""
        self.case = case
        self.module, self.inputs = case.make_on("cuda")
        self.state = State(self.module)
        self.graphs: list[ReplayableGraph] = []
        self.unmeasurable = ""
        try:
            self.graphs = replayable_graphs(self.module, self._fresh(0))
        except Exception as error:
            self.unmeasurable = with_type(error)
        torch.compiler.reset()
        self.state.restore()
        self._compiled(None)(*self._fresh(0))

    def answer(self, plans: int) -> dict[str, Any]:
        """Return times, bits and prices; with `plans` also what so many plans take, a third of them random."""
        torch.compiler.reset()
        record: dict[str, Any] = {"case": self.case.name, "library": self.case.library}
        with tempfile.TemporaryDirectory() as folder:
            variants = self._variants(folder)
            report = largest_report(Path(folder))[1]
            record |= {key: report[key] for key in REPORTED}
            record["graphs"] = [each["verdict"] for each in reports_in(Path(folder)).values()]
        record["bits"] = self._bits(*variants[:2])
        record["times"] = self._times(*variants)
        del variants
        if self.unmeasurable:
            return {**record, "unmeasurable": self.unmeasurable}
        record["graph"] = kernels_measured(self.case.name, self.graphs[0])
        if plans:
            record["graph"]["plans"] = plans_measured(self.graphs[0], record["graph"], plans)
        return record

    def _compiled(self, options: Mapping[str, Any] | None) -> Any:
        """Return the module compiled by plain Inductor, or with options of this package."""
        function = own_function(self.module)
        if options is None:
            return torch.compile(function, options={**SETTINGS, "post_grad_custom_post_pass": NotCached()})
        return torch.compile(function, backend="graphstreams", options=dict(options))

    def _variants(self, folder: str) -> list[CompiledVariant]:
        """Return plain Inductor, this package and plain Inductor once more, captured. Each has loaded code of its own.

        None begins with the garbage of what was compiled before: to free it in a compile makes Dynamo's guards slower.
        """
        found = []
        for options in (None, {"inductor": SETTINGS, "dump": folder}, None):
            forget_loaded_code()
            gc.collect()
            self.state.restore()
            found.append(CompiledVariant(partial(self._call, self._compiled(options)), self._fresh(0)))
        return found

    def _call(self, compiled: Any, *inputs: Any) -> Any:
        """Call a variant behind what puts back the counters of its cache, which a replay moves on."""
        self.state.restore_counters()
        return compiled(*inputs)

    def _fresh(self, seed: int) -> list[Any]:
        return fresh(self.inputs, seed)

    def _bits(self, serial: CompiledVariant, ours: CompiledVariant) -> dict[str, Any]:
        """Return how many runs on fresh inputs had other results or left another state, and the largest difference."""
        wrong, largest = {"graph": 0, "direct": 0}, 0.0
        for seed in range(1, BITS + 1):
            for way in ("graph", "direct"):
                expected, found = (self._results(each, seed, way == "direct") for each in (serial, ours))
                if not equal_bits(expected, found):
                    wrong[way] += 1
                    largest = max(largest, difference(expected, found))
        return {**wrong, "runs": BITS, "difference": largest}

    def _results(self, variant: CompiledVariant, seed: int, direct: bool) -> list[Any]:
        self.state.restore()
        return clones([*variant.results(self._fresh(seed), direct), *self.state.tensors])

    def _times(self, *compiled: CompiledVariant) -> dict[str, Any]:
        """Return median and quartiles of each variant in us, and of the ratios of neighbouring samples."""
        self.state.restore()
        variants = dict(zip(("serial", "ours", "again"), compiled, strict=True))

        def captured(again: bool) -> dict[str, Any]:
            for each in variants.values():
                if again:
                    each.capture_again()
            return {name: each.replay for name, each in variants.items()}

        graph = samples_over_captures(captured, ROUNDS, REPEATS)
        direct = times_in_any_order({name: each.direct for name, each in variants.items()})
        return {"graph": _compared(graph), "direct": _compared(direct)}


def times_in_any_order(calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return samples of the us of one direct call by name, one a round. Each round has another order of the calls."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with no_collection():
        for _, order in zip(range(DIRECT_ROUNDS), cycle(permutations(calls)), strict=False):
            for name in order:
                samples[name] += [device_us(calls[name], DIRECT_REPEATS) / DIRECT_REPEATS]
    return samples


def _compared(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the summary of each variant, and how many times faster ours is than serial's two compiles, sample by sample."""
    ratios = [(a + b) / 2 / c for a, b, c in zip(samples["serial"], samples["again"], samples["ours"], strict=True)]
    control = [a / b for a, b in zip(samples["serial"], samples["again"], strict=True)]
    return {**{name: summary(own) for name, own in samples.items()}, "ratio": summary(ratios), "control": summary(control)}


def own_function(module: torch.nn.Module) -> Callable[..., Any]:
    """Return a function of code of its own that calls a module: Dynamo keeps what it compiles, and looks for it, by code."""

    def call(*inputs: Any) -> Any:
        return module(*inputs)

    code = call.__code__.replace(co_name=f"call_{next(_NUMBERS)}")
    return FunctionType(code, globals(), code.co_name, None, call.__closure__)


_NUMBERS = count()


def fresh(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Return other inputs: the same rows or, of a single one, the same integers in another order or random numbers.

    Numbers keep mean and spread. A row of several stays as it is, because a column may hold indices into a table of its own.
    """
    generator = torch.Generator("cuda").manual_seed(seed)
    return [_fresh(value, generator) if isinstance(value, torch.Tensor) and seed else value for value in inputs]


def _fresh(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    def order(count: int) -> torch.Tensor:
        return torch.randperm(count, generator=generator, device=value.device)

    if value.dim() and value.shape[0] > 1:
        return value[order(value.shape[0])]
    if value.is_complex() or value.numel() < 2:
        return value
    if value.is_floating_point():
        drawn, wide = torch.randn(value.shape, generator=generator, device=value.device), value.float()
        return (drawn * wide.std() + wide.mean()).to(value.dtype)
    return value.reshape(-1)[order(value.numel())].reshape(value.shape)


def main() -> None:
    """Answer requests: {"do": "prepare", "case": name}, then {"do": "measure", "plans": count}."""
    from benchmarks.zoo.cases import CASES

    prepared: dict[str, Measured] = {}

    def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
        with torch.inference_mode():
            if request["do"] == "prepare":
                prepared["case"] = Measured(CASES[request["case"]])
                return {"prepared": request["case"]}
            return prepared["case"].answer(request["plans"])

    serve(handle)


if __name__ == "__main__":
    main()
