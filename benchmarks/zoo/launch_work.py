"""Write what the launches of measured kernels do, read without a GPU, beside their times.

    python -m benchmarks.zoo.launch_work GPU.JSON [--cases NAME...] --out benchmarks/data/zoo_h200.json

GPU.JSON is what `python -m benchmarks.zoo.gpu` wrote. Each case is planned again without a GPU, and a kernel is taken for the
measured one that launches the same in the same place. Kernels without such a partner keep what was written of them: Inductor
pads some products, but only if it can time them. Models of which only the whole was measured have their kernels without times.
Cases that the file at `--out` has already, and that are not named, stay as they are.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.worker import TARGET
from graphstreams.calibration.samples import as_dict, write_lines
from graphstreams.ir.kernels import KernelGraph
from graphstreams.pipeline.explain import capture

ABOUT = (
    "Models of benchmarks/zoo: us of all kernels on one stream in a CUDA graph, and of each kernel in its place. By "
    "benchmarks.zoo.gpu; what launches do by benchmarks.zoo.launch_work. Kernels that do the same are one, with the us of each."
)
UNPLANNED = {"min_gain": 1.0}  # only the kernels are wanted


def graphs_of(name: str) -> list[KernelGraph]:
    """Return the kernels of each graph of a case, planned without a GPU."""
    from benchmarks.zoo.cases import CASES

    with torch.inference_mode():
        module, inputs = CASES[name].make(tiny=False)
        found = capture(module, inputs, TARGET, UNPLANNED)
    torch.compiler.reset()
    return [each.reading.kernels for each in found if each.reading is not None]


def row_of(record: Mapping[str, Any], graphs: Sequence[KernelGraph]) -> dict[str, Any]:
    """Return a measured case: its name, the us of the whole, and its kernels with their us, if each was measured."""
    if "graph" not in record:
        graph = max(graphs, key=lambda each: len(each.kernels))
        told = [as_dict((kernel, graph.sizes, 0.0)) for kernel in graph.kernels]
        return {"model": record["case"], "serial": record["times"]["graph"]["serial"]["median"], "kernels": merged(told)}
    measured = record["graph"]["kernels"]
    told = max((matched(measured, graph) for graph in graphs), key=lambda each: sum("work" in kernel for kernel in each))
    return {"model": record["case"], "serial": record["graph"]["serial"], "kernels": merged(told)}


def matched(measured: Sequence[Mapping[str, Any]], graph: KernelGraph) -> list[dict[str, Any]]:
    """Return measured kernels as they are told now, if `graph` has one with the same launches in the same place."""
    then = [str(list(kernel["launches"])) for kernel in measured]
    now = [str(list(kernel.launches)) for kernel in graph.kernels]
    blocks = difflib.SequenceMatcher(None, then, now, autojunk=False)
    partner = {a + i: b + i for a, b, size in blocks.get_matching_blocks() for i in range(size)}
    return [
        as_dict((graph.kernels[partner[place]], graph.sizes, kernel["us"])) if place in partner else as_written(kernel)
        for place, kernel in enumerate(measured)
    ]


def as_written(kernel: Mapping[str, Any]) -> dict[str, Any]:
    """Return a kernel as `benchmarks.zoo.gpu` wrote it, in the form of `as_dict`."""
    same = {name: kernel[name] for name in ("name", "kind", "dtype", "ops")}
    sizes = {name: sum(size for _, size in kernel[name]) for name in ("reads", "writes")}
    work = {"work": kernel["work"]} if "work" in kernel else {}
    counts = {"launches": len(kernel["launches"]), **sizes, "flops": kernel["flops"]}
    return {**same, **counts, **work, "us": round(kernel["us"], 3)}


def merged(kernels: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return kernels that do the same as one, by the name of the first, with the us of each; 0 if none was measured."""
    found: dict[str, dict[str, Any]] = {}
    for kernel in kernels:
        what = str({name: value for name, value in kernel.items() if name not in ("name", "us")})
        found.setdefault(what, {**kernel, "us": []})["us"].append(kernel["us"])
    return list(found.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a case can't be planned."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.launch_work", description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, help="what benchmarks.zoo.gpu wrote")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="cases to read again; all by default")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args(argv)
    told = json.loads(arguments.measured.read_text(encoding="utf-8"))
    head = {"about": ABOUT, "device": told["device"], "date": told["date"]}
    head["versions"] = {name: told[name] for name in ("torch", "cuda", "triton", "driver")}
    records = {record["case"]: record for record in told["records"] if "times" in record}
    rows = {row["model"]: row for row in _kept(arguments.out)} if arguments.cases else {}
    failed = False
    for name in arguments.cases or records:
        try:
            rows[name] = row_of(records[name], graphs_of(name))
        except Exception as error:
            print(f"{name}: {error!r}", flush=True)
            failed = True
            continue
        known = sum(len(kernel["us"]) for kernel in rows[name]["kernels"] if "work" in kernel)
        print(f"{name}: {known} of {sum(len(kernel['us']) for kernel in rows[name]['kernels'])} kernels read again", flush=True)
        write_lines(head, "models", [rows[each] for each in records if each in rows], arguments.out)
    return int(failed)


def _kept(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["models"]) if path.is_file() else []


if __name__ == "__main__":
    raise SystemExit(main())
