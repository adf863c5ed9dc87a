"""Check what counts as another launch, on wrappers written by hand."""

import textwrap

import pytest

from graphstreams.rewriting.kernel_differences import kernel_differences

KERNEL = """
@triton_heuristics.pointwise(
    size_hints={'x': 64}, filename=__file__,
    triton_meta={'signature': {SIGNATURE, 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'constants': {}, 'configs': [{HINTS}]},
    inductor_meta={'kernel_name': 'NAME', 'mutated_arg_names': [MUTATED], 'num_load': 1},
)
@triton.jit
def NAME(PARAMETERS, xnumel, XBLOCK: tl.constexpr):
    xindex = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:]
    tmp0 = tl.load(SOURCE + xindex, None)
    tmp1 = tmp0 FORMULA
    tl.store(TARGET + xindex, tmp1, None)
"""


def kernel(name: str, formula: str = "* 2", aligned: tuple[int, ...] = (0, 1), in_place: bool = False) -> str:
    pointers = ["in_out_ptr0"] if in_place else ["in_ptr0", "out_ptr0"]
    values = {
        "SIGNATURE": ", ".join(f"'{p}': '*fp32'" for p in pointers),
        "HINTS": ", ".join(f"({i},): [['tt.divisibility', 16]]" for i in aligned[: len(pointers)]),
        "MUTATED": "'in_out_ptr0'" if in_place else "",
        "PARAMETERS": ", ".join(pointers),
        "SOURCE": pointers[0],
        "TARGET": pointers[-1],
        "FORMULA": formula,
        "NAME": name,
    }
    text = KERNEL
    for key, value in values.items():
        text = text.replace(key, value)
    return f"{name} = async_compile.triton('{name}', '''{text}''', device_str='cuda')\n"


def wrapper(kernels: str, *lines: str) -> str:
    head = "arg0_1, arg1_1 = args", "assert_size_stride(arg0_1, (64, ), (1, ), 'input')"
    buffer = "buf0 = empty_strided_cuda((64, ), (1, ), torch.float32)"
    return f"{kernels}\ndef call(args):\n{textwrap.indent(chr(10).join((*head, buffer, *lines)), '    ')}\n"


SERIAL = wrapper(
    kernel("triton_a_0"), "triton_a_0.run(arg0_1, buf0, 64, stream=s)", "extern_kernels.mm(arg0_1, arg1_1, out=buf0)"
)


def test_names_and_order_are_no_difference():
    lines = "with stream1:\n    extern_kernels.mm(arg0_1, arg1_1, out=buf0)", "triton_b_7.run(arg1_1, buf0, 64, stream=t)"
    assert kernel_differences(SERIAL, wrapper(kernel("triton_b_7"), *lines)) == ()


def test_a_kernel_in_place_is_the_same_kernel():
    lines = "triton_a_0.run(buf0, 64, stream=s)", "extern_kernels.mm(arg0_1, arg1_1, out=buf0)"
    assert kernel_differences(SERIAL, wrapper(kernel("triton_a_0", in_place=True), *lines)) == ()


@pytest.mark.parametrize(
    ("kernels", "first"),
    [
        (kernel("triton_a_0", "* 3"), "triton_a_0.run(arg0_1, buf0, 64, stream=s)"),
        (kernel("triton_a_0", aligned=(1,)), "triton_a_0.run(arg0_1, buf0, 64, stream=s)"),
        (kernel("triton_a_0"), "triton_a_0.run(arg0_1, buf0, 128, stream=s)"),
    ],
    ids=["formula", "alignment", "size"],
)
def test_another_kernel_is_named_with_what_it_replaces(kernels, first):
    found = kernel_differences(SERIAL, wrapper(kernels, first, "extern_kernels.mm(arg0_1, arg1_1, out=buf0)"))
    assert len(found) == 2
    assert "triton_a_0" in found[0] and "bits may differ" in found[0]
    assert found[1] == "triton_a_0 is launched by the serial code and not on streams"


def test_an_operator_on_another_layout_is_a_difference():
    lines = (
        "triton_a_0.run(arg0_1, buf0, 64, stream=s)",
        ("extern_kernels.mm(reinterpret_tensor(arg0_1, (8, 8), (1, 8), 0), arg1_1, out=buf0)"),
    )
    assert "extern_kernels.mm" in kernel_differences(SERIAL, wrapper(kernel("triton_a_0"), *lines))[0]


def test_a_kernel_cut_in_two_is_told_with_the_value_that_crosses():
    kernels = kernel("triton_a_0", "+ 1") + kernel("triton_b_1", "- 1")
    lines = (
        "with stream1:\n    triton_a_0.run(arg0_1, buf0, 64, stream=s)",
        "triton_b_1.run(buf0, buf0, 64, stream=s)",
        "extern_kernels.mm(arg1_1, arg1_1, out=buf1)",
    )
    found = kernel_differences(SERIAL, wrapper(kernels, *lines))
    assert "triton_a_0 (line" in found[0] and "stream1" in found[0]
    assert "across streams it shares buf0 (used on the caller's stream)" in found[0]


