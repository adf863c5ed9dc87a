"""Read the source of a Triton kernel as a module: its functions, and what its other names stand for.

`_RUN_AT_IMPORT` and `_BENCHMARK` list the statements that may run when it is imported. Read in torch 2.14 and 2.15:
`_inductor/codegen/triton.py`.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.syntax import shortened
from graphstreams.verification.triton.values import Function, Helper

# The setting `benchmark_kernel` lets a source run as `__main__`, which it is not when Inductor loads it.
_BENCHMARK = re.compile(
    r"from torch\._inductor\.runtime\.benchmarking import benchmarker\nargs = get_args\(\)\n"
    r"ms = benchmarker\.benchmark\((lambda: call\(args\)|call, fn_args=\(args,\)), device='cuda', rep=40\)\n"
    r"num_gb = (None|[0-9.e+-]+)\ngb_per_s = num_gb / \(ms / 1000\.0\)\n"
    r"print\(f'\{ms:\.3f\}ms    \{num_gb:\.3f\}GB    \{gb_per_s:\.2f\}GB/s'\)"
)
_RUN_AT_IMPORT = ("triton_helpers.set_driver_to_gpu()", "pl.enable_semantic('triton')")


@dataclass(frozen=True)
class KernelSource:
    """The names of the module: its functions, the paths of what it imports, and the expressions that it assigns."""

    functions: dict[str, ast.FunctionDef]
    paths: dict[str, str]
    constants: dict[str, ast.expr]

    def find(self, name: str) -> Helper | Function | ast.expr | None:
        """Return what a name of the module or a builtin stands for. An expression is not evaluated yet."""
        if name in self.functions:
            return Helper(self.functions[name])
        path = self.paths.get(name) or (f"builtins.{name}" if hasattr(builtins, name) else "")
        return self.constants.get(name) or (Function(path) if path else None)


def read_source(name: str, source: str, line: int) -> KernelSource:
    """Return the names of a kernel's source.

    Raises UnreadableWrapper for what is not Python, for a name that is bound twice, and for a statement that runs anything
    else.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} is not Python ({error})") from None
    read = KernelSource({}, {}, {})
    for statement in tree.body:
        _read_statement(read, statement, name, line)
    return read


def _read_statement(read: KernelSource, statement: ast.stmt, name: str, line: int) -> None:
    match statement:
        case ast.Import():
            for alias in statement.names:
                top = alias.name.partition(".")[0]
                _bind_path(read, alias.asname or top, alias.name if alias.asname else top, name, line)
        case ast.ImportFrom(module=str(module), level=0):
            for alias in statement.names:
                _bind_path(read, alias.asname or alias.name, f"{module}.{alias.name}", name, line)
        case ast.FunctionDef():
            _check_free(read, statement.name, name, line)
            read.functions[statement.name] = statement
        case (
            ast.Assign(targets=[ast.Name(id=target)], value=value)
            | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
        ):
            _check_free(read, target, name, line)
            read.constants[target] = value
        case ast.Expr(value=value) if isinstance(value, ast.Constant) or ast.unparse(value) in _RUN_AT_IMPORT:
            pass
        case ast.If(test=test, body=body, orelse=[]) if ast.unparse(test) == "__name__ == '__main__'" and _BENCHMARK.fullmatch(
            "\n".join(map(ast.unparse, body))
        ):
            pass
        case _:
            text = f"the source of Triton kernel {name} has at its top level: {shortened(statement, 100)}"
            raise UnreadableWrapper(line, text)


def _bind_path(read: KernelSource, target: str, path: str, name: str, line: int) -> None:
    if target == "*":
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} imports all names of {path.removesuffix('.*')}")
    if read.paths.get(target) != path:
        _check_free(read, target, name, line)
        read.paths[target] = path


def _check_free(read: KernelSource, target: str, name: str, line: int) -> None:
    if target == "__name__":
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} binds __name__")
    if target in read.functions or target in read.paths or target in read.constants:
        raise UnreadableWrapper(line, f"the source of Triton kernel {name} binds {target} more than once")
