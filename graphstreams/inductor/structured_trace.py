"""Write artifacts into torch's structured trace, which TORCH_TRACE asks for and tlparse shows.

Read in torch 2.15.0: `_logging/_internal.py` (trace_structured, trace_log). tlparse 0.4.3 knows the encodings "json" and
"string", and lists an artifact as its name with ".json" or ".txt".
"""

from __future__ import annotations

from torch._logging._internal import trace_log, trace_structured


def is_traced() -> bool:
    """Return whether anything reads the structured trace."""
    return bool(trace_log.handlers)


def write_artifact(name: str, encoding: str, text: str) -> None:
    """Write a text under `name` into the trace of what is being compiled. Does nothing if there is no trace."""
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": encoding}, payload_fn=lambda: text)
