"""Check random traces with collectives against a second opinion, and the first races worked by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import FinishStep, LaunchStep, RecordStep, StartStep, Step, Trace, WaitStep
from graphstreams.verification.vector_clocks import find_races
from tests.support.reachability import Reachability


def launch(stream: int, reads: str = "", writes: str = "") -> LaunchStep:
    return LaunchStep(stream, 0, "k", tuple(reads), tuple(writes))


def start(stream: int, number: int, reads: str = "", writes: str = "") -> StartStep:
    return StartStep(stream, 0, "collective", tuple(reads), tuple(writes), (), number)


def finish(stream: int, *numbers: int) -> FinishStep:
    return FinishStep(stream, 0, "wait", collectives=numbers)


def kinds(*steps: Step) -> set[str]:
    trace = Trace(steps, ("x", "y"))
    found = {race.kind for race in find_races(trace)}
    assert found == Reachability(trace).kinds()
    return found


def test_a_collective_runs_from_its_start_to_its_wait() -> None:
    assert kinds(start(0, 0, "x", "x"), launch(0, "y"), finish(0, 0), launch(0, "x", "x")) == set()
    assert kinds(start(0, 0, "x", "x"), launch(0, "x"), finish(0, 0)) == {hb.UNORDERED}
    assert kinds(start(0, 0, "x", "y"), launch(0, "x"), finish(0, 0)) == set()
    assert kinds(start(0, 0, "x"), finish(0)) == {hb.UNJOINED}


def test_two_collectives_are_ordered_by_a_wait_only() -> None:
    assert kinds(start(0, 0, "x", "x"), start(0, 1, "x", "x"), finish(0, 0, 1)) == {hb.UNORDERED}
    assert kinds(start(0, 0, "x", "x"), finish(0, 0), start(0, 1, "x", "x"), finish(0, 1)) == set()


def test_a_wait_on_another_stream_orders_that_stream_and_what_waits_for_it() -> None:
    fork, join = (RecordStep(0, 0, "f"), WaitStep(1, 0, "f")), (RecordStep(1, 0, "j"), WaitStep(0, 0, "j"))
    assert kinds(start(0, 0, "x", "x"), *fork, finish(1, 0), launch(1, "x"), *join, launch(0, "x", "x")) == set()
    assert kinds(start(0, 0, "x", "x"), *fork, finish(1, 0), launch(0, "x"), *join) == {hb.UNORDERED}


_streams, _events = st.integers(0, 2), st.sampled_from(["e", "f"])
_memory = st.sampled_from(["", "x", "y", "xy"])
_steps = st.one_of(
    st.builds(launch, _streams, _memory, _memory),
    st.builds(RecordStep, _streams, st.just(0), _events),
    st.builds(WaitStep, _streams, st.just(0), _events),
    st.builds(start, _streams, st.just(0), _memory, _memory),
    st.builds(lambda stream, which: FinishStep(stream, which, "wait"), _streams, st.integers(0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_steps, max_size=12))
def test_random_traces_have_the_races_of_the_second_opinion(steps: list[Step]) -> None:
    """A wait is for the collective of its number, counted from the last, if it was started and not waited for."""
    numbered: list[Step] = []
    running: list[int] = []
    count = 0
    for step in steps:
        if isinstance(step, StartStep):
            numbered.append(start(step.stream, count, "".join(step.reads), "".join(step.writes)))
            running.append(count)
            count += 1
        elif isinstance(step, FinishStep):
            which = running.pop(-1 - step.line) if step.line < len(running) else None
            numbered.append(finish(step.stream, *(() if which is None else (which,))))
        else:
            numbered.append(step)
    kinds(*numbered)
