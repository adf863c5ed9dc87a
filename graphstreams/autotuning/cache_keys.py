"""Computes the keys of the cache on disk: all that a measured time or plan depends on.

Read in torch 2.15.0: `utils/_config_module.py`, `_higher_order_ops/triton_kernel_wrap.py`,
`_inductor/codegen/wrapper.py` (user_defined_triton_kernel_transitive_closure_source_code).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._inductor import config
from torch._inductor.codegen.wrapper import user_defined_triton_kernel_transitive_closure_source_code

from graphstreams.autotuning.matmul_precision import precisions
from graphstreams.autotuning.recorded_launches import Substitute
from graphstreams.inductor.opaque_objects import class_of_object
from graphstreams.ir.devices import Device
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options

LONGEST_TEXT = 500  # characters that a name may stand for; longer texts are replaced by their hash


@cache
def source_hash() -> bytes:
    """Return the hash of every file of this package, because another version may read, plan and measure otherwise."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def graph_key(serial: str, input_names: Sequence[str], options: Options, marked: Sequence[MarkedModule] = ()) -> str:
    """Return what a graph is told apart by, with its serial wrapper, options and marked modules.

    Graphs with the same one, plan and verdict have the same report.
    """
    asked = replace(options, dump=None), tuple(marked)
    return hashlib.sha256(source_hash() + repr((serial, tuple(input_names), asked)).encode()).hexdigest()


def setting(device: Device) -> str:
    """Return what the times of all kernels depend on: device, versions, and the precision of library kernels."""
    return repr((device.name, torch.__version__, torch.version.cuda, _version("triton"), sorted(precisions().items())))


def plan_key(reading: Reading, options: Options, given: Plan | None = None) -> str:
    """Return the key of a graph's plan, to which `setting` adds the device and versions.

    It depends on the graph with all sizes, strides and dtypes, on the source of a user's Triton kernels, on the options of the
    search, on every setting of Inductor, on this package, and if a plan is `given` on its order, streams and events.
    """
    kernels = replace(reading.kernels, name="")  # the name depends on how many graphs the process has compiled
    asked = replace(given, name="") if given is not None else None
    graph = (*_searched(reading.module, options), kernels, asked)
    return hashlib.sha256(repr(graph).encode()).hexdigest()


def kernels_key(module: fx.GraphModule, options: Options, placed: object = None) -> str:
    """Return the key of the kernels that a post-grad graph is given in place of an operator's, as `plan_key` does of plans.

    `placed` is what else decides which kernels may run beside others.
    """
    chosen = (options.min_gain, options.pin, options.exclude, options.operators, options.max_extra_memory, options.max_tokens)
    return hashlib.sha256(repr((*_searched(module, options), chosen, placed)).encode()).hexdigest()


def _searched(module: fx.GraphModule, options: Options) -> tuple[Any, ...]:
    """Return what decides what a search finds, of a graph, of the options, of Inductor's settings and of this package."""
    chosen = (options.streams, options.event_us, options.search, options.priority)
    settings = sorted(config.save_config_portable(ignore_private_configs=False).items())
    values = [_described(node.meta.get("val")) for node in module.graph.nodes]
    launches = [node.kwargs for node in module.graph.nodes if "kernel_idx" in node.kwargs]
    own = [(_triton_kernel(each["kernel_idx"]), _constants(each.get("constant_args_idx"))) for each in launches]
    # Numbers in torch's tables depend on what else the process has compiled.
    text = re.sub(r"(kernel_idx|constant_args_idx): \d+", r"\1", str(module.graph))
    return text, values, chosen, settings, source_hash(), own


def _triton_kernel(number: int) -> tuple[str, ...]:
    """Return the configurations and the source of a user's Triton kernel, for which a graph has a number only."""
    kernel: Any = kernel_side_table.get_kernel(number)
    configs: list[str] = []
    while not hasattr(kernel, "src") and hasattr(kernel, "fn"):
        configs += map(str, getattr(kernel, "configs", ()))
        kernel = kernel.fn
    has_source = hasattr(kernel, "src")
    return (*configs, user_defined_triton_kernel_transitive_closure_source_code(kernel) if has_source else repr(kernel))


def _constants(number: Any) -> str:
    """Return the arguments of a launch that a graph can't hold, such as types, for which it has a number only."""
    return repr(sorted(kernel_side_table.get_constant_args(number).items())) if number is not None else ""


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), str(tuple(value.shape)), str(value.stride()), str(value.device)
    if isinstance(value, tuple | list):
        return tuple(_described(each) for each in value)
    return class_of_object(value) or str(value)  # an object's text holds its address


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def launch_keys(source: str, lines: Sequence[int], inputs: Mapping[str, str]) -> list[str]:
    """Return what decides the time of the launch on each of `lines` of a wrapper: its kernel or operator, and the arguments.

    `inputs` describes each input of the wrapper by name: dtype, shape and strides of a tensor, the value of a number. Names
    of buffers and numbers in names of kernels do not count, so equal launches of two graphs have equal keys.
    """
    reader = _Keys(set(lines), inputs)
    for statement in ast.parse(source).body:
        reader.read(statement)
    return [reader.keys[line] for line in lines]


class _Keys:
    """A reader of a wrapper from top to bottom. Every name stands for the text of what it was made from."""

    def __init__(self, lines: set[int], inputs: Mapping[str, str]) -> None:
        self.keys: dict[int, str] = {}
        self._lines = lines
        self._texts: dict[str, ast.expr] = {name: ast.Name(f"<{text}>") for name, text in inputs.items()}

    def read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.With):
            for inner in statement.body:
                self.read(inner)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self._assign(statement.targets[0], statement.value)
        if statement.lineno in self._lines and isinstance(statement, ast.Expr | ast.Assign):
            self.keys[statement.lineno] = self._canonical(statement.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name) or target.id in self._texts:
            return  # an input, which is unpacked from `args`; no other name is bound to two things
        match value:
            case ast.Call(func=ast.Attribute(attr="triton"), args=[_, ast.Constant(value=str(source)), *_]):
                text = source.replace(target.id, "kernel")
            case ast.Call(func=ast.Name(id="get_raw_stream")):
                text = "stream"
            case _:
                text = _shortened(self._canonical(value))
        self._texts[target.id] = ast.Name(f"<{text}>")

    def _canonical(self, expression: ast.expr) -> str:
        return ast.unparse(Substitute(self._texts).visit(ast.parse(ast.unparse(expression), mode="eval")))


def _shortened(text: str) -> str:
    """Return `text`, or its hash: if each operator takes the last one's result twice, texts double with every step."""
    return text if len(text) <= LONGEST_TEXT else hashlib.sha256(text.encode()).hexdigest()
