"""Every exception that this package raises on purpose: those that reach a user, then those that stages raise to each other."""

from __future__ import annotations


class OptionError(ValueError):
    """Raised by `Options` and the backend for a name or a value that is no option. The message says what would be one."""


class ProfileError(ValueError):
    """Raised if a profile of kernel times can't be read or does not fit the graph.

    The message names the file, if there is one, and the kernel at fault. Correct that entry.
    """


class PlanFileError(ValueError):
    """Raised if the file of a plan can't be read or does not fit the graph.

    The message names the kernel at fault, if there is one. Correct that entry of the file.
    """


class CannotPlan(ValueError):
    """Raised by `explain` for something that it can't plan. The message says what to pass instead."""


class UnreadableWrapper(ValueError):
    """Raised by `verify` for a wrapper with a construct whose effect on memory or streams is not known.

    Nothing is proved about such a wrapper. During a compile the graph runs serially.
    """

    def __init__(self, line: int, construct: str) -> None:
        self.line = line
        self.construct = construct
        super().__init__(f"line {line}: {construct}" if line else construct)


class GraphstreamsError(RuntimeError):
    """Raised by the backend for a graph that would run serially, if the option `strict` is set.

    The message names the stage that decided and the reason. Without `strict` it is a warning, and the graph runs serially. With
    `strict="refused"` only a graph of which a stage or a proof failed raises it.
    """


class StaySerial(Exception):
    """Raised by any stage to leave the graph serial.

    `verdict` is "serial" if there is nothing to gain or streams are not supported there, "refused" if a proof failed. Verdict
    and reason go into the report.
    """

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class PlanRefused(StaySerial):
    """Raised if the code of one plan is not used, though that of another plan may be.

    `kernels` are the ids of the kernels that the reason is about, as far as they are known.
    """

    def __init__(self, verdict: str, reason: str, kernels: frozenset[int] = frozenset()) -> None:
        super().__init__(verdict, reason)
        self.kernels = kernels


class Unsupported(Exception):
    """Raised while a graph is read, if it can't be put on streams. The graph stays serial, and the report says why."""


class Unmeasurable(Exception):
    """Raised by the autotuner if a graph's kernels can't be timed on the GPU at hand.

    The message says why. Plans are then made from modelled times.
    """


class RewriteError(RuntimeError):
    """Raised if a plan can't be expressed on its graph. The graph stays serial, and the report says why."""


class CannotJoin(Exception):
    """Raised if a serial and a streamed body can't stand in one wrapper. The graph stays serial, and the report says why."""


class StreamsRemain(RuntimeError):
    """Raised if streams that another pass placed can't be taken out of a graph. The graph runs as that pass left it."""
