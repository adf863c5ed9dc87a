"""Make steps of denoising with one model. `benchmarks.workers` starts and ends this process.

python -m benchmarks.engines.diffusers_worker

A request is to prepare the model, which builds it and compiles plain Inductor's blocks, or to measure a batch in one mode, for
which the GPU should have nothing else to do: ours is compiled then, because its plans are measured.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines.diffusers_models import Denoiser, Values, build
from benchmarks.engines.generate_side import sharing, short_reports
from benchmarks.engines.generate_table import AGAIN, OURS, PLAIN, ratios
from benchmarks.workers import serve
from graphstreams import graphstreams
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.bits import difference, equal_bits
from graphstreams.benchmark.run import prepared, release
from graphstreams.benchmark.timing import samples_over_captures, summary
from graphstreams.benchmark.variants import CompiledVariant
from graphstreams.inductor.compile import mode_settings

STEPS, IMAGES = 4, 4  # of an image; how many are compared
ROUNDS, REPEATS = 20, 5  # samples of each side, and steps in a sample
Steps = Mapping[str, Callable[..., Tensor]]  # by backend: one step
Samples = Callable[[], Mapping[str, Sequence[float]]]  # takes samples in us, by backend


@dataclass
class Side:
    """One backend in one mode at one batch, with copies of the models that share the weights."""

    denoiser: Denoiser
    mode: str
    record: dict[str, Any] = field(default_factory=dict)

    def step(self, names: Sequence[str], *values: Tensor) -> Tensor:
        """Return one prediction. Inductor's CUDA graphs are told that the results of the last one are done with."""
        if self.mode != "default":
            torch.compiler.cudagraph_mark_step_begin()
        return self.denoiser(**dict(zip(names, values, strict=True)))


class Model:
    """A model with a side for each backend, mode and batch, from its preparation to its measurement."""

    def __init__(self, request: Mapping[str, Any], folder: Path) -> None:
        """Build the model and compile plain Inductor's blocks. Raises what these raise."""
        self.device, self.folder, self.deterministic = request["device"], folder, request["deterministic"]
        torch.backends.cudnn.enabled = request["cudnn"]
        self.denoiser = build(request["model"], self.device, request["tiny"])
        self.plain = {}
        for mode in request["modes"]:
            for batch in request["batches"]:
                self.plain[mode, batch] = self._compiled(PLAIN, mode, batch)

    def measure(self, mode: str, batch: int) -> dict[str, Any]:
        """Return times of a step in each way to run it, how equal images are, and what became of the blocks."""
        sides = {PLAIN: self.plain.pop((mode, batch))}
        for backend in (OURS, AGAIN):
            sides[backend] = self._compiled(backend, mode, batch)
        found: dict[str, Any] = {"batch": batch, "mode": mode, "ways": {}, "images": {}}
        found["sides"] = {backend: side.record for backend, side in sides.items()}
        steps = {backend: partial(side.step, tuple(self._values(batch, 0))) for backend, side in sides.items()}
        for way, calls, samples in self._ways(mode, batch, steps):
            found["images"][way] = self._compared(calls, batch)
            found["ways"][way] = _times(samples())
        del steps, sides
        release()
        return found

    def _ways(self, mode: str, batch: int, steps: Steps) -> list[tuple[str, Steps, Samples]]:
        """Return each way to run the sides: its name, a function for each side, and one that takes samples of all in us."""
        values = list(self._values(batch, 0).values())

        def directly() -> dict[str, list[float]]:
            calls = [partial(step, *values) for step in steps.values()]
            clock = {} if self.device == "cuda" else {"us_of": _host_us}
            return dict(zip(steps, times_in_turns(calls, ROUNDS, REPEATS, **clock), strict=True))

        if mode != "default":
            return [(mode, steps, directly)]
        found: list[tuple[str, Steps, Samples]] = [("launched by the host", steps, directly)]
        if self.device == "cuda":
            found.insert(0, ("captured by hand", *_captured(steps, values)))
        return found

    def _compiled(self, backend: str, mode: str, batch: int) -> Side:
        """Return a side whose blocks are compiled, which takes two calls: CUDA graphs are recorded in the second."""
        models = {name: sharing(model) for name, model in self.denoiser.models.items()}
        side = Side(replace(self.denoiser, models=models), mode)
        dump = self.folder / f"{mode}-{batch}"
        side.denoiser.compile_blocks(dynamic=False, **self._how(backend, mode, dump))
        gc.collect()  # to free the garbage of one compile in the next makes that one's guards slower
        started = time.perf_counter()
        values = self._values(batch, 0)
        for _ in range(3):
            side.step(tuple(values), *values.values())
        side.record["seconds"] = round(time.perf_counter() - started, 1)
        side.record["reports"] = short_reports(dump) if backend == OURS else []
        return side

    def _how(self, backend: str, mode: str, dump: Path) -> dict[str, Any]:
        settings: dict[str, Any] = {"deterministic": True} if self.deterministic else {}
        if backend == OURS:
            return {"backend": graphstreams, "options": {"mode": mode, "dump": str(dump), "inductor": settings}}
        return {"options": {**mode_settings(mode), **settings}}

    def _values(self, batch: int, seed: int) -> Values:
        """Return what a step takes: the same values for the same seed."""
        torch.manual_seed(seed)
        return {name: value.to(self.device) for name, value in self.denoiser.inputs(batch).items()}

    def _compared(self, calls: Mapping[str, Callable[..., Tensor]], batch: int) -> dict[str, Any]:
        """Return how many images of ours have plain Inductor's bits, and the largest difference."""
        pairs = []
        for seed in range(1, IMAGES + 1):
            values = self._values(batch, seed)
            pairs.append([[_image(calls[backend], values)] for backend in (PLAIN, OURS)])
        equal = sum(equal_bits(*pair) for pair in pairs)
        return {"equal": equal, "of": IMAGES, "difference": max(difference(*pair) for pair in pairs)}


