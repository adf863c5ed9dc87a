"""Statements that raise or do nothing: how Inductor checks sizes and numbers, and what else is not understood.

Read in torch 2.14.1 and 2.15.0: `_inductor/ir.py` (AssertScalar), `codegen/wrapper.py` (codegen_input_nan_asserts,
generate_return).
"""

from __future__ import annotations

import ast
import re

from graphstreams.verification.wrapper.abstract_values import SequenceValue, Tensor, Value
from graphstreams.verification.wrapper.expressions import Expressions
from graphstreams.verification.wrapper.operator_calls import use
from graphstreams.verification.wrapper.syntax import same, shortened

_CHECK_OUTPUTS = ast.parse("""
for var in return_vars:
    if isinstance(var, torch.Tensor):
        assert not var.isnan().any().item()
        assert not var.isinf().any().item()
""").body[0]
# What a setting makes Inductor write, whose effect is not known.
_SETTINGS = {"for kernel in globals().values()": "triton.store_cubin"}


class Checks(Expressions):
    """Reads checks over the names of the function that is being read."""

    def _bind(self, name: str, value: Value) -> None:
        """Let a name of the function stand for a value."""
        raise NotImplementedError

    def _check(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=ast.Call() as item), msg=None):
                self._check_numbers(item)
            case ast.Assert(test=test, msg=ast.JoinedStr(values=parts)):
                for part in (test, *(p.value for p in parts if isinstance(p, ast.FormattedValue))):
                    self._size(part)
            case ast.If(
                test=test, body=[ast.Raise(exc=ast.Call(func=ast.Name(id="RuntimeError"), args=[ast.Constant()], keywords=[]))]
            ) if not statement.orelse:
                self._size(test)
            case ast.For() if same(statement, _CHECK_OUTPUTS):
                self._check_outputs()
            case _:
                self._refuse(statement)

    def _check_numbers(self, node: ast.Call) -> None:
        """`tensor.isnan().any().item()`, as nan_asserts has it: a read, and then the host waits."""
        found = re.fullmatch(r"(\w+)\.(isnan|isinf)\(\)\.any\(\)\.item\(\)", ast.unparse(node))
        value = self._name(ast.Name(id=found[1])) if found else None
        if not found or not isinstance(value, Tensor) or any(storage.on_host for storage in value.all):
            raise self._machine.unsupported(f"assert not {shortened(node)}")
        self._machine.launch(f"tensor.{found[2]}", [use(value)], [], scratch=True)

    def _check_outputs(self) -> None:
        outputs = self._names.get("return_vars")
        if not isinstance(outputs, SequenceValue):
            raise self._machine.unsupported("a loop over what is not what the wrapper returns")
        for value in outputs.items:
            self._bind("var", value)
            if isinstance(value, Tensor):
                for kind in ("isnan", "isinf"):
                    self._machine.launch(f"tensor.{kind}", [use(value)], [], scratch=True)

    def _refuse(self, statement: ast.stmt) -> None:
        text = shortened(statement)
        setting = next((f", written for the setting {name}" for part, name in _SETTINGS.items() if part in text), "")
        raise self._machine.unsupported(text + setting)
