"""Generate texts with one model. `benchmarks.workers` starts and ends this process.

python -m benchmarks.engines.generate_worker

A request is to prepare the model, which builds it and compiles plain Inductor's sides, or to measure a mode, for which the GPU
should have nothing else to do: ours is compiled then, because its plans are measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines.generate_models import build, prompt_of
from benchmarks.engines.generate_side import Run, Side, compared, compile_config, profile, sharing, time_text, told_of, warm_up
from benchmarks.engines.generate_table import AGAIN, OURS, PLAIN, ratios
from benchmarks.workers import serve
from graphstreams.benchmark.run import prepared, release


class Model:
    """A model with a side for each backend and mode, from its preparation to its measurement."""

    def __init__(self, request: Mapping[str, Any], folder: Path) -> None:
        """Build the model and compile plain Inductor's sides. Raises what building raises; a side keeps its own error."""
        self.run = Run(**request["run"])
        model = build(request["model"], request["layers"], self.run.device, request["tiny"])
        self.prompts = [prompt_of(model.config, request["prompt"], seed, self.run.device) for seed in range(request["rounds"])]
        self.sides: dict[str, dict[str, Side]] = {}
        for mode in request["modes"]:
            configs = {backend: compile_config(backend, mode, self.run) for backend in (PLAIN, OURS, AGAIN)}
            own = self.sides[mode] = {}
            for name, config in configs.items():
                own[name] = Side(name, mode, sharing(model), config, folder / mode)
            warm_up(own[PLAIN], self.prompts[0], self.run)

    def measure(self, mode: str, profiled: bool) -> dict[str, Any]:
        """Return what the sides of a mode took, whether their texts are equal, and the ratios of their times."""
        sides = self.sides.pop(mode)
        for backend in (OURS, AGAIN):
            warm_up(sides[backend], self.prompts[0], self.run)
        ready = [side for side in sides.values() if "failed" not in side.record]
        for number, prompt in enumerate(self.prompts):
            for side in ready if number % 2 == 0 else reversed(ready):
                time_text(side, prompt, self.run)
        found = {"sides": [told_of(side) for side in sides.values()], "texts": {mode: compared(ready)}, "paired": {}}
        if len(ready) == len(sides):
            found["paired"] = {mode: _paired(ready)}
        if profiled:
            found["profile"] = {mode: {side.backend: profile(side, self.prompts[0], self.run) for side in ready}}
        release()
        return found


def _paired(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the ratio and the control for all steps and for the steady ones."""
    kinds = {kind: ratios({side.backend: side.samples[kind] for side in sides}) for kind in ("all", "steady")}
    return {kind: {name: asdict(ratio) for name, ratio in each.items()} for kind, each in kinds.items()}


def main() -> None:
    """Answer requests: {"do": "prepare", "model": name, ...}, then {"do": "measure", "mode": mode, "profile": bool}."""
    held: dict[str, Model] = {}
    with torch.no_grad(), prepared(), tempfile.TemporaryDirectory() as folder:

        def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
            if request["do"] == "prepare":
                held["model"] = Model(request, Path(folder))
                return {"prepared": request["model"]}
            return held["model"].measure(request["mode"], request["profile"])

        serve(handle)


if __name__ == "__main__":
    main()
