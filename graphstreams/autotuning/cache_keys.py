"""What a measured plan depends on, as keys for what is kept on disk. Read in torch 2.15.0: `utils/_config_module.py`."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch._inductor import config

from graphstreams.autotuning.benchmark_worker import precisions
from graphstreams.ir.devices import Device
from graphstreams.ir.reading import Reading
from graphstreams.options import Options


@cache
def source_hash() -> bytes:
    """Of every file of this package: another version of it reads, plans and measures otherwise."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def setting(device: Device) -> str:
    """What the times of all kernels depend on: device, versions, and how exact library kernels are to be."""
    return repr((device.name, torch.__version__, torch.version.cuda, _version("triton"), sorted(precisions().items())))


def plan_key(reading: Reading, options: Options) -> str:
    """What the plan of a graph depends on, its device and versions left out: the graph with all sizes, strides and dtypes, the
    options of the search, every setting of Inductor, and this package."""
    chosen = (options.streams, options.event_us, options.search, options.priority)
    settings = sorted(config.save_config_portable(ignore_private_configs=False).items())
    # Not by name: AOTAutograd numbers the graphs of a process.
    kernels = replace(reading.kernels, name="")
    values = [_described(node.meta.get("val")) for node in reading.module.graph.nodes]
    graph = (str(reading.module.graph), values, kernels, chosen, settings, source_hash())
    return hashlib.sha256(repr(graph).encode()).hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), str(tuple(value.shape)), str(value.stride()), str(value.device)
    if isinstance(value, tuple | list):
        return tuple(_described(each) for each in value)
    return str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


LONGEST_TEXT = 500  # characters that a name may stand for; longer texts are replaced by their hash


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
