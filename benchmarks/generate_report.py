"""The ratios and tables of `generate.py`, and the bars that are not reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decode_trace import side_by_side
from tabulate import tabulate
from workers import one_line

PLAIN, OURS = "inductor", "graphstreams"
BARS = {("cohere", "reduce-overhead"): 1.08, ("cohere_7b", "reduce-overhead"): 1.08}
NEVER_SLOWER = 0.99  # the bar of all others


def ratios(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return by mode how many times faster ours is, over all steps and over the steady ones."""
    found: dict[str, dict[str, float]] = {}
    for mode in dict.fromkeys(side["mode"] for side in result["sides"]):
        times = {side["backend"]: side["ms"] for side in result["sides"] if side["mode"] == mode}
        if all(times.get(backend) for backend in (PLAIN, OURS)):
            found[mode] = {name: times[PLAIN][name]["median"] / times[OURS][name]["median"] for name in times[PLAIN]}
    return found


def failures(result: Mapping[str, Any]) -> list[str]:
    """Return what failed, and which bars are not reached. A bar is for all steps together."""
    found = [f"{side['mode']}, {side['backend']}: {side['failed']}" for side in result["sides"] if "failed" in side]
    for mode, ratio in ratios(result).items():
        bar = BARS.get((result["model"], mode), NEVER_SLOWER)
        if ratio["all"] < bar:
            found.append(f"{mode}: {ratio['all']:.3f}x, less than {bar}x")
    return found


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return markdown: a line for each model, mode and backend, what does not hold, and the profiles."""
    headers = ["model", "mode", "backend", "ms a token", "quartiles", "ratio", "steady", "ratio", "equal texts", "graphs",
               "skips", "MiB", "verdicts"]  # fmt: skip
    lines, notes = [], []
    for result in results:
        gains = ratios(result)
        for side in result["sides"]:
            gain = gains.get(side["mode"], {}) if side["backend"] == OURS else {}
            lines.append([result["model"], side["mode"], side["backend"], *_cells(side, gain), _texts(result, side),
                          side.get("graphs", "-"), side.get("cudagraph_skips", "-"), side.get("reserved_mib", "-"),
                          _verdicts(side)])  # fmt: skip
        notes += [f"- {result['model']}: {text}" for text in failures(result)]
        for mode, sides in result.get("profile", {}).items():
            notes.append(f"\n## {result['model']}, {mode}: one steady step\n\n{side_by_side(sides)}")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True) + "\n\n" + "\n".join(notes) + "\n"


def _cells(side: Mapping[str, Any], gain: Mapping[str, float]) -> list[str]:
    if not side["ms"]:
        return ["-"] * 5
    whole, steady = side["ms"]["all"], side["ms"]["steady"]
    quartiles = f"{whole['first_quartile']:.3f} to {whole['third_quartile']:.3f}"
    own = [f"{gain[name]:.3f}x" if name in gain else "" for name in ("all", "steady")]
    return [f"{whole['median']:.3f}", quartiles, own[0], f"{steady['median']:.3f}", own[1]]


def _texts(result: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    texts = result["texts"].get(side["mode"])
    if not texts or side["backend"] == PLAIN:
        return ""
    return f"{texts['equal']}/{texts['texts']}" + (f", first at {texts['first']}" if texts["first"] is not None else "")


def _verdicts(side: Mapping[str, Any]) -> str:
    reports = side.get("reports") or []
    texts = [f"{each['verdict']} {each['kernels_serial']}>{each['kernels_streamed']}" for each in reports]
    return one_line("; ".join([*texts, *(each["reason"] for each in reports if each["reason"])]).replace("|", "/"), 160)
