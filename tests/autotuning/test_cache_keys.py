"""Check what counts in the key of a launch."""

from __future__ import annotations

import pytest

from graphstreams.autotuning.cache_keys import launch_keys

SOURCE = """
import torch
empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda
async_compile = AsyncCompile()

triton_poi_fused_add_0 = async_compile.triton('triton_poi_fused_add_0', '''
@triton_heuristics.pointwise(size_hints={'x': 256}, inductor_meta={'kernel_name': 'triton_poi_fused_add_0'})
def triton_poi_fused_add_0(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    tl.store(out_ptr0, tl.load(in_ptr0) + 1)
''', device_str='cuda')

def call(args):
    arg0_1, arg1_1 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        buf0 = empty_strided_cuda((4, 64), (64, 1), torch.float32)
        extern_kernels.mm(arg1_1, reinterpret_tensor(arg0_1, (64, 64), (1, 64), 0), out=buf0)  # GEMM
        del arg0_1
        buf1 = empty_strided_cuda((4, 64), (64, 1), torch.float32)
        raw_stream0 = get_raw_stream(0)
        triton_poi_fused_add_0.run(buf0, buf1, 256, stream=raw_stream0)  # ADD
        buf2 = torch.ops.aten.topk.default(buf1, 4, -1, True, True)  # TOPK
        buf3 = buf2[0]
        buf4 = empty_strided_cuda((4, 4), (4, 1), torch.float32)
        extern_kernels.sin(buf3, out=buf4)  # SIN
    return (buf4,)
"""
INPUTS = {"arg0_1": "torch.float32 [64, 64] [64, 1]", "arg1_1": "torch.float32 [4, 64] [64, 1]"}
LAUNCHES = ("GEMM", "ADD", "TOPK", "SIN")


def keys(source: str = SOURCE, inputs: dict[str, str] | None = None) -> dict[str, str]:
    """Return the key of each launch by the word behind its line."""
    lines = {name: i for i, line in enumerate(source.splitlines(), 1) for name in LAUNCHES if line.endswith(f"# {name}")}
    return dict(zip(lines, launch_keys(source, list(lines.values()), INPUTS if inputs is None else inputs), strict=True))


def changed(old: str, new: str) -> set[str]:
    """Return the launches that have another key once the source, or an input, is another."""
    assert old in SOURCE or old in str(INPUTS)
    before = keys()
    after = keys(SOURCE.replace(old, new), {name: text.replace(old, new) for name, text in INPUTS.items()})
    return {name for name in LAUNCHES if before[name] != after[name]}


def test_each_of_these_launches_has_a_key_of_its_own() -> None:
    assert len(set(keys().values())) == len(LAUNCHES)


def test_names_do_not_count() -> None:
    """Another graph: inputs in other places, buffers with other numbers, the kernel the eighth of its graph."""
    source, inputs = SOURCE, dict(INPUTS)
    for old, new in (
        ("buf", "buf1"), ("arg0_1", "primals_9"), ("arg1_1", "hidden"), ("triton_poi_fused_add_0", "triton_poi_fused_add_7"),
        ("raw_stream0", "raw_stream1"), ("get_raw_stream(0)", "get_raw_stream(1)"),
    ):  # fmt: skip
        assert old in source
        source = source.replace(old, new)
        inputs = {name.replace(old, new): text for name, text in inputs.items()}
    assert keys(source, inputs) == keys()


def test_where_a_launch_stands_does_not_count() -> None:
    moved = SOURCE.replace("import torch\n", "import torch\nimport math\n# a comment\n\n")
    assert keys(moved) == keys()


def test_a_launch_that_comes_twice_has_one_key() -> None:
    source = """
def call(args):
    arg0_1, arg1_1 = args
    buf0 = empty_strided_cuda((4, 64), (64, 1), torch.float32)
    extern_kernels.mm(arg1_1, arg0_1, out=buf0)
    buf1 = empty_strided_cuda((4, 64), (64, 1), torch.float32)
    extern_kernels.mm(arg1_1, arg0_1, out=buf1)
    extern_kernels.mm(arg0_1, arg1_1, out=buf1)
"""
    first, second, swapped = launch_keys(source, [5, 7, 8], INPUTS)
    assert first == second != swapped


@pytest.mark.parametrize(
    ("old", "new", "others"),
    [
        ("torch.float32 [4, 64] [64, 1]", "torch.float32 [8, 64] [64, 1]", {"GEMM"}),  # shape of an input
        ("torch.float32 [4, 64] [64, 1]", "torch.bfloat16 [4, 64] [64, 1]", {"GEMM"}),  # dtype
        ("torch.float32 [4, 64] [64, 1]", "torch.float32 [4, 64] [1, 4]", {"GEMM"}),  # strides
        ("(64, 64), (1, 64), 0", "(64, 64), (64, 1), 0", {"GEMM"}),  # of a view
        ("(64, 64), (1, 64), 0", "(64, 64), (1, 64), 64", {"GEMM"}),
        ("extern_kernels.mm(", "extern_kernels.bmm(", {"GEMM"}),  # operator
        ("tl.load(in_ptr0) + 1", "tl.load(in_ptr0) + 2", {"ADD"}),  # source of the kernel
        ("'x': 256", "'x': 512", {"ADD"}),
        ("buf1, 256, stream", "buf1, 512, stream", {"ADD"}),  # grid
        ("topk.default(buf1, 4,", "topk.default(buf1, 2,", {"TOPK", "SIN"}),  # SIN reads its first result
        ("buf2[0]", "buf2[1]", {"SIN"}),
        ("(4, 4), (4, 1)", "(4, 4), (1, 4)", {"SIN"}),
        ("(4, 64), (64, 1), torch.float32)", "(4, 64), (64, 1), torch.float16)", {"GEMM", "ADD", "TOPK", "SIN"}),
    ],
)
def test_what_decides_the_time_counts_for_the_launches_that_it_concerns(old: str, new: str, others: set[str]) -> None:
    assert changed(old, new) == others


def test_a_number_that_is_an_input_counts_with_its_value() -> None:
    source = "def call(args):\n    s0, arg1_1 = args\n    kernel.run(arg1_1, 64*s0, stream=1)\n"
    by_value = [launch_keys(source, [3], {"s0": str(size), "arg1_1": "torch.float32 [4] [1]"})[0] for size in (4, 4, 8)]
    assert by_value[0] == by_value[1] != by_value[2]


def test_operators_that_take_the_last_result_twice_have_short_keys() -> None:
    """Written out, the text of the fortieth would have 2**40 times the text of the input."""
    steps = "".join(f"    buf{i + 1} = torch.ops.aten.sort.default(buf{i}, buf{i})\n" for i in range(40))
    source = f"def call(args):\n    buf0, = args\n{steps}"
    found = launch_keys(source, range(3, 43), {"buf0": "torch.float32 [4, 64] [64, 1]"})
    assert max(map(len, found)) < 5000
    assert len(set(found)) == 40
    other = launch_keys(source, range(3, 43), {"buf0": "torch.float32 [8, 64] [64, 1]"})
    assert not set(found) & set(other)
