"""Check what is read from Inductor's scheduler of graphs small enough to know by hand. Lowered for an H200; no GPU."""

import functools
import math

import pytest
import sympy
import torch
from torch import Tensor, nn

from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import (
    FREE_EVENTS,
    TORCH_2_14,
    captured,
    kernel_named,
    kernels_of,
    module_and_inputs,
    named_edges,
    reading_of,
    short_names,
)

MATRIX = 64 * 64 * 4  # bytes of one projection's weight
ROW = 64 * 4


def kinds(sample):
    return sorted(k.kind for k in kernels_of(sample).kernels)


def launches(sample):
    return sum(len(k.launches) for k in kernels_of(sample).kernels)


def bytes_of(accesses):
    return sorted(int(a.bytes) for a in accesses)


def test_a_diamond():
    graph = kernels_of("diamond")
    assert kinds("diamond") == ["gemm"] * 4 + ["pointwise"]
    assert named_edges(graph) == {
        ("wa", "wb", "RAW"),
        ("wa", "wc", "RAW"),
        ("wb", "mul", "RAW"),
        ("wc", "mul", "RAW"),
        ("mul", "wd", "RAW"),
    }


def test_kernels_are_numbered_in_program_order():
    graph = kernels_of("diamond")
    assert [k.id for k in graph.kernels] == list(range(5))
    assert all(e.before < e.after for e in graph.edges)


def test_bytes_flops_and_dtype_of_a_projection():
    kernel = kernel_named("diamond", "wb")
    assert bytes_of(kernel.reads) == [4 * ROW, MATRIX]
    assert bytes_of(kernel.writes) == [4 * ROW]
    assert kernel.flops == 2 * 4 * 64 * 64
    assert kernel.dtype == "float32"


def test_bytes_of_a_fused_elementwise_kernel():
    kernel = kernel_named("diamond", "mul")
    assert bytes_of(kernel.reads) == [4 * ROW] * 2
    assert bytes_of(kernel.writes) == [4 * ROW]
    assert kernel.flops == 0
    assert kernel.ops == ("mul", "relu")


class _Indexer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wk = torch.nn.Linear(64, 64, bias=False)

    def forward(self, hidden, cache, position):
        cache[position] = self.wk(hidden)
        return self.wk(cache)


class _Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.indexer = _Indexer()

    def forward(self, hidden, cache, position):
        return self.indexer(hidden, cache, position)


@functools.cache
def attention_kernels():
    inputs = torch.empty(2, 64), torch.empty(16, 64), torch.tensor([3, 5])
    (outcome,) = capture(_Attention(), inputs, "h200", FREE_EVENTS)
    return outcome.reading.kernels.kernels


def test_kernels_are_named_after_the_module_of_their_parameter_or_operation():
    assert [k.name for k in attention_kernels()] == ["indexer.wk", "indexer.index_put", "indexer.wk#2"]
    assert kernels_of("diamond").kernels[3].name == "diamond.mul"


def test_parameters_and_inputs_have_their_names_in_the_source():
    first, write, second = (set(k.parameters) for k in attention_kernels())
    assert first == {"indexer.wk.weight", "hidden"}
    assert write == {"cache", "position"}
    assert "indexer.wk.weight" in second


def test_a_fork_with_three_arms_has_no_dependences():
    graph = kernels_of("three_arms")
    assert short_names(graph) == ["wa", "wb", "wc"]
    assert graph.edges == ()


def test_a_write_after_a_read_on_another_branch():
    assert named_edges(kernels_of("write_after_read")) == {("wa", "index_put", "RAW"), ("wb", "index_put", "WAR")}


def test_a_scattered_write_touches_only_its_rows():
    kernel = kernel_named("write_after_read", "index_put")
    assert bytes_of(kernel.writes) == [2 * ROW]


def test_a_view_written_through_its_base():
    edges = named_edges(kernels_of("view_of_written_base"))
    assert edges == {("wa", "copy", "WAR"), ("copy", "wb", "RAW")}


def test_a_base_written_through_its_view():
    edges = named_edges(kernels_of("base_of_written_view"))
    assert edges == {("wa", "copy", "WAR"), ("copy", "wb", "RAW")}


