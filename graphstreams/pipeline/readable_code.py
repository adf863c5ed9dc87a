"""Write a graph as readable code for its report."""

from __future__ import annotations

import logging

from torch import fx

from graphstreams.reports.source_paths import with_short_paths

log = logging.getLogger("graphstreams")


def readable_code(module: fx.GraphModule) -> str:
    """Return a graph as readable code with shapes and lines of source; empty if torch can't write it."""
    try:
        return with_short_paths(module.print_readable(print_output=False))
    except Exception:  # a report is not worth a compile
        log.debug("a graph can't be written as readable code", exc_info=True)
        return ""
