"""Measure models of public libraries on the GPUs at hand: bits, times of CUDA graphs and of direct calls, and prices.

    python -m benchmarks.zoo.gpu [--cases NAME...] [--plans 80 --planned NAME...] [--jobs 12] [--out build/zoo-gpu]

Needs a GPU and the libraries of the cases. Each case has a process of its own. All are prepared at once, `--jobs` at a time,
so that what they compile is in the caches; then each GPU measures one after another, with nothing beside it. Plain Inductor
and this package are compiled with `deterministic`, captured by hand, and timed in turns. Of cases named by `--planned`,
`--plans` plans are timed too, in files that benchmarks/contention.py reads.
Exit status 1: a case failed, has other bits with the same launches, or is slower than 0.99 of plain Inductor.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.lane import Lane, threads_of
from benchmarks.zoo.cases import CASES
from benchmarks.zoo.gpu_table import fault, line, text

WORKER = "benchmarks.zoo.gpu_worker"
# Some of each library. Left out: calls that Python cuts into many graphs, and models that a call changes.
DEFAULT = (
    "llama-decode", "qwen2-prefill", "qwen2-moe-decode", "qwen3-next-decode", "cohere-decode", "cohere2-decode",
    "falcon-decode", "gpt-oss-decode", "olmo2-decode", "glm4-decode", "deepseek-v3-decode", "bert", "roformer", "t5",
    "clip", "whisper", "wav2vec2", "timm-resnet18", "timm-vit_base_patch16_siglip_224", "torchvision-googlenet",
    "torchvision-resnet18-fpn", "diffusers-sd3", "diffusers-pixart", "diffusers-wan", "deepctr-deepfm",
    "deepctr-dcnmix", "deepctr-autoint", "deepctr-mmoe", "deepctr-ple", "torchaudio-conv-tasnet", "torchaudio-rnnt",
    "torch-transformer", "vit-pytorch-parallel-vit", "vit-pytorch-cross-vit",
)  # fmt: skip


def run_lane(lane: Lane, names: Sequence[str], arguments: argparse.Namespace, say: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Prepare the cases of one GPU side by side, measure them one after another, and put the record of each on `say`."""
    workers = lane.prepare({name: {"do": "prepare", "case": name} for name in names})
    for name, worker in workers.items():
        if isinstance(worker, str):
            say.put({"case": name, "failed": worker})
            continue
        plans = arguments.plans if name in arguments.planned else 0
        say.put({"case": name, **lane.measure(name, worker, {"do": "measure", "plans": plans})})
        worker.close()


def gpus() -> int:
    """Return how many GPUs there are. They are not touched, because workers need all of their memory."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(listed.strip().splitlines())


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments. Exits if a name is none of a case, or if there is no GPU."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", nargs="+", default=DEFAULT, metavar="NAME", help="cases; some of each library by default")
    add("--planned", nargs="+", default=(), metavar="NAME", help="cases of which plans are timed too")
    add("--plans", type=int, default=80, help="plans of each of these (default 80)")
    add("--jobs", type=int, default=12, help="cases prepared at a time (default 12)")
    add("--prepare", type=float, default=240.0, metavar="SECONDS", help="time to prepare a case (default 240)")
    add("--limit", type=float, default=120.0, metavar="SECONDS", help="time to measure a case (default 120)")
    add("--out", type=Path, default=Path("build/zoo-gpu"), metavar="DIR", help="directory for gpu.json, gpu.md and plans")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in (*arguments.cases, *arguments.planned) if name not in CASES]:
        parser.error(f"no case is called {unknown[0]!r}; python -m benchmarks.zoo --list names them")
    arguments.gpus = gpus()
    if not arguments.gpus:
        parser.error("this is measured on a CUDA device, and there is none here")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a case is a fault."""
    arguments = parsed(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started, records, found = time.monotonic(), list[dict[str, Any]](), queue.SimpleQueue[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.gpus) as pool:
        share = max(1, arguments.jobs // arguments.gpus)
        for gpu in range(arguments.gpus):
            lane = Lane(WORKER, Path(folder), share, arguments.prepare, arguments.limit, gpu, threads_of(arguments.jobs))
            pool.submit(run_lane, lane, arguments.cases[gpu :: arguments.gpus], arguments, found)
        while len(records) < len(arguments.cases):
            records.append(found.get())
            print(
                f"[{time.monotonic() - started:.0f} s, {len(records)}/{len(arguments.cases)}] {line(records[-1])}", flush=True
            )
            write(records, arguments.out)
    print(text(records))
    return int(any(fault(record) for record in records))


def write(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write all records, their table, and the plans of each case that has some."""
    from graphstreams.benchmark.results import environment

    for record in records:
        if record.get("graph", {}).get("plans"):
            (out / "plans").mkdir(exist_ok=True)
            (out / "plans" / f"{record['case']}.json").write_text(json.dumps(record["graph"]) + "\n", encoding="utf-8")
    (out / "gpu.json").write_text(json.dumps({**environment(), "records": records}) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(text(records), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
