"""Time a product whose weight is prefetched into the L2 cache while another kernel waits, over blocks, bytes and instructions.

    python examples/bench_prefetch.py --out prefetch [--shapes 2048x7168] [--programs 48] [--megabytes 16]

Needs a GPU. On one stream a kernel that leaves most of the GPU idle, then a product of few rows; on another stream, beside the
first, the prefetch; the product waits for both. The same without the prefetch, without the product, and with the product twice
are timed too. A sample is one replay of a CUDA graph that does this with each copy of the weight once. Even the prefetched
parts of the copies fill the L2 cache three times, so that each comes from memory. All are timed in turns. Writes
DIR/prefetch.md and DIR/prefetch.json after every product.
"""

from __future__ import annotations

import argparse
import itertools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_prefetch_report import ALONE, COLD, HEADERS, TWICE, WITH, cells, tables
from few_rows_cases import KINDS, Case, case_of, copies_of, layer_of, shape_of

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.results import environment, write
from graphstreams.benchmark.run import has_gpu, release
from graphstreams.benchmark.timing import summary
from graphstreams.ir.devices import Device, device_at_hand
from graphstreams.kernels.few_rows_forms import MultiplyAndSum
from graphstreams.kernels.prefetch import FORMS, Prefetch, fields_of, form_name, launch, supports

DEVICE = "cuda"
REPEATS = 3  # replays in a sample
MEGABYTE = 10**6
PROGRAMS = (8, 16, 32, 48, 64, 96, 132)
MEGABYTES = (4, 8, 16, 24, 32, 40)
SHAPES = ((2048, 7168), (7168, 2112), (1536, 24_576))
SLEEP_CYCLES = 40_000  # about 23 us at 1.75 GHz

Step = Callable[[int], Any]  # with a copy of the weight

FIRST: dict[str, Callable[[argparse.Namespace], Callable[[], Any]]] = {
    "top-k": lambda arguments: partial(torch.topk, torch.randn(1, arguments.length), arguments.k, sorted=False),
    "one block": lambda arguments: partial(torch.cuda._sleep, SLEEP_CYCLES),
}
SECOND: dict[str, Callable[[Case], Step]] = {
    "cuBLAS": lambda case: case.torchs,
    "sums": lambda case: case.ours(MultiplyAndSum(4, 512)),
}


def forms_of(arguments: argparse.Namespace, weight: int, capability: tuple[int, int]) -> dict[str, tuple[Prefetch, int]]:
    """Return the forms and their bytes, by name: each instruction with each number of blocks and bytes, of `weight` at most."""
    found = {}
    sizes = sorted({min(int(each * MEGABYTE), weight) for each in arguments.megabytes})
    for form in FORMS:
        for programs in arguments.programs:
            for size in sizes:
                own = replace(form, programs=programs)
                if form.instruction in arguments.instructions and supports(size, own, capability):
                    found[f"{form_name(own)}, {size / MEGABYTE:g} MB"] = (own, size)
    return found


def beside(first: Callable[[], Any], side: torch.cuda.Stream, prefetch: Step, index: int) -> None:
    """Enqueue a kernel on the current stream and a prefetch on another, and let the current one wait for both."""
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        prefetch(index)
    first()
    current.wait_stream(side)


def steps_of(first: Callable[[], Any], second: Step, case: Case, forms: Mapping[str, tuple[Prefetch, int]]) -> dict[str, Step]:
    """Return what to time for one copy of the weight, by name: of each form alone beside the kernel, and with the product."""
    side = torch.cuda.Stream()

    def prefetched(form: Prefetch, size: int, product: bool, index: int) -> None:
        beside(first, side, lambda each: launch(form, case.layers[each].weight, size), index)
        if product:
            second(index)

    def plain(products: int, index: int) -> None:
        first()
        for _ in range(products):
            second(index)

    steps: dict[str, Step] = {name: partial(plain, count) for count, name in enumerate((ALONE, COLD, TWICE))}
    for name, (form, size) in forms.items():
        steps[name] = partial(prefetched, form, size, False)
        steps[name + WITH] = partial(prefetched, form, size, True)
    return steps


def with_each_copy(step: Step, copies: int) -> None:
    """Do a step with each copy of the weight."""
    for index in range(copies):
        step(index)