def test_the_same_launch_twice_is_not_the_same_launch_once():
    one, two = ("triton_a_0.run(arg0_1, buf0, 64, stream=s)",), ("triton_a_0.run(arg0_1, buf0, 64, stream=s)",) * 2
    assert len(kernel_differences(wrapper(kernel("triton_a_0"), *two), wrapper(kernel("triton_a_0"), *one))) == 1


SPLIT = """
def split(args):
    split_arg0_1, split_arg1_1 = args
    args.clear()
    split_buf0 = empty_strided_cuda((64, ), (1, ), torch.float32)
    extern_kernels.mm(split_arg0_1, split_arg1_1, out=split_buf0)
    triton_a_0.run(split_buf0, split_buf1, 64, stream=s)
    return (split_buf1, )
"""
SPLIT_CALL = ("split_args = [arg0_1, arg1_1]", "(buf1,) = split(split_args)")


def test_what_a_function_launches_for_one_operator_is_of_the_serial_code():
    serial = wrapper(kernel("triton_a_0") + SPLIT, *SPLIT_CALL)
    found = kernel_differences(serial, wrapper(kernel("triton_a_0"), "triton_a_0.run(arg1_1, buf0, 64, stream=s)"))
    assert found == ("extern_kernels.mm is launched by the serial code and not on streams",)
    assert kernel_differences(serial, wrapper(kernel("triton_a_0") + SPLIT, *SPLIT_CALL)) == ()
    # What it is given is no input of the graph: its layout counts, which is not told here.
    (only, gone) = kernel_differences(serial, SERIAL)
    assert "extern_kernels.mm" in only and "extern_kernels.mm" in gone


def test_a_function_that_nothing_calls_launches_nothing():
    serial = wrapper(kernel("triton_a_0") + SPLIT, "triton_a_0.run(arg1_1, buf0, 64, stream=s)")
    assert kernel_differences(serial, wrapper(kernel("triton_a_0"), "triton_a_0.run(arg1_1, buf0, 64, stream=s)")) == ()


FOREACH = """
@triton_heuristics.foreach(filename=__file__, triton_meta={'signature': {SIGNATURE}, 'configs': [{}]}, inductor_meta={})
@triton.jit
def NAME(PARAMETERS):
    if tl.program_id(0) < 4:
        xnumel = 64
        FIRST
    else:
        xnumel = 32
        SECOND
    tmp0 = tl.load(LOADED + xindex, xindex < xnumel)
    tl.store(STORED + xindex, tmp0 + 1, xindex < xnumel)
"""


def foreach_kernel(types: dict[str, str], first: str, second: str, loaded: str, stored: str) -> str:
    text = FOREACH.replace("NAME", "triton_for_0")
    for key, value in {
        "SIGNATURE": ", ".join(f"'{name}': '{kind}'" for name, kind in types.items()),
        "PARAMETERS": ", ".join(types),
        "FIRST": first.replace("; ", "\n        "),
        "SECOND": second.replace("; ", "\n        "),
        "LOADED": loaded,
        "STORED": stored,
    }.items():
        text = text.replace(key, value)
    return f"triton_for_0 = async_compile.triton('triton_for_0', '''{text}''', device_str='cuda')\n"


def two_pointers(kind: str = "*fp32") -> str:
    types = {"in_ptr0": "*fp32", "in_ptr1": kind, "out_ptr0": "*fp32", "out_ptr1": "*fp32"}
    first, second = "foreach_arg0 = in_ptr0; foreach_arg1 = out_ptr0", "foreach_arg0 = in_ptr1; foreach_arg1 = out_ptr1"
    return foreach_kernel(types, first, second, "foreach_arg0", "foreach_arg1")


def test_a_foreach_kernel_in_place_is_the_same_kernel():
    types = {"in_out_ptr0": "*fp32", "in_out_ptr1": "*fp32"}
    in_place = foreach_kernel(types, "foreach_arg0 = in_out_ptr0", "foreach_arg0 = in_out_ptr1", "foreach_arg0", "foreach_arg0")
    launch = "triton_for_0.run(arg0_1, arg1_1, buf0, stream=s)"
    assert kernel_differences(wrapper(in_place, launch), wrapper(two_pointers(), launch)) == ()


def test_a_foreach_kernel_whose_part_has_another_type_is_another_kernel():
    launch = "triton_for_0.run(arg0_1, arg1_1, buf0, stream=s)"
    assert len(kernel_differences(wrapper(two_pointers(), launch), wrapper(two_pointers("*bf16"), launch))) == 2
