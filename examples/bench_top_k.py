"""Time the forms of top-k beside aten's kernels, and FlashInfer's if it is installed, over rows, lengths and types.

    python examples/bench_top_k.py --out top_k [--sweep]
    python examples/bench_top_k.py --rule top_k/top_k.json --to graphstreams/costs/data/top_k/h200.json

The first needs a GPU. Bits and order are compared with aten's first, then all columns are timed in turns as CUDA graphs. The
fastest form, that of one launch and aten's are then compiled by Inductor, each alone in a graph, and called directly in turns.
Writes DIR/top_k.md and DIR/top_k.json after every shape. `--sweep` times more forms. `--sorted` times sorted results: aten's
own, and a sort behind each form's launches, whose ties may stand in another order. The second needs none: it writes the table
of times by which graphstreams chooses a form, from results of the first, of which a later one counts where shapes are the same.
A table that was written before may stand for the results that it is from.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
import types
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_top_k_report import ATEN, FLASHINFER, HEADERS, cells, tables
from torch._inductor.custom_graph_pass import CustomGraphPass

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.timing import times_in_turns
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.results import environment, write, write_or_print
from graphstreams.benchmark.run import has_gpu, release
from graphstreams.benchmark.ties import equal_but_for_ties
from graphstreams.benchmark.timing import captures_in, samples_over_captures, summary
from graphstreams.inductor.top_k import replace_top_k
from graphstreams.kernels.launches import Program
from graphstreams.kernels.top_k import DTYPES as KERNEL_DTYPES
from graphstreams.kernels.top_k import (
    Choice,
    Form,
    OneProgram,
    SeveralPrograms,
    TopK,
    fields_of,
    form_name,
    form_of,
    program,
    supports,
)
from graphstreams.kernels.top_k_calls import in_order, launch

DEVICE = "cuda"
REPEATS = {"graph": 20, "direct": 10}  # calls in a sample of a time
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
LENGTHS = (2049, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
DTYPES = ("float32", "bfloat16")
ALIKE = 64  # neighbours that share most of their value where neighbours are alike
SHAPE = ("dtype", "rows", "length", "k")  # by which times in the table are told apart, besides whether results were sorted
SHORTEST_SHARED = 8192  # of the rows that are timed with several programs a row

FORMS: tuple[Form, ...] = (
    OneProgram(8), OneProgram(16), OneProgram(32), SeveralPrograms(), SeveralPrograms(warps=(16, 16, 16)),
    SeveralPrograms(slack=8, spare=2.0), SeveralPrograms(slack=8, spare=2.0, warps=(16, 16, 16)),
    SeveralPrograms(slack=32, spare=2.0), SeveralPrograms(programs=64, slack=8, spare=2.0),
)  # fmt: skip
SWEEP: tuple[Form, ...] = (
    OneProgram(4), OneProgram(8), OneProgram(16), OneProgram(32),
    SeveralPrograms(), SeveralPrograms(spare=2.0), SeveralPrograms(slack=8), SeveralPrograms(slack=32),
    SeveralPrograms(slack=8, spare=2.0), SeveralPrograms(slack=4, spare=2.0), SeveralPrograms(warps=(4, 4, 4)),
    SeveralPrograms(slack=8, spare=2.0, warps=(16, 16, 16)), SeveralPrograms(warps=(16, 16, 16)),
    SeveralPrograms(warps=(8, 8, 16)), SeveralPrograms(warps=(16, 8, 8)), SeveralPrograms(programs=16, warps=(16, 16, 16)),
    SeveralPrograms(programs=64, slack=8, spare=2.0), SeveralPrograms(programs=64, slack=4, spare=2.0),
    SeveralPrograms(programs=64, slack=16, spare=2.0), SeveralPrograms(programs=64, slack=8, spare=2.0, warps=(4, 4, 4)),
    SeveralPrograms(programs=64, slack=8, spare=2.0, warps=(8, 4, 4)),
)  # fmt: skip


def flashinfer() -> Callable[..., Any] | None:
    """Return FlashInfer's function for top-k; None if it is not installed or does not run."""
    try:
        import flashinfer
    except Exception:
        return None
    try:
        flashinfer.top_k(torch.zeros(1, 4096, device=DEVICE), 8)
    except Exception as error:
        print(f"FlashInfer's top_k is left out: {type(error).__name__}: {error}")
        return None
    return flashinfer.top_k


