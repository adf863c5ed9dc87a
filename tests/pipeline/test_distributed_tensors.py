"""Check that modules whose parameters are DTensors are planned: their graphs are given the mesh too, which is no tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch._library.fake_class_registry import FakeScriptObject
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from graphstreams.autotuning.cache_keys import plan_key
from graphstreams.errors import Unsupported
from graphstreams.inductor.fakes import CUDA, faked
from graphstreams.options import Options
from graphstreams.pipeline.explain import capture
from graphstreams.reading.eligibility import check_graph
from tests.support.collective_modules import FUNCTIONAL, SMALL, fake_ranks, linear


class Gated(nn.Module):
    """The two halves of a gated layer of one rank, and the sum of all ranks' products."""

    def __init__(self, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.up, self.gate, self.down = linear(width, hidden), linear(width, hidden), linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


def parallel() -> nn.Module:
    """Return the layer for two ranks. Its parameters have no memory, because this process may have no GPU."""
    with torch.device("meta"):
        module = Gated()
    plan = {"up": ColwiseParallel(), "gate": ColwiseParallel(), "down": RowwiseParallel()}
    return parallelize_module(module, init_device_mesh("cuda", (2,)), plan)


def test_a_layer_under_tensor_parallel_runs_on_streams() -> None:
    with fake_ranks():
        (found,) = capture(parallel(), [torch.empty(8, 64)], "h200", SMALL)
    assert found.report.verdict == "clean", found.report.reason
    assert found.reading is not None
    kernels = found.reading.kernels.kernels
    assert [kernel.collective for kernel in kernels if kernel.collective] == ["start", "wait"]
    assert sum(kernel.kind == "gemm" for kernel in kernels) == 3


def test_keys_do_not_hold_the_address_of_a_mesh() -> None:
    keys = []
    for _ in range(2):
        with fake_ranks():
            (found,) = capture(parallel(), [torch.empty(8, 64)], "h200", SMALL)
        assert found.reading is not None
        keys.append(plan_key(found.reading, Options()))
    assert keys[0] == keys[1]


def test_a_graph_whose_operators_take_an_object_stays_serial() -> None:
    """As where one graph is compiled for all ranks: it then asks the mesh for the process group of a collective."""
    graph = fx.Graph()
    tensor, mesh = graph.placeholder("tensor"), graph.placeholder("mesh")
    graph.call_function(FUNCTIONAL.all_reduce.default, (tensor, "sum", mesh))
    graph.output(())
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensor.meta["val"] = torch.empty(4, device="cuda")
    mesh.meta["val"] = FakeScriptObject(object(), "Mesh", None)
    with pytest.raises(Unsupported, match=r"hands an object of class Mesh \(mesh\) to _c10d_functional.all_reduce"):
        check_graph(fx.GraphModule({}, graph))


def test_fakes_stand_in_for_the_part_of_a_distributed_tensor_that_a_rank_has() -> None:
    with fake_ranks():
        module = parallel()
        before = module.up.weight
        with faked(module, [], FakeTensorMode(allow_non_fake_inputs=True)):
            weight = module.up.weight
            assert isinstance(weight, DTensor) and isinstance(weight._local_tensor, FakeTensor)
            assert (weight._local_tensor.device, weight._local_tensor.shape, weight.shape) == (CUDA, (64, 64), (128, 64))
        assert module.up.weight is before and before._local_tensor.device.type == "meta"
