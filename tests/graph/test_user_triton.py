"""Kernels that the model's author wrote in Triton. The driver is a stand-in: tracing asks it for the target alone."""

from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from sample_modules import FREE_EVENTS, named_edges, short_names
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from graphstreams.explaining import capture


@triton.jit
def _add_kernel(x, y, out, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


@triton.jit
def _increment_kernel(x, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + i, tl.load(x + i, i < n) + 1, i < n)


@triton.jit
def _barrier_kernel(x, arrived, n, block: tl.constexpr):
    tl.atomic_add(arrived, 1)
    while tl.atomic_add(arrived, 0) < tl.num_programs(0):
        pass
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + i, tl.load(x + i, i < n) + 1, i < n)


@triton.jit
def _arrive(arrived):
    tl.atomic_add(arrived, 1)
    while tl.atomic_add(arrived, 0) < tl.num_programs(0):
        pass


@triton.jit
def _barrier(arrived):
    _arrive(arrived)


@triton.jit
def _barrier_in_a_function_kernel(x, arrived, n, block: tl.constexpr):
    _barrier(arrived)
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + i, tl.load(x + i, i < n) + 1, i < n)


@triton.jit
def _plus_one(x):
    return x + 1


@triton.jit
def _harmless_function_kernel(x, arrived, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + i, _plus_one(tl.load(x + i, i < n)), i < n)


@triton.jit
def _assembly_kernel(x, out, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    moved = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tl.load(x + i, i < n)], tl.float32, is_pure=True, pack=1)
    tl.store(out + i, moved, i < n)


class _Adding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wa, self.wb = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))

    def forward(self, x):
        a = self.wa(x)
        out = torch.empty_like(a)
        _add_kernel[(1,)](a, x, out, 256, block=256)
        return out * 2, self.wb(x)


class _Moving(_Adding):
    def forward(self, x):
        a = self.wa(x)
        out = torch.empty_like(a)
        _assembly_kernel[(1,)](a, out, 256, block=256)
        return out * 2, self.wb(x)


class _Incrementing(_Adding):
    def forward(self, x, cache):
        y = self.wa(cache)
        _increment_kernel[(1,)](cache, 256, block=256)
        return y, self.wb(cache), self.wb(x)


class _Synchronising(_Adding):
    def __init__(self, kernel=_barrier_kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, x, arrived):
        y = self.wa(x)
        self.kernel[(4,)](y, arrived, 256, block=64)
        return y, self.wb(x)


@pytest.fixture
def h200_driver(monkeypatch):
    stand_in = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(driver, "_active", stand_in)


def read(module, *inputs):
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None, f"{outcome.report.stage}: {outcome.report.reason}"
    return outcome.reading.kernels


@pytest.mark.usefixtures("h200_driver")
def test_a_triton_kernel_that_fills_a_temporary_is_read():
    graph = read(_Adding(), torch.empty(4, 64))
    written = short_names(graph)[[k.kind for k in graph.kernels].index("triton")]
    assert {("wa", written, "RAW"), (written, "mul", "RAW")} <= named_edges(graph)


@pytest.mark.usefixtures("h200_driver")
def test_a_triton_kernel_that_writes_an_input_is_ordered_with_its_readers():
    graph = read(_Incrementing(), torch.empty(4, 64), torch.empty(4, 64))
    written = short_names(graph)[[k.kind for k in graph.kernels].index("triton")]
    assert {("wa", written, "WAR"), (written, "wb", "RAW")} <= named_edges(graph)


@pytest.mark.usefixtures("h200_driver")
def test_trap_14_a_triton_kernel_whose_blocks_may_wait_for_each_other_keeps_its_place():
    graph = read(_Synchronising(), torch.empty(4, 64), torch.empty(1, dtype=torch.int32))
    (kernel,) = [k for k in graph.kernels if k.kind == "triton"]
    assert kernel.exclusive
    related = {k for edge in graph.edges if kernel.id in (edge.before, edge.after) for k in (edge.before, edge.after)}
    assert related == {k.id for k in graph.kernels}
    assert not any(k.exclusive for k in read(_Adding(), torch.empty(4, 64)).kernels)


@pytest.mark.usefixtures("h200_driver")
@pytest.mark.parametrize(("kernel", "exclusive"), [(_barrier_in_a_function_kernel, True), (_harmless_function_kernel, False)])
def test_trap_14_functions_that_a_triton_kernel_calls_are_looked_into(kernel, exclusive):
    graph = read(_Synchronising(kernel), torch.empty(4, 64), torch.empty(1, dtype=torch.int32))
    assert [k.exclusive for k in graph.kernels if k.kind == "triton"] == [exclusive]


@pytest.mark.usefixtures("h200_driver")
def test_trap_14_a_triton_kernel_that_what_follows_is_fused_into_keeps_its_place():
    with torch._inductor.config.patch(epilogue_fusion_user_defined_triton_kernel=True):
        graph = read(_Moving(), torch.empty(4, 64))
    assert len(graph.kernels) == 3
    assert [k.name.rpartition(".")[2] for k in graph.kernels if k.exclusive] == ["mul"]
