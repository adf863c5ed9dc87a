"""Check which function of a source is the kernel, and what may stand behind it."""

from __future__ import annotations

import pytest

from graphstreams.errors import UnreadableWrapper
from tests.support.triton_sources import IMPORTS, accesses, source, touched


def test_the_kernel_is_the_function_that_is_launched() -> None:
    two = source("tl.store(a, 1)") + source("tl.store(b, 1)").replace("def kernel(", "def other(")
    assert (touched(two), touched(two, "other")) == ("|a", "|b")
    with pytest.raises(UnreadableWrapper, match="defines no Triton kernel of that name"):
        touched(two, "third")
    with pytest.raises(UnreadableWrapper, match="binds kernel more than once"):
        touched(source("tl.store(a, 1)") + source("tl.store(b, 1)"))


@pytest.mark.parametrize(
    "meta",
    ["'restore_value': ('a',)", "'reset_to_zero': ('a',)", "'pre_hook': None", "'backend_options': {'launch_pdl': True}"],
)
def test_what_a_launcher_does_to_memory_is_refused(meta: str) -> None:
    with pytest.raises(UnreadableWrapper, match=r"autotuned with|with a hook"):
        touched(source("tl.store(a, 1)", meta=meta))


BENCHMARK = """
def get_args():
    arg_0 = rand_strided((4, 64), (64, 1), device='cuda:0', dtype=torch.float32)
    return arg_0,


def call(args):
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        raw_stream0 = get_raw_stream(0)
        kernel.run(*args, stream=raw_stream0)


def benchmark_all_configs(args):
    with torch.cuda._DeviceGuard(0):
        torch.cuda.set_device(0)
        return kernel.benchmark_all_configs(*args)


if __name__ == '__main__':
    from torch._inductor.runtime.benchmarking import benchmarker

    args = get_args()
    ms = benchmarker.benchmark(lambda: call(args), device='cuda', rep=40)
    num_gb = 2.048e-06
    gb_per_s = num_gb / (ms / 1e3)
    print(f"{ms:.3f}ms    {num_gb:.3f}GB    {gb_per_s:.2f}GB/s")
"""
BENCHMARK_IMPORTS = """
from torch._dynamo.testing import rand_strided
from torch._C import _cuda_getCurrentRawStream as get_raw_stream
import torch
"""


def test_the_benchmark_that_inductor_writes_behind_a_kernel_is_not_run() -> None:
    assert accesses("tl.store(b + i, tl.load(a + i))", IMPORTS + BENCHMARK_IMPORTS, BENCHMARK) == "a|b"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("__name__ == '__main__'", "True"),
        ("__name__ == '__main__'", "__name__ != '__main__'"),
        ("    num_gb = 2.048e-06\n", "    kernel = call\n"),
        ("    args = get_args()\n", "    args = get_args()\n    call(args)\n"),
        ('GB/s")\n', 'GB/s")\nelse:\n    kernel = call\n'),
        ("\nif __name__", "\n__name__ = '__main__'\nif __name__"),
        ("def get_args():", "def __name__(): ...\ndef get_args():"),
    ],
)
def test_anything_else_behind_a_kernel_is_refused(old: str, new: str) -> None:
    assert BENCHMARK.count(old) == 1
    with pytest.raises(UnreadableWrapper, match=r"at its top level|binds"):
        accesses("tl.store(b + i, tl.load(a + i))", IMPORTS + BENCHMARK_IMPORTS, BENCHMARK.replace(old, new))