def _image(call: Callable[..., Tensor], values: Values) -> Tensor:
    """Return what a sample has become after some steps of Euler's method."""
    sample = values["sample"]
    for _ in range(STEPS):
        sample = sample - call(*{**values, "sample": sample}.values()) / STEPS
    return sample.clone()


def _captured(steps: Steps, values: Sequence[Tensor]) -> tuple[Steps, Samples]:
    """Return the replay of each side's step in a CUDA graph, and what takes samples of these."""
    variants = {backend: CompiledVariant(step, values) for backend, step in steps.items()}

    def captured(again: bool) -> dict[str, Callable[[], None]]:
        for each in variants.values():
            if again:
                each.capture_again()
        return {backend: each.replay for backend, each in variants.items()}

    replayed = {backend: partial(_replayed, variant) for backend, variant in variants.items()}
    return replayed, partial(samples_over_captures, captured, ROUNDS, REPEATS)


def _replayed(variant: CompiledVariant, *values: Tensor) -> Tensor:
    found: Tensor = variant.results(values)[0]
    return found.clone()


def _host_us(call: Callable[[], Any], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e6 * (time.perf_counter() - started)


def _times(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the summary of each side in us, the ratio of plain Inductor to ours, and that of its two compiles."""
    paired = {name: asdict(ratio) for name, ratio in ratios(samples).items()}
    return {**{backend: summary(own) for backend, own in samples.items()}, **paired}


def main() -> None:
    """Answer requests: {"do": "prepare", "model": name, ...}, then {"do": "measure", "mode": mode, "batch": batch}."""
    held: dict[str, Model] = {}
    with torch.inference_mode(), prepared(), tempfile.TemporaryDirectory() as folder:

        def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
            if request["do"] == "prepare":
                held["model"] = Model(request, Path(folder))
                return {"prepared": request["model"]}
            return held["model"].measure(request["mode"], request["batch"])

        serve(handle)


if __name__ == "__main__":
    main()