def test_two_writes_to_one_cache_and_the_read_between_them_keep_their_order():
    edges = named_edges(kernels_of("two_writes"))
    assert {("copy", "wb", "RAW"), ("wb", "copy#2", "WAR"), ("copy", "copy#2", "WAW")} <= edges


def test_swapping_two_inputs_reads_each_before_it_is_written():
    graph = kernels_of("swap")
    if not TORCH_2_14:
        assert named_edges(graph) == {("clone", "copy", "WAR"), ("clone", "copy#2", "RAW"), ("copy", "copy#2", "WAR")}
        return
    # There the clone and both copies are one kernel, which loads an element of each before it stores either.
    swap = kernel_named("swap", "copy")
    assert short_names(graph) == ["wa", "wb", "copy"]
    assert {a.storage for a in swap.writes} == {a.storage for a in swap.reads} == {"arg0_1", "arg1_1"}
    assert not graph.edges


def test_a_write_to_a_module_buffer_is_a_write_to_an_input():
    assert named_edges(kernels_of("buffer_write")) == {("wb", "copy", "RAW"), ("wa", "copy", "WAR")}
    assert "state" in kernel_named("buffer_write", "copy").parameters


def test_an_output_that_is_also_an_intermediate_is_made_once():
    graph = kernels_of("output_is_intermediate")
    assert short_names(graph) == ["wa", "wb", "wc"]
    assert named_edges(graph) == {("wa", "wb", "RAW"), ("wa", "wc", "RAW")}


def test_an_input_that_is_returned_costs_no_kernel():
    assert short_names(kernels_of("input_returned")) == ["wa", "wb"]


def test_a_graph_without_kernels_stays_serial_and_says_so():
    report = captured("only_views").report
    assert (report.verdict, report.stage) == ("serial", "read")
    assert "no CUDA kernels" in report.reason


def test_a_custom_operator_keeps_its_place():
    graph = kernels_of("custom_function")
    (operator,) = [k for k in graph.kernels if k.exclusive]
    assert operator.launches == ("torch.ops.graphstreams_tests.split_signs.default",)
    ordered = {e.after if e.before == operator.id else e.before for e in graph.edges if operator.id in (e.before, e.after)}
    assert ordered == {k.id for k in graph.kernels} - {operator.id}


def test_a_custom_operator_that_writes_an_input_is_exclusive():
    graph = kernels_of("custom_mutation")
    (operator,) = [k for k in graph.kernels if k.exclusive]
    name = short_names(graph)[operator.id]
    assert operator.kind == "extern"
    edges = named_edges(graph)
    assert {("wc", name, "WAR"), (name, "wb", "RAW")} <= edges
    assert edges & {("wd", name, "order"), (name, "wd", "order")}


@pytest.mark.parametrize("sample", ["custom_mutation_of_temporary", "custom_mutation_of_empty"])
def test_the_reader_of_a_temporary_that_an_operator_fills_takes_it_from_the_operator(sample):
    reading = reading_of(sample)
    (operator,) = [k for k in reading.kernels.kernels if k.exclusive]
    readers = {e.after for e in reading.kernels.edges if e.before == operator.id and e.kind.value == "RAW"}
    assert readers
    for reader in readers:
        made = {n.target for n in reading.regions[reader].nodes if n.op == "call_function"}
        assert not made & {torch.ops.aten.full.default, torch.ops.aten.empty.memory_format}


def test_top_k_is_one_kernel_with_two_results():
    graph = kernels_of("topk")
    assert short_names(graph) == ["wa", "topk", "add", "mul", "wb"]
    assert named_edges(graph) == {("wa", "topk", "RAW"), ("topk", "add", "RAW"), ("topk", "mul", "RAW")}
    assert kernel_named("topk", "topk").nodes == ("getitem", "getitem_1")
    assert not kernel_named("topk", "topk").exclusive


def test_the_pieces_of_a_concatenation_are_one_kernel():
    graph = kernels_of("concatenation")
    assert sorted(short_names(graph)) == ["cat", "wa", "wb"]
    assert len(kernel_named("concatenation", "cat").launches) == 3
    assert named_edges(graph) == {("wa", "cat", "RAW")}


