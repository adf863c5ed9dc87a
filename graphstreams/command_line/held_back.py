"""Hold back what torch writes to standard error while it compiles: show it afterwards, or not at all if that fails."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


class _Collector(logging.Filter):
    """A filter that keeps the records of torch's loggers instead of letting them pass."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("torch"):
            return True  # others may log to the same handler
        self.records.append(record)
        return False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold torch's log and all warnings back within this context; drop them if it raises.

    Beside an error torch logs tracebacks of its own. With TORCH_LOGS set nothing is held back.
    """
    if os.environ.get("TORCH_LOGS"):
        yield
        return
    collectors = {handler: _Collector() for handler in _handlers()}
    for handler, collector in collectors.items():
        handler.addFilter(collector)
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield
    finally:
        for handler, collector in collectors.items():
            handler.removeFilter(collector)
    for warning in warned:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    for handler, collector in collectors.items():
        for record in collector.records:
            handler.handle(record)


def _handlers() -> list[logging.Handler]:
    """Return the handlers of all of torch's loggers but the structured trace, which goes to a file."""
    names = [name for name in logging.root.manager.loggerDict if f"{name}.".startswith("torch.") and name != "torch.__trace"]
    return list(dict.fromkeys(handler for name in names for handler in logging.getLogger(name).handlers))
