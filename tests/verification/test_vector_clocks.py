"""Check traces worked by hand, and random ones against reachability in a graph."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstreams.verification import vector_clocks as hb
from graphstreams.verification.elements import Elements
from graphstreams.verification.trace import (
    HOST,
    AllocateStep,
    FreeStep,
    LaunchStep,
    RecordStep,
    Step,
    SynchronizeStep,
    Trace,
    WaitStep,
    launch_order,
)
from graphstreams.verification.vector_clocks import Race, find_races
from tests.support.reachability import Reachability


def launch(stream: int, name: str, reads: str = "", writes: str = "") -> LaunchStep:
    return LaunchStep(stream, 0, name, tuple(reads.split()), tuple(writes.split()))


def rec(stream: int, event: str) -> RecordStep:
    return RecordStep(stream, 0, event)


def wait(stream: int, event: str) -> WaitStep:
    return WaitStep(stream, 0, event)


def alloc(stream: int, storage: str) -> AllocateStep:
    return AllocateStep(stream, 0, storage)


def free(storage: str) -> FreeStep:
    return FreeStep(0, 0, storage)


def trace(*steps: Step, inputs: str = "x") -> Trace:
    """Return the steps with their positions, from 1, as lines."""
    numbered = tuple(type(s)(**{**vars(s), "line": i}) for i, s in enumerate(steps, 1))
    return Trace(numbered, tuple(inputs.split()))


FORK = (rec(0, "fork"), wait(1, "fork"))
JOIN = (rec(1, "join"), wait(0, "join"))


def kinds(races: list[Race]) -> list[str]:
    return [race.kind for race in races]


def test_ordered_by_events() -> None:
    t = trace(
        alloc(0, "a"), launch(0, "make", "x", "a"), *FORK, alloc(1, "b"), launch(1, "side", "a", "b"), *JOIN,
        launch(0, "use", "b"), free("a"), free("b"),
    )  # fmt: skip
    assert find_races(t) == []
    assert launch_order(t) == {
        0: ["launch make", "record fork", "wait join", "launch use"],
        1: ["wait fork", "launch side", "record join"],
    }


def test_missing_wait_names_both_accesses() -> None:
    t = trace(*FORK, alloc(0, "a"), launch(0, "make", "x", "a"), launch(1, "side", "a"), *JOIN)
    (race,) = find_races(t)
    assert (race.kind, race.first.kernel, race.second.kernel) == (hb.UNORDERED, "make", "side")
    assert (race.first.line, race.second.line, race.first.storage) == (4, 5, "a")
    assert "nothing makes stream1 wait for the caller's stream" in str(race)


def test_write_after_read() -> None:
    t = trace(*FORK, launch(1, "reader", "x"), launch(0, "writer", "", "x"), *JOIN)
    (race,) = find_races(t)
    assert (race.kind, race.first.action, race.second.action) == (hb.UNORDERED, "read", "write")


def test_two_reads_need_no_order() -> None:
    assert find_races(trace(*FORK, launch(1, "one", "x"), launch(0, "two", "x"), *JOIN)) == []


def early_free(*before_allocation: Step, pool: int = 0) -> Trace:
    """Return steps that free a buffer which the other stream still reads, and ask its pool for more."""
    reader = 1 - pool
    handover = (rec(pool, "made"), wait(reader, "made"))
    return trace(
        *FORK, alloc(pool, "a"), launch(pool, "make", "x", "a"), *handover, launch(reader, "side", "a"), free("a"),
        *before_allocation, alloc(pool, "b"), launch(pool, "next", "x", "b"), free("b"), *JOIN,
    )  # fmt: skip


def test_freed_too_early() -> None:
    (race,) = find_races(early_free())
    assert race.kind == hb.FREED_EARLY
    assert race.allocation is not None
    assert race.allocation.storage == "b"
    text = str(race)
    assert "side on stream1 reads a, which line 8 on the caller's stream frees" in text
    assert "nothing makes the caller's stream wait for stream1 before the free" in text


def test_freed_early_on_an_aux_stream() -> None:
    assert kinds(find_races(early_free(pool=1))) == [hb.FREED_EARLY]


def test_free_before_a_wait_is_safe_if_the_allocation_is_behind_it() -> None:
    assert find_races(early_free(rec(1, "read"), wait(0, "read"))) == []
    assert find_races(early_free(rec(0, "read"), wait(1, "read"), pool=1)) == []


def test_early_free_without_a_later_allocation_is_safe() -> None:
    t = trace(*FORK, alloc(0, "a"), launch(0, "make", "", "a"), rec(0, "e"), wait(1, "e"), launch(1, "side", "a"),
              free("a"), alloc(1, "b"), launch(1, "other", "", "b"), *JOIN)  # fmt: skip
    assert find_races(t) == []


def test_input_freed_early() -> None:
    t = trace(*FORK, launch(1, "side", "x"), free("x"), alloc(0, "b"), launch(0, "next", "", "b"), *JOIN)
    assert kinds(find_races(t)) == [hb.FREED_EARLY]


def test_unjoined() -> None:
    (race,) = find_races(trace(*FORK, launch(1, "side", "x")))
    assert race.kind == hb.UNJOINED
    assert "before the graph returns" in str(race)


def test_work_behind_the_join_is_unjoined() -> None:
    assert kinds(find_races(trace(*FORK, launch(1, "a"), *JOIN, launch(1, "b")))) == [hb.UNJOINED]


def test_unforked() -> None:
    (race,) = find_races(trace(launch(1, "side", "x"), launch(1, "again", "x"), *JOIN))
    assert race.kind == hb.UNFORKED
    assert "the inputs may not be ready" in str(race)


def test_memory_is_got_ahead_of_the_fork() -> None:
    work = (launch(1, "side", "x", "a"), *JOIN)
    (race,) = find_races(trace(alloc(1, "a"), *FORK, *work))
    assert (race.kind, race.first.line, race.first.storage) == (hb.UNFORKED, 1, "a")
    assert "stream1 allocates a; nothing makes stream1 wait for the caller's stream before" in str(race)
    assert "CUDA graph" in str(race)
    assert find_races(trace(*FORK, alloc(1, "a"), *work)) == []


def returning(steps: list[Step], *outputs: str) -> list[Race]:
    return find_races(Trace(tuple(steps), ("x",), outputs))


def test_outputs_are_in_memory_of_the_callers_stream() -> None:
    """Dropped in the middle of a later call, a block of an aux stream would go to work that does not wait for its readers."""
    steps = [alloc(0, "a"), *FORK, AllocateStep(1, 7, "b"), launch(1, "side", "x", "a b"), *JOIN]
    assert returning(steps, "a", "x") == []
    (race,) = returning(steps, "a", "b")
    assert (race.kind, race.first.line, race.first.storage) == (hb.OUTPUT_ON_AUX, 7, "b")
    assert "line 7: stream1 allocates b; the graph returns it, and when the caller drops it that stream may use" in str(race)


def test_another_thread_drops_an_output_in_the_middle_of_a_later_call() -> None:
    """Why there is such a rule: its reader is behind the fork that the aux stream waited for."""
    call = [*FORK, alloc(1, "out"), launch(1, "side", "x", "out"), *JOIN]
    reader = [launch(0, "another thread", "out"), free("out")]
    assert find_races(trace(*call, *reader, *FORK, alloc(1, "next"), launch(1, "side", "x", "next"), *JOIN)) == []
    races = find_races(trace(*call, *FORK, *reader, alloc(1, "next"), launch(1, "side", "x", "next"), *JOIN))
    assert kinds(races) == [hb.FREED_EARLY]


def test_aux_streams_ordered_through_two_events() -> None:
    steps = [*FORK, wait(2, "fork"), alloc(1, "a"), launch(1, "make", "x", "a"), rec(1, "e"), wait(0, "e"),
             rec(0, "f"), wait(2, "f"), launch(2, "use", "a"), rec(2, "g"), wait(0, "g"), free("a")]  # fmt: skip
    assert find_races(trace(*steps)) == []
    without = [s for s in steps if s != wait(2, "f")]
    assert kinds(find_races(trace(*without))) == [hb.UNORDERED]


def test_record_again_replaces_and_waits_keep_what_they_saw() -> None:
    make, use = launch(1, "make", "", "x"), launch(0, "use", "x")
    assert kinds(find_races(trace(*FORK, rec(1, "e"), make, wait(0, "e"), use, *JOIN))) == [hb.UNORDERED]
    assert find_races(trace(*FORK, rec(1, "e"), make, rec(1, "e"), wait(0, "e"), use)) == []
    seen = trace(*FORK, make, rec(1, "e"), wait(0, "e"), use, launch(1, "late"), rec(1, "e"))
    assert kinds(find_races(seen)) == [hb.UNJOINED]


def test_event_never_recorded() -> None:
    (race,) = find_races(trace(wait(0, "e")))
    assert race.kind == hb.UNRECORDED
    assert kinds(find_races(trace(SynchronizeStep(0, 0, "e")))) == [hb.UNRECORDED]


def test_use_after_free_and_unknown_storage() -> None:
    t = trace(alloc(0, "a"), free("a"), launch(0, "use", "a"), launch(0, "use", "nowhere"), free("a"))
    assert kinds(find_races(t)) == [hb.AFTER_FREE, hb.UNKNOWN_STORAGE, hb.AFTER_FREE]
    assert all(str(race) for race in find_races(t))


def test_synchronising_the_host_orders_all_that_follows() -> None:
    t = trace(*FORK, launch(1, "make", "", "x"), SynchronizeStep(0, 0), launch(0, "use", "x"), launch(2, "use", "x"))
    assert kinds(find_races(t)) == [hb.UNJOINED]  # stream 2 only
    late = trace(*FORK, launch(1, "make", "", "x"), rec(1, "e"), SynchronizeStep(0, 0, "e"), launch(0, "use", "x"))
    assert find_races(late) == []


def test_linear_in_the_length_of_the_trace() -> None:
    steps: list[Step] = [*FORK]
    for i in range(20_000):
        steps += [alloc(0, f"s{i}"), launch(0, "k", "x", f"s{i}"), free(f"s{i}")]
    assert find_races(trace(*steps)) == []


# --- random traces

STREAMS, EVENTS = 3, 3
LEFT, RIGHT, MIDDLE, TOP = PARTS = [  # columns of a matrix, columns that both share, and a row
    Elements("torch.float32", *sizes, offset)
    for *sizes, offset in (((2, 2), (4, 1), 0), ((2, 2), (4, 1), 2), ((2, 2), (4, 1), 1), ((4,), (1,), 0))
]
_step = st.one_of(
    st.builds(
        lambda s, r, w, part: LaunchStep(s, 0, "k", tuple(r), tuple(w), (("", part),) if part else ()),
        st.integers(0, STREAMS - 1), st.sets(st.integers(0, 3), max_size=2), st.sets(st.integers(0, 3), max_size=1),
        st.sampled_from([None, *PARTS]),
    ),
    st.builds(lambda s, e: rec(s, f"e{e}"), st.integers(0, STREAMS - 1), st.integers(0, EVENTS - 1)),
    st.builds(lambda s, e: wait(s, f"e{e}"), st.integers(0, STREAMS - 1), st.integers(0, EVENTS - 1)),
    st.builds(lambda s, n: alloc(s, f"new{n}"), st.integers(0, STREAMS - 1), st.integers(0, 3)),
    st.builds(lambda s, n: FreeStep(s, 0, f"new{n}"), st.integers(0, STREAMS - 1), st.integers(0, 3)),
)  # fmt: skip


def _sound(steps: list[Step]) -> list[Step]:
    """Made well-formed: storages live when used, none allocated twice, and no event waited for before its record."""
    slots: dict[str, str] = {}
    recorded: set[str] = set()
    kept: list[Step] = []
    for number, step in enumerate(steps):
        if isinstance(step, AllocateStep):
            if step.storage in slots:
                continue
            slots[step.storage] = f"{step.storage}.{number}"
            step = alloc(step.stream, slots[step.storage])
        elif isinstance(step, FreeStep):
            if step.storage not in slots:
                continue
            step = FreeStep(step.stream, 0, slots.pop(step.storage))
        elif isinstance(step, LaunchStep):
            pool = ["x", *slots.values()]
            reads, writes = ({pool[int(i) % len(pool)] for i in part} for part in (step.reads, step.writes))
            parts = tuple((storage, part) for storage in writes - reads for _, part in step.parts)
            step = LaunchStep(step.stream, 0, "k", tuple(reads), tuple(writes), parts)
        elif isinstance(step, RecordStep):
            recorded.add(step.event)
        elif isinstance(step, WaitStep) and step.event not in recorded:
            continue
        kept.append(step)
    return kept


def test_a_free_behind_a_race_is_early_for_the_access_that_lost_it() -> None:
    """The caller's write does not wait for stream 1's; nor does the free, and the next allocation gets the block."""
    kernels = [LaunchStep(stream, 0, "k", (), ("a",)) for stream in (1, 0)]
    found = find_races(trace(alloc(0, "a"), rec(0, "e"), wait(1, "e"), *kernels, FreeStep(0, 0, "a"), alloc(0, "b")))
    assert set(kinds(found)) == {hb.UNORDERED, hb.FREED_EARLY, hb.UNJOINED}


@settings(max_examples=500, deadline=None)
@given(st.lists(_step, max_size=30))
def test_agrees_with_reachability(steps: list[Step]) -> None:
    made = trace(*_sound(steps))
    freed = {s.storage for s in made.steps if isinstance(s, FreeStep)}
    left = [s.storage for s in made.steps if isinstance(s, AllocateStep) and s.storage not in freed]
    sound = Trace(made.steps, made.inputs, ("x", *left[:1]))
    opinion = Reachability(sound)
    assert set(kinds(find_races(sound))) == opinion.kinds()
    # Where data can change, there is a race by the stricter view too.
    assert opinion.kinds() or not opinion.lost()


def test_a_block_is_used_on_another_stream_while_its_own_may_still_use_it() -> None:
    # The scratch block of a on stream1 is free again for the host at once, and y may get it.
    steps = [
        rec(0, "fork"),
        wait(1, "fork"),
        alloc(1, "scratch"),
        LaunchStep(1, 1, "a", (), ("scratch",)),
        FreeStep(1, 2, "scratch"),
    ]
    steps += [alloc(1, "y"), LaunchStep(0, 3, "b", (), ("y",)), rec(1, "join"), wait(0, "join")]
    assert set(kinds(find_races(trace(*steps)))) == {hb.UNORDERED}
    ordered = [*steps[:5], rec(1, "a"), wait(0, "a"), *steps[5:]]
    assert find_races(trace(*ordered)) == []


def test_a_block_that_its_stream_waited_for_is_used_where_nobody_waits_for_it() -> None:
    # The block of a, which stream3 reads, goes to b once stream1 has waited for that read. stream2 writes b without.
    forks = [step for s in (1, 2, 3) for step in (rec(0, f"fork{s}"), wait(s, f"fork{s}"))]
    joins = [step for s in (1, 2, 3) for step in (rec(s, f"join{s}"), wait(0, f"join{s}"))]
    steps = [*forks, alloc(1, "a"), launch(1, "make", "x", "a"), rec(1, "made"), wait(2, "made"), wait(3, "made")]
    steps += [launch(3, "reader", "a"), rec(3, "read"), free("a"), wait(1, "read"), alloc(1, "b")]
    (race,) = find_races(trace(*steps, launch(2, "writer", "x", "b"), *joins))
    assert (race.kind, race.first.storage, race.second.kernel) == (hb.UNORDERED, "b", "writer")
    assert "nothing makes stream2 wait for stream3" in str(race)
    assert find_races(trace(*steps, wait(2, "read"), launch(2, "writer", "x", "b"), *joins)) == []
    assert find_races(trace(*steps, launch(1, "writer", "x", "b"), *joins)) == []


def part(stream: int, name: str, elements: Elements) -> LaunchStep:
    return LaunchStep(stream, 0, name, ("x",), ("a",), (("a", elements),))


def pieces(one: Elements, other: Elements, *between: Step) -> list[Race]:
    """Return the races of two launches on two streams that write parts, and of a third that reads all of it."""
    steps = [alloc(0, "a"), *FORK, part(1, "one", one), part(0, "other", other), *between, launch(0, "use", "a"), *JOIN]
    return find_races(trace(*steps))


def test_parts_without_a_common_element_need_no_order() -> None:
    ordered = (rec(1, "made"), wait(0, "made"))
    assert pieces(LEFT, RIGHT, *ordered) == []
    for one, other in ((LEFT, MIDDLE), (RIGHT, MIDDLE), (LEFT, LEFT), (TOP, RIGHT)):
        (race,) = pieces(one, other, *ordered)
        assert (race.kind, race.first.kernel, race.second.kernel) == (hb.UNORDERED, "one", "other")


def test_who_reads_the_whole_waits_for_every_part() -> None:
    (race,) = pieces(LEFT, RIGHT)
    assert (race.kind, race.first.kernel, race.second.kernel) == (hb.UNORDERED, "one", "use")


def test_a_part_does_not_take_the_place_of_another() -> None:
    """The second write on the caller's stream is of other elements, so the read still has to wait for stream 1."""
    steps = [alloc(0, "a"), *FORK, part(1, "one", LEFT), part(0, "other", RIGHT), part(0, "again", RIGHT)]
    (race,) = find_races(trace(*steps, launch(0, "use", "a"), *JOIN))
    assert (race.first.kernel, race.second.kernel) == ("one", "use")


