"""Define every option that a user can set, and read options from a mapping or the environment."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from graphstreams.errors import OptionError
from graphstreams.ir import declarations
from graphstreams.ir.placement_rules import PlacementRule, parse_excluded, parse_pins
from graphstreams.messages import shown

log = logging.getLogger("graphstreams")

PREFIX = "GRAPHSTREAMS_"
SWITCHES = ("disable", "vllm")  # variables that are no options
ALSO_TAKEN = """\
options= also takes "mode", which torch.compile refuses beside it, and every setting of Inductor by its name, at the top or in
a dict under "inductor".
Each option can be set in the environment as GRAPHSTREAMS_<NAME>, such as GRAPHSTREAMS_STREAMS=3; options= comes first.
GRAPHSTREAMS_DISABLE=1 turns everything off; GRAPHSTREAMS_VLLM=1 puts the pass into every engine of vLLM."""


def _field(
    default: Any, kind: type, limits: tuple[float, float] | None, text: str, words: tuple[str, ...] = (),
    read: Callable[[Any], Any] | None = None, read_text: Callable[[str], Any] | None = None, values: str = "",
    choices: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """An option; `words` are values that it can have beside those of its type, `choices` the only values.

    If it holds several things, `read` makes them of what is given, `read_text` of the environment's text if that is another
    form, and `values` says what may be given.
    """
    told = {"kind": kind, "limits": limits, "text": text, "words": words, "values": values, "choices": choices}
    more = {"optional": default is None, "read": read, "read_text": read_text or read}
    return dataclasses.field(default=default, metadata={**told, **more})


def _paths(value: Any) -> tuple[str, ...]:
    """Return paths from one or several. Raises OptionError for anything else."""
    given = () if value is None else (value,) if isinstance(value, str | os.PathLike) else value
    if not isinstance(given, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in given):
        raise OptionError(f"option 'plan' takes the path of a file or a folder, or a list of them, not {shown(value)}")
    return tuple(os.fspath(path) for path in given if os.fspath(path))


def _is_path(text: str) -> bool:
    """Return whether a file could have this path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _has_profile(path: str) -> bool:
    """Return whether a path is a file, or a folder of reports or of ranks' reports, each with a profile."""
    places = ("*profile.json", "*/profile.json", "*/*/profile.json")
    return os.path.isfile(path) or (bool(path) and any(any(Path(path).glob(place)) for place in places))


TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
COSTS = ("auto", "measured", "roofline")  # any other value is the path of a profile


