"""Check streams, caches and passes on a real GPU."""

import ctypes
import gc
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.codecache import PyCodeCache
from torch._inductor.utils import fresh_cache

import graphstreams
from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.reports.report import Report
from graphstreams.runtime.driver import driver
from graphstreams.runtime.streams import _pools, acquire
from tests.support.branches import build
from tests.support.captured_graphs import captures, streams_in_direct_calls
from tests.support.processes import last_line
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu

STREAMED: dict[str, Any] = {"min_gain": 0.0, "strict": True, "inductor": SAME_KERNELS}


def compiled_and_expected() -> tuple[Any, list[torch.Tensor], torch.Tensor]:
    """Return the streamed module, compiled and called once; inputs; and what serial code makes of them."""
    module, inputs = build()
    torch._dynamo.reset()
    streamed = torch.compile(module, backend="graphstreams", options=STREAMED)
    with torch.no_grad():
        expected = torch.compile(module, options=SAME_KERNELS)(*[value.clone() for value in inputs])
        streamed(*[value.clone() for value in inputs])
    return streamed, inputs, expected


def check(compiled: Any, module: torch.nn.Module, inputs: list[torch.Tensor]) -> None:
    """Launched by the host and captured it has serial's bits, and what is captured has branches."""
    torch._dynamo.reset()
    serial = torch.compile(module, options=SAME_KERNELS)
    with torch.no_grad():
        first, second = ([value.clone() for value in inputs] for _ in range(2))
        expected = serial(*first)
        assert torch.equal(expected, compiled(*second))
        assert torch.equal(first[1], second[1])
        with captures() as found:
            captured = CapturedFunction(compiled, inputs)
        captured.load(inputs)
        captured.replay()
        assert found[0] > 0
        assert torch.equal(expected, captured.outputs[0])
        assert torch.equal(first[1], captured.inputs[1])


def test_the_pass_in_plain_inductor_gives_the_same_rewriting() -> None:
    module, inputs = build()
    stream_pass = graphstreams.StreamPass({"strict": True, "min_gain": 0.0})
    check(torch.compile(module, options={**SAME_KERNELS, "post_grad_custom_post_pass": stream_pass}), module, inputs)
    assert [report.verdict for report in stream_pass.reports] == ["clean"]


def test_a_second_process_finds_the_streamed_graph_in_the_cache(tmp_path: Path) -> None:
    program = """
import torch, torch._inductor.config as config
from torch._dynamo.utils import counters
from graphstreams.autotuning.cuda_graph import CapturedFunction
from tests.support.branches import build
from tests.support.captured_graphs import captures
module, inputs = build()
compiled = torch.compile(module, backend="graphstreams", options={"min_gain": 0.0})
with torch.no_grad(), captures() as found:
    captured = CapturedFunction(compiled, inputs)
    captured.load(inputs)
    captured.replay()
    print(float(captured.outputs[0].double().sum()), found[-1] > 0, counters["inductor"]["fxgraph_cache_hit"],
          counters["aot_autograd"]["autograd_cache_hit"])
"""
    results = [last_line(program, more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}).split() for _ in range(2)]
    assert results[0][0] == results[1][0]
    assert results[0][1] == results[1][1] == "True"
    assert results[0][2:] == ["0", "0"]
    assert "1" in results[1][2:]


