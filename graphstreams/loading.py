"""Find the function or the mapping that a command line names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def load_function(name: str) -> Callable[..., Any]:
    """The function of `module:function` or `path/to/file.py:function`.

    Raises ValueError where the name has no such form, no such module, or the module no such function.
    """
    return _load(name, "function", callable)


def load_mapping(name: str) -> Mapping[str, Any]:
    """The mapping of `module:name` or `path/to/file.py:name`. Raises ValueError as `load_function` does."""
    return _load(name, "mapping", lambda value: isinstance(value, Mapping))


def _load(name: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    place, colon, wanted = name.rpartition(":")
    if not colon or not place or not wanted:
        raise ValueError(f"{name!r} has to be MODULE:{kind.upper()} or FILE.py:{kind.upper()}")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found = getattr(module, wanted, None)
    if not fits(found):
        names = [n for n, value in vars(module).items() if fits(value) and not n.startswith("_")]
        near = difflib.get_close_matches(wanted, names, n=1)
        raise ValueError(f"{place} has no {kind} {wanted!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    # Executed again, its classes would be others than those that its neighbours import.
    for name in (path.stem, str(path.resolve())):
        if (loaded := sys.modules.get(name)) is not None and _is(loaded, path):
            return loaded
    # As for a script, so that files beside it can be imported. Behind all else: none of them may hide a package.
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    names = path.stem, str(path.resolve())  # the latter stays when another file has the same name
    sys.modules.update(dict.fromkeys(names, module))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for name in names:
            sys.modules.pop(name, None)
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _is(module: Any, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).exists() and path.samefile(file)


def _from_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {error.name!r}") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
