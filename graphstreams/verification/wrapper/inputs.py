"""The inputs of a call. The source tells how many there are, and which are sizes, only by what it does with them."""

from __future__ import annotations

import re

from graphstreams.verification.wrapper.abstract_machine import AbstractMachine
from graphstreams.verification.wrapper.abstract_values import ConstantValue, TensorValue, Value

_SYMBOL = re.compile(r"(s|u|zuf|zf|z|ps|ks)\d+$")  # names that Inductor gives to sizes


class Inputs:
    """The list that the caller gives, which holds the inputs until the wrapper clears it."""

    def __init__(self, machine: AbstractMachine) -> None:
        self._machine = machine
        self._taken = False
        self.list = machine.heap.sequence([])

    def take(self, names: list[str]) -> None:
        """Fill the list at its first unpacking, which tells how many inputs there are, and which have the name of a size."""
        if self._taken:
            raise self._machine.unsupported("inputs that are unpacked a second time")
        self._taken = True
        for name in names:
            self.list.items.append(ConstantValue(name=name) if _SYMBOL.match(name) else self._machine.held_by_caller(name))

    def becomes_size(self, name: str, value: Value) -> bool:
        """Return whether `name = input` takes an input for a size, and forget its storage if so.

        Raises UnreadableWrapper if the input has been used as a tensor.
        """
        if not _SYMBOL.match(name) or not isinstance(value, TensorValue):
            return False
        inputs = self._machine.inputs
        if any(storage.used or storage not in inputs for storage in value.all):
            raise self._machine.unsupported(f"{name}, the name of a size, bound to a tensor")
        for storage in value.all:
            del inputs[storage]
            storage.ended = True
        return True
