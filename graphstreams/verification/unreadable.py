"""The error for source that the verifier does not understand."""

from __future__ import annotations


class UnreadableWrapper(ValueError):
    """The source holds a construct whose effect on memory or streams is not known, so nothing is proved about it."""

    def __init__(self, line: int, construct: str) -> None:
        self.line = line
        self.construct = construct
        super().__init__(f"line {line}: {construct}" if line else construct)
