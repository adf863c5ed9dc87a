"""Check that a function of the wrapper, as of a product split along K, is read where it is called."""

from __future__ import annotations

import pytest

from graphstreams.errors import UnreadableWrapper
from graphstreams.verification.trace import FreeStep, LaunchStep
from graphstreams.verification.wrapper.read import read_wrapper, verify
from tests.support.racing import wrapper
from tests.support.text_mutants.execution import TENSOR, faults_of

PRODUCT = """
def product(args):
    product_arg0_1, product_arg1_1 = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        product_buf0 = empty_strided_cuda((2, 64, 64), (4096, 64, 1), torch.float32)
        extern_kernels.bmm_dtype(product_arg0_1, product_arg1_1, out_dtype=torch.float32, out=product_buf0)
        del product_arg0_1
        del product_arg1_1
        product_buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
        raw_stream0 = get_raw_stream(0)
        copy.run(product_buf0, product_buf1, 4096, stream=raw_stream0)
        del product_buf0
    return (product_buf1, )
"""
CALL = "    (buf0,) = product(product_args)\n"
BODY = f"""
event0.record(default_stream)
with stream1:
    event0.wait(stream1)
    product_args = [arg0_1, reinterpret_tensor(arg1_1, (64, 64), (1, 64), 0)]
{CALL}    event1.record(stream1)
buf1 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
raw_stream = get_raw_stream(0)
copy.run(arg1_1, buf1, 4096, stream=raw_stream)
event1.wait(default_stream)
buf2 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
copy.run(buf0, buf2, 4096, stream=raw_stream)
del buf0
del arg0_1
del arg1_1
return (buf1, buf2, )
"""
REUSED = """with stream1:
    buf3 = empty_strided_cuda((64, 64), (64, 1), torch.float32)
    raw_stream = get_raw_stream(0)
    copy.run(arg1_1, buf3, 4096, stream=raw_stream)
    event2.record(stream1)
event2.wait(default_stream)
del buf3
"""
JOIN = "event1.wait(default_stream)\n"
ADD = "        raw_stream0 = get_raw_stream(0)\n"


def changed(old: str = "", new: str = "") -> str:
    """Return the wrapper with a change of its body or of the function."""
    assert not old or BODY.count(old) + PRODUCT.count(old) == 1
    return wrapper(BODY.replace(old, new) if old else BODY, PRODUCT.replace(old, new) if old else PRODUCT)


def test_its_launches_are_those_of_the_stream_that_calls_it() -> None:
    trace = read_wrapper(changed())
    launches = [step for step in trace.steps if isinstance(step, LaunchStep)]
    temporary, result = "product_buf0", "product_buf1"
    scratch = "scratch memory of extern_kernels.bmm_dtype"
    assert [(launch.stream, launch.reads, launch.writes) for launch in launches] == [
        (1, ("arg0_1", "arg1_1"), (temporary, scratch)),
        (1, (temporary,), (result,)),
        (0, ("arg1_1",), ("buf1",)),
        (0, (result,), ("buf2",)),
    ]
    assert verify(changed()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # nobody waits for it, or it for nobody
        (JOIN, ""),
        ("    event0.wait(stream1)\n", ""),
        ("    event1.record(stream1)\n", ""),
        (f"{CALL}    event1.record(stream1)\n", f"    event1.record(stream1)\n{CALL}"),
        # its memory, or what it is given, goes while it may run
        ("    event1.record(stream1)\n", "    event1.record(stream1)\ndel arg0_1\narg0_1 = arg1_1\n"),
        ("del buf0\n", f"del buf0\n{REUSED}"),
        # it writes what others read, or its caller does
        ("out_dtype=torch.float32, out=product_buf0", "out_dtype=torch.float32, out=product_arg1_1"),
        ("copy.run(arg1_1, buf1, 4096, stream=raw_stream)\n", "copy.run(buf1, arg0_1, 4096, stream=raw_stream)\n"),
        # what it returns is memory of another stream's
        ("del buf0\ndel arg0_1\ndel arg1_1\nreturn (buf1, buf2, )", "del arg0_1\ndel arg1_1\nreturn (buf1, buf0, )"),
    ],
)
def test_no_racing_variant_is_called_clean(old: str, new: str) -> None:
    text = changed(old, new)
    assert verify(text) and faults_of(text, (TENSOR, TENSOR), {})


FREED = f"{CALL}    event1.record(stream1)\n"
EARLY = f"{CALL}    event1.record(stream1)\ndel arg0_1\narg0_1 = arg1_1\n"


@pytest.mark.parametrize(
    ("old", "new", "early"),
    [
        ("    args.clear()\n", "    args.clear()\n", True),
        ("    args.clear()\n", "", False),  # the list keeps what is in it for as long as its name is there
        ("    args.clear()\n", "    held = args\n    args.clear()\n", True),
        ("        del product_arg0_1\n", "", True),  # a local name goes where the function ends
    ],
)
def test_what_it_is_given_lives_as_long_as_in_python(old: str, new: str, early: bool) -> None:
    text = wrapper(BODY.replace(FREED, EARLY), PRODUCT.replace(old, new))
    assert bool(verify(text)) == bool(faults_of(text, (TENSOR, TENSOR), {})) == early


