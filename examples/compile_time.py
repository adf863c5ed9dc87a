"""Time what graphstreams adds to the compile of the DeepSeek V3.2 layer, by stage, and what caches save a second process.

    python examples/compile_time.py --rounds 3

Needs a GPU. Each compile is the first of a fresh process, with an empty cache or, if it says "again", the cache of the one
before. A round of all ways is eight processes; the seconds of each are printed to standard error as it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graphstreams.benchmark.results import environment, reports_in
from graphstreams.benchmark.run import has_gpu
from graphstreams.benchmark.tables import markdown

HERE = Path(__file__).parent
OPTIONS: dict[str, dict[str, Any]] = {
    "graphstreams, roofline": {"costs": "roofline", "search": 0},
    "graphstreams, search": {},
}
WAYS = ("serial", *OPTIONS)


def compile_once(way: str, reported: bool) -> dict[str, Any]:
    """Compile and run the layer once in this process. Return "seconds", those of the "stages" if `reported`, and a sum.

    Without a report the result can come from a cache.
    """
    sys.path.insert(0, str(HERE))
    import deepseek_v32

    config = deepseek_v32.Config()
    module, inputs = deepseek_v32.build(config, "cuda"), deepseek_v32.example_inputs(config, "cuda")
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        inductor = {"deterministic": True}  # so that a second compile has equal bits
        options: dict[str, Any] = {**OPTIONS[way], "inductor": inductor} if way in OPTIONS else inductor
        if reported:
            options["dump"] = directory
        started = time.perf_counter()
        output = torch.compile(module, backend="graphstreams" if way in OPTIONS else "inductor", options=options)(*inputs)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        reports = list(reports_in(Path(directory)).values())
    stages = {stage: s for stage, s in reports[0]["seconds"].items() if stage != "report"} if reports else {}
    return {"seconds": seconds, "stages": stages, "output": float(output.double().sum())}


def in_fresh_process(way: str, cache: str, reported: bool = False) -> dict[str, Any]:
    """Do the same in a fresh process, with the caches of a directory."""
    variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
    command = [sys.executable, __file__, "--once", way, *(["--reported"] if reported else [])]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_round(ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Compile every way twice with caches of its own, and graphstreams once more with a report of its stages."""
    found = {}

    def run(name: str, way: str, cache: str, reported: bool = False) -> None:
        found[name] = in_fresh_process(way, cache, reported)
        print(f"{name}: {found[name]['seconds']:.2f} s", file=sys.stderr, flush=True)

    for way in ways:
        with tempfile.TemporaryDirectory() as cache:
            run(way, way, cache)
            run(f"{way}, again", way, cache)
        if way in OPTIONS:
            with tempfile.TemporaryDirectory() as cache:
                run(f"{way}, stages", way, cache, reported=True)
    return found


def table(rounds: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Return medians in seconds, one row a way to compile."""

    def middle(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f}"

    lines = []
    for way in (way for way in WAYS if any(way in found for found in rounds)):
        cold, again, reported = ([found.get(way + kind) for found in rounds] for kind in ("", ", again", ", stages"))
        stages = [each["stages"] for each in reported if each]
        names = dict.fromkeys(stage for own in stages for stage in own)
        added = ", ".join(f"{stage} {middle([own.get(stage, 0.0) for own in stages])}" for stage in names)
        ours = middle([sum(own.values()) for own in stages]) if stages else "-"
        same = all(a["output"] == b["output"] for a, b in zip(cold, again, strict=True) if a and b)
        times = [middle([each["seconds"] for each in several if each]) for several in (cold, again)]
        lines.append([way, *times, "equal" if same else "DIFFERENT", ours, added or "-"])
    return markdown(lines, ["compiled", "cold s", "again s", "output again", "graphstreams s", "stages s"])


def main(argv: Sequence[str] | None = None) -> int:
    """Compile in turns and print medians after every round. Return 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help=f"of {'; '.join(WAYS)}")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    parser.add_argument("--reported", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not has_gpu("compile_time"):
        return 2
    if arguments.once:
        print(json.dumps(compile_once(arguments.once, arguments.reported)))
        return 0
    told, rounds = environment(), []
    for number in range(arguments.rounds):
        rounds.append(one_round(arguments.ways))
        print(f"after round {number + 1} of {arguments.rounds}\n\n{table(rounds)}\n", flush=True)
    print(f"{told['device']}, torch {told['torch']}, triton {told['triton']}, Python {told['python']}; {told['date']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
