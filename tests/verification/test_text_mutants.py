"""Check that no mutant with a race of a generated wrapper's text is called clean, and that few others are refused."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from graphstreams.verification.wrapper.read import verify
from tests.support.text_mutants import corpus, verdicts
from tests.support.text_mutants.execution import faults_of, inputs_of
from tests.support.text_mutants.mutations import WEIGHTS, mutant, weights_for
from tests.support.text_mutants.run import REFUSED

SMALL = (
    "topk",
    "lists",
    "user kernels",
    "dynamic",
    "two lists, any plan",
    "split along K",
    "compiled partition",
    "compiled shared inputs",
    "concatenations",
    "returned concatenation, any plan",
    "collectives, two sums",
)
EACH = 60


@functools.cache
def _judged(name: str) -> verdicts.Counts:
    of = corpus.wrapper(name)
    return verdicts.judge(name, of.source, inputs_of(of.source, of.accesses), of.accesses, range(EACH))


@pytest.mark.parametrize("name", SMALL)
def test_generated_wrappers_are_sound_and_called_clean(name: str) -> None:
    of = corpus.wrapper(name)
    assert "with stream1:" in of.source
    assert faults_of(of.source, inputs_of(of.source, of.accesses), of.accesses) == {}
    assert verify(of.source) == []


@pytest.mark.parametrize("name", SMALL)
def test_no_mutant_with_a_race_is_called_clean(name: str) -> None:
    """The first few; `make soak` has more, of more wrappers."""
    counts = _judged(name)
    assert counts.failures == [], "\n\n".join(counts.failures)
    assert counts.read_and_faulty >= EACH // 10


def test_few_mutants_without_a_race_are_refused() -> None:
    """One in ten at most, which the soak holds to; of these few, three standard deviations more."""
    total = verdicts.Counts()
    for name in SMALL:
        total += _judged(name)
    assert total.refused <= REFUSED * total.sound + 3 * (REFUSED * (1 - REFUSED) * total.sound) ** 0.5, total.causes


def test_there_are_wrappers_of_every_form() -> None:
    forms = {
        "topk": "aten.topk",
        "lists": "aten.split_copy",
        "user kernels": "user_add",
        "compiled shared inputs": "copy_if_misaligned(",
        "compiled partition": "self.partitions[0](",
        "dynamic": "empty_strided_cuda((s",
        "split along K": ",) = decompose_k_",
    }
    for name, form in forms.items():
        assert form in corpus.wrapper(name).source
        assert "return call_on_streams(args)" in corpus.wrapper(name).source
    assert len(corpus.GENERATED) >= 10


@pytest.mark.parametrize(("name", "drawn"), [("topk", len(WEIGHTS) - 2), ("collectives, two sums", len(WEIGHTS))])
def test_a_mutant_is_the_same_each_time_and_every_mutation_is_drawn(name: str, drawn: int) -> None:
    """Those of collectives for a text that has some."""
    text = corpus.wrapper(name).source
    mutants = [mutant(text, seed) for seed in range(600)]
    assert mutants == [mutant(text, seed) for seed in range(600)]
    assert {kind for each in mutants for kind in each.kinds} == {mutation.__name__ for mutation in weights_for(text)}
    assert len(weights_for(text)) == drawn
    assert sum(each.source == text for each in mutants) < 60


def test_a_verifier_that_sees_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "verify", lambda _: [])
    of = corpus.wrapper("topk")
    counts = verdicts.judge("topk", of.source, inputs_of(of.source, of.accesses), of.accesses, range(EACH))
    assert counts.called_clean == counts.faulty == len(counts.failures) > EACH // 10


def test_the_oracle_asks_nothing_of_the_verifier() -> None:
    """Only the verdicts do, to compare."""
    folder = Path(verdicts.__file__).parent
    for file in folder.glob("*.py"):
        assert ("graphstreams.verification" in file.read_text()) == (file.name == "verdicts.py"), file.name
    assert sys.modules["tests.support.text_mutants.oracle"]
