"""Compare two reports, or two folders of reports, for the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from graphstreams.files import read_text
from graphstreams.messages import one_line
from graphstreams.reports.difference import Data, check_report, difference

NAME = "report.json"


def compare(one: Path, other: Path) -> list[str]:
    """Return how the reports of the second path differ from those of the first; empty if they do not.

    A path is a report.json, the folder of one, or a folder of such folders. Graphs are compared by name, or if each path has
    one only, whatever its name is. Raises ValueError, with the path, if there is no report.
    """
    before, after, where = load_reports(one), load_reports(other), f"{one} and {other}"
    if len(before) == len(after) == 1:
        return _of_one_graph(where, *before.values(), *after.values())
    lines = []
    for name in sorted({*before, *after}):
        if name not in after or name not in before:
            lines.append(f"{name}: only in {one if name in before else other}")
        else:
            lines += _of_one_graph(where, before[name], after[name])
    return lines


def load_reports(path: Path) -> Mapping[str, Data]:
    """Return the reports of a file or a folder by the names of their graphs; of ranks' folders, with the rank's before it.

    Raises ValueError, with the path, if there is none.
    """
    found = {}
    for file, prefix in _files(path):
        try:
            data = check_report(json.loads(read_text(file)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: it is not JSON: {error}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: {one_line(error)}") from None
        found[f"{prefix}{data.get('name')}"] = data
    if not found:
        raise ValueError(f"{path} has no {NAME}, nor has a folder below it")
    return found


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    if not path.is_dir():
        yield path, ""
        return
    if (path / NAME).is_file():
        yield path / NAME, ""
        return
    yield from ((file, "") for file in sorted(path.glob(f"*/{NAME}")))
    yield from ((file, f"{file.parent.parent.name}/") for file in sorted(path.glob(f"rank*/*/{NAME}")))


def _of_one_graph(where: str, one: Data, other: Data) -> list[str]:
    names = [str(data.get("name")) for data in (one, other)]
    try:
        lines = difference(one, other)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: the reports on {' and '.join(names)} can't be compared: {one_line(error)}") from None
    title = names[0] if names[0] == names[1] else f"{names[0]} -> {names[1]}"
    return [title, *(f"  {line}" for line in lines)] if lines else []
