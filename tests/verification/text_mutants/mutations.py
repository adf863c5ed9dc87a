"""One or two changes of a wrapper's text, drawn from a seed: what an error in a code generator, or an attack, may look like.

Lines keep the indentation of where they are put, so that one moved across a `with` belongs to another stream.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\b[A-Za-z_]\w*\b")
_TENSOR = re.compile(r"\b(?:arg\d+_1(?:_orig)?|buf\d+)\b")
_STREAM = re.compile(r"\b(?:stream\d+|default_stream)\b")
_EVENT = re.compile(r"\bevent\d+\b")
_HANDLE = re.compile(r"\braw_stream\d*\b")
_SYNC = re.compile(r"\s*event\d+\.(?:record|wait)\(")
_LAUNCH = re.compile(r"\.run\(|extern_kernels\.|torch\.ops\.")
_BODY = re.compile(r"\s*def call\w*\(")


@dataclass
class Text:
    """The lines of a wrapper, those from `first` up to `last` being the functions that are called."""

    lines: list[str]
    first: int
    last: int
    dice: random.Random

    def pick(self, matching: Callable[[str], object] = bool) -> int | None:
        """A line of the functions that are called."""
        found = [i for i in range(self.first, self.last) if self.lines[i].strip() and matching(self.lines[i])]
        return self.dice.choice(found) if found else None

    def place(self) -> int:
        """A line of theirs ahead of which another may be put."""
        return self.dice.randrange(self.first + 1, self.last + 1)

    def insert(self, place: int, text: str) -> None:
        """Put a line ahead of another, indented as that one or as the one before."""
        neighbours = [line for line in (*self.lines[place - 1 : place], *self.lines[place : place + 1]) if line.strip()]
        self.lines.insert(place, _indentation(self.dice.choice(neighbours)) + text.strip())
        self.last += 1

    def take(self, place: int) -> str:
        """Remove a line; `pass` stands for it where its block would be empty."""
        line = self.lines[place]
        opens = self.lines[place - 1].rstrip().endswith(":")
        follows = len(_indentation(self.lines[place + 1])) if place + 1 < len(self.lines) else 0
        if opens and follows < len(_indentation(line)):
            self.lines[place] = _indentation(line) + "pass"
        else:
            del self.lines[place]
            self.last -= 1
        return line

    def names(self, pattern: re.Pattern[str]) -> list[str]:
        """What matches in those functions, each once."""
        return list(dict.fromkeys(name for line in self.lines[self.first : self.last] for name in pattern.findall(line)))

    def replace(self, place: int, pattern: re.Pattern[str], new: Callable[[str], str], which: int | None = None) -> bool:
        """Replace one match in a line, by default any."""
        line = self.lines[place]
        found = list(pattern.finditer(line))
        if not found:
            return False
        match = self.dice.choice(found) if which is None else found[which]
        self.lines[place] = line[: match.start()] + new(match[0]) + line[match.end() :]
        return True


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


# --- of lines


def drop(text: Text) -> None:
    _drop(text, bool)


def drop_sync(text: Text) -> None:
    _drop(text, _SYNC.match)


def drop_del(text: Text) -> None:
    _drop(text, _is_del)


def _drop(text: Text, matching: Callable[[str], object]) -> None:
    place = text.pick(matching)
    if place is not None:
        text.take(place)


def duplicate(text: Text) -> None:
    place = text.pick()
    assert place is not None
    text.insert(place + 1 if text.dice.random() < 0.5 else text.place(), text.lines[place])


def move(text: Text) -> None:
    _move(text, bool)


def move_sync(text: Text) -> None:
    _move(text, _SYNC.match)


def move_launch(text: Text) -> None:
    _move(text, _LAUNCH.search)


def move_del(text: Text) -> None:
    _move(text, _is_del)


def _move(text: Text, matching: Callable[[str], object]) -> None:
    place = text.pick(matching)
    if place is not None:
        line = text.take(place)
        # Most changes that still run are small.
        near = place + text.dice.choice((-3, -2, -1, 1, 2, 3)) if text.dice.random() < 0.5 else text.place()
        text.insert(min(max(near, text.first + 1), text.last), line)


def early_del(text: Text) -> None:
    """To right behind the last line that has the name."""
    place = text.pick(_is_del)
    if place is None:
        return
    name = text.lines[place].split()[1]
    uses = [i for i in range(text.first, place) if name in _WORD.findall(text.lines[i])]
    if uses:
        text.insert(uses[-1] + 1, text.take(place))


def _is_del(line: str) -> bool:
    return line.strip().startswith("del ")


def swap_lines(text: Text) -> None:
    one, two = text.pick(), text.pick()
    assert one is not None and two is not None
    lines = text.lines
    lines[one], lines[two] = _indentation(lines[one]) + lines[two].strip(), _indentation(lines[two]) + lines[one].strip()


def swap_neighbours(text: Text) -> None:
    place = text.pick()
    assert place is not None
    if place + 1 < text.last:
        lines = text.lines
        one, two = lines[place], lines[place + 1]
        lines[place], lines[place + 1] = _indentation(one) + two.strip(), _indentation(two) + one.strip()


def open_block(text: Text) -> None:
    """A block of a stream's runs on the current stream."""
    place = text.pick(lambda line: line.strip().startswith("with stream"))
    if place is None:
        return
    depth = _indentation(text.lines[place])
    end = place + 1
    while end < text.last and len(_indentation(text.lines[end])) > len(depth):
        text.lines[end] = text.lines[end].replace("    ", "", 1)
        end += 1
    del text.lines[place]
    text.last -= 1


