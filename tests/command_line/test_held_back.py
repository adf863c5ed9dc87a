"""Check what is held back of torch's log and of warnings while a block runs that may fail."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from graphstreams.command_line.guards import held_back


class Shown(logging.Handler):
    """Keeps the messages that it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def shown() -> Iterator[Shown]:
    handler = Shown()
    for name in ("torch._dynamo", "torch._subclasses"):
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in ("torch._dynamo", "torch._subclasses"):
        logging.getLogger(name).removeHandler(handler)


def tell() -> None:
    logging.getLogger("torch._dynamo").error("one")
    logging.getLogger("torch._subclasses").error("two")


def during(shown: Shown, fails: bool = False) -> list[str]:
    """Return what is shown before the block ends."""
    with held_back():
        tell()
        warnings.warn("three", stacklevel=1)
        if fails:
            raise KeyError
        return list(shown.messages)


def test_it_is_shown_once_afterwards(shown: Shown) -> None:
    with pytest.warns(UserWarning, match="three"):
        assert during(shown) == []
    assert shown.messages == ["one", "two"]
    tell()
    assert shown.messages == ["one", "two"] * 2


def test_it_is_dropped_with_an_error(shown: Shown, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(KeyError):
        during(shown, fails=True)
    assert shown.messages == [] and not recwarn.list
    tell()
    assert shown.messages == ["one", "two"]


def test_our_own_log_is_not_held_back(caplog: pytest.LogCaptureFixture) -> None:
    with held_back():
        logging.getLogger("graphstreams").warning("four")
        assert caplog.messages == ["four"]


def test_who_asks_for_the_log_gets_it(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS", "+dynamo")
    with pytest.raises(KeyError), pytest.warns(UserWarning, match="three"):
        during(shown, fails=True)
    assert shown.messages == ["one", "two"]
