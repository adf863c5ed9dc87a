"""What a Triton kernel reads and writes, from the source that the wrapper embeds.

Three witnesses are joined, and any of them makes a pointer a written one: Inductor's naming of parameters (a generated
kernel only reads what it names `in_ptr*`), its `mutated_arg_names`, and the kernel's text: targets of stores and
atomics, and whatever is passed to a function outside `triton.language`. User-defined kernels carry no list of mutated
arguments (`codegen/wrapper.py`, define_user_defined_triton_kernel, torch 2.15.0), so for them the text decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from graphstreams.verification.unreadable import UnreadableWrapper

_GENERATED_READS = ("in_ptr",)
_FREE_NAMING = ("user_autotune", "template")  # heuristics of kernels whose authors name the parameters
_STORES = ("store", "atomic_", "experimental_descriptor_store", "store_tensor_descriptor")
_LANGUAGES = ("tl", "triton")
_BUILTINS = ("tuple", "range", "len", "min", "max", "print", "static_print", "static_assert")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. `kind` is its type in the launch signature, empty where there is none."""

    name: str
    kind: str
    written: bool

    @property
    def pointer(self) -> bool:
        return self.kind.startswith(("*", "tensordesc", "nvTmaDesc"))


@dataclass(frozen=True)
class Kernel:
    """A kernel's parameters in the order of its definition."""

    name: str
    parameters: tuple[Parameter, ...]
    allocates: bool  # descriptors made in the kernel need a workspace from the allocator


def read_kernel(name: str, source: str, line: int) -> Kernel:
    """The kernel of an `async_compile.triton(name, source)` that stands at `line` of the wrapper."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} is not Python ({error})") from None
    definition, heuristic = _entry(tree, name, line)
    kinds = _literal(heuristic, "triton_meta", "signature")
    if not isinstance(kinds, dict):
        raise UnreadableWrapper(line, f"Triton kernel {name} has no launch signature")
    mutated = _literal(heuristic, "inductor_meta", "mutated_arg_names")
    names = [argument.arg for argument in definition.args.args]
    written = set(mutated if isinstance(mutated, list) else ()) | _written_by_text(definition, set(names))
    if not _decorator_name(heuristic).startswith(_FREE_NAMING):
        written |= {n for n in names if not n.startswith(_GENERATED_READS)}
    parameters = tuple(Parameter(n, str(kinds.get(n, "")), n in written) for n in names)
    return Kernel(name, parameters, "tensor_descriptor" in source)


def _entry(tree: ast.Module, name: str, line: int) -> tuple[ast.FunctionDef, ast.Call]:
    for definition in tree.body:
        if not isinstance(definition, ast.FunctionDef):
            continue
        for decorator in definition.decorator_list:
            if isinstance(decorator, ast.Call) and _root(decorator.func) == "triton_heuristics":
                return definition, decorator
    raise UnreadableWrapper(line, f"the source of {name} defines no Triton kernel that Inductor launches")


def _literal(heuristic: ast.Call, keyword: str, key: str) -> object:
    for item in heuristic.keywords:
        if item.arg == keyword and isinstance(item.value, ast.Dict):
            for name, value in zip(item.value.keys, item.value.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key:
                    return _evaluate(value)
    return None


def _evaluate(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _decorator_name(heuristic: ast.Call) -> str:
    return heuristic.func.attr if isinstance(heuristic.func, ast.Attribute) else ""


def _written_by_text(definition: ast.FunctionDef, parameters: set[str]) -> set[str]:
    sources = _sources(definition, parameters)
    return {
        parameter
        for node in ast.walk(definition)
        if isinstance(node, ast.Call)
        for target in _targets(node)
        for name in _address_names(target)
        for parameter in sources.get(name, ())
    }


def _targets(call: ast.Call) -> list[ast.expr]:
    """The arguments through which a call may write."""
    function = call.func
    root = _root(function)
    name = function.attr if isinstance(function, ast.Attribute) else ""
    if root in _LANGUAGES:
        pointers = [k.value for k in call.keywords if k.arg in ("pointer", "desc")]
        return [*call.args[:1], *pointers] if name.startswith(_STORES) else []
    if isinstance(function, ast.Attribute) and name.startswith(_STORES):
        return [function.value]  # descriptor.store(...)
    if isinstance(function, ast.Name) and function.id in _BUILTINS:
        return []
    if isinstance(function, ast.Attribute) and root not in ("libdevice", "tl_math", "triton_helpers"):
        return []  # a method of a value: x.to(...), descriptor.load(...)
    return [*call.args, *(k.value for k in call.keywords)]


def _sources(definition: ast.FunctionDef, parameters: set[str]) -> dict[str, set[str]]:
    """For each local name, the parameters whose address it may be computed from."""
    sources = {name: {name} for name in parameters}
    flows = [flow for node in ast.walk(definition) for flow in _flows(node)]
    changed = True
    while changed:
        changed = False
        for target, origins in flows:
            reached = set().union(*(sources.get(origin, set()) for origin in origins))
            known = sources.setdefault(target, set())
            if not reached <= known:
                known |= reached
                changed = True
    return sources


def _flows(node: ast.AST) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        targets, value = [node.target], node.value
    elif isinstance(node, ast.For):
        targets, value = [node.target], node.iter
    else:
        return
    origins = list(_address_names(value))
    for target in targets:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                yield name.id, origins


def _address_names(node: ast.AST) -> Iterator[str]:
    """Names that an expression computes with, but for those that it only loads through."""
    if isinstance(node, ast.Name):
        yield node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("load"):
        return
    for child in ast.iter_child_nodes(node):
        yield from _address_names(child)


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
