"""What the launch of a Triton kernel does."""

from __future__ import annotations

from graphstreams.verification.call import Call
from graphstreams.verification.kernels import Kernel, Parameter
from graphstreams.verification.machine import Machine
from graphstreams.verification.values import Bundle, Constant, RawStream, Tensor, Value


def call_kernel(machine: Machine, kernel: Kernel, call: Call) -> None:
    """`kernel.run(*arguments, stream=raw_stream)`: runs on the stream whose handle it is given."""
    handle = call.keywords.get("stream")
    if not isinstance(handle, RawStream):
        raise machine.refuse(f"kernel {kernel.name} is not given a stream that came from get_raw_stream")
    if set(call.keywords) != {"stream"}:
        raise machine.refuse(f"kernel {kernel.name} is called with keywords {sorted(call.keywords)}")
    if handle.number != machine.stream:
        raise machine.refuse(f"kernel {kernel.name} is given the handle of a stream that is not the current one")
    if any(isinstance(argument, Bundle) for argument in call.arguments):
        raise machine.refuse(f"kernel {kernel.name} is given a tuple")
    parameters = _match(kernel, call.arguments)
    if parameters is None:
        raise machine.refuse(f"the arguments of kernel {kernel.name} do not fit its signature")
    pairs = [(p, a) for p, a in zip(parameters, call.arguments, strict=False) if isinstance(a, Tensor)]
    reads = [argument for parameter, argument in pairs if not parameter.written]
    writes = [argument for parameter, argument in pairs if parameter.written]
    machine.launch(kernel.name, reads, writes, scratch=kernel.allocates)


def _match(kernel: Kernel, arguments: tuple[Value, ...]) -> list[Parameter] | None:
    """The parameters that the arguments are passed to; launchers leave constants out, or do not."""
    everything = list(kernel.parameters)
    for parameters in (everything, [p for p in everything if p.kind not in ("constexpr", "")]):
        missing = parameters[len(arguments) :]
        surplus = arguments[len(parameters) :]
        fits = all(p.pointer == isinstance(a, Tensor) for p, a in zip(parameters, arguments, strict=False))
        if fits and not any(p.pointer for p in missing) and all(isinstance(a, Constant) for a in surplus):
            return parameters
    return None
