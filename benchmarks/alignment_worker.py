"""Compile, call and compare the modules of the table of misaligned inputs: a process of `alignment.py`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from misaligned import DTYPES, KINDS, Module, compute_dtype, others_of, subject_of
from torch._inductor.utils import fresh_cache
from workers import messages

from graphstreams import StreamPass, graphstreams
from graphstreams.autotuning.cuda_graph import CapturedFunction, clones, copy_into, leaves
from graphstreams.benchmark.bits import equal_bits

Function = Callable[..., Any]
SAME_KERNELS = {"deterministic": True, "emulate_precision_casts": True}  # so that both sides round alike


class Sides:
    """The handler of requests: the results of serial are kept, and ours are compared with them."""

    def __init__(self, device: str, options: Mapping[str, Any]) -> None:
        """`options` are those of graphstreams."""
        self.device, self.options = device, dict(options)
        self._group: tuple[Any, ...] = ()
        self._cache = contextlib.ExitStack()
        self._functions: dict[str, tuple[Function, str]] = {}
        self._expected: dict[tuple[str, int], list[Any]] = {}

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run one side of a cell. Raises what compiling, calling or capturing it raises."""
        with torch.no_grad():
            self._enter(request)
            serial = request["side"] == "serial"
            way = request["way"]
            name = "serial" if serial else way
            if serial and way == "reduce-overhead":
                name = "serial, reduce-overhead"
            function, told = self._function(name, request)
            found = self._results(function, way, request["called_at"])
            if self.device == "cuda":
                torch.cuda.synchronize()
        key = (_serial_way(way), request["called_at"])
        if serial:
            self._expected[key] = found
            return {"told": told}
        return {"told": told, "equal": equal_bits(self._expected[key], found)}

    def _enter(self, request: Mapping[str, Any]) -> None:
        """Make the group's module and forget the last one."""
        group = tuple(request[name] for name in ("kind", "dtype", "compiled_at"))
        if group == self._group:
            return
        torch._dynamo.reset()
        self._functions, self._expected = {}, {}
        self._cache.close()
        self._cache.enter_context(fresh_cache())  # without graphs of other groups
        self._kind, self._dtype = KINDS[request["kind"]], DTYPES[request["dtype"]]
        torch.manual_seed(0)
        subject = self._subject(request["compiled_at"], 0) if self._kind.parameter else None
        self._module = Module(self._kind, compute_dtype(self._dtype), self.device, subject).requires_grad_(False)
        self._group = group

    def _subject(self, offset: int, seed: int) -> torch.Tensor:
        return subject_of(self._kind, self._dtype, offset, seed, self.device)

    def _values(self, offset: int, seed: int) -> list[Any]:
        """Return fresh inputs. A parameter is moved instead of an input."""
        others = others_of(compute_dtype(self._dtype), seed, self.device)
        if (parameter := self._module.subject) is not None:
            if parameter.storage_offset() != offset:  # otherwise it stays, because a captured graph reads it there
                parameter.data = self._subject(offset, 0)
            return [None, *others]
        subject = self._subject(offset, seed)
        if self._kind.static:
            torch._dynamo.mark_static_address(subject, guard=False)
        return [subject, *others]

    def _function(self, name: str, request: Mapping[str, Any]) -> tuple[Function, str]:
        """Return the compiled function, called once at the offset of the compile, and the verdict on its graph."""
        if name not in self._functions:
            said: list[str] = []
            with messages(said):
                function, reports = self._compiled(name)
                function(*self._values(request["compiled_at"], 0))
            told = [f"{report.verdict} {report.reason}".strip() for report in reports] or said
            self._functions[name] = function, re.sub(r"\b\d+_inference\b", "the graph", "; ".join(told))[:160]
        return self._functions[name]

    def _compiled(self, name: str) -> tuple[Function, Sequence[Any]]:
        settings: dict[str, Any] = dict(SAME_KERNELS)
        if "reduce-overhead" in name:
            settings.update(torch._inductor.list_mode_options("reduce-overhead"))
        if name.startswith("serial"):
            return torch.compile(self._module, dynamic=False, options=settings), ()
        if name.startswith("StreamPass"):
            stream_pass = StreamPass(self.options)
            settings["post_grad_custom_post_pass"] = stream_pass
            return torch.compile(self._module, dynamic=False, options=settings), stream_pass.reports
        if name.startswith("from a cache"):  # compiled before, for the way "direct" or here
            self._function("direct", {"compiled_at": self._group[2]})
            torch._dynamo.reset()
            self._functions.clear()
        options = {**self.options, "inductor": settings}
        return torch.compile(self._module, backend=graphstreams, dynamic=False, options=options), ()

    def _results(self, function: Function, way: str, offset: int) -> list[Any]:
        """Return outputs and inputs after a call on fresh values."""
        if "captured" in way:
            static = self._values(offset, 1)
            captured = CapturedFunction(lambda: function(*static), [])  # clones would be aligned
            copy_into(static, self._values(offset, 2))
            captured.replay()
            return clones([*captured.outputs, *static])
        for seed in (1, 2) if way == "reduce-overhead" else (2,):
            values = self._values(offset, seed)
            if way == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            found = clones([*leaves(function(*values)), *values])
        return found


def _serial_way(way: str) -> str:
    if "captured" in way:
        return "captured by hand"
    return way if way == "reduce-overhead" else "direct"
