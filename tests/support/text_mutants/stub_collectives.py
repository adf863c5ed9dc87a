"""Stand in for torch's functional collectives: each runs on a stream of its own until it is waited for (torch 2.15.0).

`_c10d_functional.wait_tensor` looks for what runs on the memory of its tensor, and finds nothing there a second time. Until
then the process group holds the tensors (`csrc/distributed/c10d/Functional.cpp`, `Work.cpp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.text_mutants.stub_tensors import Device, Event, Stream, require_tensors, tensors
from tests.support.text_mutants.trace import FIRST_COLLECTIVE, Collective

NAMESPACE = "_c10d_functional"
# What each collective writes: what it is given, `out`, or one new tensor for each that it is given, alone or in a list.
GIVEN, OUT, NEW, NEW_LIST = "given", "out", "new", "new list"
STARTS: Mapping[str, str] = {
    "all_reduce_": GIVEN, "all_reduce_coalesced_": GIVEN, "broadcast_": GIVEN,
    "all_gather_into_tensor_out": OUT, "reduce_scatter_tensor_out": OUT,
    "all_gather_into_tensor": NEW, "reduce_scatter_tensor": NEW, "all_to_all_single": NEW,
    "all_reduce": NEW, "broadcast": NEW,
    "all_gather_into_tensor_coalesced": NEW_LIST, "reduce_scatter_tensor_coalesced": NEW_LIST, "all_reduce_coalesced": NEW_LIST,
}  # fmt: skip
WAITS = ("wait_tensor", "wait_tensors")


@dataclass
class _Work:
    number: int
    end: Event
    held: list[Any]


@dataclass
class Registry:
    """The collectives that were started, by the memory that they write."""

    device: Device
    count: int = 0
    running: dict[int, list[_Work]] = field(default_factory=dict)

    def call(self, name: str, values: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Start a collective, or wait for those that write what is given."""
        given = values[0]
        require_tensors(*(given if isinstance(given, list | tuple) else [given]))
        if name in WAITS:
            return self._wait(name, given)
        return self._start(name, given, values[1:], dict(named))

    def _start(self, name: str, given: Any, constants: Sequence[Any], named: dict[str, Any]) -> Any:
        device, kind = self.device, STARTS[name]
        if (kind == OUT) is not ("out" in named) or any(True for _ in tensors(constants)):
            raise TypeError(f"{name}: arguments")
        out = named.pop("out", None)
        if kind == NEW_LIST:
            result: Any = [device.allocate() for _ in given]
        else:
            result = {GIVEN: given, OUT: out, NEW: None}[kind]
            result = device.allocate() if result is None else result
        sizes = tuple(None if t.layout is None or t.storage.resized else t.layout.sizes for t in tensors([given, out]))
        device.emit(Collective(device.current, name, (*map(repr, constants), *map(repr, named.items())), sizes))
        stream = Stream(device, FIRST_COLLECTIVE + self.count)
        stream.wait_stream(Stream(device, device.current))
        work = _Work(self.count, Event(device), [given, result])
        self.count += 1
        for number in {tensor.storage.number for tensor in tensors([result])}:
            self.running.setdefault(number, []).append(work)
        try:
            device.launch(name, [given], [result], stream.number)
        finally:  # a signal comes behind the operator
            work.end.record(stream)
        return result

    def _wait(self, name: str, given: Any) -> Any:
        device = self.device
        works = [work for tensor in tensors([given]) for work in self.running.pop(tensor.storage.number, [])]
        device.emit(Collective(device.current, "wait", tuple(sorted({work.number for work in works})), ()))
        for work in works:
            work.end.wait(Stream(device, device.current))
            work.held.clear()
        return given
