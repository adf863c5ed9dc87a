"""Tell in lines how two reports on one graph differ: verdict, times, launches, where kernels run, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from graphstreams.reports.record import VERSION
from graphstreams.reports.tables import us_text

Data = Mapping[str, Any]  # what a report.json holds

NOISE = 0.01  # share of a time by which it may differ without being told
NOISE_US = 0.05  # us by which it may
_FIELDS = {
    "device": "device", "plan_file": "plan of a file", "costs": "times from", "streams": "streams", "events": "events",
    "kernels_serial": "launches of the serial body", "kernels_streamed": "launches on streams",
    "own_kernels": "kernels of the streamed body alone", "launched_by_the_host": "launched by the host",
    "order_kept": "order kept",
}  # fmt: skip
_MEASURED = {
    "serial_us": "kernels on one stream", "played_us": "kernels as planned", "inductor_us": "Inductor's serial code",
    "compiled_us": "generated code", "direct_serial_us": "serial code launched by the host",
    "direct_us": "generated code launched by the host",
}  # fmt: skip
_REASONS = ("exclusive_reason", "joined", "why_here", "why_not_beside")
_TEXTS = ("races", "differences", "notes")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def check_report(data: Any) -> Data:
    """Return what a report.json holds. Raises ValueError if it is none of this version."""
    if not isinstance(data, dict) or "verdict" not in data or not isinstance(data.get("regions"), list):
        raise ValueError("it is not a report.json")
    if data.get("version") != VERSION:
        raise ValueError(f"it is a report of version {data.get('version')!r}; this graphstreams reads version {VERSION}")
    return data


def difference(one: Data, other: Data) -> list[str]:
    """Return how the second report differs from the first, a line for each thing; empty if it does not.

    Times count as equal if they differ by less than NOISE or NOISE_US. Raises KeyError, TypeError or AttributeError if one is
    no report.
    """
    return [
        *_verdict(one, other),
        *_changed(((label, one.get(key), other.get(key)) for key, label in _FIELDS.items()), _differs),
        *_changed([("waits between kernels", _waits(one), _waits(other))], _differs),
        *_times(one, other),
        *_threshold(one, other),
        *_kernels(_regions(one), _regions(other)),
        *_texts(one, other),
    ]


def _verdict(one: Data, other: Data) -> list[str]:
    before, after = ((data["verdict"], _without_numbers(data["reason"])) for data in (one, other))
    if before == after:
        return []
    told = [data["verdict"] + (f" ({data['stage']}: {data['reason']})" if data["reason"] else "") for data in (one, other)]
    return [f"verdict: {told[0]} -> {told[1]}"]


def _times(one: Data, other: Data) -> list[str]:
    predicted = [data["predicted_us"] or {} for data in (one, other)]
    measured = [data["measured"] or {} for data in (one, other)]
    names = {"serial": "predicted serial", "streamed": "predicted on streams", "critical_path": "critical path"}
    pairs = [(f"{label}, us", predicted[0].get(key), predicted[1].get(key)) for key, label in names.items()]
    pairs += [(f"measured {label}, us", _us(measured[0], key), _us(measured[1], key)) for key, label in _MEASURED.items()]
    gains = [("gain, %", _gain(one), _gain(other))]
    return [*_changed(pairs, _apart), *_changed(gains, lambda before, after: _differs(_rounded(before), _rounded(after)))]


def _us(measured: Data, key: str) -> float | None:
    return measured.get(key) or None  # a time that was not measured is 0


def _gain(data: Data) -> float | None:
    """Return the percentage of the serial time that is saved, as measured or else as predicted; None without a plan."""
    measured, predicted = data["measured"] or {}, data["predicted_us"] or {}
    if measured.get("compiled_us"):
        serial, streamed = measured.get("inductor_us") or measured["serial_us"], measured["compiled_us"]
    elif measured.get("played_us"):
        serial, streamed = measured["serial_us"], measured["played_us"]
    else:
        serial, streamed = predicted.get("serial"), predicted.get("streamed")
    return 100 * (1 - streamed / serial) if serial else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _threshold(one: Data, other: Data) -> list[str]:
    return _changed([("tokens on streams", _tokens(one["threshold"]), _tokens(other["threshold"]))], _differs)


def _tokens(threshold: Data | None) -> str:
    if threshold is None:
        return ""
    largest = threshold["largest"]
    return f"{threshold['smallest']} to {'any number' if largest is None else largest}"


def _kernels(one: Mapping[str, Data], other: Mapping[str, Data]) -> list[str]:
    both = [name for name in one if name in other]
    return [
        *(f"kernel {name}: only in the first" for name in one if name not in other),
        *(f"kernel {name}: only in the second" for name in other if name not in one),
        *chain.from_iterable(_kernel(name, one[name], other[name]) for name in both),
    ]


def _kernel(name: str, one: Data, other: Data) -> list[str]:
    fields = [(key.replace("_", " "), one[key], other[key]) for key in ("stream", "bytes_read", "bytes_written")]
    fields.insert(1, ("waits for", _awaited(one), _awaited(other)))
    fields.insert(2, ("launches", ", ".join(one["launches"]), ", ".join(other["launches"])))
    times = [("us alone", one["alone_us"], other["alone_us"]), ("us in the plan", _planned_us(one), _planned_us(other))]
    reasons = [(key.replace("_", " "), one[key], other[key]) for key in _REASONS]
    found = [*_changed(fields, _differs), *_changed(times, _apart), *_changed(reasons, _means_else)]
    return [f"kernel {name}: {line}" for line in found]


def _awaited(region: Data) -> str:
    return ", ".join(sorted(f"{wait['name']} (stream {wait['stream']})" for wait in region["waits"]))


def _planned_us(region: Data) -> float:
    return float(region["end_us"] - region["start_us"])


def _texts(one: Data, other: Data) -> list[str]:
    found = []
    for key in _TEXTS:
        known = [{_without_numbers(text) for text in data[key]} for data in (one, other)]
        found += [f"{key}, gone: {text}" for text in one[key] if _without_numbers(text) not in known[1]]
        found += [f"{key}, new: {text}" for text in other[key] if _without_numbers(text) not in known[0]]
    return found


def _changed(pairs: Iterable[tuple[str, Any, Any]], differ: Callable[[Any, Any], bool]) -> list[str]:
    return [f"{label}: {_shown(before)} -> {_shown(after)}" for label, before, after in pairs if differ(before, after)]


def _shown(value: Any) -> str:
    return us_text(value) if isinstance(value, float) else "none" if value in (None, "") else str(value)


def _differs(before: Any, after: Any) -> bool:
    return bool((before or None) != (after or None))


def _apart(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > max(NOISE_US, NOISE * max(before, after))


def _means_else(before: str, after: str) -> bool:
    return _without_numbers(before) != _without_numbers(after)


def _without_numbers(text: str) -> str:
    return _NUMBER.sub("_", text)


def _regions(data: Data) -> dict[str, Data]:
    return {region["name"]: region for region in data["regions"]}


def _waits(data: Data) -> int:
    return sum(len(region["waits"]) for region in data["regions"])
