"""Run `graphstreams bench MODULE:FUNCTION`: a benchmark whose parts are named on the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphstreams.benchmark.results import add_row, empty_result
from graphstreams.benchmark.run import prepared, release, run_workload
from graphstreams.benchmark.tables import OWN_GROUPS
from graphstreams.benchmark.variants import OURS, REPLAYED, SERIAL, BenchmarkSpec, Compiler, Inputs, Policy
from graphstreams.command_line.importer import load_function, load_mapping
from graphstreams.messages import shown

CHECKOUT = Path(__file__).parents[2]  # unless this package is installed
PEERS = Path("examples") / "peers.py"


def compilers_of(named: Sequence[str]) -> dict[str, Compiler]:
    """Return compilers from "NAME=MODULE:FUNCTION", by name.

    Raises ValueError for another form, a name that is taken, and what does not load.
    """
    found: dict[str, Compiler] = {}
    for text in named:
        name, equals, place = (part.strip() for part in text.partition("="))
        if not equals or not name or ":" in name:
            raise ValueError(f"--rival {text!r} has to be NAME=MODULE:FUNCTION, without a colon in the name")
        if name in (SERIAL, OURS, REPLAYED, *OWN_GROUPS, *found):
            raise ValueError(f"--rival {text!r}: the name {name!r} is taken")
        found[name] = load_function(place)
    return found


def policies_of(named: str | None) -> Mapping[str, Policy]:
    """Return policies from "MODULE:MAPPING" or "none"; by default those in `examples/peers.py`, if this runs in a checkout.

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
    """Return token counts from "1,16,64". Raises ValueError for anything else."""
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
    spec: BenchmarkSpec,
    out: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run a workload for each token count of `batch` under each of `settings`, and return plain data for `report`.

    `function` names a function tokens -> (module, seed -> inputs). Settings of Inductor are "deterministic" or "default". After
    every workload `say` gets a line, and the folder `out` bench.md and bench.json. Raises ValueError if the function can't be
    loaded, RuntimeError without a GPU.
    """
    make = load_function(function)
    if not torch.cuda.is_available():
        raise RuntimeError("comparing times needs a CUDA device, and there is none here")
    started = time.perf_counter()
    groups = {name: name for name in spec.compilers}
    result = empty_result(f"{function}: streams compared", groups, settings, spec.rounds, spec.replays)
    with prepared():
        for setting in settings:
            for tokens in batch:
                title = f"{tokens} token{'s' * (tokens > 1)}"
                row = run_workload(title, partial(_made, function, make, tokens), spec, setting == "deterministic")
                release()
                add_row(result, setting, row, time.perf_counter() - started, out, say)
    return result


def _made(function: str, make: Callable[[int], Any], tokens: int) -> tuple[torch.nn.Module, Inputs]:
    try:
        made = make(tokens)
    except SystemExit as error:  # any other error is written to the row of that number of tokens
        raise ValueError(f"{function} exits with {shown(error.code)}") from error
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[1]):
        raise ValueError(f"(module, seed -> inputs) has to be returned by {function}")
    return made