def rows_of(rows: int, length: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return normal random rows. With an odd seed neighbours are alike, and of every fourth seed a quarter may be masked."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(rows, length, generator=generator, device=DEVICE)
    if seed % 2:
        common = torch.randn(rows, length // ALIKE + 1, generator=generator, device=DEVICE)
        x = 0.3 * x + common.repeat_interleave(ALIKE, 1)[:, :length]
    if seed % 4 == 3:
        x[::4, length - length // 4 :] = -torch.inf
    return x.to(dtype)


def forms_of(top_k: TopK, sweep: bool) -> list[Form]:
    """Return the forms to time on a shape."""
    asked = SWEEP if sweep else FORMS
    shared = top_k.length >= SHORTEST_SHARED
    return [form for form in asked if supports(top_k, form) and (shared or isinstance(form, OneProgram))]


def selected(x: torch.Tensor, work: Program, is_sorted: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values and indices of the largest elements."""
    buffers = launch(x, work)
    values, indices = buffers["values"], buffers["indices"]
    return in_order(values, indices, largest=True) if is_sorted else (values, indices)


def agree(top_k: TopK, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Return whether a result has the bits and order of aten's; if it is sorted, ties may stand in another order."""
    return equal_but_for_ties(expected, found) if top_k.sorted else equal_bits(expected, found)


def columns(top_k: TopK, sweep: bool, other: Callable[..., Any] | None) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Return the functions to time on a shape, by name. `other` is FlashInfer's, which does not sort."""
    k, is_sorted = top_k.k, top_k.sorted
    found: dict[str, Callable[[torch.Tensor], Any]] = {ATEN: lambda x: torch.topk(x, k, sorted=is_sorted)}
    for form in forms_of(top_k, sweep):
        found[form_name(form)] = partial(selected, work=program(top_k, form), is_sorted=is_sorted)
    if other is not None and not is_sorted:
        found[FLASHINFER] = lambda x: other(x, k)
    return found


def wrong_runs(functions: Mapping[str, Callable[[torch.Tensor], Any]], top_k: TopK, seeds: int) -> dict[str, int]:
    """Return how many of `seeds` runs on fresh rows have other bits, or another order, than aten's, by form."""
    wrong = {name: 0 for name in functions if name not in (ATEN, FLASHINFER)}
    for seed in range(seeds):
        x = rows_of(int(top_k.rows), top_k.length, top_k.dtype, seed)
        expected = [*functions[ATEN](x)]
        for name in wrong:
            wrong[name] += not agree(top_k, expected, [*functions[name](x)])
    return wrong


def measure(
    functions: Mapping[str, Callable[[torch.Tensor], Any]], top_k: TopK, seeds: int, rounds: int
) -> dict[str, Any]:  # fmt: skip
    """Compare bits and times on a shape. The captures are freed on return."""
    row: dict[str, Any] = {"wrong": wrong_runs(functions, top_k, seeds)}
    row["runs"] = dict.fromkeys(row["wrong"], seeds)
    x = rows_of(int(top_k.rows), top_k.length, top_k.dtype, 0)
    captured = {name: CapturedFunction(function, [x]) for name, function in functions.items()}

    def capture(again: bool) -> dict[str, Callable[[], None]]:
        for each in captured.values() if again else ():
            each.capture_again()
        return {name: each.replay for name, each in captured.items()}

    graph = samples_over_captures(capture, rounds, REPEATS["graph"])
    row["graph"] = {name: summary(graph[name]) for name in functions}
    for each in captured.values():
        each.load([rows_of(int(top_k.rows), top_k.length, top_k.dtype, 1)])
    alike = times_in_turns([each.replay for each in captured.values()], rounds, REPEATS["graph"])
    row["alike"] = {name: summary(samples) for name, samples in zip(captured, alike, strict=True)}
    right = [name for name, wrong in row["wrong"].items() if not wrong]
    row["best"] = min(right, key=lambda name: row["graph"][name]["median"], default=None)
    return row


class UseForm(CustomGraphPass):
    """Takes one form for each top-k of a graph, as graphstreams does, whatever is known of its times."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def __call__(self, graph: torch.fx.Graph) -> None:
        assert graph.owning_module is not None
        replace_top_k(graph.owning_module, lambda top_k: Choice(self.form, "it was asked for"))

    def uuid(self) -> str:
        return form_name(self.form)


def called_directly(top_k: TopK, forms: Sequence[Form], rounds: int) -> dict[str, Any]:
    """Return the times of aten's kernels and of forms, each compiled by Inductor and called directly, and if results agree."""
    x = rows_of(int(top_k.rows), top_k.length, top_k.dtype, 0)
    torch._dynamo.reset()
    compiled = {ATEN: torch.compile(_selecting(top_k.k, top_k.sorted), dynamic=False)}
    for form in forms:
        own: dict[str, Any] = {"post_grad_custom_post_pass": UseForm(form)}
        compiled[form_name(form)] = torch.compile(_selecting(top_k.k, top_k.sorted), dynamic=False, options=own)
    expected, *results = [[*function(x)] for function in compiled.values()]
    samples = times_in_turns([partial(function, x) for function in compiled.values()], rounds, REPEATS["direct"])
    times = {name: summary(taken) for name, taken in zip(compiled, samples, strict=True)}
    return {"direct": times, "direct_equal": all(agree(top_k, expected, result) for result in results)}


def _selecting(k: int, is_sorted: bool = False) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function that Dynamo has not seen: what it compiles for one of the same code stands in for another's."""

    def selecting(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.topk(x, k, sorted=is_sorted)

    return types.FunctionType(
        selecting.__code__.replace(), selecting.__globals__, selecting.__name__, closure=selecting.__closure__
    )


def to_call(row: Mapping[str, Any], forms: Mapping[str, Mapping[str, Any]]) -> list[Form]:
    """Return the fastest form, and the fastest of one launch, of a shape that has been timed."""
    right = sorted((name for name, wrong in row["wrong"].items() if not wrong), key=lambda name: row["graph"][name]["median"])
    found = [form_of(forms[name]) for name in right]
    return list(dict.fromkeys([*found[:1], *[form for form in found if isinstance(form, OneProgram)][:1]]))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return what top_k.json holds. Errors of a shape are noted in its row."""
    started = time.perf_counter()
    result: dict[str, Any] = {**environment(), "repeats": REPEATS, "captures": captures_in(arguments.rounds), "rows": []}
    result.update({name: getattr(arguments, name) for name in ("k", "rounds", "seeds", "sweep", "sorted")})
    result["forms"] = {form_name(form): fields_of(form) for form in {*FORMS, *SWEEP}}
    other = flashinfer()
    shapes = [(d, rows, length) for d in arguments.dtypes for length in arguments.lengths for rows in arguments.rows]
    for dtype, rows, length in shapes:
        k = min(arguments.k, length)
        top_k = TopK(rows, length, k, getattr(torch, dtype), length, sorted=arguments.sorted)
        row: dict[str, Any] = {"dtype": dtype, "rows": rows, "length": length}
        try:
            functions = columns(top_k, arguments.sweep, other)
            row.update(measure(functions, top_k, arguments.seeds, arguments.rounds))
            if arguments.direct:
                row.update(called_directly(top_k, to_call(row, result["forms"]), arguments.rounds))
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        release()
        result["rows"].append(row)
        result["seconds"] = round(time.perf_counter() - started, 1)
        print(f"[{result['seconds']:.0f} s] {', '.join(map(': '.join, zip(HEADERS, cells(row), strict=True)))}", flush=True)
        write(result, tables(result), arguments.out / "top_k")
    return result


def rule(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of times by which graphstreams chooses a form: us of aten and of each form that never was wrong.

    `results` may have tables among them that this function has returned. Raises SystemExit if they are of several devices or
    versions.
    """
    rows = [row for result in results for row in result.get("rows", ()) if "failed" not in row]
    wrong = {name for row in rows for name, count in row["wrong"].items() if count}
    found = [_as_table(result) for result in results]
    places = ("device", "driver", "cuda", "torch", "triton")
    if len({tuple(each["measured"][name] for name in places) for each in found}) > 1:
        raise SystemExit("the results are of several devices or versions")
    table = {_shape(row): _without(wrong, row) for each in found for row in each["times"]}
    measured = {**found[-1]["measured"], "command": "; ".join(each["measured"]["command"] for each in found)}
    used = {name for entry in table.values() for name in entry["us"]}
    known = {name: fields for each in found for name, fields in each["forms"].items()}
    return {
        "measured": measured,
        "forms": {name: known[name] for name in sorted(used & known.keys())},
        "times": [*table.values()],
    }


def _as_table(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the times of one result of the benchmark as `rule` does, of all forms; a table as it is."""
    if "times" in result:
        return result
    measured = {name: result[name] for name in ("device", "driver", "cuda", "torch", "triton", "date", "command")}
    times = []
    for row in result["rows"]:
        if "failed" not in row:
            us, direct_us = (_medians(row.get(way, {})) for way in ("graph", "direct"))
            asked = {"k": result["k"], "sorted": result.get("sorted", False)}
            times.append({**row, **asked, "us": us, "direct_us": direct_us})
    return {"measured": measured, "forms": result["forms"], "times": times}


def _shape(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in SHAPE), row.get("sorted", False))


def _without(names: Container[str], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a table without some forms. Only that of sorted results says whether they were."""
    times = {way: {name: us for name, us in row[way].items() if name not in names} for way in ("us", "direct_us")}
    in_sorted = {"sorted": True} if row.get("sorted", False) else {}
    return {**{name: row[name] for name in SHAPE}, **in_sorted, **times}


def _medians(way: Mapping[str, Any]) -> dict[str, float]:
    return {name: own["median"] for name, own in way.items() if name != FLASHINFER}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("top_k"), metavar="DIR", help="folder for top_k.md and top_k.json")
    add("--k", type=int, default=2048, help="elements to take of each row")
    add("--rows", type=int, nargs="+", help=f"(default {' '.join(map(str, ROWS))}; with --sweep 1 8 64)")
    add("--lengths", type=int, nargs="+", default=list(LENGTHS), help="elements of a row")
    add("--dtypes", nargs="+", default=list(DTYPES), metavar="DTYPE", help="types of the elements")
    add("--rounds", type=int, default=20, help="samples of each time")
    add("--seeds", type=int, default=8, help="rows whose bits are compared, for each shape")
    add("--sweep", action="store_true", help="time more forms")
    add("--sorted", action="store_true", help="time sorted results")
    add("--direct", action=argparse.BooleanOptionalAction, default=True, help="compile and call the best form (default yes)")
    add("--rule", type=Path, nargs="+", metavar="JSON", help="write the table of times of results instead of measuring")
    add("--to", type=Path, metavar="JSON", help="where the table of times goes")
    arguments = parser.parse_args(argv)
    arguments.rows = arguments.rows or ([1, 8, 64] if arguments.sweep else list(ROWS))
    if min(*arguments.rows, *arguments.lengths, arguments.k, arguments.seeds + 1) < 1 or arguments.rounds < 2:
        parser.error("--rows, --lengths and --k have to be at least 1, --rounds at least 2, --seeds at least 0")
    unknown = [name for name in arguments.dtypes if getattr(torch, name, None) not in KERNEL_DTYPES]
    if unknown:
        parser.error(f"the kernels have no {unknown[0]}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or make the table of a result. Return 2 without a GPU, 1 if a shape failed or had other bits."""
    arguments = parse_args(argv)
    if arguments.rule:
        write_or_print(rule([json.loads(path.read_text(encoding="utf-8")) for path in arguments.rule]), arguments.to)
        return 0
    if not has_gpu("bench_top_k"):
        return 2
    with torch.no_grad():
        rows = run(arguments)["rows"]
    return int(any("failed" in row or any(row["wrong"].values()) or not row.get("direct_equal", True) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
