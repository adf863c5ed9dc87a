"""Judge what the verifier says of mutants by what the oracle found when it ran them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from graphstreams.verification.wrapper.read import UnreadableWrapper, verify
from tests.support.text_mutants.execution import CannotRun, Inputs, faults_of
from tests.support.text_mutants.mutations import difference, mutant
from tests.support.text_mutants.stub_kernels import Accesses

CLEAN, RACES, UNREADABLE, CRASH = ANSWERS = ("no races", "races", "unreadable", "crash")


@dataclass
class Counts:
    """Of mutants: how many there are, run, have a fault, and what the verifier said of those."""

    mutants: int = 0
    run: int = 0
    faulty: int = 0
    read_and_faulty: int = 0
    called_clean: int = 0  # though faulty
    sound: int = 0
    refused: int = 0  # though sound
    odd: int = 0  # and sound, in forms that Inductor does not write
    odd_refused: int = 0
    crashes: int = 0
    causes: Counter[str] = field(default_factory=Counter)  # of those refused
    odd_causes: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)  # by what was done, of those called clean
    failures: list[str] = field(default_factory=list)

    def __iadd__(self, other: Counts) -> Counts:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


def answer(source: str) -> tuple[str, str]:
    """Return what the verifier says, and why."""
    try:
        races = verify(source)
    except UnreadableWrapper as error:
        return UNREADABLE, error.args[0] if len(error.args) == 1 else str(error)
    except Exception as error:  # a verifier that fails says nothing, which its user would not know
        return CRASH, f"{type(error).__name__}: {error}"
    return (RACES, races[0].kind) if races else (CLEAN, "")


def judge(name: str, source: str, inputs: Inputs, accesses: Accesses, seeds: Iterable[int]) -> Counts:
    """Count what becomes of a wrapper's mutants of these numbers."""
    counts = Counts()
    for seed in seeds:
        changed = mutant(source, f"{name} {seed}")
        counts.mutants += 1
        try:
            faults = faults_of(changed.source, inputs, accesses)
        except CannotRun:
            continue
        counts.run += 1
        said, why = answer(changed.source)
        title = f"{name}, mutant {seed} ({', '.join(changed.kinds)})"
        if said == CRASH:
            counts.crashes += 1
            counts.failures.append(_failure(f"{title}: {why}", source, changed.source))
        if faults:
            counts.faulty += 1
            counts.read_and_faulty += said in (CLEAN, RACES)
            if said == CLEAN:
                counts.called_clean += 1
                counts.missed[" + ".join(changed.kinds)] += 1
                text = "; ".join(f"{kind}: {what}" for kind, what in faults.items())
                counts.failures.append(_failure(f"{title} is called clean, but {text}", source, changed.source))
        elif changed.is_odd:
            counts.odd += 1
            counts.odd_refused += said != CLEAN
            counts.odd_causes.update([f"{said}: {_cause(why)}"] if said != CLEAN else [])
        else:
            counts.sound += 1
            counts.refused += said != CLEAN
            counts.causes.update([f"{said}: {_cause(why)}"] if said != CLEAN else [])
    return counts


def _failure(title: str, source: str, changed: str) -> str:
    return "\n".join([title, *difference(source, changed)])


def _cause(text: str) -> str:
    """Return a reason without what tells one place from another."""
    text = re.sub(r"^line \d+: ", "", text)
    text = re.sub(r"\b(arg|buf|event|stream|raw_stream)\d+(_1)?(_orig)?\b", r"\1N", text)
    text = re.sub(r"\btriton_\w+", "a kernel", text)
    return re.sub(r"\d+", "N", text)[:100]