def into_block(text: Text) -> None:
    """A line gets a block of its own."""
    place = text.pick()
    streams = text.names(_STREAM)
    if place is not None and streams:
        line = text.lines[place]
        stream = text.dice.choice(streams)
        text.lines[place] = f"{_indentation(line)}with {stream}:"
        text.lines.insert(place + 1, f"    {line}")
        text.last += 1


# --- of names

_REBOUND = (
    "{0} = {1}", "{0} = {1}", "{0} = {0}", "{0} = reinterpret_tensor({1}, (64, ), (1, ), 0)",
    "buf900 = {0}", "buf900 = reinterpret_tensor({0}, (64, ), (1, ), 0)",
    "{0} = empty_strided_cuda((64, ), (1, ), torch.float32)",
)  # fmt: skip


def rename_tensor(text: Text) -> None:
    _rename(text, _TENSOR)


def rename_launch_operand(text: Text) -> None:
    _rename(text, _TENSOR, _LAUNCH)


def rename_stream(text: Text) -> None:
    _rename(text, _STREAM)


def rename_event(text: Text) -> None:
    _rename(text, _EVENT)


def rename_handle(text: Text) -> None:
    _rename(text, _HANDLE)


def _rename(text: Text, pattern: re.Pattern[str], in_lines: re.Pattern[str] | None = None) -> None:
    place = text.pick(lambda line: pattern.search(line) and (in_lines is None or in_lines.search(line)))
    names = text.names(pattern)
    if place is not None:
        text.replace(place, pattern, lambda _: text.dice.choice(names))


def replace_out(text: Text) -> None:
    place = text.pick(lambda line: "out=" in line)
    names = text.names(_TENSOR)
    if place is not None:
        text.replace(place, re.compile(r"(?<=out=)\w+"), lambda _: text.dice.choice(names))


def swap_arguments(text: Text) -> None:
    place = text.pick(lambda line: len(_TENSOR.findall(line)) > 1)
    if place is not None:
        found = list(_TENSOR.finditer(text.lines[place]))
        one, two = sorted(text.dice.sample(found, 2), key=lambda match: match.start())
        line = text.lines[place]
        text.lines[place] = "".join((line[: one.start()], two[0], line[one.end() : two.start()], one[0], line[two.end() :]))


def rebind(text: Text) -> None:
    """A name gets another tensor, or its own again; or another name gets it."""
    _insert(text, _REBOUND)


def _insert(text: Text, forms: Sequence[str]) -> None:
    names = text.names(_TENSOR)
    text.insert(text.place(), text.dice.choice(forms).format(*(text.dice.choice(names) for _ in range(3))))


