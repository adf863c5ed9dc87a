"""Check the launches of a wrapper, recorded on the CPU: what each computes, in which order, and what stays alive."""

from __future__ import annotations

import gc
import itertools
import textwrap
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from graphstreams.autotuning.recorded_launches import RecordedLaunch, by_kernel, record_launches
from tests.support.sample_modules import graph_inputs, module_and_inputs, reading_of, serial_code

# As Inductor writes it: `double`, `add` and `split` stand for kernels, and a launch has LAUNCH behind it.
WRAPPER = """
import torch
STREAMS = []
ASKED = []
ALLOCATED = []

def get_raw_stream(device):
    ASKED.append(device)
    return len(ASKED)

def empty_strided_cuda(size, stride, dtype):
    ALLOCATED.append(torch.empty_strided(size, stride, dtype=dtype))
    return ALLOCATED[-1]

class Kernel:
    def __init__(self, function):
        self.function = function
    def run(self, *tensors, stream):
        STREAMS.append(stream)
        self.function(*tensors)

double = Kernel(lambda x, out: out.copy_(x * 2))
add = Kernel(lambda x, y, out: out.copy_(x + y))
split = lambda x: (x.clamp(min=0), x.clamp(max=0))
"""


def recorded(body: str, *arguments: Any, constants: Mapping[str, Any] | None = None) -> list[RecordedLaunch]:
    """Return the launches of a wrapper with that body of `call`, which gets `args`."""
    source = WRAPPER + "def call(args):\n" + textwrap.indent(body, "    ")
    numbers = [i for i, line in enumerate(source.splitlines(), 1) if "LAUNCH" in line]
    return record_launches(source, numbers, constants or {}, arguments)


def call(launches: Sequence[RecordedLaunch], *order: int) -> None:
    for launch in order:
        launches[launch]()


CHAIN = """
arg0_1, out = args
args.clear()
with torch.no_grad():
    buf0 = empty_strided_cuda((2,), (1,), torch.float32)
    raw_stream0 = get_raw_stream(0)
    double.run(arg0_1, buf0, stream=raw_stream0)  # LAUNCH
    buf1 = empty_strided_cuda((2,), (1,), torch.float32)
    raw_stream0 = get_raw_stream(0)
    double.run(buf0, buf1, stream=raw_stream0)  # LAUNCH
    del buf0
    raw_stream0 = get_raw_stream(0)
    add.run(arg0_1, buf1, out, stream=raw_stream0)  # LAUNCH
    del arg0_1
    del buf1
return (out,)
"""


@pytest.fixture
def chain() -> tuple[Tensor, Tensor, list[RecordedLaunch]]:
    """Return an input, the output, and the launches of x, 2x, 4x, 4x + x."""
    x, out = torch.tensor([1.0, 2.0]), torch.zeros(2)
    return x, out, recorded(CHAIN, x, out)


def test_recording_runs_the_wrapper_once(chain: tuple[Tensor, Tensor, list[RecordedLaunch]]) -> None:
    _, out, launches = chain
    assert len(launches) == 3
    assert out.tolist() == [5.0, 10.0]


def test_all_launches_again_compute_from_what_the_input_holds_now(chain: tuple[Tensor, Tensor, list[RecordedLaunch]]) -> None:
    x, out, launches = chain
    x.fill_(3.0)
    call(launches, 0, 1, 2)
    assert out.tolist() == [15.0, 15.0]


def test_one_launch_reads_what_others_left_behind(chain: tuple[Tensor, Tensor, list[RecordedLaunch]]) -> None:
    x, out, launches = chain
    x.fill_(3.0)
    call(launches, 2)
    assert out.tolist() == [4.0 + 3.0, 8.0 + 3.0]  # 4x is still that of the first run
    call(launches, 1, 2)
    assert out.tolist() == [4.0 + 3.0, 8.0 + 3.0]  # and so is 2x
    call(launches, 0, 2, 1)
    assert out.tolist() == [4.0 + 3.0, 8.0 + 3.0]  # out of order: 4x comes too late
    call(launches, 2)
    assert out.tolist() == [15.0, 15.0]


def test_nothing_is_freed_while_launches_are_held_and_all_when_they_go() -> None:
    """Without a garbage collection, before which memory would stay reserved."""
    allocated: list[Tensor] = []
    launches = recorded(CHAIN, torch.ones(2), torch.zeros(2), constants={"ALLOCATED": allocated})
    buffers = [weakref.ref(tensor) for tensor in allocated]
    allocated.clear()
    assert [buffer() is not None for buffer in buffers] == [True, True]
    gc.disable()
    try:
        del launches
        assert [buffer() for buffer in buffers] == [None, None]
    finally:
        gc.enable()


