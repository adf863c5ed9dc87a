"""Every exception that this package raises on purpose, and what each means for the user."""

from __future__ import annotations


class UnreadableWrapper(ValueError):
    """The source holds a construct whose effect on memory or streams is not known, so nothing is proved about it."""

    def __init__(self, line: int, construct: str) -> None:
        self.line = line
        self.construct = construct
        super().__init__(f"line {line}: {construct}" if line else construct)


class Unsupported(Exception):
    """The graph has to stay serial; the message says why."""


class GraphstreamsError(RuntimeError):
    """Raised with `strict=True` if a graph would run serially; the message names the stage and the reason."""


class CannotPlan(ValueError):
    """What was given to `explain` is nothing that it plans."""


class StaySerial(Exception):
    """The graph stays serial. `verdict` is "serial" where there is nothing to gain, "refused" where a proof failed."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class ProfileError(ValueError):
    """A profile that cannot be read; the message names the file, if there is one, and the kernel at fault."""


class RewriteError(RuntimeError):
    """The plan cannot be expressed on this graph; the message says why."""


class StreamsRemain(RuntimeError):
    """A graph's streams could not be taken out; the message says why."""


class CannotJoin(Exception):
    """The two bodies cannot stand in one wrapper; the message says why."""


class OptionError(ValueError):
    """A name or value that is not an option; the message says what would be."""


class Unmeasurable(Exception):
    """The graph's kernels cannot be timed here; the message says why."""