def test_a_part_is_written_behind_the_readers_of_the_whole() -> None:
    steps = [alloc(0, "a"), launch(0, "make", "x", "a"), *FORK, launch(1, "reader", "a"), part(0, "other", RIGHT)]
    for last in (LEFT, RIGHT):
        one, two = find_races(trace(*steps, part(0, "last", last), *JOIN))
        assert (one.first.kernel, one.second.kernel) == ("reader", "other")
        assert (two.first.kernel, two.second.kernel) == ("reader", "last")


def test_memory_is_freed_behind_the_writers_of_all_parts() -> None:
    steps = [alloc(0, "a"), *FORK, part(1, "one", LEFT), part(0, "other", RIGHT), free("a"), alloc(0, "b")]
    (race,) = find_races(trace(*steps, *JOIN))
    assert (race.kind, race.first.kernel) == (hb.FREED_EARLY, "one")


def test_a_part_is_written_behind_what_its_memory_was_before() -> None:
    """The caller's stream has waited for the reader of the block; stream 2 has not, whatever part it writes."""
    forks = [*FORK, rec(0, "fork2"), wait(2, "fork2")]
    steps = [
        *forks,
        alloc(0, "old"),
        launch(0, "make", "x", "old"),
        rec(0, "made"),
        wait(1, "made"),
        launch(1, "reader", "old"),
    ]
    steps += [rec(1, "read"), wait(0, "read"), free("old"), alloc(0, "a"), part(2, "one", LEFT), part(0, "other", RIGHT)]
    (race,) = find_races(trace(*steps, rec(2, "two"), wait(0, "two")))
    assert (race.kind, race.first.action, race.second.kernel) == (hb.UNORDERED, "allocate", "one")


