"""Check a layer measured on a GPU with default options: its report, what its code computes, what compiling leaves."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import deepseek_v32
import pytest
import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch._subclasses.fake_tensor import unset_fake_temporarily

from graphstreams import StreamPass
from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.autotuning.occupancy import blocks_of_graph
from graphstreams.autotuning.timing import medians_in_turns
from graphstreams.benchmark.variants import replayable_graphs
from graphstreams.reports.report import Report
from tests.support.captured_graphs import captures
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu

CONFIG = deepseek_v32.Config(tp=8, tokens=1)
SEEDS = 5
MIB = 2**20
# What a compile may leave reserved: 32 MiB of cuBLAS workspace for each stream that was replayed on (one of the replayer's own,
# up to four aux streams, and as many of the other priority), and what rounding adds.
LEFT_BEHIND = 9 * 32 * MIB + 32 * MIB


def inputs(seed: int) -> list[Tensor]:
    return list(deepseek_v32.example_inputs(CONFIG, "cuda", seed))


def copies(values: list[Tensor]) -> list[Tensor]:
    return [value.clone() for value in values]


def all_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@dataclass
class Compiled:
    """One compile, seen when all was measured and proved and nothing had been called."""

    reports: list[Report] = field(default_factory=list)
    inputs_kept: bool = False  # with the bits that they had before
    parameters_kept: bool = False
    random_kept: bool = False
    reserved: int = 0  # bytes more than before, once caches are emptied
    outputs_equal: list[bool] = field(default_factory=list)  # to serial's, mutated caches included, for each seed
    replays_equal: list[bool] = field(default_factory=list)  # the same of what was captured
    forks: int = 0  # of the CUDA graph that was captured

    @property
    def report(self) -> Report:
        (report,) = self.reports
        return report


def reserved() -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


@dataclass(frozen=True)
class Expected:
    """What the serial layer gives for the inputs of one seed."""

    output: Tensor
    inputs: list[Tensor]  # with the caches as the call leaves them


def compiled_layer(module: torch.nn.Module, expected: list[Expected]) -> Compiled:
    """Compile the layer with default options on the inputs of seed 0, call it with those of the others too, and capture it."""
    found, values = Compiled(), inputs(0)
    kept, parameters = copies(values), copies(list(module.state_dict().values()))
    before, random = reserved(), torch.cuda.get_rng_state()
    done = StreamPass._done

    def noted(self: StreamPass, report: Report) -> None:
        with unset_fake_temporarily():
            found.reports.append(report)
            found.inputs_kept = all_equal(values, kept)
            found.parameters_kept = all_equal(list(module.state_dict().values()), parameters)
            found.random_kept = torch.equal(torch.cuda.get_rng_state(), random)
            found.reserved = reserved() - before
        done(self, report)

    torch._dynamo.reset()
    # Nothing of ours runs for a graph from Inductor's cache.
    directory = tempfile.TemporaryDirectory()
    options = {"inductor": {**SAME_KERNELS, "fx_graph_cache": False}, "dump": directory.name}
    streamed = torch.compile(module, backend="graphstreams", options=options)
    with directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamPass, "_done", noted)
        for seed, serial in enumerate(expected):
            given = values if seed == 0 else inputs(seed)
            output = streamed(*given)
            found.outputs_equal.append(torch.equal(output, serial.output) and all_equal(given, serial.inputs))
        with captures() as forks:
            captured = CapturedFunction(streamed, inputs(0))
        (found.forks,) = forks
        for seed, serial in enumerate(expected):
            captured.load(inputs(seed))
            captured.replay()
            same = torch.equal(captured.outputs[0], serial.output) and all_equal(captured.inputs, serial.inputs)
            found.replays_equal.append(same)
    return found


@pytest.fixture(scope="module")
def layer() -> torch.nn.Module:
    return deepseek_v32.build(CONFIG, "cuda")


@pytest.fixture(scope="module")
def compiles(layer: torch.nn.Module) -> Iterator[list[Compiled]]:
    """Two compiles, the second in a fresh state of Dynamo, with caches on disk that were empty before the first."""
    with fresh_cache(), torch.no_grad():
        torch._dynamo.reset()
        serial = torch.compile(layer, options=SAME_KERNELS)
        expected = []
        for seed in range(SEEDS):
            given = inputs(seed)
            expected.append(Expected(serial(*given), given))
        assert not all_equal(inputs(0), expected[0].inputs)  # it writes its caches
        yield [compiled_layer(layer, expected) for _ in range(2)]
    torch._dynamo.reset()


@pytest.mark.parametrize("which", [0, 1], ids=["measured", "from disk"])
def test_the_layer_is_measured_and_runs_on_streams(compiles: list[Compiled], which: int) -> None:
    report = compiles[which].report
    assert (report.verdict, report.reason, report.costs) == ("clean", "", "measured")
    assert not any("were not measured" in note for note in report.notes), report.notes
    assert report.measurement is not None and report.plan is not None
    assert report.measurement.from_disk == bool(which)
    assert report.measurement.gain >= 0.02
    assert 1 <= report.measurement.tried <= 32


def test_the_generated_code_is_as_fast_as_its_kernels_were_when_they_were_replayed(compiles: list[Compiled]) -> None:
    measured = compiles[0].report.measurement
    assert measured is not None
    assert measured.compiled_us == pytest.approx(measured.played_us, rel=0.05)


def test_the_times_of_the_kernels_add_up_to_that_of_the_serial_graph(compiles: list[Compiled]) -> None:
    report = compiles[0].report
    assert report.measurement is not None
    assert sum(report.us) == pytest.approx(report.measurement.serial_us, rel=0.05)


@pytest.mark.parametrize("which", [0, 1], ids=["measured", "from disk"])
def test_outputs_and_caches_have_serials_bits(compiles: list[Compiled], which: int) -> None:
    assert compiles[which].outputs_equal == [True] * SEEDS
    assert compiles[which].forks > 0
    assert compiles[which].replays_equal == [True] * SEEDS


def test_the_second_compile_takes_times_plan_and_measurement_from_disk(compiles: list[Compiled]) -> None:
    first, second = (compiled.report for compiled in compiles)
    assert first.plan is not None and second.plan is not None
    assert first.measurement is not None and second.measurement is not None
    assert second.us == first.us
    assert (second.plan.placements, second.plan.events) == (first.plan.placements, first.plan.events)
    assert second.plan.priority == first.plan.priority
    assert second.measurement.plans == first.measurement.plans
    assert "measure" in first.seconds and "measure" not in second.seconds
    assert sum(second.seconds.values()) < sum(first.seconds.values())


@pytest.mark.parametrize("which", [0, 1], ids=["measured", "from disk"])
def test_compiling_changes_no_input_no_parameter_and_no_random_state(compiles: list[Compiled], which: int) -> None:
    done = compiles[which]
    assert (done.inputs_kept, done.parameters_kept, done.random_kept) == (True, True, True)


def test_compiling_leaves_no_more_memory_reserved_than_workspaces(compiles: list[Compiled]) -> None:
    assert compiles[0].reserved <= LEFT_BEHIND, f"{compiles[0].reserved / MIB:.0f} MiB"
    assert compiles[1].reserved <= 2 * MIB, f"{compiles[1].reserved / MIB:.0f} MiB"  # nothing is played


def test_each_graph_that_is_replayed_leaves_the_workspace_of_one_stream_at_most(layer: torch.nn.Module) -> None:
    """Replayers share one stream, because cuBLAS keeps a workspace for each."""
    left = [reserved()]
    for _ in range(3):
        (replayable,) = replayable_graphs(layer, inputs(0))
        replayable.replayer.capture_serial(replayable.order).replay()
        del replayable
        left.append(reserved())
    grown = [later - earlier for earlier, later in pairwise(left)]
    assert max(grown) <= 34 * MIB, [f"{size / MIB:.0f} MiB" for size in grown]


def test_kernel_times_taken_again_are_the_same_and_add_up(layer: torch.nn.Module) -> None:
    (replayable,) = replayable_graphs(layer, inputs(0))
    times = [replayable.replayer.kernel_times(replayable.order) for _ in range(2)]
    (whole,) = medians_in_turns([replayable.replayer.capture_serial(replayable.order)], 9, 20)
    for measured in times:
        assert measured.keys() == set(replayable.order)
        assert sum(measured.values()) == pytest.approx(whole, rel=0.05)
    # Events tick in steps of half a microsecond.
    assert sum(abs(times[0][k] - times[1][k]) for k in replayable.order) <= 0.1 * whole


def test_the_driver_tells_the_blocks_of_kernels_in_their_order() -> None:
    """Of an element-wise kernel over 2**24 floats more than fit at once, of one over 64 a single block."""
    large, small = torch.zeros(2**24, device="cuda"), torch.zeros(64, device="cuda")
    for value in (large, small):
        value.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        large.add_(1)
        small.add_(1)
    many, one = blocks_of_graph(graph)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    assert many.count > many.at_once >= processors
    assert many.share == 1.0
    assert (one.count, one.share) == (1, 1 / one.at_once)
    assert many.at_once % processors == one.at_once % processors == 0
