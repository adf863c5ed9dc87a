"""Read the statements that hold others or may raise: contexts, the handler that joins streams, and Inductor's checks.

Read in torch 2.14.1 and 2.15.0: `_inductor/ir.py` (AssertScalar), `codegen/wrapper.py` (codegen_input_nan_asserts,
generate_return).
"""

from __future__ import annotations

import ast
import re

from graphstreams.verification.syntax import same, shortened
from graphstreams.verification.trace import CALLER
from graphstreams.verification.wrapper.abstract_values import CONTEXT, SequenceValue, StreamValue, TensorValue, Value, use
from graphstreams.verification.wrapper.expressions import ExpressionReader

_JOIN = "graphstreams.runtime.streams.join"
_CHECK_OUTPUTS = ast.parse("""
for var in return_vars:
    if isinstance(var, torch.Tensor):
        assert not var.isnan().any().item()
        assert not var.isinf().any().item()
""").body[0]
# Statements whose effect is not known, and the setting that makes Inductor write them.
_SETTINGS = {"for kernel in globals().values()": "triton.store_cubin"}


class ControlFlowReader(ExpressionReader):
    """A reader of control flow over the names of the function that is being read."""

    _profiler = False  # whether the function has imported `record_function`

    def _bind(self, name: str, value: Value) -> None:
        """Bind a name of the function to a value."""
        raise NotImplementedError

    def _entered(self, expression: ast.expr) -> int:
        """Return the stream that is current in a context."""
        match expression:
            case ast.Call(func=ast.Name(id="record_function"), args=[ast.Constant(value=str())], keywords=[]) if self._profiler:
                context: Value = CONTEXT
            case _:
                context = self._value(expression)
        if isinstance(context, StreamValue):
            # Leaving an `AuxStream` leads back to the caller's stream, so contexts must not nest. Inductor nests none either.
            if self._machine.stream != CALLER:
                raise self._machine.unsupported(f"with {shortened(expression)}, inside the context of another stream")
            return context.number
        if context is not CONTEXT:
            raise self._machine.unsupported(f"with {shortened(expression)}")
        return self._machine.stream

    def _check_handler(self, handler: ast.ExceptHandler) -> None:
        """Check that the handler joins all streams and raises again. It is no part of the trace, in which nothing raises."""
        match handler:
            case ast.ExceptHandler(
                type=ast.Name() as kind,
                name=None,
                body=[ast.Expr(value=ast.Call(func=join, keywords=[], args=arguments)), ast.Raise(exc=None, cause=None)],
            ) if self._path(kind) == "builtins.BaseException" and self._path(join) == _JOIN:
                joined = [self._names.get(a.id) if isinstance(a, ast.Name) else None for a in arguments]
                if joined == [StreamValue(number) for number in range(1 + (self._machine.acquired or 0))]:
                    return
        raise self._machine.unsupported(
            f"{shortened(handler)}, which does not join all aux streams with the caller's and raise again"
        )

    def _check(self, statement: ast.stmt) -> None:
        """Read a check of sizes or numbers. Raises UnreadableWrapper for anything else."""
        match statement:
            case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=ast.Call() as item), msg=None):
                self._check_numbers(item)
            case ast.Assert(test=test, msg=ast.JoinedStr(values=parts)):
                for part in (test, *(p.value for p in parts if isinstance(p, ast.FormattedValue))):
                    self._size(part)
            case ast.If(
                test=test,
                body=[ast.Raise(exc=ast.Call(func=ast.Name(id="RuntimeError"), args=[ast.Constant()], keywords=[]))],
                orelse=[],
            ):
                self._size(test)
            case ast.For() if same(statement, _CHECK_OUTPUTS):
                self._check_outputs()
            case _:
                text = shortened(statement)
                setting = next((f", written for the setting {name}" for part, name in _SETTINGS.items() if part in text), "")
                raise self._machine.unsupported(text + setting)

    def _check_numbers(self, node: ast.Call) -> None:
        """Read `tensor.isnan().any().item()`, which Inductor's `nan_asserts` writes: a launch that reads the tensor."""
        found = re.fullmatch(r"(\w+)\.(isnan|isinf)\(\)\.any\(\)\.item\(\)", ast.unparse(node))
        value = self._name(ast.Name(id=found[1])) if found else None
        if not found or not isinstance(value, TensorValue) or any(storage.on_host for storage in value.all):
            raise self._machine.unsupported(f"assert not {shortened(node)}")
        self._launch_checks(value, found[2])

    def _check_outputs(self) -> None:
        outputs = self._names.get("return_vars")
        if not isinstance(outputs, SequenceValue):
            raise self._machine.unsupported("a loop over what is not what the wrapper returns")
        for value in outputs.items:
            self._bind("var", value)
            if isinstance(value, TensorValue):
                self._launch_checks(value, "isnan", "isinf")

    def _launch_checks(self, tensor: TensorValue, *kinds: str) -> None:
        use(tensor)
        for kind in kinds:
            self._machine.launch(f"tensor.{kind}", [tensor], [], scratch=True)
