"""What torch tells on standard error while it compiles: shown afterwards, or not at all if the compile fails."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


class _Collector(logging.Filter):
    """Lets nothing pass, and keeps it with the handler that would have shown it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold torch's log and all warnings back within this context; drop them if it raises.

    Beside an error torch logs tracebacks of its own.
    """
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
    """Those of all of torch's loggers; a test's or a user's own, at the root, stay as they are."""
    names = [name for name in logging.root.manager.loggerDict if name == "torch" or name.startswith("torch.")]
    return list(dict.fromkeys(handler for name in names for handler in logging.getLogger(name).handlers))
