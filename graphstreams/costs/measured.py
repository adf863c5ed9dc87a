"""What was measured, kept on disk: the key of a launch, and a folder of small files under such keys."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

LONGEST_TEXT = 500  # characters that a name may stand for; longer texts are replaced by their hash


def cache_folder() -> Path:
    """Beside Inductor's own caches, so that whoever empties or moves those does the same to ours."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "graphstreams"


def launch_keys(source: str, lines: Sequence[int], inputs: Mapping[str, str]) -> list[str]:
    """What decides the time of the launch on each of `lines` of a wrapper: the kernel's source or operator, and its arguments.

    `inputs` describes each input of the wrapper by name: dtype, shape and strides of a tensor, the value of a number. Names
    of buffers and numbers in names of kernels do not count: equal launches of two graphs have equal keys.
    """
    reader = _Keys(set(lines), inputs)
    for statement in ast.parse(source).body:
        reader.read(statement)
    return [reader.keys[line] for line in lines]


class _Keys:
    """Reads a wrapper from top to bottom; every name stands for the text of what it was made from."""

    def __init__(self, lines: set[int], inputs: Mapping[str, str]) -> None:
        self.keys: dict[int, str] = {}
        self._lines = lines
        self._text = dict(inputs)

    def read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.With):
            for inner in statement.body:
                self.read(inner)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self._assign(statement.targets[0], statement.value)
        if statement.lineno in self._lines and isinstance(statement, ast.Expr | ast.Assign):
            self.keys[statement.lineno] = self._canonical(statement.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name) or target.id in self._text:
            return  # inputs are unpacked from `args`; nothing else is bound twice to something else
        match value:
            case ast.Call(func=ast.Attribute(attr="triton"), args=[_, ast.Constant(value=str(source)), *_]):
                self._text[target.id] = source.replace(target.id, "kernel")
            case ast.Call(func=ast.Name(id="get_raw_stream")):
                self._text[target.id] = "stream"
            case _:
                self._text[target.id] = _shortened(self._canonical(value))

    def _canonical(self, expression: ast.expr) -> str:
        texts = self._text

        class Names(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.expr:
                return ast.Name(f"<{texts[node.id]}>", node.ctx) if node.id in texts else node

        return ast.unparse(Names().visit(ast.parse(ast.unparse(expression), mode="eval")))


def _shortened(text: str) -> str:
    """Where each operator takes the result of the one before it twice, texts would double with every step."""
    return text if len(text) <= LONGEST_TEXT else hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of small JSON files, each under the hash of what it was measured for. Processes and threads may share it."""

    def __init__(self, folder: Path, setting: str) -> None:
        """`setting` is part of every key: device, versions."""
        self._folder, self._setting = folder, setting

    def get(self, key: str) -> object | None:
        """What was put under `key`, None where there is nothing that can be read."""
        try:
            return json.loads(self._path(key).read_text())  # type: ignore[no-any-return]
        except (OSError, ValueError, RecursionError):
            return None

    def put(self, key: str, value: object) -> None:
        """Keep a value that JSON can hold. A folder that cannot be written is no error: the next compile measures again."""
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(value))
            temporary.replace(path)
        except OSError:
            return

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self._setting}\n{key}".encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
