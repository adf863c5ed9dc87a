"""Plan models of public libraries without a GPU, and write a table of what becomes of each.

    python -m benchmarks.zoo [--cases NAME...] [--quick] [--jobs 2] [--limit 600] [--out build/zoo]

Needs the libraries of the extra `zoo` (`make zoo` makes an environment with them). Each case is planned in a process of its own
at its full size, and its tiny size is compared on the CPU, bit by bit, with what it computed before. Given again, the command
plans what is missing, crashed, was too slow or could not be built; another commit of the package or another torch begins anew.
Exit status 1: a case crashed, was too slow or not built, lost launches or computed other bits; 2: a name is none of a case.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo.cases import CASES
from benchmarks.zoo.run import Way, place_of_this_run, run_all, stored
from benchmarks.zoo.table import fault, summary, table, write


def chosen(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of the cases to plan. A name may be a part of several."""
    if arguments.quick:
        return [name for name, case in CASES.items() if case.quick]
    if not arguments.cases:
        return list(CASES)
    for part in arguments.cases:
        if not any(part in name for name in CASES):
            parser.error(f"no case is called {part!r}; --list names them")
    return [name for name in CASES if name in arguments.cases or any(p in name for p in arguments.cases if p not in CASES)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a case is a fault."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", nargs="+", default=[], metavar="NAME", help="cases, or parts of their names; all by default")
    add("--quick", action="store_true", help="the few cases of `make zoo-test`")
    add("--list", action="store_true", help="print the names of the cases, and plan nothing")
    add("--jobs", type=int, default=1, help="cases at a time (default 1)")
    add("--limit", type=float, default=600.0, metavar="SECONDS", help="time for one case (default 600)")
    add("--no-bits", action="store_true", help="compare no tiny sizes on the CPU")
    add("--fresh", action="store_true", help="plan all again, keeping nothing of an earlier run")
    add("--kept", action="store_true", help="plan nothing, and write the table of what earlier runs have planned")
    add("--out", type=Path, default=Path("build/zoo"), metavar="DIR", help="directory for zoo.json and zoo.md")
    arguments = parser.parse_args(argv)
    names = chosen(arguments, parser)
    if arguments.list:
        print("\n".join(names))
        return 0
    words = sys.argv[1:] if argv is None else argv
    place = {**place_of_this_run(), "command": " ".join(["python -m benchmarks.zoo", *words])}
    if arguments.kept:
        return show(kept(names, arguments.out / "zoo", place))
    way = Way(arguments.limit, max(1, arguments.jobs), not arguments.no_bits)
    records = run_all(names, way, arguments.out / "zoo", place, arguments.fresh, write, lambda text: print(text, flush=True))
    return show(records)


def kept(names: Sequence[str], stem: Path, place: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the table of the cases among `names` that earlier runs have planned, and return their records."""
    found = stored(stem.with_suffix(".json"), place)
    records = [found[name] for name in names if name in found]
    write({**place, "records": records, "missing": [name for name in names if name not in found]}, stem)
    return records


def show(records: Sequence[Mapping[str, Any]]) -> int:
    """Print the table and the summary. Return 1 if a case is a fault."""
    print(f"\n{table(records)}\n\n{summary(records)}")
    return int(any(fault(record) for record in records))


if __name__ == "__main__":
    raise SystemExit(main())
