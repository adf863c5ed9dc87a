"""Find the function or the mapping that a command line names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphstreams.command_line.guards import guarded
from graphstreams.messages import shown


def load_function(name: str) -> Callable[..., Any]:
    """Return the function of `module:function` or `path/to/file.py:function`.

    Raises ValueError if the name has another form, or there is no such module or function.
    """
    return _load(name, "function", callable)


def load_mapping(name: str) -> Mapping[str, Any]:
    """Return the mapping of `module:name` or `path/to/file.py:name`. Raises ValueError as `load_function` does."""
    return _load(name, "mapping", lambda value: isinstance(value, Mapping))


def module_and_inputs(name: str) -> tuple[Any, Any]:
    """Return the module and the example inputs that the named function returns. Raises ValueError if it returns others."""
    result = guarded(f"{name} cannot be called", load_function(name))
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"{name} has to return (module, example inputs), not {_kind(result)}")
    return result


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _load(name: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    place, colon, wanted = name.rpartition(":")
    if not colon or not place or not wanted:
        raise ValueError(f"{shown(name)} has to be MODULE:{kind.upper()} or FILE.py:{kind.upper()}")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found = guarded(f"{place} cannot be asked for {wanted!r}", lambda: getattr(module, wanted, None))
    if not fits(found):
        names = [n for n, value in getattr(module, "__dict__", {}).items() if fits(value) and not n.startswith("_")]
        near = difflib.get_close_matches(wanted, names, n=1)
        raise ValueError(f"{place} has no {kind} {wanted!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _from_file(path: Path) -> Any:
    if not os.path.isfile(path):  # Path.is_file raises if the name is too long
        raise ValueError(f"there is no file {path}")
    # If it were executed again, its classes would differ from those that modules beside it import.
    for name in (path.stem, str(path.resolve())):
        if (loaded := sys.modules.get(name)) is not None and _is(loaded, path):
            return loaded
    # As for a script, so that files beside it can be imported; last on the path, so that none of them hides a package.
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    full = str(path.resolve())  # stays when another file has the same name
    name = path.stem if _free(path.stem) else full
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    before = {key: sys.modules[key] for key in (name, full) if key in sys.modules}
    sys.modules.update({name: module, full: module})
    run, done = spec.loader.exec_module, False
    try:
        guarded(f"{path} cannot be imported", lambda: run(module))
        done = True
    finally:
        if not done:
            for key in {name, full} - before.keys():
                del sys.modules[key]
            sys.modules.update(before)
    return module


def _free(name: str) -> bool:
    """Return whether a file may have this name: no other module has it but one that was loaded here too."""
    taken = sys.modules.get(name)
    file = getattr(taken, "__file__", None)
    return taken is None or (file is not None and sys.modules.get(str(Path(file).resolve())) is taken)


def _is(module: Any, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).exists() and path.samefile(file)


def _from_name(name: str) -> Any:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{shown(name)} is no name of a module; a file's name ends in .py")
    # As `python -m` does; last on the path, so that no file here hides a package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return guarded(f"{name} cannot be imported", lambda: importlib.import_module(name))
    except ValueError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise ValueError(f"there is no module {missing.name!r}{_hint(name)}") from None
        raise


def _hint(name: str) -> str:
    top, _, rest = name.partition(".")
    near = difflib.get_close_matches(top, [module.name for module in pkgutil.iter_modules()], n=1)
    return f"; did you mean {'.'.join([*near, *filter(None, [rest])])!r}?" if near and near[0] != top else ""
