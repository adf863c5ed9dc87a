"""Write a picture of a plan as a page that needs nothing else: data, style and script are in one HTML file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from graphstreams.reports.colors import CRITICAL, STREAM_COLORS
from graphstreams.reports.picture import Picture


def page(title: str, notes: str, picture: Picture | None) -> str:
    """Return the page of a picture under a title, with notes in plain text; without a picture it has these alone."""
    # All text of the user's is escaped: autoescape in HTML, and `tojson` writes no character that could end a script.
    templates = Environment(
        loader=PackageLoader("graphstreams.reports", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return templates.get_template("report.html").render(
        title=title, notes=notes, data=_data(picture) if picture else None, colors=STREAM_COLORS, critical=CRITICAL
    )


def _data(picture: Picture) -> dict[str, Any]:
    """Return the picture as what JSON can hold, without digits that no screen shows."""
    return _rounded(asdict(picture))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