def test_projections_that_write_into_a_concatenation_are_kernels_of_their_own():
    first, second, *readers = kernels_of("concatenated_gemms").kernels
    assert [(k.kind, len(k.launches), k.joined) for k in (first, second)] == [("gemm", 1, "")] * 2
    assert (first.flops, second.flops) == (2 * 4 * 64 * 64, 2 * 5 * 64 * 64)
    (one,), (other,) = first.writes, second.writes
    assert one.storage == other.storage
    assert "" not in {one.part, other.part} and one.part != other.part
    before = kernels_of("concatenated_gemms").predecessors()
    assert before[:2] == [[], []]
    assert {0, 1} <= set(before[readers[0].id])


def test_a_split_reduction_is_one_kernel_of_two_launches():
    kernel = kernel_named("split_reduction", "sum")
    assert (kernel.kind, len(kernel.launches)) == ("reduction", 2)
    assert bytes_of(kernel.reads) == [2**21 * 4]


def test_the_bytes_of_a_gathered_number_are_an_expression():
    """Sizes are asked for their symbols; an int of Python has none."""

    class Gathered(nn.Module):
        def forward(self, table, index):
            return table[index] + 1

    inputs = torch.empty(64, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    (outcome,) = capture(Gathered(), inputs, "h200", FREE_EVENTS)
    (kernel,) = outcome.reading.kernels.kernels
    assert all(isinstance(access.bytes, sympy.Expr) for access in (*kernel.reads, *kernel.writes))
    assert bytes_of(kernel.reads) == [4, 8]


class _TwoSums(torch.nn.Module):
    def forward(self, x, y, z):
        return x.sum(), y.sum(), z.relu()


@pytest.mark.parametrize(
    ("settings", "rows", "ordered"),
    [
        ({}, 2048, False),
        ({"triton.cooperative_reductions": True}, 2048, True),
        ({"triton.force_cooperative_reductions": True}, 2048, True),
        ({"triton.force_cooperative_reductions": True}, 64, True),
    ],
)
def test_cooperative_reductions_share_their_semaphores(settings, rows, ordered):
    inputs = torch.empty(rows, 64), torch.empty(rows, 64), torch.empty(8, 64)
    with torch._inductor.config.patch(settings):
        (outcome,) = capture(_TwoSums(), inputs, "h200", FREE_EVENTS)
    graph = outcome.reading.kernels
    assert len(graph.kernels) == 3
    assert named_edges(graph) == ({("sum", "sum#2", "WAW")} if ordered else set())


def test_a_normalisation_is_fused_with_what_follows():
    assert kinds("norms") == ["gemm"] * 3 + ["reduction"] * 2


@pytest.mark.parametrize("sample", ["scatter_into_copy", "scatter_into_zeros"])
def test_every_launch_of_a_scatter_has_a_region(sample):
    reading = reading_of(sample)
    assert all(region.targets for region in reading.regions)
    assert not any(k.exclusive for k in reading.kernels.kernels)


@pytest.mark.parametrize("sample", ["diamond", "concatenation", "split_reduction", "topk", "swap", "norms"])
def test_every_launch_belongs_to_one_kernel(sample):
    assert launches(sample) == reading_of(sample).launches


@pytest.mark.parametrize("sample", ["diamond", "concatenation", "ring", "topk", "swap", "casts"])
def test_regions_take_only_what_other_regions_or_the_caller_give(sample):
    reading = reading_of(sample)
    given = {target for region in reading.regions for target in region.targets}
    for region in reading.regions:
        assert set(region.targets) <= set(region.nodes)
        assert all(n in given or n.op in ("placeholder", "get_attr") for n in region.inputs)


def test_dynamic_sizes_stay_symbols():
    graph = captured("sized", dynamic=True).reading.kernels
    (size,) = graph.sizes
    assert graph.sizes[size] == 40
    (wa,) = [k for k in graph.kernels if k.name == "wa"]
    tokens = sympy.Symbol(size)
    by_name = {s: tokens for a in wa.writes for s in a.bytes.free_symbols}
    assert [a.bytes.subs(by_name) for a in wa.writes] == [ROW * tokens]
    assert wa.flops.subs({s: tokens for s in wa.flops.free_symbols}) == 2 * 64 * 64 * tokens


def test_static_sizes_have_no_symbols():
    graph = kernels_of("sized")
    assert graph.sizes == {}
    assert all(math.isfinite(int(a.bytes)) for k in graph.kernels for a in (*k.reads, *k.writes))


def test_reading_changes_neither_module_nor_inputs():
    module, inputs = module_and_inputs("diamond")
    before = {name: p.clone() for name, p in module.state_dict().items()}
    capture(module, inputs, "h200", FREE_EVENTS)
    assert all(torch.equal(before[name], p) for name, p in module.state_dict().items())


def test_a_graph_with_control_flow_stays_serial_and_says_so():
    class Branch(torch.nn.Module):
        def forward(self, x, chosen):
            return torch.cond(chosen, torch.sin, torch.cos, (x,))

    (outcome,) = capture(Branch(), (torch.empty(4), torch.tensor(True)), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert "subgraph" in outcome.report.reason


def test_each_graph_of_a_module_is_read():
    class Broken(torch.nn.Module):
        def forward(self, x, y):
            z = x @ y
            torch._dynamo.graph_break()
            return z @ y, z @ x

    outcomes = capture(Broken(), (torch.empty(8, 8), torch.empty(8, 8)), "h200", FREE_EVENTS)
    assert [len(o.reading.kernels.kernels) for o in outcomes] == [1, 2]


def test_an_operator_with_effects_of_its_own_keeps_the_graph_serial_and_is_named():
    class Checked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (torch.nn.Linear(8, 8) for _ in range(2))

        def forward(self, x):
            return self.first(x), self.second(x), torch.linalg.inv(x)

    (outcome,) = capture(Checked(), (torch.empty(8, 8),), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert "effects" in outcome.report.reason and "linalg" in outcome.report.reason


def test_launches_that_are_one_unit_are_told_with_the_reason():
    (outcome,) = capture(Concatenated(), (torch.zeros(8, 64),), "h200", {"min_gain": 0.0})
    assert outcome.report.notes == ()
    with torch._inductor.config.patch(size_asserts=False):  # without the sizes of the factors nothing is proved
        (outcome,) = capture(Concatenated(), (torch.zeros(8, 64),), "h200", {"min_gain": 0.0})
    assert "is a unit of 2 launches: they write the pieces of one buffer" in " ".join(outcome.report.notes)


class Concatenated(torch.nn.Module):
    """Two products whose results are concatenated."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], 1)


class _Experts(nn.Module):
    """Grouped products of experts, whose tokens are sorted by expert: Inductor keeps the order as int16, one unit for all."""

    def __init__(self, experts: int = 16, size: int = 256, inner: int = 512) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(experts, size, inner, dtype=torch.bfloat16, device="meta"))
        self.down = nn.Parameter(torch.empty(experts, inner, size, dtype=torch.bfloat16, device="meta"))

    def forward(self, x: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        found, order = torch.sort(expert)
        ends = torch.histc(found.int(), bins=len(self.up), min=0, max=len(self.up) - 1).cumsum(0, dtype=torch.int32)
        y = torch._grouped_mm(torch._grouped_mm(x[order], self.up, offs=ends).relu(), self.down, offs=ends)
        return (y * weight[order][:, None]).sum(0)


def test_the_work_of_each_launch_of_a_unit_is_told_apart() -> None:
    x = torch.empty(4, 256, dtype=torch.bfloat16, device="meta")
    inputs = x, torch.empty(4, dtype=torch.int64, device="meta"), torch.empty(4, dtype=torch.bfloat16, device="meta")
    (outcome,) = capture(_Experts(), inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None
    unit = next(kernel for kernel in outcome.reading.kernels.kernels if "sort" in kernel.ops)
    assert len(unit.work) == len(unit.launches) > 4 and unit.joined
    one = 256 * 512 * 2  # bytes of an expert's weight, of which four tokens read four
    products = [work for work in unit.work if work.operator == "_grouped_mm"]
    assert all(4 * one < work.bytes < 5 * one for work in products) and len(products) == 2
    assert all(work.bytes < 1e4 for work in unit.work if work.operator != "_grouped_mm")
    assert unit.flops == sum(work.flops for work in products) == 2 * 2 * 4 * 256 * 512