def test_its_list_holds_what_it_does_not_clear_until_the_name_is_bound_again() -> None:
    kept = PRODUCT.replace("    args.clear()\n", "")
    for end, early in (("del product_args\n", True), ("product_args = [arg1_1]\n", True), ("", False)):
        text = wrapper(BODY.replace(FREED, f"{EARLY}{end}"), kept)
        assert bool(verify(text)) == bool(faults_of(text, (TENSOR, TENSOR), {})) == early, end


def test_its_memory_is_freed_where_python_frees_it() -> None:
    steps = read_wrapper(changed()).steps
    frees = {step.storage: step.line for step in steps if isinstance(step, FreeStep)}
    lines = changed().splitlines()
    assert lines[frees["product_buf0"] - 1].strip() == "del product_buf0"
    assert lines[frees["product_buf1"] - 1].strip() == "del buf0"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("    (buf0,) = product([arg0_1, arg1_1])\n", "a call of product"),
        ("    (buf0,) = product(args)\n", "a call of product"),
        ("    product_args = args\n    (buf0,) = product(product_args)\n", "not given a list"),
        ("    other = product_args\n    (buf0,) = product(other)\n", "a call of product"),
        ("    (buf0,) = product(product_args, )[:]\n", "product(product_args)[:]"),
        ("    buf0 = product(product_args)[0]\n", "where a number is expected"),
        ("    buf9 = product(product_args)\n    buf0 = buf9[0]\n", "a call of product"),
        ("    product(product_args)\n    buf0 = arg0_1\n", "a call of product"),
        ("    (buf0, buf9) = product(product_args)\n", "a call of product"),
        ("    (buf0,) = product(*product_args)\n", "a call of product"),
        ("    (buf0,) = product(args=product_args)\n", "a call of product"),
        ("    other = product\n    (buf0,) = other(product_args)\n", "which wrappers do not have"),
        (f"{CALL}    product_args = [arg0_1, arg1_1]\n{CALL}", "a second time"),
        ("    product = copy\n    (buf0,) = product(product_args)\n", "which is no value"),
        ("    buf0 = arg0_1\n", "which wrappers do not have"),
    ],
)
def test_another_form_of_its_call_is_refused(call: str, says: str) -> None:
    with pytest.raises(UnreadableWrapper) as caught:
        verify(changed(CALL, call))
    assert says in str(caught.value) and caught.value.line > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def product(args):", "def product(args, more=()):"),
        ("def product(args):", "@torch.no_grad()\ndef product(args):"),
        ("def product(args):", "def product(*args):"),
        ("    return (product_buf1, )", "    return product_buf1"),
        ("    return (product_buf1, )", ""),
        ("    return (product_buf1, )", "    return (product_buf1, product_buf1, )"),
        ("    args.clear()\n", "    args.clear()\n    product_args = [arg0_1]\n"),
        ("    args.clear()\n", "    args.clear()\n    global product\n"),
        ("    args.clear()\n", "    args.clear()\n    product_args = [product_arg0_1]\n    (b,) = product(product_args)\n"),
        ("    args.clear()\n", "    args.clear()\n    s0 = product_arg0_1\n"),
        ("        torch.cuda.set_device(0)\n        product_buf0", "        torch.cuda.set_device(1)\n        product_buf0"),
        ("        product_buf0 = empty", "        copy = empty"),
        (ADD, f"{ADD}        stream1.wait_stream(default_stream)\n"),
    ],
)  # fmt: skip
def test_another_function_is_refused(old: str, new: str) -> None:
    assert PRODUCT.count(old) == 1
    with pytest.raises(UnreadableWrapper):
        verify(wrapper(BODY, PRODUCT.replace(old, new)))


def test_one_that_calls_another_is_refused() -> None:
    inner = PRODUCT.replace("product", "inner")
    call = "    inner_args = [product_arg0_1, product_arg1_1]\n    (product_buf9,) = inner(inner_args)\n"
    outer = PRODUCT.replace("    args.clear()\n", f"    args.clear()\n{call}")
    with pytest.raises(UnreadableWrapper, match="which wrappers do not have"):
        verify(wrapper(BODY, inner + outer))
    both = BODY.replace(JOIN, f"{JOIN}inner_args = [arg0_1, arg1_1]\n(buf3,) = inner(inner_args)\n")
    assert verify(wrapper(both, inner + PRODUCT)) == []
    with pytest.raises(UnreadableWrapper, match="a call of inner"):
        verify(wrapper(both, inner + outer))


def test_it_imports_the_profiler_by_itself() -> None:
    imported, marked = "from torch.profiler import record_function\n", "    with record_function('graph'):\n        pass\n"
    body, function = f"{imported}{BODY}", PRODUCT.replace("    args.clear()\n", f"    args.clear()\n{marked}")
    assert verify(wrapper(body, function.replace(marked, f"    {imported}{marked}"))) == []
    with pytest.raises(UnreadableWrapper, match="record_function"):
        verify(wrapper(body, function))
