"""Hold back what torch writes to standard error while it compiles: show it afterwards, or not at all if that fails."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import partial


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold torch's log and all warnings back within this context; drop them if it raises.

    Beside an error torch logs tracebacks of its own. With TORCH_LOGS set nothing is held back.
    """
    if os.environ.get("TORCH_LOGS"):
        yield
        return
    # Not the structured trace, which goes to a file.
    names = [name for name in logging.root.manager.loggerDict if f"{name}.".startswith("torch.") and name != "torch.__trace"]
    held: dict[logging.Handler, list[logging.LogRecord]] = {h: [] for name in names for h in logging.getLogger(name).handlers}
    filters = {handler: partial(_passes, records) for handler, records in held.items()}
    for handler, passes in filters.items():
        handler.addFilter(passes)
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield
    finally:
        for handler, passes in filters.items():
            handler.removeFilter(passes)
    for warning in warned:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    for handler, records in held.items():
        for record in records:
            handler.handle(record)


def _passes(held: list[logging.LogRecord], record: logging.LogRecord) -> bool:
    """Return whether a record is not of torch, because others may log to the same handler. Those of torch are held."""
    if record.name.startswith("torch"):
        held.append(record)
        return False
    return True
