"""Check kernels that the model's author wrote in Triton. The driver is replaced: tracing asks it for the target alone."""

from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from torch._higher_order_ops import triton_kernel_wrap
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from graphstreams.errors import UnreadableWrapper
from graphstreams.inductor.exclusivity import may_wait
from graphstreams.pipeline.explain import capture
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS, named_edges, short_names


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
def _counting_kernel(x, arrived, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    place = tl.atomic_add(arrived, 1)
    tl.store(x + i, tl.load(x + i, i < n) + place, i < n)


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


@triton.jit
def _page_of(table):
    return tl.load(table).to(tl.pointer_type(tl.float32))


@triton.jit
def _like(number, x):
    return number.to(x.dtype)


@triton.jit
def _helper_kernel(x, table, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(_page_of(table) + i, tl.load(x + i, i < n), i < n)
    tl.store(x + i, 1.0, i < n)


@triton.jit
def _dtype_kernel(x, table, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(_like(tl.load(table), x) + i, tl.load(x + i, i < n), i < n)
    tl.store(x + i, 1.0, i < n)


@triton.jit
def _local_type_kernel(x, table, n, block: tl.constexpr):
    pointer: tl.constexpr = tl.pointer_type(tl.float32)
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(tl.load(table).to(pointer) + i, tl.load(x + i, i < n), i < n)
    tl.store(x + i, 1.0, i < n)


@triton.jit
def _bitcast_kernel(x, table, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    page = tl.cast(tl.load(table), tl.pointer_type(tl.float32), bitcast=True)
    tl.store(page + i, tl.load(x + i, i < n), i < n)
    tl.store(x + i, 1.0, i < n)


@triton.jit
def _argument_kernel(x, table, n, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    page = (n + tl.full((), 0, tl.int64)).to(tl.pointer_type(tl.float32))
    tl.store(page + i, tl.load(table) + tl.load(x + i), i < n)
    tl.store(x + i, 1.0, i < n)


@triton.jit
def _plain_type_kernel(x, table, n, block: tl.constexpr, dtype: tl.constexpr, absent):
    i = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x + i, i < n).to(dtype)
    if absent is not None:
        value += tl.load(absent + i)
    tl.store(x + i, value + tl.load(table), i < n)


_restored_kernel = triton.autotune(
    configs=[triton.Config({"block": 64}), triton.Config({"block": 128})], key=["n"], restore_value=["x"]
)(_plain_type_kernel)


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


class _Paging(_Adding):
    """A kernel writes where a table says, before two products that may run beside each other."""

    def __init__(self, kernel, **more):
        super().__init__()
        self.wc = torch.nn.Linear(64, 64, bias=False)
        self.kernel, self.more = kernel, more

    def forward(self, x, table):
        k = self.wa(x)
        self.kernel[(4,)](k, table, 256, **self.more)
        return self.wb(x), self.wc(x), k


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
def test_tritons_ir_of_a_launch_is_made_once_in_each_of_two_lowerings(monkeypatch):
    made, make = [], triton_kernel_wrap.generate_ttir

    def counting(*args):
        if isinstance(V.graph, GraphLowering):  # AOTAutograd asks for it, too
            made.append(V.graph)
        return make(*args)

    monkeypatch.setattr(triton_kernel_wrap, "generate_ttir", counting)
    (outcome,) = capture(_Adding(), (torch.empty(4, 64),), "h200", FREE_EVENTS)
    assert outcome.report.verdict == "clean"
    assert len(made) == len(set(made)) == 2


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
def test_a_triton_kernel_whose_atomics_only_count_may_move():
    graph = read(_Synchronising(_counting_kernel), torch.empty(4, 64), torch.empty(1, dtype=torch.int32))
    assert [k.exclusive_reason for k in graph.kernels if k.kind == "triton"] == [""]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def f(a):\n    tl.atomic_add(a, 1)\n", ""),
        ("def f(a):\n    for i in range(3):\n        tl.atomic_max(a, i)\n", ""),
        ("def f(a):\n    while tl.atomic_add(a, 0) > 0:\n        pass\n", "atomic"),
        ("def f(a):\n    tl.atomic_poll(a, 1)\n", "atomic"),
        ("def f(a):\n    tl.atomic_cas(a, 0, 1)\n", "atomic"),
        ("def f(a):\n    add = tl.atomic_add\n    add(a, 1)\n", "atomic"),
        ("def f(a):\n    tl.inline_asm_elementwise('', '', [a], tl.int32, True, 1)\n", "inline_asm"),
        ("def f(a):\n    triton_helpers.x_grid_barrier(a)\n", "grid_barrier"),
        ("def f(a):\n    tl.debug_barrier()\n    tl.load(a, volatile=True)\n", ""),
        ("def f(a):\n    while tl.load(a, volatile=True) == 0:\n        pass\n", "volatile"),
        ("def f(a):\n    while tl.load(a, cache_modifier='.cv') == 0:\n        pass\n", ".cv"),
        ("def f(a, n):\n    while n > 0:\n        n -= tl.load(a)\n", ""),
    ],
)
def test_what_blocks_may_wait_for_each_other_with(source, word):
    assert may_wait(source) == word


@pytest.mark.usefixtures("h200_driver")
def test_trap_14_a_triton_kernel_that_what_follows_is_fused_into_keeps_its_place():
    with torch._inductor.config.patch(epilogue_fusion_user_defined_triton_kernel=True):
        graph = read(_Moving(), torch.empty(4, 64))
    assert len(graph.kernels) == 3
    assert [k.name.rpartition(".")[2] for k in graph.kernels if k.exclusive] == ["mul"]


def _paged(kernel, **more):
    table = torch.empty(1, dtype=torch.int64)
    (outcome,) = capture(_Paging(kernel, **more), (torch.empty(4, 64), table), "h200", FREE_EVENTS)
    return outcome.report


FORGERS = [_helper_kernel, _dtype_kernel, _local_type_kernel, _bitcast_kernel, _argument_kernel]


@pytest.mark.usefixtures("h200_driver")
@pytest.mark.parametrize("kernel", FORGERS, ids=lambda kernel: kernel.__name__)
def test_a_triton_kernel_that_makes_an_address_of_a_number_keeps_its_place(kernel):
    report = _paged(kernel, block=64)
    (forger,) = [k for k in report.kernels.kernels if k.kind == "triton"]
    related = {k for e in report.kernels.edges if forger.id in (e.before, e.after) for k in (e.before, e.after)}
    assert forger.exclusive and related == {0, 1, 2, 3}
    assert f"Triton kernel {kernel.__name__} makes a pointer of a number" in forger.exclusive_reason
    assert any(forger.exclusive_reason in note for note in report.notes)
    assert report.verdict == "refused" and forger.exclusive_reason in report.reason
    with pytest.raises(UnreadableWrapper, match=f"Triton kernel {kernel.__name__} makes a pointer of a number"):
        verify(report.wrapper)


@pytest.mark.usefixtures("h200_driver")
def test_a_triton_kernel_with_a_type_and_an_absent_address_is_read():
    report = _paged(_plain_type_kernel, block=64, dtype=tl.float32, absent=None)
    assert [k.exclusive for k in report.kernels.kernels] == [False, False, False, False]


@pytest.mark.usefixtures("h200_driver")
def test_a_triton_kernel_whose_tuner_writes_its_arguments_keeps_its_place():
    report = _paged(_restored_kernel, dtype=tl.float32, absent=None)
    (kernel,) = [k for k in report.kernels.kernels if k.kind == "triton"]
    assert "restore_value" in kernel.exclusive_reason
