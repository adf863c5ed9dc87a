"""Find the function that a command line names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_function(name: str) -> Callable[..., Any]:
    """The function of `module:function` or `path/to/file.py:function`.

    Raises ValueError where the name has no such form, no such module, or the module no such function.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise ValueError(f"{name!r} has to be MODULE:FUNCTION or FILE.py:FUNCTION")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found = getattr(module, function, None)
    if not callable(found):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        near = difflib.get_close_matches(function, names, n=1)
        raise ValueError(f"{place} has no function {function!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _from_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {error.name!r}") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
