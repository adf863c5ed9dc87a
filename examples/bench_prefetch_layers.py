"""Time whole layers by graphstreams with and without prefetches of weights, against serial Inductor, in one run and in turns.

    python examples/bench_prefetch_layers.py --out prefetch_layers [--layers v32-tp8-1] [--behind top-k product start]

Needs a GPU. `prefetch_layers.py` says what is compared. Two kernels in a row, with more forms, are in `bench_prefetch.py`.
Writes DIR/prefetch_layers.md and DIR/prefetch_layers.json after every layer.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefetch_layers import CONTROL, LAYERS, RULES, SETTINGS, WITHOUT, measure_layer, variants_of

from graphstreams.benchmark.results import environment, versions, write
from graphstreams.benchmark.run import has_gpu, parse_counts, prepared, release
from graphstreams.benchmark.tables import markdown, shortened
from graphstreams.benchmark.timing import captures_in
from graphstreams.benchmark.variants import SERIAL

HEADERS = ("layer", "variant", "us", "gain us", "gain", "bits")
LEGEND = (
    "us: one replay of a CUDA graph, median with quartiles, all in turns in one run. gain: how much shorter than the plan "
    f"without prefetches ({WITHOUT!r}). {CONTROL!r} has no prefetches either: what it differs by is noise. bits: whether "
    "outputs and caches are those of serial Inductor."
)


def table_rows(row: Mapping[str, Any]) -> list[list[str]]:
    """Return one line a variant: its time, how much shorter it is than the plan without prefetches, and bits."""
    records = row["variants"]
    without = records[WITHOUT]["graph"]["median"]
    lines = []
    for name, record in sorted(records.items(), key=lambda pair: pair[1].get("graph", {}).get("median", float("inf"))):
        if "graph" not in record:
            lines.append([row["title"], name, f"failed: {record.get('failed', 'not timed')}"[:160], "-", "-", "-"])
            continue
        own, wrong = record["graph"], sum(record.get("wrong", {}).values())
        time_us = f"{own['median']:.2f} ({own['first_quartile']:.2f}..{own['third_quartile']:.2f})"
        bits = "-" if name == SERIAL else "serial's" if not wrong else f"{wrong} runs other"
        lines.append([row["title"], name, time_us, f"{without - own['median']:.2f}", f"{without / own['median']:.3f}x", bits])
    return lines


def tables(result: Mapping[str, Any]) -> str:
    """Return the result as markdown."""
    rows = [row for row in result["rows"] if "failed" not in row]
    failed = [f"{row['title']} failed: {shortened(row['failed'])}" for row in result["rows"] if "failed" in row]
    left = [f"{row['title']}: left out because time was up: {', '.join(row['left_out'])}" for row in rows if row["left_out"]]
    how = f"{result['rounds']} rounds over {result['captures']} captures, {result['replays']} replays compared"
    parts = (
        "# Prefetches of weights in whole layers",
        f"{versions(result)}. {how}; `{result['command']}`.",
        markdown([line for row in rows for line in table_rows(row)], HEADERS),
        LEGEND,
        *left,
        *failed,
    )
    return "\n\n".join(parts) + "\n"


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return what prefetch_layers.json holds. Errors of a layer are noted in its row."""
    started, variants = time.perf_counter(), variants_of(arguments)
    result: dict[str, Any] = {**environment(), "settings": SETTINGS, "captures": captures_in(arguments.rounds), "rows": []}
    result.update(rounds=arguments.rounds, replays=arguments.replays)
    for name in arguments.layers:
        try:
            row = measure_layer(name, variants, arguments)
        except Exception as error:
            row = {"name": name, "title": LAYERS[name][0], "failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        release()
        result["rows"].append(row)
        result["seconds"] = round(time.perf_counter() - started, 1)
        write(result, tables(result), arguments.out / "prefetch_layers")
        print(f"[{result['seconds']:.0f} s] {name}: {row.get('failed', row.get('seconds'))}", flush=True)
    return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--layers", nargs="+", choices=LAYERS, default=["v32-tp8-1"], help="layers (default v32-tp8-1)")
    add("--behind", nargs="+", choices=RULES, default=list(RULES), help="from when on weights are prefetched (default all)")
    add("--programs", type=int, nargs="+", default=[48, 96], help="blocks of a prefetch")
    add("--megabytes", type=float, nargs="+", default=[16, 30], help="10**6 bytes to prefetch, of each weight at most")
    add("--least", type=float, default=8, help="10**6 bytes that a weight has to have to be prefetched (default 8)")
    add("--limit", type=float, default=90, help="seconds for the compiles of one layer (default 90)")
    add("--out", type=Path, default=Path("prefetch_layers"), metavar="DIR", help="folder for the results")
    arguments = parse_counts(parser, argv, replays=10)
    if min(arguments.programs) < 1 or min(*arguments.megabytes, arguments.least) <= 0 or arguments.replays < 1:
        parser.error("--programs, --megabytes, --least and --replays have to be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 2 without a GPU, 1 if a layer failed."""
    arguments = parse_args(argv)
    if not has_gpu("bench_prefetch_layers"):
        return 2
    with prepared():
        result = run(arguments)
    print(tables(result))
    return int(any("failed" in row for row in result["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
