"""Check that an error or a value becomes one line of text."""

from __future__ import annotations

import errno

import pytest

from graphstreams.messages import LONGEST_LINE, one_line, shortened, shown, with_type


class NoText(Exception):
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize(
    ("error", "line", "typed"),
    [
        (ValueError("one\n  two\n\nthree"), "one two", "ValueError: one two"),
        (KeyError("a"), "'a'", "KeyError: 'a'"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (ValueError("\n"), "ValueError", "ValueError"),
        (NoText(), "NoText", "NoText"),
        (OSError(errno.ENOENT, "No such file", "a.json"), "a.json: No such file", "OSError: a.json: No such file"),
        (OSError(errno.ENOSPC, "No space"), "No space", "OSError: No space"),
        (OSError("other"), "other", "OSError: other"),
        (ValueError("a\x1b[31mb\u2028c\ud800"), "a\\x1b[31mb c\\ud800", "ValueError: a\\x1b[31mb c\\ud800"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str, typed: str) -> None:
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        typed = typed.replace("OSError", "FileNotFoundError")
    assert (one_line(error), with_type(error)) == (line, typed)


def test_a_long_line_is_cut() -> None:
    assert shortened("a" * LONGEST_LINE) == "a" * LONGEST_LINE
    assert shortened("a" * (LONGEST_LINE + 1)) == "a" * (LONGEST_LINE - 3) + "..."


def test_values_are_cut_where_they_are_long_or_deep() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown("a") == "'a'"
    assert shown(1.5) == "1.5"
    assert shown(deep) == "[[[[...]]]]"
    assert len(shown("a" * 10_000)) <= 100
    assert len(shown(10**400)) <= 40
    assert shown(10**5000) == "a number too long to show"
    assert shown({i: i for i in range(1000)}).count(":") <= 10