def test_the_callers_list_of_arguments_is_not_emptied() -> None:
    arguments = [torch.ones(2), torch.zeros(2)]
    recorded(CHAIN, *arguments)
    assert len(arguments) == 2


def test_the_stream_is_asked_for_when_a_launch_is_called() -> None:
    """The wrapper's own `get_raw_stream` gives a higher number each time that it is asked."""
    streams: list[int] = []
    launches = recorded(CHAIN, torch.ones(2), torch.zeros(2), constants={"STREAMS": streams})
    call(launches, 0, 2, 0)
    assert len(streams) == 6
    assert streams == sorted(set(streams))


def test_buffers_that_move_to_another_name_are_the_ones_that_each_launch_had() -> None:
    body = """
arg0_1, out = args
buf0 = empty_strided_cuda((2,), (1,), torch.float32)
double.run(arg0_1, buf0, stream=0)  # LAUNCH 2x
buf1 = empty_strided_cuda((2,), (1,), torch.float32)
double.run(buf0, buf1, stream=0)  # LAUNCH 4x
buf2 = buf0; del buf0  # reuse
add.run(arg0_1, buf1, buf2, stream=0)  # LAUNCH 5x, where 2x was
buf3 = buf1; del buf1  # reuse
double.run(buf2, buf3, stream=0)  # LAUNCH 10x, where 4x was
buf0 = buf3; del buf3  # a name that had another buffer
add.run(buf2, buf0, out, stream=0)  # LAUNCH 15x
return (out,)
"""
    x, out = torch.tensor([1.0, 2.0]), torch.zeros(2)
    launches = recorded(body, x, out)
    assert out.tolist() == [15.0, 30.0]
    x.fill_(2.0)
    call(launches, 0, 1, 2, 3, 4)
    assert out.tolist() == [30.0, 30.0]
    call(launches, 3, 4)  # nothing that they read has changed
    assert out.tolist() == [30.0, 30.0]
    call(launches, 0, 4)  # 2x = 4 where 5x was, beside 10x = 20
    assert out.tolist() == [24.0, 24.0]
    call(launches, 1, 4)  # 2 * 4 where 10x was, beside 4
    assert out.tolist() == [12.0, 12.0]


def test_results_of_an_operator_with_several_outputs_reach_their_consumers() -> None:
    body = """
arg0_1, out = args
buf0 = split(arg0_1)  # LAUNCH
buf1 = buf0[0]
buf2 = buf0[1]
del buf0
add.run(buf1, buf2, out, stream=0)  # LAUNCH
del buf1, buf2
return (out,)
"""
    x, out = torch.tensor([1.0, -2.0]), torch.zeros(2)
    launches = recorded(body, x, out)
    assert out.tolist() == [1.0, -2.0]
    x.fill_(-3.0)
    positive, negative = launches[0]()
    assert (positive.tolist(), negative.tolist()) == ([0.0, 0.0], [-3.0, -3.0])
    call(launches, 1)  # its inputs are where the first run put them
    assert out.tolist() == [1.0, -2.0]


def test_constants_of_the_module_are_there() -> None:
    body = """
arg0_1, out = args
add.run(arg0_1, constant0, out, stream=0)  # LAUNCH
return (out,)
"""
    x, out = torch.ones(2), torch.zeros(2)
    (launch,) = recorded(body, x, out, constants={"constant0": torch.tensor([10.0, 20.0])})
    assert out.tolist() == [11.0, 21.0]
    x.zero_()
    launch()
    assert out.tolist() == [10.0, 20.0]


@pytest.mark.parametrize("line", ["args.clear", "pass", "buf0 = arg0_1", "del arg0_1"])
def test_a_line_without_a_launch_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+ of the wrapper holds no launch"):
        recorded(f"arg0_1, out = args\n{line}  # LAUNCH\nreturn (out,)", torch.ones(2), torch.zeros(2))


def test_a_line_outside_of_call_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2 of the wrapper holds no launch"):
        record_launches(WRAPPER, [2], {}, [])


def test_a_launch_that_does_not_run_once_is_refused() -> None:
    body = "arg0_1, out = args\nif False:\n    double.run(arg0_1, out, stream=0)  # LAUNCH\nreturn (out,)"
    with pytest.raises(ValueError, match="made 0 launches, 1 were expected"):
        recorded(body, torch.ones(2), torch.zeros(2))


# --- wrappers that Inductor generated for an H200, with names of the CPU in the places of those of CUDA


