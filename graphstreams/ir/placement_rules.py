"""Define what a user says of where kernels run: names or patterns of kernels and modules, each with a stream."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphstreams.errors import OptionError
from graphstreams.ir.kernels import Kernel
from graphstreams.ir.module_paths import path_of
from graphstreams.messages import shown

EVERY_GRAPH = "*"
_PIN = "option 'pin' takes a dict of names or patterns and streams, or such a dict for each graph by its name"
_EXCLUDE = "option 'exclude' takes names or patterns, or a dict of them for each graph by its name"


@dataclass(frozen=True)
class PlacementRule:
    """The stream of all kernels that a pattern stands for: those of that name, and those in a module of that path."""

    pattern: str
    stream: int  # 0 is the caller's
    graph: str = EVERY_GRAPH  # a pattern of the names of graphs
    option: str = "pin"  # or "exclude", whose stream is the caller's

    @property
    def reason(self) -> str:
        """Why a kernel is where it is, as a part of a sentence."""
        return (
            f"excluded by {self.pattern!r}"
            if self.option == "exclude"
            else f"pinned to stream {self.stream} by {self.pattern!r}"
        )

    def is_for(self, graph: str) -> bool:
        """Return whether the rule holds for a graph."""
        return fnmatch.fnmatchcase(graph, self.graph)

    def matches(self, kernel: Kernel) -> bool:
        """Return whether a kernel is one that the pattern stands for: a name, such as "layers[0]", stands for itself too."""
        return any(name == self.pattern or fnmatch.fnmatchcase(name, self.pattern) for name in names_of(kernel))


@dataclass(frozen=True)
class MarkedModule:
    """A module that the model's own code has marked, by its expression in the source; the empty one is the whole model's."""

    expression: str
    stream: int

    def holds(self, kernel: Kernel) -> bool:
        """Return whether a kernel computes something of the module."""
        inside = (f"{self.expression}.", f"{self.expression}[")
        if not self.expression or any(module == self.expression or module.startswith(inside) for module in kernel.modules):
            return True
        return not kernel.modules and path_of(self.expression) in _paths_of_owner(kernel)

    def is_around(self, other: MarkedModule) -> bool:
        """Return whether the module of another mark is inside this one."""
        own, inner = path_of(self.expression), path_of(other.expression)
        return inner.startswith((f"{own}.", f"{own}[")) if own else bool(inner)

    @property
    def reason(self) -> str:
        """Why a kernel is where it is, as a part of a sentence."""
        named = f"for module {path_of(self.expression)!r}" if self.expression else "for the model"
        if self.stream == 0:
            return f"excluded by graphstreams.exclude {named}"
        return f"pinned to stream {self.stream} by graphstreams.pin {named}"


def names_of(kernel: Kernel) -> list[str]:
    """Return the names that a pattern may stand for: the kernel's, and the paths of its modules."""
    return [kernel.name, *paths_of(kernel)]


def paths_of(kernel: Kernel) -> list[str]:
    """Return the paths of the modules that a kernel computes something of, those around them included."""
    if not kernel.modules:
        return _paths_of_owner(kernel)
    return list(
        dict.fromkeys(around for path in filter(None, map(path_of, kernel.modules)) for around in _with_those_around(path))
    )


def _with_those_around(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _paths_of_owner(kernel: Kernel) -> list[str]:
    """Return the path of the module that owns the first parameter that a kernel reads, and those of the modules around it.

    A pass of Inductor's may make nodes that stand in no module; the parameters tell theirs.
    """
    owners = [name.rpartition(".")[0] for name in kernel.parameters if "." in name and ":" not in name]
    return _with_those_around(owners[0]) if owners else []


def parse_pins(value: Any) -> tuple[PlacementRule, ...]:
    """Return the rules of the option `pin`: of {pattern: stream}, or {graph: {pattern: stream}}.

    A text is as in the environment, "a=1,0_inference/b=2". Raises OptionError for anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = _pairs(value)
    if _are_rules(value):
        return tuple(value)
    if not isinstance(value, Mapping):
        raise OptionError(f"{_PIN}, not {shown(value)}")
    return tuple(_pins(value))


def parse_excluded(value: Any) -> tuple[PlacementRule, ...]:
    """Return the rules of the option `exclude`: of patterns, or of {graph: patterns}.

    A text is as in the environment, "a,0_inference/b". Raises OptionError for anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = _parts(value)
    if _are_rules(value):
        return tuple(value)
    if isinstance(value, Mapping):
        found = [(graph, pattern) for graph, patterns in value.items() for pattern in _patterns(patterns)]
    else:
        found = [_graph_and_pattern(pattern, "exclude") for pattern in _patterns(value)]
    return tuple(PlacementRule(_text(pattern, _EXCLUDE), 0, _text(graph, _EXCLUDE), "exclude") for graph, pattern in found)


def _pins(value: Mapping[Any, Any]) -> Iterator[PlacementRule]:
    for name, stream in value.items():
        if isinstance(stream, Mapping):
            own = [(_text(name, _PIN), _text(pattern, _PIN), each) for pattern, each in stream.items()]
        else:
            graph, pattern = _graph_and_pattern(_text(name, _PIN), "pin")
            own = [(_text(graph, _PIN), _text(pattern, _PIN), stream)]
        for graph, pattern, each in own:
            if not isinstance(each, int) or isinstance(each, bool) or each < 0:
                raise OptionError(f"option 'pin' has {shown(each)} for {pattern!r}; a stream is a whole number, 0 the caller's")
            yield PlacementRule(pattern, each, graph)


def _are_rules(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(each, PlacementRule) for each in value)


def _patterns(value: Any) -> Iterable[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple | set | frozenset):
        raise OptionError(f"{_EXCLUDE}, not {shown(value)}")
    return sorted(value, key=str) if isinstance(value, set | frozenset) else value


def _text(value: Any, takes: str) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f"{takes}, not {shown(value)}")
    return value


def _graph_and_pattern(text: Any, option: str) -> tuple[str, Any]:
    graph, slash, pattern = text.partition("/") if isinstance(text, str) else ("", "", text)
    if slash and not (graph and pattern):
        side = "before" if pattern else "behind"
        raise OptionError(
            f"option {option!r} has {shown(text)}, with nothing {side} its '/'; give GRAPH/NAME, or NAME for every graph"
        )
    return (graph, pattern) if slash else (EVERY_GRAPH, text)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, stream in map(_pair, _parts(text)):
        if found.setdefault(name, stream) != stream:
            raise OptionError(f"option 'pin' has two streams for {name!r}, {shown(found[name])} and {shown(stream)}; give one")
    return found


def _pair(text: str) -> tuple[str, Any]:
    name, _, stream = text.rpartition("=")
    if not name:
        raise OptionError(f"option 'pin' has {text!r}; as a text it takes NAME=STREAM, several joined by commas")
    return name.strip(), int(stream) if stream.strip().isdecimal() else stream
