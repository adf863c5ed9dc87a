"""What a Triton kernel reads and writes, from the source that the wrapper embeds.

Three witnesses are joined, and any of them makes a pointer a written one: Inductor's naming of parameters (a generated
kernel only reads what it names `in_ptr*`), its `mutated_arg_names`, and the kernel's text, in which every use of an
address has to be one that is known to read (`pointers.py`). User-defined kernels carry no list of mutated arguments
(`codegen/wrapper.py`, define_user_defined_triton_kernel, torch 2.15.0), so for them the text decides.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from graphstreams.verification.pointers import written_pointers
from graphstreams.verification.unreadable import UnreadableWrapper

_GENERATED_READS = ("in_ptr",)
_FREE_NAMING = ("user_autotune", "template")  # heuristics of kernels whose authors name the parameters
_POINTERS = ("*", "tensordesc", "nvTmaDesc")  # how the types of pointers begin in a signature


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. `kind` is its type in the launch signature, empty where there is none."""

    name: str
    kind: str
    written: bool

    @property
    def pointer(self) -> bool:
        return self.kind.startswith(_POINTERS)


@dataclass(frozen=True)
class Kernel:
    """A kernel's parameters in the order of its definition."""

    name: str
    parameters: tuple[Parameter, ...]
    allocates: bool  # descriptors made in the kernel need a workspace from the allocator


def read_kernel(name: str, source: str, line: int, entry: str = "") -> Kernel:
    """The kernel of an `async_compile.triton(entry, source)` that stands at `line` of the wrapper.

    `entry` is the name of the function that is launched, by default `name`.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} is not Python ({error})") from None
    definition, heuristic = _entry(tree, entry or name, line)
    kinds = _literal(heuristic, "triton_meta", "signature")
    if not isinstance(kinds, dict):
        raise UnreadableWrapper(line, f"Triton kernel {name} has no launch signature")
    mutated = _literal(heuristic, "inductor_meta", "mutated_arg_names")
    names = [argument.arg for argument in definition.args.args]
    pointers = [n for n in names if str(kinds.get(n, "")).startswith(_POINTERS)]
    written = set(mutated if isinstance(mutated, list) else ()) | written_pointers(tree, definition, pointers, line)
    if not _decorator_name(heuristic).startswith(_FREE_NAMING):
        written |= {n for n in names if not n.startswith(_GENERATED_READS)}
    parameters = tuple(Parameter(n, str(kinds.get(n, "")), n in written) for n in names)
    return Kernel(name, parameters, "tensor_descriptor" in source)


def _entry(tree: ast.Module, name: str, line: int) -> tuple[ast.FunctionDef, ast.Call]:
    """The function that `async_compile.triton` takes by its name from the module that the source makes."""
    match [statement for statement in tree.body if name in _bound(statement)]:
        case [ast.FunctionDef(decorator_list=[ast.Call(func=heuristic) as decorator, _]) as definition] if (
            _root(heuristic) == "triton_heuristics"
        ):
            return definition, decorator
        case [_, _, *_]:
            raise UnreadableWrapper(line, f"the source of {name} defines it more than once")
    raise UnreadableWrapper(line, f"the source of {name} defines no Triton kernel of that name that Inductor launches")


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement may bind in the module, `*` where it binds any."""
    found: set[str] = set()
    for node in ast.walk(statement) if not isinstance(statement, ast.FunctionDef) else ():
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


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


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