def measure(case: Case, first: str, second: str, device: Device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one product behind one kernel. The captures are freed on return."""
    weight = case.layers[0].weight
    forms = forms_of(arguments, weight.numel() * weight.element_size(), device.capability)
    steps = steps_of(FIRST[first](arguments), SECOND[second](case), case, forms)
    count, deadline = len(case.layers), time.monotonic() + arguments.limit
    graphs: dict[str, CapturedFunction] = {}
    for name, step in steps.items():
        if name in forms and time.monotonic() > deadline:
            break
        graphs[name] = CapturedFunction(partial(with_each_copy, step, count), [])
    times = times_in_turns([each.replay for each in graphs.values()], arguments.rounds, REPEATS)
    us = {name: summary([sample / count for sample in own]) for name, own in zip(graphs, times, strict=True)}
    timed = [name for name in forms if name + WITH in us]
    return {
        "weight_bytes": weight.numel() * weight.element_size(),
        "copies": count,
        "us": us,
        "left_out": len(forms) - len(timed),
        "best": min(timed, key=lambda name: us[name + WITH]["median"], default=None),
        "forms": {name: {**fields_of(forms[name][0]), "bytes": forms[name][1]} for name in timed},
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return what prefetch.json holds. Errors of a product are noted in its row."""
    started, device = time.perf_counter(), device_at_hand()
    result: dict[str, Any] = {**environment(), "repeats": REPEATS, "l2": device.l2, "of_rows": arguments.rows, "rows": []}
    result.update({name: getattr(arguments, name) for name in ("kind", "rounds", "limit", "k", "length")})
    for shape in arguments.shapes:
        layers = copies_of(layer_of(arguments.kind, *shape), device.l2, int(min(arguments.megabytes) * MEGABYTE))
        case = case_of(arguments.kind, arguments.rows, layers)
        for first, second in itertools.product(arguments.first, arguments.second):
            row: dict[str, Any] = {"depth": shape[0], "columns": shape[1], "first": first, "second": second}
            try:
                row.update(measure(case, first, second, device, arguments))
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            release()
            result["rows"].append(row)
            result["seconds"] = round(time.perf_counter() - started, 1)
            shown = ", ".join(map(": ".join, zip(HEADERS, cells(row), strict=True)))
            print(f"[{result['seconds']:.0f} s] {shown}", flush=True)
            write(result, tables(result), arguments.out / "prefetch")
    return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("prefetch"), metavar="DIR", help="folder for prefetch.md and prefetch.json")
    add("--shapes", type=shape_of, nargs="+", default=list(SHAPES), metavar="KxN", help="products, such as 7168x2112")
    add("--kind", default="bfloat16", choices=KINDS, help="type of the operands, or kind of scales")
    add("--rows", type=int, default=1, help="rows of the product")
    add("--first", nargs="+", default=list(FIRST), choices=list(FIRST), help="kernels that the prefetch runs beside")
    add("--second", nargs="+", default=["cuBLAS"], choices=list(SECOND), help="what computes the product")
    add("--length", type=int, default=4096, help="elements of the row of the top-k")
    add("--k", type=int, default=2048, help="elements that the top-k takes")
    add("--programs", type=int, nargs="+", default=list(PROGRAMS), help="blocks of the prefetch")
    add("--megabytes", type=float, nargs="+", default=list(MEGABYTES), help="10**6 bytes to prefetch, of the weight at most")
    kinds = sorted({form.instruction for form in FORMS})
    add("--instructions", nargs="+", default=kinds, choices=kinds, help="how to prefetch")
    add("--rounds", type=int, default=10, help="samples of each time")
    add("--limit", type=float, default=60.0, help="seconds for capturing the forms of one product behind one kernel")
    arguments = parser.parse_args(argv)
    least = min(*arguments.programs, arguments.rows, arguments.k)
    if least < 1 or min(arguments.megabytes) <= 0 or arguments.rounds < 2 or arguments.rows > 64:
        parser.error("--programs, --megabytes and --k have to be positive, --rows from 1 to 64, --rounds at least 2")
    if arguments.k > arguments.length:
        parser.error("--k can't be larger than --length")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a product failed."""
    arguments = parse_args(argv)
    if not has_gpu("bench_prefetch"):
        return 2
    with torch.no_grad(), torch.device(DEVICE):
        rows = run(arguments)["rows"]
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