def test_a_profile_with_other_times_is_not_taken_for_the_one_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the profile stays the same, so only its content tells the graphs apart."""
    reports: list[Report] = []
    done = graphstreams.StreamPass._done

    def noted(self: graphstreams.StreamPass, report: Report) -> None:
        reports.append(report)
        done(self, report)

    module, inputs = build()
    explained = graphstreams.explain(module, inputs, None, {"min_gain": 0.0, "costs": "roofline"})
    assert explained.kernels is not None
    names = [kernel.name for kernel in explained.kernels.kernels]
    profile = tmp_path / "us.json"

    def run(slow: str) -> torch.Tensor:
        kernels = [{"id": name, "us": 20.0 if name.startswith(slow) else 4.0} for name in names]
        profile.write_text(json.dumps({"unit": "us", "kernels": kernels}))
        torch._dynamo.reset()
        options = {**STREAMED, "costs": str(profile)}
        return torch.compile(module, backend="graphstreams", options=options)(*[value.clone() for value in inputs])

    monkeypatch.setattr(graphstreams.StreamPass, "_done", noted)
    with torch.no_grad(), fresh_cache():
        expected = torch.compile(module, options=SAME_KERNELS)(*[value.clone() for value in inputs])
        planned = []
        for slow in ("first", "first", "second"):
            assert torch.equal(run(slow), expected)
            planned.append(len(reports))
    assert planned == [1, 1, 2]  # the second compile found the first one's graph
    paths = [[names[kernel] for kernel in report.plan.critical_path] for report in reports if report.plan]
    assert [path[0] for path in paths] == ["first.0", "second.0"]  # the slow branch


def test_streams_and_events_are_made_once_for_each_caller() -> None:
    current, other = torch.cuda.current_stream(), torch.cuda.Stream()
    assert all(one is same for one, same in zip(acquire(current, 2, 5), acquire(current, 2, 5), strict=True))
    assert acquire(current, 1, 3)[0] is acquire(current, 2, 5)[0]
    assert acquire(other, 1, 1)[0].cuda_stream != acquire(current, 1, 1)[0].cuda_stream


def test_no_stream_of_torch_is_one_of_ours() -> None:
    """Torch gives out the same 32 streams of a priority again and again."""
    theirs = {torch.cuda.Stream(priority=priority).cuda_stream for priority in (0, -1, -2) for _ in range(64)}
    callers = [torch.cuda.Stream() for _ in range(40)]
    ours = [taken for caller in callers for priority in (0, -2) for taken in acquire(caller, 3, 0, priority)]
    handles = {stream.cuda_stream for stream in ours}
    assert not handles & theirs
    assert len(handles) == len({caller.cuda_stream for caller in callers}) * 2 * 3
    assert [stream.priority for stream in acquire(callers[0], 3, 0, -2)] == [-2] * 3


def test_the_context_of_an_aux_stream_leads_there_and_back_to_the_callers() -> None:
    for caller in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(caller):
            (stream,) = acquire(caller, 1, 0)
            with stream:
                assert torch.cuda.current_stream().cuda_stream == stream.cuda_stream
            assert torch.cuda.current_stream().cuda_stream == caller.cuda_stream
            with pytest.raises(KeyError), stream:
                raise KeyError("out of memory")
            assert torch.cuda.current_stream().cuda_stream == caller.cuda_stream


class Failing:
    """Library kernels of which one call raises, the one with the number `place`."""

    def __init__(self, inner: Any, place: int) -> None:
        self.inner, self.place, self.calls = inner, place, 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls == self.place:
                raise RuntimeError("planted")
            return getattr(self.inner, name)(*arguments, **keywords)

        return call


@pytest.mark.parametrize("place", [1, 2, 3, 5, 8])
def test_an_exception_in_the_middle_of_a_call_leaves_everything_in_order(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's stream is current, and the next call has serial's bits."""
    streamed, inputs, expected = compiled_and_expected()
    with torch.no_grad():
        before = torch.cuda.current_stream()
        with monkeypatch.context() as patch:
            for wrapper in (each for each in PyCodeCache.modules if hasattr(each, "_acquire_streams")):
                patch.setattr(wrapper, "extern_kernels", Failing(wrapper.extern_kernels, place))
            with pytest.raises(RuntimeError, match="planted"), streams_in_direct_calls():
                streamed(*[value.clone() for value in inputs])
        assert torch.cuda.current_stream() == before
        with streams_in_direct_calls():
            assert torch.equal(streamed(*[value.clone() for value in inputs]), expected)
        assert torch.equal(streamed(*[value.clone() for value in inputs]), expected)


def test_our_streams_do_not_wait_for_the_legacy_default_stream() -> None:
    """Which is torch's default stream, the usual caller's: beside it nothing would run."""
    for stream in acquire(torch.cuda.current_stream(), 2, 0):
        flags = ctypes.c_uint(99)
        assert driver().cuStreamGetFlags(ctypes.c_void_p(stream.cuda_stream), ctypes.byref(flags)) == 0
        assert flags.value == 1  # CU_STREAM_NON_BLOCKING


def test_a_call_on_a_stream_of_the_caller_is_ordered_with_its_work() -> None:
    streamed, inputs, expected = compiled_and_expected()
    with torch.no_grad(), streams_in_direct_calls():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(50):
                late = [torch.zeros_like(value) for value in inputs]
                torch.cuda._sleep(100_000)
                for target, value in zip(late, inputs, strict=True):
                    target.copy_(value)
                result = streamed(*late)
                kept = result.clone()
                del result
                torch.full_like(kept, float("nan"))
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(kept, expected)