def misalign(text: Text) -> None:
    names = text.names(_TENSOR)
    one, two = text.dice.choice(names), text.dice.choice(names)
    text.insert(text.place(), f"{one} = copy_if_misaligned({text.dice.choice((one, two))})")
    text.lines.insert(0, "from torch._C._dynamo.guards import copy_if_misaligned")
    text.first, text.last = text.first + 1, text.last + 1


def rename_index(text: Text) -> None:
    """Another element of a list."""
    place = text.pick(lambda line: re.search(r"= buf\d+\[\d\]", line))
    if place is not None:
        text.replace(place, re.compile(r"(?<=\[)\d(?=\])"), lambda _: text.dice.choice(("0", "1", "-1", "-2", "0:1")))


# --- odd forms

_ODD_TENSORS = (
    "{0}.T", "{0}.data", "{0}.detach()", "{0}.view(-1)", "{0}[0:1]", "({0}, {1})[0]", "[{1}, {0}][1]", "(0 or {0})",
    "({0} if True else {1})", "({0} if False else {1})", "(lambda: {0})()", "(lambda x={0}: x)()", "({0} := {1})",
    "dict(x={0})['x']", "{0}.clone()", "*({0},)", "(None, {0})[len('x')]", "torch.ops.aten.contiguous.default({0})",
    "torch.ops.inductor._reinterpret_tensor({0}, (64, ), (1, ), 0)", "[x for x in ({0},)][0]", "next(iter([{0}]))",
    "max([{0}], key=id)", "locals()['{0}']",
)  # fmt: skip
_ODD_REBOUND = (
    "{0} = None", "{0}, {1} = {1}, {0}", "{0} = {1} = {2}", "keep = ({0}, {1})", "keep = [{0}]", "s99 = {0}",
    "{0}: object = {1}", "({0} := {1})", "global {0}", "args.append({0})", "[{0}, *_] = [{1}, {2}]", "{0} = {1} if {2} is None else {0}",
    "del {0}, {1}", "del ({0})", "s99 = 64; del {0}", "buf900 = [{0}, {1}]; del {0}; {0} = buf900[1]; del buf900",
)  # fmt: skip
_ODD_OPERATORS = (
    "buf900 = torch.ops.aten.native_batch_norm.default({0}, None, None, {1}, {2}, True, 0.1, 1e-05)",
    "{0} = torch.ops.aten.contiguous.default({1})",
    "buf900 = torch.ops.aten.reshape.default({0}, [64])",
    "buf900 = torch.ops.aten.split.Tensor({0}, 2); {0} = buf900[1]; del buf900",
    "{0}, {1} = torch.ops.aten.chunk.default({2}, 2)",
    "{0} = torch.ops.aten.meshgrid.default([{1}, {2}])[1]",
    "buf900 = torch.ops.aten.split_copy.Tensor({0}, 2); {0} = buf900[1]; del buf900",
    "{0} = torch.ops.aten.split_copy.Tensor({1}, 2)[0]",
    "{0}.copy_({1})", "{0}.copy_({1}, True)", "{0} = {1}.clone()", "{0}.zero_()", "s99 = {0}.item()",
    "buf900 = torch.empty_strided((1,), (1,), dtype=torch.int64, device='cpu', pin_memory=True); buf900.copy_({0}, True); s99 = buf900.item()",
)  # fmt: skip
_ODD_STATEMENTS = (
    "_ = 0 and {0}", "_ = 1 or {0}", "_ = 1 > 2 > {0}", "_ = [{0} for _ in ()]", "_ = lambda: {0}", "_ = None if 1 else {0}",
    "if 0: {0}", "if torch is None: {0}", "while 0: {0}", "for _ in (): {0}", "for _ in (0, 1): {0}", "def _(x={0}): pass",
    "assert 1, {0}", "assert {0} is None", "_ = {0}", "_ = ({0}, )", "({0})", "{0}; {0}", "print(end='') or {0}",
    "_ = f'{{{0}}}'", "_ = 0 and (yes := {0})", "global x; {0}", "_ = 1 and {0}",
)  # fmt: skip


