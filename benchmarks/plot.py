"""Draw bars of the speed-ups that `examples/bench_deepseek.py` measured.

    python benchmarks/plot.py bench/bench.json docs/

Writes bench.png and bench.svg into the folder. Needs matplotlib: pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from graphstreams.benchmark.results import machine
from graphstreams.benchmark.tables import OWN_GROUPS, Groups, best, speedup
from graphstreams.benchmark.variants import REPLAYED, SERIAL

# Okabe and Ito's colors, which color-blind readers can tell apart; ours are the strong ones.
COMPILED_COLORS = {"streams by hand": "#999999", "custom operators": "#56B4E9", "graphstreams, roofline": "#F0E442",
                    "graphstreams, measured": "#E69F00", "graphstreams, search": "#D55E00"}  # fmt: skip
POLICY_COLORS = {"TensorRT-LLM": "#56B4E9", "torchsched": "#009E73", "Opara": "#0072B2", "Nimble": "#CC79A7",
                  "fewest streams": "#999999", "graphstreams, search": "#D55E00"}  # fmt: skip

Row = Mapping[str, Any]
Bars = dict[str, list[float | None]]  # series -> one speed-up a workload, None if there is none


def compiled_bars(rows: Sequence[Row], groups: Groups) -> Bars:
    """Return the speed-up of the fastest variant of each group."""
    return {title: [_best(row, group) for row in rows] for title, group in {**groups, **OWN_GROUPS}.items()}


def policy_bars(rows: Sequence[Row]) -> Bars:
    """Return the speed-up of every policy, and of ours, on the same kernels."""
    return {title: [speedup(row, f"{REPLAYED}: {title}") for row in rows] for title in POLICY_COLORS}


def _best(row: Row, group: str) -> float | None:
    name = best(row, group)
    return None if name is None else speedup(row, name)


def draw(axes: Axes, labels: Sequence[str], bars: Bars, colors: Mapping[str, str], title: str) -> None:
    """Draw one group of bars a workload, up or down from serial Inductor."""
    shown = {series: values for series, values in bars.items() if any(value is not None for value in values)}
    width = 0.8 / max(1, len(shown))
    for number, (series, values) in enumerate(shown.items()):
        left = -0.4 + (number + 0.5) * width
        places = [i + left for i, value in enumerate(values) if value is not None]
        heights = [value - 1.0 for value in values if value is not None]
        style: dict[str, Any] = {"label": series, "color": colors[series], "edgecolor": "#333333", "linewidth": 0.4}
        axes.bar(places, heights, width * 0.92, bottom=1.0, **style)
    axes.axhline(1.0, color="black", linewidth=1.2)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylabel("times faster than serial Inductor")
    axes.set_title(title, fontsize=10, loc="left")
    heights = [value for values in shown.values() for value in values if value is not None]
    axes.set_ylim(min([0.95, *(value - 0.03 for value in heights)]), max([1.05, *(value + 0.03 for value in heights)]))
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    if shown:
        axes.legend(fontsize=8, ncols=len(shown), loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)


def plot(result: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw both panels and return the files written. Raises ValueError if no workload was timed."""
    measured: list[Row] = next((rows for rows in result["passes"].values() if rows), [])
    rows = [row for row in measured if row.get("rivals", {}).get(SERIAL, {}).get("graph")]
    if not rows:
        raise ValueError("no workload has times")
    labels = [_label(row) for row in rows]
    figure, axes = pyplot.subplots(2, 1, figsize=(max(8.0, 1.5 * len(rows)), 9.0), layout="constrained")
    draw(axes[0], labels, compiled_bars(rows, result["groups"]), COMPILED_COLORS, "Compiled, one CUDA graph replayed")
    draw(axes[1], labels, policy_bars(rows), POLICY_COLORS, "Policies on the same kernels")
    figure.suptitle("DeepSeek V3.2 at decode, streams against serial Inductor", fontsize=12)
    figure.supxlabel(machine(result), fontsize=6, wrap=True)
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / f"bench.{ending}" for ending in ("png", "svg")]
    for path in written:
        figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return written


def _label(row: Row) -> str:
    """Return the workload's title in short lines, over its serial time."""
    title = row["title"].replace("block before the attention", "block").replace(", ", "\n")
    return f"{title}\n{row['rivals'][SERIAL]['graph']['median']:.0f} us"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure. Return 2 if the file has no times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="bench.json")
    parser.add_argument("directory", type=Path, help="folder for bench.png and bench.svg")
    arguments = parser.parse_args(argv)
    try:
        written = plot(json.loads(arguments.result.read_text(encoding="utf-8")), arguments.directory)
    except (OSError, ValueError, KeyError) as error:
        print(f"{arguments.result}: {error}", file=sys.stderr)
        return 2
    print(", ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