def test_ten_thousand_calls_make_nothing_new() -> None:
    module, inputs = build()
    torch._dynamo.reset()
    streamed = torch.compile(module, backend="graphstreams", options=STREAMED)
    with torch.no_grad():
        streamed(*inputs)
    with torch.no_grad(), streams_in_direct_calls():
        for _ in range(100):
            streamed(*inputs)
        torch.cuda.synchronize()
        pools = len(_pools.by_stream)
        gc.collect()
        objects, memory = len(gc.get_objects()), torch.cuda.memory_allocated()
        for _ in range(10_000):
            streamed(*inputs)
        torch.cuda.synchronize()
    gc.collect()
    assert len(_pools.by_stream) == pools
    assert torch.cuda.memory_allocated() == memory
    assert len(gc.get_objects()) < objects + 100


def test_two_threads_on_streams_of_their_own_get_serial_bits() -> None:
    streamed, inputs, expected = compiled_and_expected()
    with torch.no_grad(), streams_in_direct_calls():
        torch.cuda.synchronize()

        def work(_: int) -> bool:
            stream = torch.cuda.Stream()
            with torch.no_grad(), torch.cuda.stream(stream):
                own = [value.clone() for value in inputs]
                stream.synchronize()
                return all(torch.equal(streamed(*own), expected) for _ in range(300))

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(8)))


def test_graphed_callables_replay_serial_bits() -> None:
    module, inputs = build()
    torch._dynamo.reset()
    streamed = torch.compile(module, backend="graphstreams", options=STREAMED)
    with torch.no_grad():
        serial = torch.compile(module, options=SAME_KERNELS)
        with captures() as found:
            graphed = torch.cuda.make_graphed_callables(streamed, tuple(value.clone() for value in inputs))
        assert any(found)
        for scale in range(1, 20):
            fresh = [inputs[0] * scale, inputs[1] + scale, inputs[2]]
            assert torch.equal(graphed(*[value.clone() for value in fresh]), serial(*[value.clone() for value in fresh]))


def test_reduce_overhead_captures_several_shapes_and_again() -> None:
    module, inputs = build()
    torch._dynamo.reset()
    inductor = {**SAME_KERNELS, **torch._inductor.list_mode_options("reduce-overhead")}
    streamed = torch.compile(module, backend="graphstreams", options={**STREAMED, "inductor": inductor})
    with torch.no_grad():
        serial = torch.compile(module, options=SAME_KERNELS)
        # Inductor records a graph that writes an input only where that stays where it is.
        cache = inputs[1].clone()
        torch._dynamo.mark_static_address(cache, guard=False)
        forks: dict[int, list[int]] = {2: [], 4: [], 8: []}
        for rows in (4, 8, 4, 2, 8, 4, 2) * 3:
            x, position = torch.randn(rows, 1024, device="cuda"), torch.arange(rows, device="cuda")
            expected = inputs[1].clone()
            cache.copy_(expected)
            torch.compiler.cudagraph_mark_step_begin()
            with captures() as found:
                output = streamed(x, cache, position).clone()
            forks[rows] += found
            assert torch.equal(output, serial(x, expected, position))
            assert torch.equal(cache, expected)
        assert all(map(any, forks.values())), forks


def test_capture_on_any_stream_after_a_warm_up_with_other_inputs() -> None:
    module, inputs = build()
    torch._dynamo.reset()
    streamed = torch.compile(module, backend="graphstreams", options=STREAMED)
    with torch.no_grad():
        serial = torch.compile(module, options=SAME_KERNELS)
        streamed(*[value.clone() for value in inputs])
        for _ in range(3):
            stream, static = torch.cuda.Stream(), [value.clone() for value in inputs]
            stream.wait_stream(torch.cuda.current_stream())
            graph = torch.cuda.CUDAGraph()
            with captures() as found, torch.cuda.graph(graph, stream=stream):
                result = streamed(*static)
            assert found[0] > 0
            for scale in range(1, 5):
                static[0].copy_(inputs[0] * scale)
                static[1].copy_(inputs[1])
                graph.replay()
                assert torch.equal(result, serial(inputs[0] * scale, inputs[1].clone(), inputs[2]))


def test_a_call_that_is_captured_again_has_the_same_bits() -> None:
    streamed, inputs, _ = compiled_and_expected()
    with torch.no_grad():
        with captures() as found:
            captured = CapturedFunction(streamed, inputs)
        assert found[0] > 0
        for scale in range(1, 4):
            fresh = [inputs[0] * scale, inputs[1], inputs[2]]
            results = []
            for _ in range(2):
                captured.load(fresh)
                captured.replay()
                results.append([captured.outputs[0].clone(), captured.inputs[1].clone()])
                captured.capture_again()
            assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
