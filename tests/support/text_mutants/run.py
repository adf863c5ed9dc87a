"""Run mutants of generated wrappers' texts with stubs, judge them by reachability, and compare the verifier.

    PYTHONPATH=examples python -m tests.support.text_mutants.run --mutants 20000 --jobs 2

Exit status 1 if a mutant with a race is called clean, if the verifier fails, if too many that have none are refused, or if the
mutants are too few.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.support.text_mutants.corpus import GENERATED, Wrapper, wrapper
from tests.support.text_mutants.execution import inputs_of
from tests.support.text_mutants.verdicts import Counts, judge

REFUSED = 0.10  # of the mutants that run and have no race, at most
READ_AND_FAULTY = 0.2  # of all mutants, at least: the others say little of the verifier
BATCH = 100
SHOWN = 20


def judge_batch(task: tuple[Wrapper, int, int]) -> tuple[str, Counts]:
    """Return the counts of some mutants of a wrapper."""
    of, start, end = task
    inputs = inputs_of(of.source, of.accesses)
    return of.name, judge(of.name, of.source, inputs, of.accesses, range(start, end))


def batches(wrappers: list[Wrapper], mutants: int, seed: int) -> Iterator[tuple[Wrapper, int, int]]:
    """Yield as many mutants of each wrapper, in turns."""
    share = -(-mutants // len(wrappers))
    for start in range(0, share, BATCH):
        for of in wrappers:
            yield of, seed + start, seed + min(start + BATCH, share)


def too_few(counts: Counts, mutants: int) -> list[str]:
    """Return what a run lacks, or has too much of."""
    found = []
    if counts.mutants < mutants:
        found.append(f"only {counts.mutants} mutants")
    if counts.read_and_faulty < READ_AND_FAULTY * mutants:
        found.append(f"only {counts.read_and_faulty} mutants that can be read have a race")
    if counts.refused > REFUSED * counts.sound:
        found.append(f"{counts.refused} of {counts.sound} mutants without a race are refused")
    return found


def table(of: dict[str, Counts]) -> str:
    """Return a table with a line for each wrapper, and the sums."""
    columns = (
        "mutants",
        "run",
        "faulty",
        "read_and_faulty",
        "called_clean",
        "sound",
        "refused",
        "odd",
        "odd_refused",
        "crashes",
    )
    lines = [f"{'':26}" + "".join(f"{column.replace('_', ' '):>16}" for column in columns)]
    total = Counts()
    for counts in of.values():
        total += counts
    for name, counts in (*of.items(), ("all", total)):
        lines.append(f"{name:26}" + "".join(f"{getattr(counts, column):>16}" for column in columns))
    return "\n".join(lines)


def main() -> int:
    """Judge `--mutants` mutants; print progress, each failure, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("mutants", 20000), ("jobs", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", help="the name of a wrapper")
    options = parser.parse_args()
    started = time.monotonic()
    wrappers = [wrapper(name) for name in GENERATED if options.only in (None, name)]
    print(f"{len(wrappers)} wrappers generated in {time.monotonic() - started:.0f} s", flush=True)
    by_name = {of.name: Counts() for of in wrappers}
    total = Counts()
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        tasks = batches(wrappers, options.mutants, options.seed)
        for number, (name, counts) in enumerate(pool.imap_unordered(judge_batch, tasks), 1):
            by_name[name] += counts
            shown = len(total.failures)
            total += counts
            for failure in counts.failures[: max(0, SHOWN - shown)]:
                print(f"FAILURE: {failure}\n", flush=True)
            if number % 20 == 0:
                print(f"{total.mutants} mutants in {time.monotonic() - started:.0f} s", flush=True)
    print(f"\n{table(by_name)}\n")
    _print(f"refused, of {total.sound} that run and have no race", total.causes)
    _print(f"refused, of {total.odd} more in forms that Inductor does not write", total.odd_causes)
    _print("called clean, by what was done", total.missed)
    lacks = too_few(total, options.mutants)
    for lack in lacks:
        print(lack)
    return int(bool(lacks or total.failures))


def _print(title: str, counts: Counter[str]) -> None:
    print(f"{title}: {counts.total()}")
    for text, count in counts.most_common(40):
        print(f"{count:>7}  {text}")


if __name__ == "__main__":
    sys.exit(main())
