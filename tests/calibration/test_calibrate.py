"""Check the calibration run as far as it shows without a GPU: the kernels that its modules become."""

import re
from dataclasses import replace

import pytest
import torch

from graphstreams.calibration.calibrate import calibrate, calibration_table
from graphstreams.calibration.fit import BY_HAND
from graphstreams.calibration.microbenchmarks import GROUPS, Operations
from graphstreams.costs.work import ROLES, works_of
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.pipeline.explain import capture


def read(module: torch.nn.Module, inputs: list[torch.Tensor]) -> KernelGraph:
    (outcome,) = capture(module, inputs, "h200", {"streams": 1, "top_k": False})
    assert outcome.reading is not None
    return outcome.reading.kernels


def kernels_of(title: str) -> tuple[Operations, list[Kernel]]:
    with torch.device("meta"):
        module = GROUPS[title]()
    return module, list(read(module, module.inputs).kernels)


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("matrix products", {"gemm"}),
        ("small pointwise kernels and reductions", {"pointwise", "reduction"}),
        ("large pointwise kernels and reductions", {"pointwise", "reduction"}),
        ("top-k", {"extern"}),
        ("sort and distances", {"extern"}),
        ("matrix products in float32", {"gemm"}),
        ("attention", {"extern"}),
        ("convolutions", {"extern"}),
        ("convolutions in one dimension", {"extern"}),
        ("gathers", {"pointwise"}),
    ],
)
def test_each_operation_is_one_kernel_of_its_kind(title: str, kinds: set[str]) -> None:
    module, kernels = kernels_of(title)
    assert {kernel.kind for kernel in kernels} == kinds
    assert len(kernels) == len(module.calls)
    assert all(len(kernel.launches) == 1 and not kernel.exclusive for kernel in kernels)


def test_what_the_roofline_tells_apart_is_measured() -> None:
    work = [work for title in GROUPS for kernel in kernels_of(title)[1] for work in kernel.work]
    assert {each.role for kernel in work for each in works_of(Kernel(0, "", kernel.kind, work=(kernel,)), DEVICES["h200"])} == {
        *ROLES
    }
    for name in ("gathers", "rearranged", "narrow", "vectors", "streamed"):
        assert {bool(getattr(each, name)) for each in work} == {True, False}, name
    assert {int(each.matrices) for each in work if each.operator == "convolution"} == {1, 8, 16}


def test_a_shared_tensor_is_one_input() -> None:
    module, tensor = Operations(), torch.ones(2)
    module.add(torch.add, tensor, tensor)
    module.add(torch.add, tensor, torch.zeros(2))
    assert [len(module.inputs), len(module.calls)] == [2, 2]
    assert [result.tolist() for result in module(*module.inputs)] == [[2, 2], [1, 1]]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        calibrate()


def test_the_table_has_each_kind_and_brackets_what_was_not_measured() -> None:
    _, kernels = kernels_of("top-k")
    found = replace(BY_HAND, undecided=("floors.gemm", "flops_share.gemm"))
    text = calibration_table(found, [(kernel, {}, 22.0) for kernel in kernels], DEVICES["h200"])
    kinds, roles, numbers = text.split("\n\n")
    assert re.search(r"^gemm +0 +- +- +\(3\.40\)$", kinds, re.MULTILINE)
    assert re.search(r"^extern +6 +0\.0% +[\d.]+% +2\.50$", kinds, re.MULTILINE)
    assert re.search(r"^gemm +2\.20 +0\.00 +0\.800: 3\.84 TB/s +\(1\.000\)$", roles, re.MULTILINE)
    assert re.search(r"^other +1\.20 +- +0\.800: 3\.84 TB/s +-$", roles, re.MULTILINE)
    assert re.search(r"^topk +22\.0 +us and 0\.00 us for each MB$", numbers, re.MULTILINE) and text.count("(") == 2
