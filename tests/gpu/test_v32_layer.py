"""The V3.2 layer at full size on a GPU: the streamed graph has serial's bits however it is launched."""

import sys
from pathlib import Path

import pytest
import torch

from graphstreams.comparing import compare

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parent))
import deepseek_v32
from same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_layer_has_serial_bits_direct_in_a_replayed_graph_and_under_reduce_overhead(tokens: int, tp: int) -> None:
    config = deepseek_v32.Config(tokens=tokens, tp=tp)
    module = deepseek_v32.build(config, "cuda")
    name = f"{tokens} tokens, tp {tp}"
    done = compare(name, module, lambda seed: deepseek_v32.example_inputs(config, "cuda", seed), {"min_gain": 0.0})
    assert done.verdict == "clean", done.reason
    assert done.runs == {"direct": 20, "graph": 1000, "reduce-overhead": 20}
    assert not any(done.wrong.values()), done.wrong


def test_mode_reduce_overhead_without_options_is_planned_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSTREAMS_DUMP", str(tmp_path))
    # Together with a mode torch.compile takes no options; what `deterministic` does to reductions, this does too.
    monkeypatch.setattr(torch._inductor.config.test_configs, "force_filter_reduction_configs", True)
    config = deepseek_v32.Config()
    module = deepseek_v32.build(config, "cuda")
    torch._dynamo.reset()
    with torch.no_grad():
        serial = torch.compile(module)
        streamed = torch.compile(module, backend="graphstreams", mode="reduce-overhead")
        for seed in range(5):
            first = deepseek_v32.example_inputs(config, "cuda", seed)
            second = [value.clone() for value in first]
            assert torch.equal(serial(*first), streamed(*second))
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert '"verdict": "clean"' in next(tmp_path.glob("*/report.json")).read_text()


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
            assert torch.equal(serial(*first), streamed(*second)), tokens
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    reports = list(tmp_path.glob("*/report.json"))
    assert len(reports) == 1
    assert '"verdict": "clean"' in reports[0].read_text()
