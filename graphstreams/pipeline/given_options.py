"""Read the options of a compile: graphstreams' own, Inductor's and a mode, which may all stand in one dict.

torch.compile refuses `mode=` beside `options=`, so the mode may be one of the options. Read in torch 2.15.0: `__init__.py`
(compile; _TorchCompileInductorWrapper, which reads the names of Inductor's settings as here).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphstreams.errors import OptionError
from graphstreams.inductor.compile import mode_settings, setting_names, why_no_value
from graphstreams.messages import shown
from graphstreams.options import FALSE, PREFIX, TRUE, Options

SPECIAL = ("mode", "inductor")
OWN = frozenset(field.name for field in dataclasses.fields(Options))


@dataclass(frozen=True)
class GivenOptions:
    """The options of one compile: ours, and the settings of Inductor that are not its defaults."""

    options: Options
    settings: dict[str, Any]


def read_options(given: Mapping[str, Any] | None = None, mode: str | None = None) -> GivenOptions:
    """Return the options of a compile from the `options=` and the `mode=` of torch.compile.

    A name is an option of ours, a setting of Inductor's, "mode", or "inductor", a dict of Inductor's settings. They win over
    the mode. Raises OptionError for a name that nobody knows, with the nearest ones, for one that both know, for a setting that
    is given twice with two values, and for a value that an option can't have.
    """
    if given is not None and not isinstance(given, Mapping):
        raise OptionError(f"options are a dict of names and values, not {shown(given)}")
    given = given or {}
    settings = _given_settings(given)
    own = {name: value for name, value in given.items() if name in OWN}
    for name in own:
        if name in setting_names():
            where = f"set {PREFIX}{name.upper()} for the one, and put the other under 'inductor'"
            raise OptionError(f"option {name!r} is known to graphstreams and to this torch's Inductor: {where}")
    asked = given.get("mode")
    if asked is not None and mode not in (None, "default", asked):
        raise OptionError(f"the mode is {shown(mode)}, and {shown(asked)} in the options; give one of them")
    return GivenOptions(Options.from_dict(own), {**mode_settings(mode if asked is None else asked), **settings})


def read_texts(texts: Iterable[str], where: str) -> dict[str, Any]:
    """Return what stands in texts "NAME=VALUE" as `read_options` takes it. `where` is their place in messages.

    An option of ours has its value as in the environment, a setting of Inductor's as one of the words for switches, as a Python
    literal, or else as a text.
    Raises OptionError for another form, for a name that is given twice, and as `read_options` does.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise OptionError(f"{where} {shown(text)} has to be NAME=VALUE")
        if name in found:
            raise OptionError(f"{where} {name} is given twice, as {shown(found[name])} and {shown(value)}; give one of them")
        if name in OWN:
            found[name] = Options.from_text(name, value, where)
        elif name == "mode":
            found[name] = value
        else:
            found[name] = _setting_value(_setting(name, nested=False), value)
    read_options(found)
    return found


def _setting_value(setting: str, text: str) -> Any:
    """Return the value that a text stands for: a switch in the words that options have, else a literal, else the text."""
    words = {word: value for value, spelled in ((True, TRUE), (False, FALSE)) for word in spelled}
    is_switch = not why_no_value(setting, True) and why_no_value(setting, 1)
    if is_switch and text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _given_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of Inductor among options, those under "inductor" too. Raises OptionError as `read_options` does."""
    nested = given.get("inductor")
    if nested is not None and not isinstance(nested, Mapping):
        raise OptionError(f"option 'inductor' takes a dict of Inductor's own options, not {shown(nested)}")
    settings = {_setting(name, nested=True): value for name, value in (nested or {}).items()}
    for setting, value in settings.items():
        _check_value(setting, value)
    for name, value in given.items():
        if name in OWN or name in SPECIAL:
            continue
        setting = _setting(name, nested=False)
        if setting in settings and settings[setting] != value:
            raise OptionError(f"Inductor's {setting!r} is given twice, as {shown(settings[setting])} and {shown(value)}")
        _check_value(setting, value)
        settings[setting] = value
    return settings


def _check_value(setting: str, value: Any) -> None:
    if why := why_no_value(setting, value):
        raise OptionError(f"the value of Inductor's {setting!r} is wrong: {why}")


def _setting(name: object, nested: bool) -> str:
    """Return the name of a setting of Inductor's as Inductor has it. Raises OptionError if there is none."""
    known = setting_names()
    setting = str(name).replace("-", "_")
    if isinstance(name, str) and setting in known:
        return setting
    if nested:
        near = [f"; did you mean Inductor's {name!r}?" for name in difflib.get_close_matches(setting, known, n=1)]
        raise OptionError(f"option 'inductor' has {shown(name)}, which is no setting of Inductor's{''.join(near)}")
    own = sorted((*OWN, *SPECIAL))
    closest = difflib.get_close_matches(setting, [*own, *known], n=2) or difflib.get_close_matches(
        setting, own, n=1, cutoff=0.0
    )
    names = ", or ".join(repr(each) if each in own else f"Inductor's {each!r}" for each in closest)
    raise OptionError(f"unknown option {shown(name)}; did you mean {names}? Known: {', '.join(own)}, and Inductor's settings")
