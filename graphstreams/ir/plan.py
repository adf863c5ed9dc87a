"""Define the plan: which stream runs each kernel, in which order, and which events order them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

FORK = -1  # stands for "what the caller's stream did before the graph" where a kernel id is expected
JOIN = -2  # stands for "what the caller's stream does after the graph"


@dataclass(frozen=True)
class Placement:
    """One kernel on a stream, with its predicted times in us from the start of the graph."""

    kernel: int
    name: str
    stream: int  # 0 is the caller's stream
    start_us: float
    end_us: float


@dataclass(frozen=True)
class Wait:
    """A wait of `stream` for an event, right before `kernel` (a kernel id on that stream, or JOIN on stream 0)."""

    stream: int
    kernel: int


@dataclass(frozen=True)
class Event:
    """An event that is recorded on `stream` right behind `after` (a kernel id on that stream, or FORK on stream 0)."""

    id: int
    stream: int
    after: int
    waits: tuple[Wait, ...]


@dataclass(frozen=True)
class Plan:
    """The stream, order and events of every kernel of one graph. Plain data: `loads(dumps(plan)) == plan`.

    `placements` stand in the order in which the host enqueues them. Times are in us.
    """

    name: str
    streams: int  # how many in all, the caller's included, and any that a pin or a file leaves without kernels
    placements: tuple[Placement, ...]
    events: tuple[Event, ...]
    serial_us: float  # the sum of all kernels: one stream
    streamed_us: float  # the predicted end of the join
    lower_bound_us: float  # no plan on so many streams can be shorter
    critical_path_us: float
    critical_path: tuple[int, ...]  # kernel ids of one longest path, first to last
    event_us: float = 0.0  # what a wait across streams adds
    priority: int = 0  # CUDA priority of the aux streams

    def stream_of(self) -> dict[int, int]:
        """Return the stream of each kernel id."""
        return {p.kernel: p.stream for p in self.placements}

    def steps(self) -> Iterator[tuple[str, int, int]]:
        """Yield what the host enqueues, in order: "record" or "wait" and the id of an event, or "launch" and that of a kernel.

        The third of each is the stream. Waits stand right before the launch that they are for, a record right behind its own.
        """
        behind = {event.after: event.id for event in self.events}
        before: dict[int, list[int]] = defaultdict(list)
        for event in self.events:
            for wait in event.waits:
                before[wait.kernel].append(event.id)
        if FORK in behind:
            yield "record", behind[FORK], 0
        for place in self.placements:
            yield from (("wait", event, place.stream) for event in before[place.kernel])
            yield "launch", place.kernel, place.stream
            if place.kernel in behind:
                yield "record", behind[place.kernel], place.stream
        yield from (("wait", event, 0) for event in before[JOIN])

    @property
    def used(self) -> int:
        """How many streams run kernels, the caller's included, whether it does or not."""
        return len({0, *(place.stream for place in self.placements)})

    @property
    def synchronizations(self) -> int:
        """How many records and waits there are."""
        return len(self.events) + sum(len(event.waits) for event in self.events)

    def dumps(self) -> str:
        """Return the plan as indented JSON."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def loads(text: str) -> Plan:
        """Return the plan that `dumps` wrote. Raises ValueError if the text is not one."""
        try:
            data = json.loads(text)
            places = tuple(Placement(**p) for p in data.pop("placements"))
            events = tuple(Event(**{**e, "waits": tuple(Wait(**w) for w in e["waits"])}) for e in data.pop("events"))
            return Plan(placements=places, events=events, critical_path=tuple(data.pop("critical_path")), **data)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a plan: {error}") from error
