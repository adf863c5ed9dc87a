"""Check what planning for a GPU that is not here needs, and what it leaves behind."""

import pytest
import torch
from torch.utils import _triton

from graphstreams.inductor.fakes import faked
from graphstreams.inductor.offline import offline
from graphstreams.ir.devices import DEVICES
from graphstreams.pipeline.explain import capture, explain
from tests.support.fork_server import run_forked
from tests.support.sample_modules import FREE_EVENTS, captured

TWO_ARMS = """
import torch
from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_on_cpu

class TwoArms(torch.nn.Module):
    def forward(self, x, y):
        return (x @ y).relu(), y @ x

inputs = torch.randn(8, 8), torch.randn(8, 8)
options = {"min_gain": 0.0, "event_us": 0.0}
"""


def in_a_new_process(code):
    done = run_forked(TWO_ARMS + code)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PLANNED = "print(capture(TwoArms(), inputs, 'h200', options)[0].report.verdict)\n"
COMPILED = "with torch.no_grad(): print(len(torch.compile(TwoArms())(*inputs)))\n"


@pytest.mark.parametrize(
    ("code", "printed"),
    [(COMPILED + PLANNED, ["2", "clean"]), (PLANNED + COMPILED, ["clean", "2"])],
    ids=["planned after compiling", "compiled after planning"],
)
def test_planning_and_compiling_for_the_cpu_go_together(code, printed):
    assert in_a_new_process(code) == printed


def test_compares_on_the_cpu_as_the_first_thing_that_a_process_does():
    assert in_a_new_process("print(equal_on_cpu(TwoArms(), inputs, 'h200', options))") == ["[True]"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_torch_knows_of_devices_is_as_before():
    def known():
        functions = torch.cuda.is_available, torch.cuda.device_count, _triton.has_triton
        return [f() for f in functions]

    before = known()
    with offline(DEVICES["h200"]):
        assert known() == [True, 1, True]
    assert known() == before


def test_triton_is_forgotten_by_modules_that_asked_meanwhile():
    real = _triton.has_triton
    before = real()
    with offline(DEVICES["h200"]):
        assert real() is True
    assert real() is before


def test_parameters_are_faked_in_place_tied_ones_together_and_given_back():
    module = torch.nn.Linear(4, 4)
    module.tied = module.weight
    weight, bias = module.weight, module.bias
    mode = torch._subclasses.fake_tensor.FakeTensorMode()
    with offline(DEVICES["h200"]), faked(module, [], mode):
        assert module.weight.device.type == "cuda"
        assert module.weight is module.tied
        assert module.weight.stride() == weight.stride()
    assert module.weight is weight and module.bias is bias


def test_tensors_of_the_meta_device_give_the_same_plan():
    with torch.device("meta"):
        module, x = torch.nn.Linear(64, 64), torch.empty(4, 64)
    (outcome,) = capture(module, (x,), "h200", FREE_EVENTS)
    assert [k.kind for k in outcome.reading.kernels.kernels] == ["gemm"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_target_and_a_gpu_the_error_names_a_target():
    with pytest.raises(RuntimeError, match="target='h200'"):
        explain(torch.nn.ReLU(), (torch.empty(2),))


def test_an_unknown_target_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'h200'"):
        explain(torch.nn.ReLU(), (torch.empty(2),), target="h20")


def test_a_module_that_computes_nothing_has_no_graph():
    class Nothing(torch.nn.Module):
        def forward(self, x):
            return 1

    with pytest.raises(ValueError, match="no graph"):
        explain(Nothing(), (torch.empty(2),), target="h200")


def test_the_report_names_the_target():
    assert captured("diamond").report.device == "NVIDIA H200"


class MadeOnCpu(torch.nn.Module):
    """Two products, each with a constant that is made on the CPU and moved."""

    def __init__(self, make):
        super().__init__()
        self.a, self.b = (torch.nn.Linear(256, 256, bias=False) for _ in range(2))
        self.make = make

    def forward(self, x):
        made = self.make().to(x.device)
        return self.a(x) * made, self.b(x) + made


@pytest.mark.parametrize(
    "make",
    [lambda: torch.ones(256), lambda: torch.full((4, 256), 2.0), lambda: torch.arange(256.0)],
    ids=["ones", "full", "arange"],
)
def test_constants_that_are_moved_to_the_gpu_are_folded(make):
    report = explain(MadeOnCpu(make).requires_grad_(False), (torch.randn(4, 256),), "h200", {"min_gain": 0.0})
    assert (report.verdict, report.reason) == ("clean", "")


class InContainers(torch.nn.Module):
    """Two products with tensors that stand in a list or a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Linear(256, 256, bias=False) for _ in range(2))

    def forward(self, x, held):
        first, second = held.values() if isinstance(held, dict) else held
        return self.a(x) * first, self.b(x) + second


@pytest.mark.parametrize("container", [list, tuple, lambda values: dict(zip("kv", values, strict=True))])
def test_tensors_in_containers_are_on_the_gpu_too(container):
    held = container([torch.randn(256), torch.randn(4, 256)])
    report = explain(InContainers().requires_grad_(False), (torch.randn(4, 256), held), "h200", {"min_gain": 0.0})
    assert (report.verdict, report.reason) == ("clean", "")
