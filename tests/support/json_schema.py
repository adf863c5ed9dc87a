"""Check a value against a JSON schema: the keywords that this project's schemas use, and a refusal of all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None),
}  # fmt: skip
_KNOWN = {
    "$schema", "title", "description", "type", "properties", "required", "additionalProperties", "items", "enum", "const",
    "anyOf", "minimum",
}  # fmt: skip


def faults(schema: dict[str, Any], value: Any, place: str = "$") -> list[str]:
    """Return where a value is not as the schema says, in words. Raises ValueError for a keyword that is not known."""
    if unknown := set(schema) - _KNOWN:
        raise ValueError(f"{place}: no rule for {sorted(unknown)}")
    return list(_faults(schema, value, place))


def _faults(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    if "anyOf" in schema and all(faults(each, value, place) for each in schema["anyOf"]):
        yield f"{place}: none of the alternatives"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{place}: {value!r} is no {schema['type']}"
        return
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{place}: {value} is less than {schema['minimum']}"
    yield from _inside(schema, value, place)


def _inside(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from faults(schema.get("items", {}), each, f"{place}[{number}]")
    if isinstance(value, dict):
        yield from (f"{place}: no {key!r}" for key in schema.get("required", ()) if key not in value)
        for key, each in value.items():
            own = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            if own is False:
                yield f"{place}: {key!r} is not known"
            else:
                yield from faults(own, each, f"{place}.{key}")


def _is(value: Any, kinds: str | list[str]) -> bool:
    names = [kinds] if isinstance(kinds, str) else kinds
    return any(isinstance(value, _TYPES[name]) and (not isinstance(value, bool) or name == "boolean") for name in names)
