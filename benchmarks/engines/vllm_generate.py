"""Serve models with random weights by vLLM on the GPU at hand: plain, and with this package, in turns.

    python -m benchmarks.engines.vllm_generate --model cohere --modes FULL_AND_PIECEWISE,FULL --out vllm-cohere

Needs a GPU and vLLM 0.33. Each side (vLLM as it is, with this package, and by hand where vLLM has streams of its own) has an
engine in a process of its own for each mode of CUDA graphs; all are built at once and stay, so that they take turns. vLLM as
it is has two, of which the second is the control of times and texts. Measured are ms a token at each batch size, the us of the
CUDA graphs that are replayed for it, the ms of a prompt, and whether greedy texts are equal. What is known is written after
each round, so a run that is stopped has its results.
Exit status 1: a side failed, or ours has other texts where vLLM has its own again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.engines.vllm_models import AGAIN, MODELS, MODES, OURS, SERIAL
from benchmarks.workers import Lost, Worker, environment_of

ROOT = Path(__file__).resolve().parents[2]
CACHES = Path(tempfile.gettempdir()) / "vllm_generate"  # one for each side: none is to find what another one has compiled
# For single sizes vLLM switches on settings with which products may come from templates, whose times can't be predicted.
WITHOUT_AUTOTUNING = {"VLLM_ENABLE_INDUCTOR_MAX_AUTOTUNE": "0", "VLLM_ENABLE_INDUCTOR_COORDINATE_DESCENT_TUNING": "0"}
TEXTS = {"do": "texts", "prompts": 64, "tokens": 32}


class Side:
    """One engine, and what was measured of it."""

    def __init__(self, name: str, mode: str, arguments: argparse.Namespace, out: Path) -> None:
        """Start the process; the engine is built by `build`."""
        self.name, self.mode, self.failed = name, mode, ""
        self.samples: dict[str, list[float]] = {}
        self.told: dict[str, Any] = {}
        self.texts: list[list[int]] = []
        label = f"{mode}-{name}".replace(" ", "_")
        self.dump = out / "reports" / label
        given = {
            **MODELS[arguments.model].sides[name], "VLLM_CACHE_ROOT": str(CACHES / label),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **WITHOUT_AUTOTUNING,
        }  # fmt: skip
        if name == OURS:
            given["GRAPHSTREAMS_DUMP"] = str(self.dump)
        self._worker = Worker(
            [sys.executable, "-m", "benchmarks.engines.vllm_worker"], environment_of(ROOT, given), out / f"{label}.log"
        )
        self._request = {
            "do": "build", "model": arguments.model, "mode": mode, "side": name, "layers": arguments.layers,
            "sizes": arguments.sizes, "ranges": arguments.ranges, "single": arguments.single,
            "arguments": json.loads(arguments.arguments),
        }  # fmt: skip

    def ask(self, request: Mapping[str, Any], timeout_s: float = 120.0) -> dict[str, Any]:
        """Return the answer to a request, or nothing if the side has failed, now or before."""
        if self.failed:
            return {}
        try:
            answer = self._worker.ask(request, timeout_s)
        except Lost as lost:
            answer = {"failed": str(lost)}
        self.failed = answer.pop("failed", "")
        return answer

    def build(self) -> None:
        """Build the engine and take it through a warm-up."""
        self.told = self.ask(self._request, 400.0)

    def sample(self, request: Mapping[str, Any], label: str) -> None:
        """Measure once, and keep each number of the answer under its name and `label`."""
        for name, value in self.ask(request).items():
            self.samples.setdefault(f"{name} {label}", []).append(value)

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print the tables."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + arguments.seconds
    names = arguments.sides.split(",") if arguments.sides else list(MODELS[arguments.model].sides)
    sides = [Side(name, mode, arguments, out) for mode in arguments.modes.split(",") for name in names]
    try:
        with ThreadPoolExecutor(len(sides)) as pool:
            list(pool.map(Side.build, sides))
            _write(sides, arguments, out)
            for side in sides:
                side.told.update(side.ask({"do": "verdicts"}))
            _write(sides, arguments, out)
        _measure(sides, arguments, out, until)
    finally:
        for side in sides:
            side.close()
    print(_write(sides, arguments, out))
    others = [equal for (_, name), (equal, _) in _equal_texts(sides).items() if name == OURS]
    return int(any(side.failed for side in sides) or not all(others))


def _measure(sides: Sequence[Side], arguments: argparse.Namespace, out: Path, until: float) -> None:
    for side in sides:
        side.texts = side.ask(TEXTS).get("texts", [])
    _write(sides, arguments, out)
    decode = {"do": "decode", "tokens": arguments.tokens, "graph_tokens": 17}
    for batch in arguments.batches:  # a first run is not counted
        for side in sides:
            side.ask({**decode, "batch": batch, "seed": 0})
    for turn in range(arguments.rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            for batch in arguments.batches:
                side.sample({**decode, "batch": batch, "seed": turn}, f"batch {batch}")
            side.sample({"do": "prefill", "length": 1024, "seed": turn}, "1024 tokens")
        _write(sides, arguments, out)
        if time.monotonic() > until:
            break


def _equal_texts(sides: Sequence[Side]) -> dict[tuple[str, str], tuple[bool, str]]:
    """Return of each side but the plain one whether its texts are the plain one's of its mode, and how many are, in words.

    Texts in which plain vLLM differs from itself, compiled and tuned once more in another process, tell nothing of a side.
    """
    plain, again = ({side.mode: side.texts for side in sides if side.name == name} for name in (SERIAL, AGAIN))
    found = {}
    for side in sides:
        expected = plain.get(side.mode, [])
        if side.name == SERIAL or not expected or not side.texts:
            continue
        equal = [one == other for one, other in zip(expected, side.texts, strict=True)]
        settled = [one == other for one, other in zip(expected, again.get(side.mode) or expected, strict=True)]
        in_words = f"{sum(equal)}/{len(equal)}"
        if not all(settled) and side.name != AGAIN:
            both = sum(one and other for one, other in zip(equal, settled, strict=True))
            in_words += f", {both}/{sum(settled)} of those that vLLM repeats"
        found[side.mode, side.name] = all(equal[at] for at, same in enumerate(settled) if same), in_words
    return found


def _write(sides: Sequence[Side], arguments: argparse.Namespace, out: Path) -> str:
    """Write results.json and results.md, and return the latter."""
    equal = _equal_texts(sides)
    results = [
        {"mode": side.mode, "side": side.name, "failed": side.failed, "samples": side.samples, **side.told,
         "equal_texts": equal.get((side.mode, side.name), (None, ""))[1]}
        for side in sides
    ]  # fmt: skip
    text = json.dumps({"arguments": vars(arguments), "sides": results}, indent=1)
    (out / "results.json").write_text(text, encoding="utf-8")
    table = _table(sides, equal)
    (out / "results.md").write_text(table, encoding="utf-8")
    return table


def _table(sides: Sequence[Side], equal: Mapping[tuple[str, str], tuple[bool, str]]) -> str:
    columns = list(dict.fromkeys(name for side in sides for name in side.samples if not name.startswith("replays")))
    plain = {side.mode: side.samples for side in sides if side.name == SERIAL}
    rows, notes = [], []
    for side in sides:
        cells = [_cell(side, name, plain.get(side.mode, {})) for name in columns]
        rows.append([side.mode, side.name, *cells, equal.get((side.mode, side.name), (None, ""))[1]])
        if side.failed:
            notes.append(f"- {side.mode}, {side.name} failed: {side.failed}")
        notes += [f"- {side.mode}, {side.name}: {verdict}" for verdict in dict.fromkeys(side.told.get("verdicts", ()))]
    headers = ["CUDA graphs", "side", *columns, "equal texts"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n\n" + "\n".join(notes) + "\n"


def _cell(side: Side, name: str, plain: Mapping[str, Sequence[float]]) -> str:
    """Return the median and, beside the plain side's, how many times faster it is."""
    values = side.samples.get(name)
    if not values:
        return "-"
    median = statistics.median(values)
    ratio = f" ({statistics.median(plain[name]) / median:.3f}x)" if side.name != SERIAL and plain.get(name) and median else ""
    return f"{median:.3f}{ratio}"


def _parser() -> argparse.ArgumentParser:
    def numbers(text: str) -> list[int]:
        return [int(each) for each in text.split(",") if each]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cohere")
    parser.add_argument("--modes", default="FULL_AND_PIECEWISE", help=f"of CUDA graphs, with commas: {', '.join(MODES)}")
    parser.add_argument("--sides", default="", help="with commas; by default all that the model has")
    parser.add_argument("--layers", type=int, help="by default the model's own number")
    parser.add_argument("--batches", type=numbers, default=[1, 32])
    parser.add_argument("--sizes", type=numbers, default=[1, 2, 4, 8, 16, 32, 64], help="token counts that are captured")
    parser.add_argument("--ranges", type=numbers, default=[], help="ends of the ranges that vLLM compiles for")
    parser.add_argument(
        "--single", type=numbers, default=[], help="token counts that have code of their own, planned by measuring"
    )
    parser.add_argument("--tokens", type=int, default=65, help="tokens of each sequence that is timed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=100.0, help="no round begins later than this after the start")
    parser.add_argument("--arguments", default="{}", help="more arguments of vLLM's LLM, as JSON")
    parser.add_argument("--out", default="build/vllm")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
