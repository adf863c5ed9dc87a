"""Compile deep models whose layers are alike, by plain Inductor and by graphstreams: seconds, memory, gain and bits.

    python benchmarks/deep.py [--cases v32:61:1 v32:61:64 blocks:24:64] [--regional] [--out build/deep]

A case is a model of benchmarks/deep_models.py, its layers and tokens. Needs a GPU. Each side has a process of its own with
empty caches, and both compile at the same time; replays are timed one after the other. Beside a deep model one layer of it is
compiled, to compare what a layer gains. With `--regional` each layer is compiled by itself. Search is what graphstreams spends
on times of kernels and plans.
Exit status 1: a side failed, bits differ, or a bar is missed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from deep_models import MODELS
from tabulate import tabulate
from workers import environment_of, one_line

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.results import environment, reports_in
from graphstreams.benchmark.run import has_gpu
from graphstreams.benchmark.timing import summary

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("serial", "ours")
SEARCH = ("price", "plan", "measure")  # stages whose seconds are the search's
SLOWER, EXTRA_MIB, SHARE = 1.5, 64, 0.95  # bars: of the compile, of the memory, of one layer's gain
ROUNDS, REPEATS = 20, 5


def side(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile and time one side in this process, and return what was measured."""
    torch.manual_seed(0)
    with torch.inference_mode():  # tensors made outside are others to Dynamo than their clones, and make it compile again
        model, inputs = MODELS[request["model"]](request["layers"], request["tokens"], "cuda")
    module = Flat(model, inputs)
    before = torch.cuda.memory_allocated()
    settings = {"deterministic": True}
    ours = {"backend": "graphstreams", "options": {"inductor": settings, "dump": request["dump"]}}
    ways: dict[str, Any] = ours if request["side"] == "ours" else {"options": settings}
    with torch.inference_mode():
        if request["regional"]:
            for layer in module.layers():
                layer.compile(**ways)
        function = module if request["regional"] else torch.compile(module, **ways)
        torch.cuda.synchronize()
        started = time.perf_counter()
        result = function(*module.inputs)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(result.float().cpu().numpy().tobytes()).hexdigest()
        torch.cuda.reset_peak_memory_stats()
        function(*module.inputs)
        torch.cuda.synchronize()
        memory = torch.cuda.max_memory_allocated() - before
        captured = CapturedFunction(function, module.inputs)
        with open(request["lock"], "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (samples,) = times_in_turns([captured.replay], ROUNDS, REPEATS)
    found = {"seconds": seconds, "digest": digest, "memory": memory, "replay": summary(samples)}
    reports = list(reports_in(Path(request["dump"])).values())
    if reports:
        keys = ("verdict", "reason", "kernels_serial", "kernels_streamed", "seconds", "measured", "notes")
        found["reports"] = [{key: each[key] for key in keys} for each in reports]
    return found


class Flat(torch.nn.Module):
    """A model whose inputs are tensors, in a list."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.tree = torch.utils._pytree.tree_flatten(tuple(inputs))

    def layers(self) -> list[torch.nn.Module]:
        """Return what is compiled by itself in a regional compile."""
        found = getattr(self.model, "layers", self.model)
        return list(found)  # type: ignore[call-overload]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what the model does."""
        result: torch.Tensor = self.model(*torch.utils._pytree.tree_unflatten(list(inputs), self.tree))
        return result


def both_sides(model: str, layers: int, tokens: int, regional: bool) -> dict[str, Any]:
    """Return what both sides measured of a model, each in a process with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        processes = {name: _started(Path(folder), name, model, layers, tokens, regional) for name in SIDES}
        return {name: _answer(process) for name, process in processes.items()}


def _started(folder: Path, name: str, model: str, layers: int, tokens: int, regional: bool) -> subprocess.Popen[str]:
    caches = folder / name
    settings = {
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "XDG_CACHE_HOME": str(caches),
    }
    request = {
        "side": name, "model": model, "layers": layers, "tokens": tokens, "regional": regional,
        "dump": str(caches / "dump"), "lock": str(folder / "lock"),
    }  # fmt: skip
    command = [sys.executable, __file__, "--side", json.dumps(request)]
    environment = environment_of(ROOT, settings)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks"), environment["PYTHONPATH"]])
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate()
    try:
        return dict(json.loads(out.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        return {"failed": one_line(error[-600:], 600)}


def spent(found: Mapping[str, Any], stages: Sequence[str]) -> float:
    """Return the seconds that our side spent in some stages."""
    return float(sum(report["seconds"].get(stage, 0.0) for report in found.get("reports", ()) for stage in stages))


def compiled(found: Mapping[str, Any]) -> float:
    """Return the seconds of a compile without its search."""
    return float(found["seconds"]) - spent(found, SEARCH)


def row(case: Mapping[str, Any]) -> list[Any]:
    """Return the cells of a case."""
    name = "{model}, {layers} layers, {tokens} tokens{how}".format(how=", each by itself" if case["regional"] else "", **case)
    if failed := [f"{side}: {case[side]['failed']}" for side in SIDES if "failed" in case[side]]:
        return [name, *[""] * 8, one_line("; ".join(failed), 200)]
    serial, ours = case["serial"], case["ours"]
    verdicts = sorted({f"{each['verdict']} {each['reason']}".strip() for each in ours.get("reports", ())})
    return [
        name,
        f"{serial['seconds']:.1f}",
        f"{compiled(ours):.1f} + {spent(ours, SEARCH):.1f}",
        f"{compiled(ours) / serial['seconds']:.2f}",
        f"{(ours['memory'] - serial['memory']) / 2**20:.0f}",
        f"{serial['replay']['median']:.1f}",
        f"{ours['replay']['median']:.1f}",
        f"{serial['replay']['median'] / ours['replay']['median']:.3f}x",
        "equal" if serial["digest"] == ours["digest"] else "differ",
        one_line("; ".join(verdicts), 160),
    ]


HEADERS = ("model", "serial s", "ours s + search", "ratio", "extra MiB", "serial us", "ours us", "gain", "bits", "verdict")


def gain(case: Mapping[str, Any]) -> float:
    """Return the us that a layer saves."""
    return float(case["serial"]["replay"]["median"] - case["ours"]["replay"]["median"]) / int(case["layers"])


def missed(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong, and which bars are missed."""
    alone = {(c["model"], c["tokens"]): c for c in cases if c["layers"] == 1 and "failed" not in {**c["serial"], **c["ours"]}}
    found = []
    for case in cases:
        name = row(case)[0]
        if "failed" in {**case["serial"], **case["ours"]}:
            found.append(f"{name}: failed")
            continue
        ours, serial = case["ours"], case["serial"]
        if ours["digest"] != serial["digest"]:
            found.append(f"{name}: other bits")
        if case["layers"] == 1:
            continue
        one = alone.get((case["model"], case["tokens"]))
        checks = {
            f"the compile takes more than {SLOWER} times serial's": compiled(ours) <= SLOWER * serial["seconds"],
            f"it needs more than {EXTRA_MIB} MiB beside serial": ours["memory"] - serial["memory"] <= EXTRA_MIB * 2**20,
            f"a layer gains less than {SHARE:.0%} of what one alone does": one is None or gain(case) >= SHARE * gain(one),
        }
        found += [f"{name}: {what}" for what, held in checks.items() if not held]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, or with `--side` one side of a case. Return 1 if a bar is missed."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", nargs="+", default=["v32:61:1", "v32:61:64", "blocks:24:64"], metavar="MODEL:LAYERS:TOKENS")
    add("--regional", action="store_true", help="compile each layer by itself")
    add("--out", type=Path, default=Path("build/deep"), metavar="DIR", help="directory for deep.json and deep.md")
    add("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        print(json.dumps(side(json.loads(arguments.side))))
        return 0
    if not has_gpu(__file__):
        return 2
    cases, arguments.out = [], arguments.out
    arguments.out.mkdir(parents=True, exist_ok=True)
    named = [(model, int(layers), int(tokens)) for model, layers, tokens in (case.split(":") for case in arguments.cases)]
    for model, layers, tokens in [*named, *dict.fromkeys((model, 1, tokens) for model, _, tokens in named)]:
        case = {"model": model, "layers": layers, "tokens": tokens, "regional": arguments.regional and layers > 1}
        cases.append({**case, **both_sides(model, layers, tokens, case["regional"])})
        print(tabulate([row(cases[-1])], tablefmt="plain"), flush=True)
        text = f"{tabulate(list(map(row, cases)), headers=HEADERS, tablefmt='github')}\n\n" + "\n".join(missed(cases))
        (arguments.out / "deep.json").write_text(json.dumps({**environment(), "cases": cases}) + "\n", encoding="utf-8")
        (arguments.out / "deep.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(bool(missed(cases)))


if __name__ == "__main__":
    raise SystemExit(main())
