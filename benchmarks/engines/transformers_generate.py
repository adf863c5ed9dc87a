"""Time models of transformers with random weights in `generate`: plain Inductor and graphstreams in turns.

    python -m benchmarks.engines.transformers_generate [--models NAME...] [--modes MODE...] [--profile] [--out DIR]

Needs a GPU and transformers 5. Models have realistic widths, four layers, bf16 and a static cache; six by default, of other
architectures each. Each has a process of its own: all are prepared side by side, which compiles plain Inductor, and then
measured one at a time. Every side has a copy of the model that shares the weights, so that each keeps its own compiled call.
Plain Inductor is compiled before ours and once more behind it, and both are paired with ours, text by text, because what the
same code takes depends on when a process has compiled it; the ratio of these two is the control.

A step is one token; the prompt, which is not compiled, is not timed. transformers makes a new static cache for every text, so
Inductor's CUDA graphs may be recorded anew in the first steps of each: "all" counts these and "steady" begins after them. With
`--profile` some steady steps of each side are profiled. Exit status 1: a side failed, or a ratio is under its bar or can't be
told from it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.generate_models import MODELS, SIX
from benchmarks.engines.generate_side import SETTLED
from benchmarks.engines.generate_table import failures, table
from benchmarks.lane import Lane, run, threads_of
from benchmarks.paired import FEWEST
from benchmarks.zoo.gpu import gpus

WORKER = "benchmarks.engines.generate_worker"
MODES = ("reduce-overhead", "default")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. Exits if a number is too small."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.transformers_generate", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, metavar="NAME", default=list(SIX), help=f"of {', '.join(MODELS)}")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="of torch.compile (default both)")
    add("--layers", type=int, default=4, help="decoder layers (default 4)")
    add("--prompt", type=int, default=32, help="tokens of the prompt (default 32)")
    add("--tokens", type=int, default=64, help="tokens of a text (default 64)")
    add("--rounds", type=int, default=7, help="texts of each side (default 7)")
    add("--deterministic", action="store_true", help="compile all sides with Inductor's setting `deterministic`")
    add("--profile", action="store_true", help="profile some steps of each side, after the timing")
    add("--jobs", type=int, default=6, help="models prepared at a time (default 6)")
    add("--prepare", type=float, default=240.0, metavar="SECONDS", help="time to prepare a model (default 240)")
    add("--limit", type=float, default=90.0, metavar="SECONDS", help="time for a model in one mode (default 90)")
    add("--budget", type=float, default=3600.0, metavar="SECONDS", help="begin no measurement later than this")
    add("--tiny", action="store_true", help="tiny layers and 128 words, to try the benchmark itself")
    add("--device", default="cuda", help="cpu tries the benchmark itself: nothing is streamed there")
    add("--out", type=Path, default=Path("build/engines"), metavar="DIR", help="directory for transformers.md and .json")
    arguments = parser.parse_args(argv)
    if arguments.tokens < SETTLED + 4 or arguments.rounds < FEWEST:
        parser.error(f"--tokens has to be at least {SETTLED + 4}, --rounds at least {FEWEST}")
    return arguments


def requests(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what each model's worker is asked to prepare."""
    same = {name: getattr(arguments, name) for name in ("layers", "tiny", "prompt", "rounds", "modes")}
    run = {name: getattr(arguments, name) for name in ("tokens", "device", "deterministic")}
    return {name: {"do": "prepare", "model": name, **same, "run": run} for name in arguments.models}


def joined(result: dict[str, Any], mode: str, answer: Mapping[str, Any]) -> None:
    """Add what was measured in one mode to a model's result."""
    if "failed" in answer:
        result["sides"].append({"mode": mode, "backend": "all", "failed": answer["failed"], "ms": {}})
        return
    result["sides"] += answer["sides"]
    for name in ("texts", "paired", "profile"):
        result.setdefault(name, {}).update(answer.get(name, {}))
    result["seconds"][mode] = answer["seconds"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a side failed or is under its bar."""
    arguments = parse_args(argv)
    if arguments.device == "cuda" and not gpus():
        print("transformers_generate needs a CUDA device", file=sys.stderr)
        return 2
    started = time.monotonic()
    results = {name: {"model": name, "sides": [], "texts": {}, "paired": {}, "seconds": {}} for name in arguments.models}

    def done(name: str, measurement: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        joined(results[name], measurement["mode"], answer)
        _write(list(results.values()), arguments)
        said = answer.get("failed", f"measured in {answer.get('seconds')} s")
        print(f"[{time.monotonic() - started:.0f} s] {name}, {measurement['mode']}: {said}", flush=True)

    measurements = [{"do": "measure", "mode": mode, "profile": arguments.profile} for mode in arguments.modes]
    with tempfile.TemporaryDirectory() as folder:
        threads = threads_of(arguments.jobs // 2)  # what is measured by itself compiles a little, too
        lane = Lane(WORKER, Path(folder), arguments.jobs, arguments.prepare, arguments.limit, threads=threads)
        run(lane, requests(arguments), measurements, arguments.budget, done)
    print(table(list(results.values())))
    return int(any(failures(result) for result in results.values()))


def _write(results: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    """Write what there is so far. The first call touches the GPU, when all models are prepared."""
    from graphstreams.benchmark.results import environment, write

    place = environment() if arguments.device == "cuda" else {"device": "cpu"}
    given = {name: str(value) for name, value in vars(arguments).items()}
    write({**place, "arguments": given, "models": results}, table(results), arguments.out / "transformers")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