class Kernel:
    """In the place of a Triton kernel: a function of its tensors, which writes one of them."""

    def __init__(self, function: Callable[..., Any], streams: list[int]) -> None:
        self.function, self.streams = function, streams

    def run(self, *arguments: Any, stream: int) -> None:
        self.function(*(a for a in arguments if isinstance(a, Tensor)))
        self.streams.append(stream)


def on_cpu(sample: str, kernels: Mapping[str, Callable[..., Any]]) -> tuple[list[RecordedLaunch], tuple[Any, ...], list[int]]:
    """Return the launches of a sample's serial code, its inputs, and the streams of its Triton launches, higher each time."""
    code = serial_code(reading_of(sample))
    source = code.lowered.source
    for cuda, cpu in (
        ("from torch._inductor.async_compile import AsyncCompile", "from unittest.mock import Mock as AsyncCompile"),
        ("_empty_strided_cuda\n", "_empty_strided_cpu\n"),
        ("with torch.cuda._DeviceGuard(0):", "with torch.no_grad():"),
        ("torch.cuda.set_device(0)", "pass"),
    ):
        assert cuda in source
        source = source.replace(cuda, cpu)
    streams: list[int] = []
    numbers = itertools.count(1)
    stubs = {name: Kernel(function, streams) for name, function in kernels.items()}
    inputs = tuple(value.clone() for value in graph_inputs(sample))
    constants = {**stubs, "get_raw_stream": lambda device: next(numbers)}
    return record_launches(source, code.lines, constants, inputs), inputs, streams


def computed(sample: str, *inputs: Tensor) -> Any:
    """Return what the sample's module gives, for other inputs than its own if there are any."""
    module, own = module_and_inputs(sample)
    with torch.no_grad():
        return module(*(inputs or (value.clone() for value in own)))


def same_as(value: Tensor, inputs: Sequence[Any]) -> Tensor:
    """That one of the graph's inputs which holds the numbers of `value`."""
    (found,) = (i for i in inputs if isinstance(i, Tensor) and i.shape == value.shape and torch.equal(i, value))
    return found


def test_a_generated_wrapper_of_matrix_products_is_recorded_and_repeated() -> None:
    launches, inputs, _ = on_cpu("three_arms", {})
    first = [launch() for launch in launches]
    torch.testing.assert_close(first, list(computed("three_arms")))
    x = same_as(module_and_inputs("three_arms")[1][0], inputs)
    x.mul_(-2)
    expected = computed("three_arms", x)
    for place in (2, 0, 1):
        again = launches[place]()
        torch.testing.assert_close(again, expected[place])
        assert again.data_ptr() == first[place].data_ptr()


def test_a_generated_wrapper_with_an_operator_of_several_outputs_is_recorded() -> None:
    """topk gives new tensors; the two kernels behind it go on with those of the first run."""
    outputs: dict[str, Tensor] = {}
    kernels = {
        "triton_poi_fused_add_0": lambda values, out: outputs.update(values=out.copy_(values + 1)),
        "triton_poi_fused_mul_1": lambda indices, out: outputs.update(indices=out.copy_(indices * 2)),
    }
    launches, inputs, streams = on_cpu("topk", kernels)
    assert len(launches) == 5
    values, indices, product = computed("topk")
    torch.testing.assert_close(outputs["values"], values)
    assert torch.equal(outputs["indices"], indices)
    torch.testing.assert_close(launches[4](), product)

    x = same_as(module_and_inputs("topk")[1][0], inputs)
    x.neg_()
    call(launches, 0, 1, 2, 3)
    torch.testing.assert_close(outputs["values"], values)
    torch.testing.assert_close(launches[1]()[0] + 1, computed("topk", x)[0])
    assert len(streams) == 4
    assert streams == sorted(set(streams))


def test_a_generated_wrapper_writes_an_input_whenever_the_launch_is_repeated() -> None:
    def index_put(position: Tensor, rows: Tensor, cache: Tensor) -> None:
        cache[position] = rows

    launches, inputs, _ = on_cpu("write_after_read", {"triton_poi_fused_index_put_0": index_put})
    x, cache, position = module_and_inputs("write_after_read")[1]
    after = cache.clone()
    computed("write_after_read", x, after, position)
    written = same_as(after, inputs)
    assert not torch.equal(written, cache)
    written.zero_()
    call(launches, 2)
    assert torch.equal(written[position], after[position])
    assert not written[[i for i in range(len(written)) if i not in position]].any()


def test_launches_are_told_apart_by_kernel_in_their_order() -> None:
    assert by_kernel(["a", "b", "c", "d"], [2, 0, 2, 2], 4) == [["b"], [], ["a", "c", "d"], []]
    with pytest.raises(ValueError, match="zip"):
        by_kernel(["a", "b"], [0], 1)
