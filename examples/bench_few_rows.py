"""Time the forms of products of few rows beside cuBLAS, over the products of DeepSeek's attention layers, rows and types.

    python examples/bench_few_rows.py --out few_rows [--models v32] [--kinds bfloat16] [--sweep]
    python examples/bench_few_rows.py --rule few_rows/few_rows.json --to few_rows_h200.json

The first needs a GPU. A sample is one replay of a CUDA graph that multiplies with each copy of a weight once. The copies fill
the L2 cache three times, so that each comes from memory. All columns are timed in turns. Writes DIR/few_rows.md and
DIR/few_rows.json after every product. `--sweep` times more forms. The second needs none: it writes a table of times, in us, of
the forms that gave the same bits in every run and no larger errors than rounding makes.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_few_rows_report import CUBLAS, HEADERS, INDUCTOR, OTHERS, cells, tables
from deepseek_v32 import Linear
from few_rows_cases import KINDS, LAYERS, Case, Shape, case_of, copies_of, layer_of, shape_of, shapes

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.few_rows_benchmark import compile_ahead
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.results import environment, write, write_or_print
from graphstreams.benchmark.run import has_gpu, release
from graphstreams.benchmark.timing import summary
from graphstreams.ir.devices import Device, device_at_hand
from graphstreams.kernels.few_rows_candidates import candidates, sweep
from graphstreams.kernels.few_rows_forms import Form, Product, fields_of, form_name

Call = Callable[[int], torch.Tensor]  # with a copy of the weight

DEVICE = "cuda"
ROWS = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 3  # replays in a sample
WORSE = 4  # times cuBLAS's error that is more than another order of a sum makes


def calls_of(case: Case, sm_count: int, wider: bool, inductor: bool) -> tuple[dict[str, Call], dict[str, Form]]:
    """Return what to time by name, and the forms among it."""
    asked = (sweep if wider else candidates)(case.product, sm_count)
    forms = {form_name(form): form for form in asked}
    calls: dict[str, Call] = {CUBLAS: case.torchs}
    if inductor and isinstance(case.operand, torch.Tensor):
        calls[INDUCTOR] = _compiled(case.operand, case.layers)
    return {**calls, **{name: case.ours(form) for name, form in forms.items()}}, forms


def _compiled(x: torch.Tensor, layers: Sequence[Linear]) -> Call:
    torch.compiler.reset()
    linear = torch.compile(torch.nn.functional.linear, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda index: linear(x, layers[index].weight)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value of what is expected, infinite if there is a NaN."""
    gap = float((found.double() - expected).abs().max() / expected.abs().max())
    return gap if gap == gap else float("inf")


@dataclass
class Found:
    """What became of the calls of a product, by name."""

    graphs: dict[str, CapturedFunction] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    unstable: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, call: Call, expected: torch.Tensor, copies: int) -> None:
        """Compare a call with the product in float64, repeat it, and capture a graph of it with each copy of the weight."""
        rows = len(expected)
        first = call(0)[:rows].clone()
        if not all(equal_bits([first], [call(0)[:rows]]) for _ in range(3)):
            self.unstable.append(name)
        self.graphs[name] = CapturedFunction(partial(with_each_copy, call, copies), [])
        self.errors[name] = difference(first, expected)


def with_each_copy(call: Call, copies: int) -> torch.Tensor:
    """Return the product with the last copy of the weight, after those with the others, whose memory is free by then."""
    for index in range(copies - 1):
        call(index)
    return call(copies - 1)


def captured(calls: Mapping[str, Call], case: Case, deadline: float) -> Found:
    """Check and capture calls until the time is up, cuBLAS's in any case. What a form raises is noted."""
    found, expected = Found(), case.expected()
    for name, call in calls.items():
        if name not in OTHERS and time.monotonic() > deadline:
            break
        try:
            found.add(name, call, expected, len(case.layers))
        except Exception as error:
            if name == CUBLAS:
                raise
            found.failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    return found


