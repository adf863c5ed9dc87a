"""Check the V3.2 layer at full size on a GPU: the streamed graph has serial's bits however it is launched."""

import json
from pathlib import Path

import deepseek_v32
import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction, copy_into
from graphstreams.benchmark.run import run_workload
from graphstreams.benchmark.variants import BenchmarkSpec
from tests.support.captured_graphs import captures
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_layer_has_serial_bits_direct_in_a_replayed_graph_and_under_reduce_overhead(tokens: int, tp: int) -> None:
    config = deepseek_v32.Config(tokens=tokens, tp=tp)
    module = deepseek_v32.build(config, "cuda")
    runs = {"replays": 1000, "direct_runs": 20, "reduce_overhead_runs": 20}
    spec = BenchmarkSpec(options={"min_gain": 0.0}, own={"default": {}}, **runs)
    make = (module, lambda seed: deepseek_v32.example_inputs(config, "cuda", seed))
    row = run_workload(f"{tokens} tokens, tp {tp}", lambda: make, spec)
    assert "failed" not in row
    record = row["rivals"]["graphstreams: default"]
    assert record["verdict"] == "clean", record["reason"]
    assert record["runs"] == {"direct": 20, "graph": 1000, "reduce-overhead": 20}
    assert not any(record["wrong"].values()), record["wrong"]
    assert "failed" not in record


def test_mode_reduce_overhead_without_options_is_planned_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSTREAMS_DUMP", str(tmp_path))
    # Together with a mode torch.compile takes no options; what `deterministic` does to reductions, this does too.
    monkeypatch.setattr(torch._inductor.config.test_configs, "force_filter_reduction_configs", True)
    config = deepseek_v32.Config()
    module = deepseek_v32.build(config, "cuda")
    torch._dynamo.reset()
    # Inductor records a graph that writes inputs only where those stay where they are.
    static = list(deepseek_v32.example_inputs(config, "cuda", 0))
    for value in static:
        torch._dynamo.mark_static_address(value, guard=False)
    with torch.no_grad(), captures() as found:
        serial = torch.compile(module)
        streamed = torch.compile(module, backend="graphstreams", mode="reduce-overhead")
        for seed in range(5):
            first = deepseek_v32.example_inputs(config, "cuda", seed)
            copy_into(static, first)
            torch.compiler.cudagraph_mark_step_begin()
            assert torch.equal(serial(*first), streamed(*static))
            assert all(torch.equal(a, b) for a, b in zip(first, static, strict=True))
    assert any(found)
    assert '"verdict": "clean"' in next(tmp_path.glob("*/report.json")).read_text()


def report_in(directory: Path) -> str:
    (path,) = directory.glob("*/report.json")
    return path.read_text()


def test_dynamic_tokens_compile_once_and_are_equal(tmp_path: Path) -> None:
    module = deepseek_v32.build(deepseek_v32.Config(tp=8), "cuda")
    torch._dynamo.reset()
    with torch.no_grad():
        serial = torch.compile(module, dynamic=True, options=SAME_KERNELS)
        options = {"dump": str(tmp_path), "min_gain": 0.0, "inductor": SAME_KERNELS}
        streamed = torch.compile(module, backend="graphstreams", dynamic=True, options=options)
        for tokens in (2, 3, 16, 61):
            config = deepseek_v32.Config(tp=8, tokens=tokens)
            first = deepseek_v32.example_inputs(config, "cuda", tokens)
            second = [value.clone() for value in first]
            with captures() as found:
                captured = CapturedFunction(streamed, second)
            captured.load(second)
            captured.replay()
            expected = serial(*first)
            assert torch.equal(expected, streamed(*second)), tokens
            assert torch.equal(expected, captured.outputs[0]), tokens
            for changed in (second, captured.inputs):
                assert all(torch.equal(a, b) for a, b in zip(first, changed, strict=True)), tokens
            limits = json.loads(report_in(tmp_path))["threshold"]
            streams = limits["smallest"] <= tokens and (limits["largest"] is None or tokens <= limits["largest"])
            assert bool(found[-1]) == streams, tokens  # the first call of all measures plans, in captures too
    assert '"verdict": "clean"' in report_in(tmp_path)