def odd_tensor(text: Text) -> None:
    place = text.pick(lambda line: _TENSOR.search(line) and not _is_del(line))
    if place is not None:
        form, other = text.dice.choice(_ODD_TENSORS), text.dice.choice(text.names(_TENSOR))
        # Behind the name that the line may begin with.
        which = -1 if text.dice.random() < 0.5 else None
        text.replace(place, _TENSOR, lambda name: form.format(name, other), which)


def odd_statement(text: Text) -> None:
    place = text.pick(lambda line: _SYNC.match(line) or (_LAUNCH.search(line) and not line.strip().startswith("buf")))
    if place is not None:
        line = text.lines[place]
        text.lines[place] = _indentation(line) + text.dice.choice(_ODD_STATEMENTS).format(line.strip())


def odd_rebind(text: Text) -> None:
    _insert(text, _ODD_REBOUND)


def odd_operator(text: Text) -> None:
    """Operators whose schema does not tell what they write, or that return what they were given."""
    _insert(text, _ODD_OPERATORS)


# --- of the module


def rebind_in_module(text: Text) -> None:
    """A kernel, or a function of torch's, gets the name of another ahead of the call."""
    kernels = [line.split(" = ")[0] for line in text.lines[: text.first] if " = async_compile.triton(" in line]
    functions = ["assert_size_stride", "reinterpret_tensor", "empty_strided_cuda", "get_raw_stream", "extern_kernels"]
    choices = [(kernels, kernels), (functions, functions)] if len(kernels) > 1 else [(functions, functions)]
    names, others = text.dice.choice(choices)
    place = text.dice.choice((text.first, text.first, text.last))
    text.lines.insert(place, f"{text.dice.choice(names)} = {text.dice.choice(others)}")
    text.first, text.last = text.first + (place == text.first), text.last + 1


def drop_in_module(text: Text) -> None:
    places = [i for i in range(text.first) if re.match(r"\w+ = [\w.]+$|from |import ", text.lines[i])]
    place = text.dice.choice(places)
    line = text.lines.pop(place)
    text.first, text.last = text.first - 1, text.last - 1
    if text.dice.random() < 0.5:
        text.lines.insert(text.first, line)
        text.first, text.last = text.first + 1, text.last + 1


Mutation = Callable[[Text], None]

WEIGHTS: dict[Mutation, int] = {
    drop: 3, drop_sync: 12, drop_del: 4, duplicate: 3, move: 6, move_sync: 10, move_launch: 8, move_del: 8, early_del: 10,
    swap_lines: 2, swap_neighbours: 6, open_block: 3, into_block: 3, rename_tensor: 4, rename_launch_operand: 10,
    rename_stream: 10, rename_event: 8, rename_handle: 3, replace_out: 4, swap_arguments: 5, rebind: 6, misalign: 2,
    rename_index: 2, odd_tensor: 3, odd_statement: 3, odd_rebind: 2, odd_operator: 3, rebind_in_module: 2, drop_in_module: 1,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A text, and the names of what was done to the one that it comes from."""

    source: str
    kinds: tuple[str, ...]

    @property
    def is_odd(self) -> bool:
        """Whether it may have forms that no wrapper of Inductor's has, which are refused whatever they do."""
        return any(kind.startswith("odd_") or kind.endswith("_in_module") for kind in self.kinds)


def mutant(source: str, seed: int | str) -> Mutant:
    """The mutant of that seed, the same each time. It may equal its source."""
    dice = random.Random(seed)
    lines = source.splitlines()
    first = next(i for i, line in enumerate(lines) if _BODY.match(line)) + 1
    last = next((i for i in range(first, len(lines)) if lines[i].startswith("def get_args")), len(lines))
    text = Text(lines, first, last, dice)
    chosen = dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=dice.choice((1, 1, 2)))
    for mutation in chosen:
        mutation(text)
    return Mutant("\n".join(text.lines) + "\n", tuple(mutation.__name__ for mutation in chosen))


def difference(source: str, changed: str) -> Sequence[str]:
    """The lines that differ, for a reader."""
    return list(difflib.unified_diff(source.splitlines(), changed.splitlines(), "wrapper", "mutant", "", "", 2, ""))