def measure(case: Case, device: Device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare results and times of one product. The captures are freed on return."""
    deadline = time.monotonic() + arguments.limit
    calls, forms = calls_of(case, device.sm_count, arguments.sweep, arguments.inductor)
    found = captured(calls, case, deadline)
    times = times_in_turns([each.replay for each in found.graphs.values()], arguments.rounds, REPEATS)
    count = len(case.layers)
    us = {name: summary([sample / count for sample in own]) for name, own in zip(found.graphs, times, strict=True)}
    wrong = [name for name in us if name in forms and found.errors[name] > WORSE * found.errors[CUBLAS]]
    right = [name for name in us if name in forms and name not in (*wrong, *found.unstable)]
    return {
        "bytes": case.bytes_moved,
        "copies": count,
        "us": us,
        "errors": found.errors,
        "wrong": wrong,
        "unstable": found.unstable,
        "failed_forms": found.failed,
        "left_out": len(calls) - len(us) - len(found.failed),
        "best": min(right, key=lambda name: us[name]["median"], default=None),
        "forms": {name: fields_of(form) for name, form in forms.items() if name in us},
    }


def measured(kind: str, shape: Shape, device: Device, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of rows of a product. Errors are noted in it."""
    depth, columns = shape
    layers = copies_of(layer_of(kind, depth, columns), device.l2)
    for rows in arguments.rows:
        row: dict[str, Any] = {"kind": kind, "rows": rows, "depth": depth, "columns": columns}
        try:
            row.update(measure(case_of(kind, rows, layers), device, arguments))
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        release()
        yield row


def products(kinds: Sequence[str], wanted: Mapping[Shape, Any]) -> list[tuple[str, Shape]]:
    """Return each kind with each shape that it has: blocks of scales need multiples of 128 and 16."""
    multiples = {"float8-block": (128, 16), "float8-token": (16, 16)}
    return [
        (kind, shape)
        for kind in kinds
        for shape in wanted
        if not any(size % multiple for size, multiple in zip(shape, multiples.get(kind, (1, 1)), strict=True))
    ]


def forms_to_compile(
    work: Sequence[tuple[str, Shape]], sm_count: int, arguments: argparse.Namespace
) -> list[tuple[Product, Form]]:
    """Return all forms with a product of each kind, shape and number of rows. Nothing is computed."""
    found = []
    for kind, (depth, columns) in work:
        layer = layer_of(kind, depth, columns)
        for rows in arguments.rows:
            product = case_of(kind, rows, [layer]).product
            found += [(product, form) for form in (sweep if arguments.sweep else candidates)(product, sm_count)]
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return what few_rows.json holds."""
    started, device = time.perf_counter(), device_at_hand()
    wanted = shapes(arguments.models, arguments.tp)
    wanted = {shape: names for shape, names in wanted.items() if not arguments.shapes or shape in arguments.shapes}
    result: dict[str, Any] = {**environment(), "repeats": REPEATS, "bandwidth": device.bandwidth, "l2": device.l2, "rows": []}
    result.update({name: getattr(arguments, name) for name in ("models", "tp", "rounds", "sweep", "inductor", "limit")})
    result["used_by"] = {f"{depth}x{columns}": names for (depth, columns), names in wanted.items()}
    work = products(arguments.kinds, wanted)
    compile_ahead(forms_to_compile(work, device.sm_count, arguments))
    release()
    result["compile_seconds"] = round(time.perf_counter() - started, 1)
    print(f"[{result['compile_seconds']:.0f} s] kernels compiled", flush=True)
    for kind, shape in work:
        if time.perf_counter() - started > arguments.seconds:
            print(f"time is up before {kind} {shape}", flush=True)
            break
        for row in measured(kind, shape, device, arguments):
            result["rows"].append(row)
            result["seconds"] = round(time.perf_counter() - started, 1)
            shown = ", ".join(map(": ".join, zip(HEADERS, cells(row, device.bandwidth), strict=True)))
            print(f"[{result['seconds']:.0f} s] {shown}", flush=True)
        write(result, tables(result), arguments.out / "few_rows")
    return result


def rule(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of times: us of cuBLAS and of each form that never was wrong, and what the names of forms stand for."""
    timed = [row for row in result["rows"] if "failed" not in row]
    bad = {name for row in timed for name in (*row["wrong"], *row["unstable"])}
    table, forms = [], {}
    for row in timed:
        us = {name: own["median"] for name, own in row["us"].items() if name not in (INDUCTOR, *bad)}
        table.append({**{name: row[name] for name in ("kind", "rows", "depth", "columns")}, "us": us})
        forms.update({name: row["forms"][name] for name in us if name != CUBLAS})
    measured_on = {name: result[name] for name in ("device", "driver", "cuda", "torch", "triton", "date", "command")}
    return {"measured": measured_on, "forms": dict(sorted(forms.items())), "times": table}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("few_rows"), metavar="DIR", help="folder for few_rows.md and few_rows.json")
    add("--models", nargs="+", default=["v32", "v4-flash", "v4-pro"], choices=list(LAYERS), help="whose products")
    add("--tp", type=int, nargs="+", default=[8, 1], help="ranks that share a layer")
    add("--shapes", type=shape_of, nargs="+", metavar="KxN", help="only these products, such as 7168x2112")
    add("--kinds", nargs="+", default=["bfloat16"], choices=KINDS, help="types of the operands, and kinds of scales")
    add("--rows", type=int, nargs="+", help=f"(default {' '.join(map(str, ROWS))}; with --sweep 1 8)")
    add("--rounds", type=int, default=10, help="samples of each time")
    add("--limit", type=float, default=20.0, help="seconds for the forms of one product and one number of rows")
    add("--seconds", type=float, default=540.0, help="seconds after which no further product begins")
    add("--inductor", action="store_true", help="time Inductor's max-autotune too, with a compile for each row of the table")
    add("--sweep", action="store_true", help="time more forms")
    add("--rule", type=Path, metavar="JSON", help="write the table of times of a result instead of measuring")
    add("--to", type=Path, metavar="JSON", help="where the table of times goes")
    arguments = parser.parse_args(argv)
    arguments.rows = arguments.rows or ([1, 8] if arguments.sweep else list(ROWS))
    if not 1 <= min(arguments.rows) <= max(arguments.rows) <= 64 or arguments.rounds < 2 or min(arguments.tp) < 1:
        parser.error("--rows have to be from 1 to 64, --rounds at least 2, --tp at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or make the table of a result. Return 2 without a GPU, 1 if a product failed or a form was wrong."""
    arguments = parse_args(argv)
    if arguments.rule:
        write_or_print(rule(json.loads(arguments.rule.read_text(encoding="utf-8"))), arguments.to)
        return 0
    if not has_gpu("bench_few_rows"):
        return 2
    with torch.no_grad(), torch.device(DEVICE):
        rows = run(arguments)["rows"]
    return int(any("failed" in row or row["wrong"] or row["unstable"] or row["failed_forms"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
