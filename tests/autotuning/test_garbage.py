"""Check which garbage is collected behind a measurement."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from graphstreams.autotuning.cuda_graph import no_collection
from graphstreams.autotuning.garbage import NewGarbage


class Cycle:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def by_hand() -> Iterator[None]:
    """Collect nothing by itself, and leave nothing out from the start, as the suite does."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    with no_collection():
        yield
    gc.collect()
    if frozen:
        gc.freeze()


def _dropped() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


def test_garbage_from_before_stays_for_the_next_collection() -> None:
    older = _dropped()
    garbage = NewGarbage()
    newer = _dropped()
    garbage.collect()
    assert newer() is None and older() is not None and gc.get_freeze_count() == 0
    gc.collect()
    assert older() is None


def test_what_the_program_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        garbage = NewGarbage()
        newer = _dropped()
        garbage.collect()
        assert newer() is None and gc.get_freeze_count() == before
    finally:
        gc.unfreeze()


def test_two_at_a_time_leave_nothing_frozen() -> None:
    first, second = NewGarbage(), NewGarbage()
    first.collect()
    newer = _dropped()
    second.collect()
    assert newer() is None and gc.get_freeze_count() == 0
