"""Time steps of denoising with models of diffusers whose blocks are compiled: plain Inductor and graphstreams in turns.

    python -m benchmarks.engines.diffusers_steps [--models NAME...] [--batches 1 2] [--modes default] [--out DIR]

Needs a GPU and diffusers. Models are Stable Diffusion 3, Flux, and a UNet with a ControlNet, with random weights, real widths
and few layers, in bf16. Their blocks are compiled as `compile_repeated_blocks` does. Each model has a process of its own: all
are prepared side by side, which compiles plain Inductor, and then measured one at a time.

Without a mode a step is launched by the host, and captured by hand in one CUDA graph; with "reduce-overhead" Inductor captures
each block. Images of four steps are compared, and times are paired: plain Inductor is compiled before ours and once more behind
it, and the ratio of these two is the control. Exit status 1: a side failed, a ratio is under 0.99, or images have other bits
although all launches are the serial code's.
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

from tabulate import tabulate

from benchmarks.engines.diffusers_models import BUILDS
from benchmarks.engines.generate_table import NEVER_SLOWER, OURS, PLAIN
from benchmarks.lane import Lane, run, threads_of
from benchmarks.paired import PairedRatio, verdict
from benchmarks.workers import one_line
from benchmarks.zoo.gpu import gpus

WORKER = "benchmarks.engines.diffusers_worker"
MODES = ("default", "reduce-overhead")
ROUNDING = 0.05  # the largest difference between images, relative to their largest value, if launches differ: bf16, four steps
HEADERS = ("model", "batch", "way", "ms a step", "graphstreams", "ratio", "control", "images", "blocks")
Record = dict[str, Any]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines.diffusers_steps", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=BUILDS, metavar="NAME", default=list(BUILDS), help=f"of {', '.join(BUILDS)}")
    add("--batches", nargs="+", type=int, default=[1, 2], help="images at a time (default 1 2)")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="of torch.compile (default both)")
    add("--own-settings", action="store_true", help="compile all sides without Inductor's setting `deterministic`")
    add("--no-cudnn", action="store_true", help="run convolutions without cuDNN, for a machine whose cuDNN is too old")
    add("--jobs", type=int, default=3, help="models prepared at a time (default 3)")
    add("--prepare", type=float, default=240.0, metavar="SECONDS", help="time to prepare a model (default 240)")
    add("--limit", type=float, default=90.0, metavar="SECONDS", help="time for a batch in one mode (default 90)")
    add("--budget", type=float, default=3600.0, metavar="SECONDS", help="begin no measurement later than this")
    add("--tiny", action="store_true", help="tiny widths, to try the benchmark itself")
    add("--device", default="cuda", help="cpu tries the benchmark itself: nothing is streamed there")
    add("--out", type=Path, default=Path("build/engines"), metavar="DIR", help="directory for diffusers.md and .json")
    return parser.parse_args(argv)


def fault(record: Record) -> str:
    """Return what is wrong with a batch of a model in one mode; empty if nothing is."""
    if "failed" in record:
        return str(record["failed"])
    found = []
    same = not any(report["differences"] for report in record["sides"][OURS]["reports"])
    for way, images in record["images"].items():
        if images["equal"] < images["of"] and (same or not images["difference"] <= ROUNDING):
            why = "all launches are the serial code's" if same else "more than rounding"
            found.append(f"{way}: {images['of'] - images['equal']} images differ by {images['difference']:.1e}: {why}")
        times = record["ways"][way]
        ratio, control = (PairedRatio(**times[name]) for name in ("ratio", "control"))
        if verdict(ratio, control, NEVER_SLOWER) == "fails":
            found.append(f"{way}: {ratio} is under {NEVER_SLOWER}x, control {control}")
    return "; ".join(found)


def rows(record: Record) -> list[list[str]]:
    """Return a row for each way to run a step."""
    if "failed" in record:
        return [[record["model"], str(record["batch"]), record["mode"], *["-"] * 5, one_line(record["failed"], 160)]]
    found = []
    for way, times in record["ways"].items():
        images, (plain, ours) = record["images"][way], (times[backend]["median"] / 1000 for backend in (PLAIN, OURS))
        off = f" ({images['difference']:.1e})" if images["equal"] < images["of"] else ""
        ratio, control = (str(PairedRatio(**times[name])) for name in ("ratio", "control"))
        found.append([record["model"], str(record["batch"]), way, f"{plain:.3f}", f"{ours:.3f}", ratio, control,
                      f"{images['equal']}/{images['of']}{off}", _blocks(record)])  # fmt: skip
    return found


def _blocks(record: Record) -> str:
    """Return what became of each graph of ours."""
    reports = record["sides"][OURS]["reports"]
    texts = [f"{each['verdict']} {each['kernels_serial']}>{each['kernels_streamed']}" for each in reports]
    return one_line("; ".join([*texts, *(each["reason"] for each in reports if each["reason"])]).replace("|", "/"), 200)


def table(records: Sequence[Record]) -> str:
    """Return markdown: a row for each model, batch and way, and what does not hold."""
    found = tabulate([row for record in records for row in rows(record)], HEADERS, tablefmt="github", disable_numparse=True)
    faults = [f"- {record['model']}, batch {record['batch']}: {what}" for record in records if (what := fault(record))]
    return f"{found}\n\n" + "".join(f"{line}\n" for line in faults)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if something failed or does not hold."""
    arguments = parse_args(argv)
    if arguments.device == "cuda" and not gpus():
        print("diffusers_steps needs a CUDA device", file=sys.stderr)
        return 2
    started, records = time.monotonic(), list[Record]()

    def done(name: str, measurement: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        records.append({"model": name, "batch": measurement["batch"], "mode": measurement["mode"], **answer})
        _write(records, arguments)
        said = answer.get("failed", f"measured in {answer.get('seconds')} s")
        way = f"batch {measurement['batch']}, {measurement['mode']}"
        print(f"[{time.monotonic() - started:.0f} s] {name}, {way}: {said}", flush=True)

    same = {name: getattr(arguments, name) for name in ("device", "tiny", "modes", "batches")}
    same |= {"do": "prepare", "cudnn": not arguments.no_cudnn, "deterministic": not arguments.own_settings}
    measurements = [{"do": "measure", "mode": m, "batch": b} for m in arguments.modes for b in arguments.batches]
    with tempfile.TemporaryDirectory() as folder:
        threads = threads_of(arguments.jobs // 2)  # what is measured by itself compiles a little, too
        lane = Lane(WORKER, Path(folder), arguments.jobs, arguments.prepare, arguments.limit, threads=threads)
        run(lane, {name: {**same, "model": name} for name in arguments.models}, measurements, arguments.budget, done)
    print(table(records))
    return int(any(fault(record) for record in records))


def _write(records: Sequence[Record], arguments: argparse.Namespace) -> None:
    """Write what there is so far. The first call touches the GPU, when all models are prepared."""
    from graphstreams.benchmark.results import environment, write

    place = environment() if arguments.device == "cuda" else {"device": "cpu"}
    given = {name: str(value) for name, value in vars(arguments).items()}
    write({**place, "arguments": given, "records": records}, table(records), arguments.out / "diffusers")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