def test_step_of_no_kind() -> None:
    with pytest.raises(TypeError, match="not a step"):
        find_races(Trace((Step(0, 1),)))


def test_memory_that_may_have_gone_back_is_used_on_and_may_be_somebody_elses() -> None:
    maybe = FreeStep(0, 0, "x", certain=False)
    used = (launch(1, "side", "x"), maybe, launch(1, "again", "x"))
    assert find_races(trace(*FORK, *used, *JOIN, free("x"), alloc(0, "b"))) == []
    (race,) = find_races(trace(*FORK, *used, alloc(0, "b"), *JOIN, free("x")))
    assert (race.kind, race.first.kernel, race.second.line) == (hb.FREED_EARLY, "side", 4)
    # What comes behind it is no access of what went back there.
    (race,) = find_races(trace(*FORK, maybe, *used[::2], free("x"), alloc(0, "b"), *JOIN))
    assert (race.kind, race.first.kernel) == (hb.FREED_EARLY, "again")


def test_the_host_reads_at_once_what_it_has_waited_for() -> None:
    copy, read = launch(0, "copy", "x", "h"), launch(HOST, "item", "h")
    assert find_races(trace(alloc(HOST, "h"), copy, rec(0, "done"), SynchronizeStep(0, 0, "done"), read)) == []
    assert kinds(find_races(trace(alloc(HOST, "h"), copy, read))) == [hb.UNORDERED]
    early = (rec(0, "done"), copy, SynchronizeStep(0, 0, "done"), read)
    assert kinds(find_races(trace(alloc(HOST, "h"), *early))) == [hb.UNORDERED]


def test_what_is_enqueued_later_comes_behind_what_the_host_has_done() -> None:
    write = launch(HOST, "fill", "", "h")
    assert find_races(trace(alloc(HOST, "h"), *FORK, write, launch(1, "side", "h"), *JOIN)) == []
    assert kinds(find_races(trace(alloc(HOST, "h"), *FORK, launch(1, "side", "h"), write, *JOIN))) == [hb.UNORDERED]
    # Its allocator waits for who reads pinned memory, and the caller gets what is returned.
    freed = trace(alloc(HOST, "h"), *FORK, launch(1, "side", "h"), free("h"), alloc(HOST, "i"), *JOIN)
    assert find_races(freed) == []
    assert find_races(Trace(freed.steps, freed.inputs, ("i",))) == []