@dataclass(frozen=True)
class Options:
    """The options of the backend, of `StreamPass` and of `explain`.

    Each can be set in `torch.compile(..., options={name: value})` or in the environment as GRAPHSTREAMS_<NAME>, which the
    former overrides. Raises OptionError for a value out of range, and for `costs` that are neither known nor a file or folder.
    """

    streams: int = _field(
        5,
        int,
        (1, 8),
        "the most streams of a plan, the caller's included, of which as many are taken as are best; 1 turns it off",
    )
    costs: str = _field(
        "auto", str, None,
        "where kernel times come from: 'measured' on the GPU at hand, 'roofline', or the path of a profile (JSON, us) or of a "
        "folder with one for each graph; "
        "'auto': measured if there is a GPU, else roofline",
    )  # fmt: skip
    search: int = _field(
        32, int, (0, 10_000),
        "how many plans to measure on the GPU at hand before one is chosen; 0 turns it off, as do costs that aren't measured",
    )  # fmt: skip
    min_gain: float = _field(
        0.02, float, (0.0, 1.0),
        "share of the serial time that a plan has to save, as measured, or as predicted if nothing was measured",
    )  # fmt: skip
    max_tokens: int | None = _field(
        None, int, (1, 2**31),
        "calls whose first matrix product has more rows than this run serially, also if that number is dynamic; None: as many "
        "as are predicted, or measured, to gain",
    )  # fmt: skip
    event_us: float | None = _field(
        None, float, (0.0, 1000.0),
        "what a wait for another stream adds, in us; None: 0.2 on the simulator, and 1.0 in list schedules, which know no "
        "contention",
    )  # fmt: skip
    max_extra_memory: float = _field(
        0.1,
        float,
        (0.0, 100.0),
        "share of the memory that the serial graph holds at its peak, with inputs and weights, that a plan may add; 64 MiB are "
        "always allowed",
    )
    operators: tuple[tuple[str, tuple[str, ...]], ...] = _field(
        (), tuple, None,
        "operators of other libraries that touch nothing but their arguments, by name ('lib::norm') or pattern, or a dict with "
        "what each touches beside them: {'lib::attention': ['kv_cache']}; others keep their place against every kernel",
        read=declarations.parse, values="names",
    )  # fmt: skip
    plan: tuple[str, ...] = _field(
        (), tuple, None,
        "plans to run in place of those that would be chosen: the plan.json of a report, or a list of them, or a folder of "
        "reports; each is for the graph with its kernels, and is proved as any other",
        read=_paths, read_text=lambda text: tuple(text.split(os.pathsep)), values="a path, paths",
    )  # fmt: skip
    pin: tuple[PlacementRule, ...] = _field(
        (), tuple, None,
        "streams of kernels by name, by the path of their module, or by a pattern of either: {'q_b_proj': 1}, or for one graph "
        "{'0_inference': {'q_b_proj': 1}}; 0 is the caller's stream",
        read=parse_pins, values="names and streams",
    )  # fmt: skip
    exclude: tuple[PlacementRule, ...] = _field(
        (), tuple, None,
        "kernels, by names as in pin, that stay on the caller's stream: ['moe.*'], or for one graph {'0_inference': ['moe.*']}",
        read=parse_excluded, values="names",
    )  # fmt: skip
    top_k: bool = _field(
        True, bool, None,
        "whether top-k takes kernels of this package where they were measured to be faster than aten's, whose bits and order "
        "they keep",
    )  # fmt: skip
    kernels: str = _field(
        "exact", str, None,
        "'exact': serial's bits; 'fast': products of up to 64 rows with a weight take kernels of this package, which sum in "
        "another order, if that was measured to be faster",
        choices=("exact", "fast"),
    )  # fmt: skip
    priority: int | None = _field(
        None, int, (-5, 0), "CUDA priority of the aux streams; lower numbers run first; None: 0, or what was measured as best"
    )
    dump: str | None = _field(None, str, None, "directory for the report of every graph, one folder a graph; None: no report")
    strict: bool | str = _field(
        False, bool, None,
        "raise for every graph that would run serially, whatever the reason; too small a gain is one too; 'refused': only if a "
        "stage or a proof failed",
        ("refused",),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.profile is not None and not _has_profile(self.profile):
            near = _nearest(self.profile, COSTS)
            known = ", ".join(map(repr, COSTS))
            rest = "anything else has to be an existing file, or a folder of profiles"
            raise OptionError(f"option 'costs' is {self.profile!r}; did you mean {near!r}? Known: {known}; {rest}")
        self._check_pins()
        self._check_plans()

    def _check_pins(self) -> None:
        """Raise OptionError for a pin on a stream that there is not, and for a name that is both pinned and excluded."""
        excluded = {(rule.graph, rule.pattern) for rule in self.exclude}
        for rule in self.pin:
            if rule.stream >= self.streams:
                known = f"with streams={self.streams} they are 0 to {self.streams - 1}"
                raise OptionError(f"option 'pin' has stream {shown(rule.stream)} for {rule.pattern!r}; {known}")
            if rule.stream and (rule.graph, rule.pattern) in excluded:
                raise OptionError(f"{rule.pattern!r} is pinned to stream {rule.stream} and excluded; give one of them")

    def _check_plans(self) -> None:
        """Raise OptionError for a plan that there is not, and for one that the report of a graph would be written over."""
        if self.dump == "":
            raise OptionError("option 'dump' is empty; give a folder, or None for no report")
        if self.dump is not None and not _is_path(self.dump):
            raise OptionError(f"option 'dump' is {shown(self.dump)}, which is no path")
        written = None if self.dump is None else os.path.realpath(self.dump)
        for path in self.plan:
            if not os.path.exists(path):
                raise OptionError(f"option 'plan' has {path!r}, which is neither a file nor a folder")
            if written is not None and f"{os.path.realpath(path)}{os.sep}".startswith(f"{written}{os.sep}"):
                raise OptionError(f"option 'plan' has {path!r}, which reports in 'dump' are written over; give another folder")

    @property
    def profile(self) -> str | None:
        """The path of the profile that kernel times come from, or of a folder of them; None if `costs` names another source."""
        return None if self.costs in COSTS else self.costs

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Options:
        """Return options from a mapping, else from the environment, else their defaults.

        Raises OptionError for an unknown name, with the nearest known one, and for a value of the wrong type or range. An
        unknown variable that begins with GRAPHSTREAMS_ is a warning.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if given is not None and not isinstance(given, Mapping):
            raise OptionError(f"options are a dict of names and values, not {shown(given)}")
        for name in given or {}:
            if name not in fields:
                near = _nearest(str(name), fields)
                raise OptionError(f"unknown option {shown(name)}; did you mean {near!r}? Known: {', '.join(fields)}")
        values = _from_environment(fields, os.environ if environment is None else environment)
        return cls(**{**values, **(given or {})})

    @classmethod
    def from_text(cls, name: str, text: str, where: str) -> Any:
        """Return the value of an option from a text, as the environment has it. `where` is its place in messages.

        Raises OptionError for a text that is no value of it.
        """
        (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
        return _value(f"{where} {name}", field.metadata, text)

    @classmethod
    def table(cls) -> str:
        """Return the options as a table of name, default, values and meaning, which is wrapped."""
        rows = [
            (field.name, repr(field.default), _values(field), textwrap.fill(field.metadata["text"], 80))
            for field in dataclasses.fields(cls)
        ]
        return tabulate(rows, headers=("option", "default", "values", "meaning"), disable_numparse=True)

    @classmethod
    def help(cls) -> str:
        """Return one line for each option: name, default, range, meaning."""
        return "\n".join(
            f"{field.name} (default {field.default!r}{_range(field)}): {field.metadata['text']}"
            for field in dataclasses.fields(cls)
        )


def disabled(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether GRAPHSTREAMS_DISABLE turns everything off. Raises OptionError if it is neither 0 nor 1."""
    return _switch("DISABLE", environment)


def vllm_enabled(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether GRAPHSTREAMS_VLLM puts the pass into every engine of vLLM. Raises OptionError if it is neither 0 nor 1."""
    return _switch("VLLM", environment)


def _switch(name: str, environment: Mapping[str, str] | None) -> bool:
    text = (os.environ if environment is None else environment).get(PREFIX + name, "")
    return _boolean(PREFIX + name, text) if text else False


@functools.cache
def _warn_of_unknown(variable: str, near: str) -> None:
    """Warn of a variable, once a process: another program's, or a later version's, may begin with our name too."""
    told = f"did you mean {near!r}?" if near else "`graphstreams options` lists those that do something"
    log.warning("graphstreams: unknown environment variable %r does nothing; %s", variable, told)


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _from_environment(fields: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    known = [PREFIX + name.upper() for name in (*fields, *SWITCHES)]
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            names = [each.removeprefix(PREFIX) for each in known]
            near = difflib.get_close_matches(variable.removeprefix(PREFIX).upper(), names, n=1)
            _warn_of_unknown(variable, PREFIX + near[0] if near else "")
    disabled(environment)
    vllm_enabled(environment)
    found: dict[str, Any] = {}
    for name, field in fields.items():
        variable = PREFIX + name.upper()
        text = environment.get(variable)
        if text:
            found[name] = _value(variable, field.metadata, text)
    return found


def _value(variable: str, metadata: Mapping[str, Any], text: str) -> Any:
    if text == "None" and metadata["optional"]:
        return None
    return text if text in metadata["words"] else _parsed(variable, metadata, text)


def _parsed(variable: str, metadata: Mapping[str, Any], text: str) -> Any:
    kind, read = metadata["kind"], metadata["read_text"]
    if kind is bool:
        return _boolean(variable, text)
    if read is not None:
        return read(text)
    try:
        return kind(text)
    except ValueError:
        raise OptionError(f"{variable}={shown(text)} is not {'a whole' if kind is int else 'a'} number") from None


def _boolean(variable: str, text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise OptionError(f"{variable}={shown(text)} is neither 0 nor 1")


def _checked(field: Any, value: Any) -> Any:
    kind, limits = field.metadata["kind"], field.metadata["limits"]
    if (value is None and field.default is None) or (isinstance(value, str) and value in field.metadata["words"]):
        return value
    if (read := field.metadata["read"]) is not None:
        return read(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = "".join(f" or {word!r}" for word in field.metadata["words"])
        raise OptionError(f"option {field.name!r} takes {kind.__name__}{words}{_range(field)}, not {shown(value)}")
    if (choices := field.metadata["choices"]) and value not in choices:
        raise OptionError(f"option {field.name!r} is {shown(value)}; it has to be {' or '.join(map(repr, choices))}")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise OptionError(f"option {field.name!r} is {shown(value)}; it has to be from {limits[0]} to {limits[1]}")
    return value


def _values(field: Any) -> str:
    """What an option's value may be, as its type, its limits and the words that it also takes tell."""
    kind, limits = field.metadata["kind"], field.metadata["limits"]
    if choices := field.metadata["choices"]:
        return ", ".join(map(repr, choices))
    words = {str: "text", bool: "True, False"}.get(kind, kind.__name__)
    plain = f"{limits[0]} to {limits[1]}" if limits else field.metadata["values"] or words
    return ", ".join([plain, *map(repr, field.metadata["words"]), *(["None"] if field.default is None else [])])


def _range(field: Any) -> str:
    limits = field.metadata["limits"]
    return f", from {limits[0]} to {limits[1]}" if limits else ""
