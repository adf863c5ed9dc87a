"""Check the second opinion on traces: what it rests on, traces worked by hand, and all runs of small traces."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.trace import AllocateStep, FreeStep, LaunchStep, RecordStep, Step, Trace, WaitStep
from tests.support import reachability
from tests.support.reachability import Reachability


def test_shares_nothing_with_the_verifier_but_the_steps_and_the_names_of_races() -> None:
    """So what it says of a mutant cannot be a mistake that the verifier makes too."""
    tree = ast.parse(Path(reachability.__file__).read_text())
    froms = {node.module: node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {module for module in froms if module and module.startswith(("graphstreams", "tests"))}
    assert own == {"graphstreams.verification", "graphstreams.verification.trace"}
    assert [(name.name, name.asname) for name in froms["graphstreams.verification"].names] == [("vector_clocks", "hb")]
    names = {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "hb"
    }
    assert names
    assert all(isinstance(getattr(hb, name), str) for name in names)


def launch(stream: int, reads: str = "", writes: str = "") -> LaunchStep:
    return LaunchStep(stream, 0, "k", tuple(reads), tuple(writes))


FORK = (RecordStep(0, 0, "fork"), WaitStep(1, 0, "fork"))
JOIN = (RecordStep(1, 0, "join"), WaitStep(0, 0, "join"))


def opinion(*steps: Step) -> tuple[set[str], set[str]]:
    found = Reachability(Trace(steps, ("x",)))
    return found.kinds(), found.lost()


def test_what_is_ordered_is_harmless() -> None:
    assert opinion(*FORK, launch(1, "x"), *JOIN, launch(0, "", "x")) == (set(), set())


def test_each_missing_step_of_a_pair_of_events_is_a_race_of_its_kind() -> None:
    side, write = launch(1, "x"), launch(0, "", "x")
    assert opinion(side, *JOIN, write)[1] == {hb.UNFORKED}
    assert opinion(*FORK, side, write)[1] == {hb.UNORDERED, hb.UNJOINED}
    assert opinion(*FORK, launch(1))[1] == {hb.UNJOINED}
    assert opinion(*FORK, side, write, *JOIN)[1] == {hb.UNORDERED}


def test_a_wait_for_what_is_not_recorded_here_orders_nothing() -> None:
    found, lost = opinion(*FORK, launch(1, "x"), JOIN[1], launch(0, "", "x"))
    assert (found, lost) == ({hb.UNRECORDED, hb.UNORDERED, hb.UNJOINED}, {hb.UNORDERED, hb.UNJOINED})


def test_memory_of_an_aux_stream_is_got_behind_its_fork_and_not_returned() -> None:
    work = (AllocateStep(1, 0, "a"), launch(1, "x", "a"))
    assert opinion(*FORK, *work, *JOIN) == (set(), set())
    assert opinion(work[0], *FORK, work[1], *JOIN) == ({hb.UNFORKED}, {hb.UNFORKED})
    returned = Reachability(Trace((*FORK, *work, *JOIN), ("x",), ("a", "x")))
    assert returned.kinds() == returned.lost() == {hb.OUTPUT_ON_AUX}


def early(*between: Step, use: int = 0) -> tuple[set[str], set[str]]:
    """Return steps that free a block while stream 1 may still read it, and ask its pool for more."""
    made = (
        *FORK,
        AllocateStep(0, 0, "a"),
        launch(0, "x", "a"),
        RecordStep(0, 0, "made"),
        WaitStep(1, 0, "made"),
        launch(1, "a"),
    )
    return opinion(*made, FreeStep(0, 0, "a"), *between, launch(use, "x", "b"), *JOIN)


def test_a_free_is_harmless_if_what_uses_the_block_next_is_behind_its_readers() -> None:
    get, read = AllocateStep(0, 0, "b"), (RecordStep(1, 0, "read"), WaitStep(0, 0, "read"))
    assert early(get) == ({hb.FREED_EARLY}, {hb.FREED_EARLY})
    assert early(*read, get) == (set(), set())
    assert early(get, *read) == ({hb.FREED_EARLY}, set())  # only by the stricter view


STREAMS = 3
_streams, _events = st.integers(0, STREAMS - 1), st.sampled_from(["e", "f"])
_steps = st.one_of(
    st.builds(launch, _streams),
    st.builds(RecordStep, _streams, st.just(0), _events),
    st.builds(WaitStep, _streams, st.just(0), _events),
)


def runs(steps: list[Step]) -> Iterator[list[int]]:
    """Yield every order in which streams, each with its queue, can do the steps. A wait is for the record before it, if any."""
    awaited = [
        max((j for j in range(i) if isinstance(steps[j], RecordStep) and steps[j].event == step.event), default=None)  # type: ignore[attr-defined]
        if isinstance(step, WaitStep)
        else None
        for i, step in enumerate(steps)
    ]
    queues = [[i for i, step in enumerate(steps) if step.stream == stream] for stream in range(STREAMS)]

    def go_on(done: list[int], left: list[list[int]]) -> Iterator[list[int]]:
        if not any(left):
            yield done
        for stream, queue in enumerate(left):
            if queue and awaited[queue[0]] in (None, *done):
                yield from go_on([*done, queue[0]], [q[1:] if s == stream else q for s, q in enumerate(left)])

    return go_on([], queues)


@settings(max_examples=200, deadline=None)
@given(st.lists(_steps, max_size=7))
def test_one_launch_is_after_another_where_it_is_in_every_run(steps: list[Step]) -> None:
    orders = [{step: place for place, step in enumerate(run)} for run in runs(steps)]
    found = Reachability(Trace(tuple(steps)))
    for i in found.launches:
        for j in found.launches:
            assert found.ordered(i, j) == all(order[i] < order[j] for order in orders)
