"""The ratios and tables of `transformers_generate.py`, and the bars that are not reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.decode_trace import side_by_side
from benchmarks.paired import PairedRatio, verdict
from benchmarks.workers import one_line

PLAIN, OURS, AGAIN = "inductor", "graphstreams", "inductor again"  # the last is compiled behind ours
BARS = {("cohere", "reduce-overhead"): 1.08, ("cohere_7b", "reduce-overhead"): 1.08}
NEVER_SLOWER = 0.99  # the bar of all others


def ratios(samples: Mapping[str, Sequence[float]]) -> dict[str, PairedRatio]:
    """Return how many times faster ours is than plain code compiled before and behind it, and the control between these two.

    `samples` are ms a token by backend, of which the samples of one round make a pair. Without all three there is no ratio.
    """
    if not all(samples.get(backend) for backend in (PLAIN, OURS, AGAIN)):
        return {}
    plain, ours, again = (samples[backend] for backend in (PLAIN, OURS, AGAIN))
    ratio = PairedRatio.of([*plain, *again], [*ours, *ours])
    return {"ratio": ratio, "control": PairedRatio.of(plain, again)}


def failures(result: Mapping[str, Any]) -> list[str]:
    """Return what failed, and which bars are not reached. A bar is for all steps together."""
    found = [result["failed"]] if "failed" in result else []
    found += [f"{side['mode']}, {side['backend']}: {side['failed']}" for side in result["sides"] if "failed" in side]
    for mode, paired in result["paired"].items():
        bar = BARS.get((result["model"], mode), NEVER_SLOWER)
        ratio, control = (PairedRatio(**paired["all"][name]) for name in ("ratio", "control"))
        if (held := verdict(ratio, control, bar)) != "holds":
            found.append(f"{mode}: {ratio}, the bar is {bar}x, control {control}: {held}")
    return found


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return markdown: a line for each model, mode and backend, what does not hold, and the profiles."""
    headers = ["model", "mode", "backend", "ms a token", "quartiles", "ratio", "steady", "ratio", "equal texts", "graphs",
               "skips", "MiB", "verdicts"]  # fmt: skip
    lines, notes = [], []
    for result in results:
        for side in result["sides"]:
            gain = result["paired"].get(side["mode"], {})
            lines.append([result["model"], side["mode"], side["backend"], *_cells(side, gain), _texts(result, side),
                          side.get("graphs", "-"), side.get("cudagraph_skips", "-"), side.get("reserved_mib", "-"),
                          _verdicts(side)])  # fmt: skip
        notes += [f"- {result['model']}: {text}" for text in failures(result)]
        for mode, sides in result.get("profile", {}).items():
            notes.append(f"\n## {result['model']}, {mode}: one steady step\n\n{side_by_side(sides)}")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True) + "\n\n" + "\n".join(notes) + "\n"


def _cells(side: Mapping[str, Any], gain: Mapping[str, Any]) -> list[str]:
    if not side["ms"]:
        return ["-"] * 5
    whole, steady = side["ms"]["all"], side["ms"]["steady"]
    quartiles = f"{whole['first_quartile']:.3f} to {whole['third_quartile']:.3f}"
    which = {OURS: "ratio", AGAIN: "control"}.get(side["backend"])
    own = [str(PairedRatio(**gain[name][which])) if which and gain else "" for name in ("all", "steady")]
    return [f"{whole['median']:.3f}", quartiles, own[0], f"{steady['median']:.3f}", own[1]]


def _texts(result: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    texts = result["texts"].get(side["mode"], {}).get(side["backend"])
    if not texts:
        return ""
    return f"{texts['equal']}/{texts['texts']}" + (f", first at {texts['first']}" if texts["first"] is not None else "")


def _verdicts(side: Mapping[str, Any]) -> str:
    reports = side.get("reports") or []
    texts = [f"{each['verdict']} {each['kernels_serial']}>{each['kernels_streamed']}" for each in reports]
    return one_line("; ".join([*texts, *(each["reason"] for each in reports if each["reason"])]).replace("|", "/"), 160)
