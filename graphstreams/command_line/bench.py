"""A contest whose parts a command line names: `graphstreams bench MODULE:FUNCTION`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphstreams.benchmark.results import environment, write
from graphstreams.benchmark.run import REPEATS, captures_in, prepared, release, run_workload
from graphstreams.benchmark.tables import OUR_GROUPS, Partition, progress, report
from graphstreams.benchmark.variants import OURS, PLAYED, SERIAL, BenchmarkSpec, Inputs, Maker, Policy
from graphstreams.command_line.importer import load_function, load_mapping
from graphstreams.messages import shown

CHECKOUT = Path(__file__).parents[2]  # where this package is not installed somewhere else
PEERS = Path("examples") / "peers.py"


def rivals_of(named: Sequence[str]) -> dict[str, Maker]:
    """Rivals from "NAME=MODULE:FUNCTION". Raises ValueError for another form, a name that is taken, and what does not load."""
    found: dict[str, Maker] = {}
    for text in named:
        name, equals, place = (part.strip() for part in text.partition("="))
        if not equals or not name or ":" in name:
            raise ValueError(f"--rival {text!r} has to be NAME=MODULE:FUNCTION, without a colon in the name")
        if name in (SERIAL, OURS, PLAYED, *OUR_GROUPS, *found):
            raise ValueError(f"--rival {text!r}: the name {name!r} is taken")
        found[name] = load_function(place)
    return found


def policies_of(named: str | None) -> Mapping[str, Policy]:
    """Policies from "MODULE:MAPPING" or "none"; by default those in `examples/peers.py`, where this runs in a checkout.

    Raises ValueError for what does not load, is no mapping of functions, or has a name that is taken.
    """
    in_checkout = (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / PEERS).is_file()
    if named == "none" or (named is None and not in_checkout):
        return {}
    place = f"{CHECKOUT / PEERS}:POLICIES" if named is None else named
    found = load_mapping(place)
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f"--policies {place}: its names have to be text")
    if not all(callable(policy) for policy in found.values()):
        raise ValueError(f"--policies {place}: its values have to be functions (graph, us, shares) -> Assignment")
    if taken := [name for name in found if name == SERIAL or name.startswith(OURS)]:
        raise ValueError(f"--policies {place}: the name {taken[0]!r} is taken")
    return found


def tokens_of(text: str) -> list[int]:
    """Token counts from "1,16,64". Raises ValueError for anything else."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ValueError(f"--batch {shown(text)} has to be numbers of tokens, such as 1,16,64")
    return counts


def run(
    function: str,
    batch: Sequence[int],
    settings: Sequence[str],
    contest: BenchmarkSpec,
    out: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Everything under "deterministic" or "default" settings of Inductor, as plain data for `reports.contest.report`.

    `function` names a function tokens -> (module, seed -> inputs). After every workload `say` gets a line, and the folder `out`
    bench.md and bench.json. Raises ValueError where the function cannot be loaded, RuntimeError without a GPU, OSError where
    `out` can be no folder.
    """
    make = load_function(function)
    if not torch.cuda.is_available():
        raise RuntimeError("comparing times needs a CUDA device, and there is none here")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    groups = {name: name for name in contest.makers}
    result = empty_result(f"{function}: streams compared", groups, settings, contest.rounds, contest.replays)
    with prepared():
        for setting in settings:
            for tokens in batch:
                title = f"{tokens} token{'s' * (tokens > 1)}"
                row = run_workload(title, partial(_made, function, make, tokens), contest, setting == "deterministic")
                release()
                add_row(result, setting, row, time.perf_counter() - started, out, say)
    return result


def empty_result(title: str, groups: Partition, settings: Sequence[str], rounds: int, replays: int) -> dict[str, Any]:
    """The result of a bench of which nothing has been measured yet, for `add_row` and `reports.contest.report`."""
    passes: dict[str, list[Any]] = {setting: [] for setting in settings}
    captures = captures_in(rounds)
    told = {"title": title, "groups": groups, "repeats": REPEATS, "rounds": rounds, "captures": captures, "replays": replays}
    return {**environment(), **told, "passes": passes}


def add_row(
    result: dict[str, Any], setting: str, row: Mapping[str, Any], seconds: float, out: Path | None, say: Callable[[str], None]
) -> None:
    """Add a workload measured under `setting`; tell `say` in a line, and the folder `out`. `seconds` have passed in all."""
    result["passes"][setting].append(row)
    result["seconds"] = round(seconds, 1)
    say(f"[{result['seconds']:.0f} s] {setting}: {progress(row, result['groups'])}")
    if out is not None:
        write(result, report(result), out / "bench")


def _made(function: str, make: Callable[[int], Any], tokens: int) -> tuple[torch.nn.Module, Inputs]:
    try:
        made = make(tokens)
    except SystemExit as error:  # anything else that it raises is told in the row of that number of tokens
        raise ValueError(f"{function} exits with {shown(error.code)}") from error
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[1]):
        raise ValueError(f"(module, seed -> inputs) has to be returned by {function}")
    return made


def sound(result: Mapping[str, Any]) -> bool:
    """Whether everything that graphstreams compiled ran, and had serial's bits wherever these were compared."""
    rows = [row for rows in result["passes"].values() for row in rows]
    ours = [rival for row in rows for name, rival in row["rivals"].items() if name.startswith(f"{OURS}: ")]
    failed = any(each.get("failed") for each in (*rows, *ours))
    return bool(ours) and not failed and not any(any(rival.get("wrong", {}).values()) for rival in ours)
