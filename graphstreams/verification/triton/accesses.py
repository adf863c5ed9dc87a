"""Find what a Triton kernel reads and writes, from the source that the wrapper embeds.

A parameter counts as written if any of three sources says so: Inductor's naming, in which a generated kernel only reads what it
calls `in_ptr*`; its list `mutated_arg_names`; and the text of the kernel, which `pointer_analysis` interprets. The text also
has to show that every address comes from a parameter. For user-defined kernels the text decides alone, because they carry no
list of mutated arguments (torch 2.15.0, `_inductor/codegen/wrapper.py`, define_user_defined_triton_kernel).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import full_path
from graphstreams.verification.triton.pointer_analysis import constant_value, kernel_accesses
from graphstreams.verification.triton.source import KernelSource, read_source
from graphstreams.verification.triton.values import Descriptor, KernelValue, Kind, Pointer

_GENERATED_READS = ("in_ptr",)
_HEURISTICS = (
    "pointwise", "reduction", "persistent_reduction", "cooperative_reduction", "split_scan", "foreach", "template",
    "fixed_config", "user_autotune",
)  # fmt: skip
_FREE_NAMING = ("user_autotune", "template")  # heuristics of kernels whose authors name the parameters
_POINTERS = ("*", "tensordesc", "nvTmaDesc")  # how the types of pointers begin in a signature
_TO_NUMBERS = re.compile(r"\*k?[a-z]+[0-9][a-z0-9]*")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. `kind` is its type in the launch signature, empty if there is none."""

    name: str
    kind: str
    written: bool
    read: bool = True

    @property
    def pointer(self) -> bool:
        """Return whether it takes an address or a descriptor."""
        return self.kind.startswith(_POINTERS)


@dataclass(frozen=True)
class TritonKernel:
    """A kernel's parameters in the order of its definition."""

    name: str
    parameters: tuple[Parameter, ...]
    allocates: bool  # a kernel that makes descriptors takes a workspace from the allocator


def read_kernel(name: str, source: str, line: int, entry: str = "") -> TritonKernel:
    """Return the kernel that `async_compile.triton(entry, source)` makes at `line` of the wrapper.

    `entry` is the function that is launched, by default the one called `name`. Raises UnreadableWrapper for a source that is
    not one of Inductor's kernels, and for a construct whose effect is not known.
    """
    try:
        return _read_kernel(name, source, line, entry or name)
    except RecursionError:
        raise UnreadableWrapper(line, f"Triton kernel {name} is nested too deeply") from None


def _read_kernel(name: str, source: str, line: int, entry: str) -> TritonKernel:
    read = read_source(name, source, line)
    definition, heuristic, launcher = _entry(read, entry, line)
    signature = _literal(heuristic, "triton_meta", "signature")
    if not isinstance(signature, dict):
        raise UnreadableWrapper(line, f"Triton kernel {name} has no launch signature")
    _check_launch(heuristic, launcher, name, line)
    kinds = {parameter: str(kind) for parameter, kind in signature.items()}
    for parameter, kind in kinds.items():
        if kind.startswith(_POINTERS) and pointer_value(parameter, kind) is None:
            raise UnreadableWrapper(line, f"Triton kernel {name} takes {kind} for {parameter}: not the address of numbers")
    names = [argument.arg for argument in definition.args.args]
    values: dict[str, KernelValue] = {}
    for n in names:
        number = Kind.NUMBER if kinds.get(n, "constexpr") != "constexpr" else _constant(n, read, heuristic, line)
        values[n] = pointer_value(n, kinds.get(n, "")) or number
    touched = kernel_accesses(read, definition, values, line, generated=launcher != "user_autotune")
    mutated = _literal(heuristic, "inductor_meta", "mutated_arg_names")
    if _find(_keyword(heuristic, "inductor_meta"), "mutated_arg_names") is None:
        mutated = []
    if not (isinstance(mutated, list) and all(isinstance(each, str) for each in mutated)):
        raise UnreadableWrapper(line, f"Triton kernel {name} has no list of names for the arguments that it changes")
    written = touched.writes.union(mutated)
    if not launcher.startswith(_FREE_NAMING):
        written |= {n for n in names if not n.startswith(_GENERATED_READS)}
    parameters = tuple(Parameter(n, kinds.get(n, ""), n in written, n in touched.reads) for n in names)
    return TritonKernel(name, parameters, "tensor_descriptor" in source)


def pointer_value(name: str, kind: str) -> KernelValue | None:
    """Return what a parameter of the type `kind` in the signature is; None if it is no address of numbers."""
    if _TO_NUMBERS.fullmatch(kind):
        return Pointer(frozenset({name}), scalar=True)
    return Descriptor(frozenset({name})) if kind.startswith(_POINTERS[1:]) else None


def _constant(name: str, source: KernelSource, heuristic: ast.Call, line: int) -> KernelValue:
    """Return what a constant parameter is: a number, unless the decorator spells out something else, such as a type."""
    configs = _keyword(heuristic, "configs")
    tables = [_find(_keyword(heuristic, "triton_meta"), "constants")]
    tables += configs.elts if isinstance(configs, ast.List) else []
    found = [value for table in tables if (value := _find(table, name)) is not None]
    return constant_value(source, found, name, line) if found else Kind.NUMBER


def _entry(source: KernelSource, name: str, line: int) -> tuple[ast.FunctionDef, ast.Call, str]:
    """Return the function of the kernel, the call that decorates it, and the name of the heuristic that this calls."""
    definition = source.functions.get(name)
    match definition:
        case ast.FunctionDef(decorator_list=[ast.Call(func=ast.Attribute(attr=launcher)) as heuristic, jit]):
            path = full_path(heuristic.func, source.paths)
            known = path.removeprefix("torch._inductor.runtime.triton_heuristics.") in _HEURISTICS
            if known and full_path(jit, source.paths) == "triton.jit":
                arguments = definition.args
                if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
                    raise UnreadableWrapper(line, f"Triton kernel {name} has parameters that are not plain ones")
                return definition, heuristic, launcher
    raise UnreadableWrapper(line, f"the source of {name} defines no Triton kernel of that name that Inductor launches")


def _check_launch(heuristic: ast.Call, launcher: str, name: str, line: int) -> None:
    """Raise UnreadableWrapper if the launcher does anything to memory besides the launch."""
    for key in ("restore_value", "reset_to_zero"):
        if _find(_keyword(heuristic, "triton_meta"), key) is not None:
            raise UnreadableWrapper(line, f"Triton kernel {name} is autotuned with {key}, which writes its arguments")
    text = ast.unparse(heuristic)
    if "pre_hook" in text or ("launch_pdl" in text and launcher == "user_autotune"):
        raise UnreadableWrapper(line, f"Triton kernel {name} is launched with a hook or ahead of its predecessor's end")


def _keyword(heuristic: ast.Call, keyword: str) -> ast.expr | None:
    return next((item.value for item in heuristic.keywords if item.arg == keyword), None)


def _find(node: ast.expr | None, key: str) -> ast.expr | None:
    """Return the value of a key that a dictionary spells out."""
    if isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            if isinstance(name, ast.Constant) and name.value == key:
                return value
    return None


def _literal(heuristic: ast.Call, keyword: str, key: str) -> object:
    value = _find(_keyword(heuristic, keyword), key)
    try:
        return None if value is None else ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return None
