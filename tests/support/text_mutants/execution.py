"""Run the text of a wrapper with stubs: twice, as a caller does who keeps nothing but what is returned.

Inputs that the caller kept would be freed behind the call, where everything has been waited for; dropped, they are freed where
the wrapper lets go of them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from tests.support.text_mutants.oracle import faults, other_order
from tests.support.text_mutants.stub_kernels import Accesses
from tests.support.text_mutants.stub_modules import namespace
from tests.support.text_mutants.stub_tensors import Device, Layout, Tensor, numbers
from tests.support.text_mutants.trace import CALLER, Enter, Launch, Leave, Recording, Step

TENSOR = None  # among inputs, a tensor without a known layout; a layout is another tensor; anything else is the input
Inputs = tuple[Any, ...]
INTERRUPTED = (0.3, 0.8)  # when these shares of a call's launches are done


class CannotRun(Exception):
    """Python raises when it runs the text."""


@dataclass(frozen=True)
class Run:
    """How inputs lie in memory, which of two bodies runs, and whether a signal comes in between."""

    misaligned: float = 0.0  # the share of inputs that are not aligned
    streamed: bool = True
    interrupted: int = 0  # the first call, behind this many launches; 0: it is not
    seed: int = 0


def runs_of(source: str) -> list[Run]:
    """Return every way in which a text may run to its end, as far as that changes what it does."""
    found = [Run()]
    if "copy_if_misaligned(" in source:
        found += [Run(1.0), Run(0.5, seed=1), Run(0.5, seed=2)]
    if "runs_on_streams(" in source:
        found.append(Run(streamed=False))
    return found


def inputs_of(source: str, accesses: Accesses) -> Inputs:
    """Return what the wrapper's own `get_args` makes."""
    scope = _load(compile(source, "wrapper", "exec"), Device(Recording()), accesses, Run())
    return tuple(value.layout if isinstance(value, Tensor) else value for value in scope["get_args"]())


def faults_of(source: str, inputs: Inputs, accesses: Accesses) -> dict[str, str]:
    """Return what is wrong with a wrapper, however it is run. Raises CannotRun."""
    found: dict[str, str] = {}
    try:
        code = compile(source, "wrapper", "exec")
    except (SyntaxError, ValueError) as error:
        raise CannotRun(str(error)) from None
    runs = [steps_of(code, inputs, accesses, run) for run in runs_of(source)]
    for steps in runs:
        _add(found, faults(steps))
    if not runs_of(source)[-1].streamed:  # the last run is the other body's, if there is one
        _add(found, other_order(runs[0], runs[-1]))
    launches = sum(isinstance(step, Launch) for step in steps_of(code, inputs, accesses, Run())) // 2 - 2
    for share in INTERRUPTED:
        steps = steps_of(code, inputs, accesses, Run(interrupted=1 + int(share * max(launches, 0))))
        _add(found, faults(steps), ", when interrupted")
    return found


def _add(found: dict[str, str], more: Mapping[str, str], when: str = "") -> None:
    for kind, text in more.items():
        if kind not in found:
            found[kind + when] = text


def steps_of(code: CodeType, inputs: Inputs, accesses: Accesses, run: Run) -> Sequence[Step]:
    """Return what two calls do. Raises CannotRun."""
    recording = Recording()
    device = Device(recording)
    try:
        call = _load(code, device, accesses, run)["call"]
        _call(device, call, inputs, run.interrupted)
        _call(device, call, inputs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever Python may raise for a text that was changed at random
        raise CannotRun(f"{type(error).__name__}: {error}") from None
    return recording.steps


def _load(code: CodeType, device: Device, accesses: Accesses, run: Run) -> dict[str, Any]:
    rng = random.Random(run.seed)
    scope = namespace(device, accesses, functools.partial(_draw, rng, run.misaligned), run.streamed)
    exec(code, scope)
    return scope


def _draw(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _call(device: Device, call: Any, inputs: Inputs, interrupted: int = 0) -> None:
    known = {Layout, type(TENSOR)}
    values = [device.allocate(layout=value) if type(value) in known else value for value in inputs]
    device.launch("the caller makes the inputs", [], values)
    device.emit(Enter())
    device.until_signal, device.interrupted = interrupted, False
    try:
        outputs = call(values)
    except BaseException:
        if not device.interrupted:
            raise
        outputs = None
    device.until_signal = 0
    device.emit(Leave(numbers([outputs]), device.current, device.interrupted))
    device.current = CALLER
    device.launch("the caller reads the outputs", [outputs], [])
