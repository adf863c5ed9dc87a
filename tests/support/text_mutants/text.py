"""Hold the text of a wrapper while it is being changed, and find its lines."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WORD = re.compile(r"\b[A-Za-z_]\w*\b")
TENSOR = re.compile(r"\b(?:decompose_k_\w+?_)?(?:arg\d+_1(?:_orig)?|buf\d+)\b")
STREAM = re.compile(r"\b(?:stream\d+|default_stream)\b")
EVENT = re.compile(r"\bevent\d+\b")
HANDLE = re.compile(r"\braw_stream\d*\b")
SYNC = re.compile(r"\s*event\d+\.(?:record|wait)\(")
LAUNCH = re.compile(r"\.run\(|extern_kernels\.|torch\.ops\.")
BODY = re.compile(r"\s*def (?:call|partition_|decompose_k_)\w*\(")


@dataclass
class Text:
    """The lines of a wrapper, those from `first` up to `last` being the functions that are called."""

    lines: list[str]
    first: int
    last: int
    rng: random.Random

    @staticmethod
    def of(source: str, rng: random.Random) -> Text:
        """Return the text of a wrapper."""
        lines = source.splitlines()
        first = next(i for i, line in enumerate(lines) if BODY.match(line)) + 1
        last = next((i for i in range(first, len(lines)) if lines[i].startswith("def get_args")), len(lines))
        return Text(lines, first, last, rng)

    def pick(self, matching: Callable[[str], object] = bool) -> int | None:
        """Return a line of the functions that are called."""
        found = [i for i in range(self.first, self.last) if self.lines[i].strip() and matching(self.lines[i])]
        return self.rng.choice(found) if found else None

    def place(self) -> int:
        """Return a line of theirs ahead of which another may be put."""
        return self.rng.randrange(self.first + 1, self.last + 1)

    def insert(self, place: int, text: str) -> None:
        """Put a line ahead of another, indented as that one or as the one before."""
        neighbours = [line for line in (*self.lines[place - 1 : place], *self.lines[place : place + 1]) if line.strip()]
        self.lines.insert(place, indentation(self.rng.choice(neighbours)) + text.strip())
        self.last += 1

    def insert_form(self, forms: Sequence[str]) -> None:
        """Put one of some lines anywhere, with any tensors' names in its places."""
        names = self.names(TENSOR)
        self.insert(self.place(), self.rng.choice(forms).format(*(self.rng.choice(names) for _ in range(3))))

    def take(self, place: int) -> str:
        """Remove a line; `pass` stands for it if its block would be empty."""
        line = self.lines[place]
        opens = self.lines[place - 1].rstrip().endswith(":")
        follows = len(indentation(self.lines[place + 1])) if place + 1 < len(self.lines) else 0
        if opens and follows < len(indentation(line)):
            self.lines[place] = indentation(line) + "pass"
        else:
            del self.lines[place]
            self.last -= 1
        return line

    def names(self, pattern: re.Pattern[str]) -> list[str]:
        """Return what matches in those functions, each once."""
        return list(dict.fromkeys(name for line in self.lines[self.first : self.last] for name in pattern.findall(line)))

    def replace(self, place: int, pattern: re.Pattern[str], new: Callable[[str], str], which: int | None = None) -> bool:
        """Replace one match in a line, by default any."""
        line = self.lines[place]
        found = list(pattern.finditer(line))
        if not found:
            return False
        match = self.rng.choice(found) if which is None else found[which]
        self.lines[place] = line[: match.start()] + new(match[0]) + line[match.end() :]
        return True


def indentation(line: str) -> str:
    """Return the blanks that a line begins with."""
    return line[: len(line) - len(line.lstrip())]


def is_del(line: str) -> bool:
    """Return whether the line ends names."""
    return line.strip().startswith("del ")
