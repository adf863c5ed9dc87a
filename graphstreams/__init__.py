"""graphstreams puts independent kernels of a compiled graph on parallel CUDA streams.

Importing it is cheap: the parts that need torch are loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from graphstreams import backend, reports
    from graphstreams.api import plan, verify
    from graphstreams.backend import StreamPass, graphstreams
    from graphstreams.errors import GraphstreamsError, OptionError
    from graphstreams.inductor.marked_modules import exclude, pin
    from graphstreams.ir.declarations import declare
    from graphstreams.ir.plan import Plan
    from graphstreams.options import Options
    from graphstreams.pipeline.explain import explain
    from graphstreams.reports.report import Report

_PLACES = {
    "GraphstreamsError": "errors",
    "OptionError": "errors",
    "Options": "options",
    "Plan": "ir.plan",
    "Report": "reports.report",
    "StreamPass": "backend",
    "backend": "backend",
    "declare": "ir.declarations",
    "exclude": "inductor.marked_modules",
    "explain": "pipeline.explain",
    "graphstreams": "backend",
    "pin": "inductor.marked_modules",
    "plan": "api",
    "reports": "reports",
    "verify": "api",
}

__all__ = [
    "GraphstreamsError", "OptionError", "Options", "Plan", "Report", "StreamPass", "backend", "declare", "exclude",
    "explain", "graphstreams", "pin", "plan", "reports", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    place = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    return place if name == _PLACES[name] else getattr(place, name)
