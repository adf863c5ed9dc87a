"""The pre-attention block of V3.2 with 16 heads and 64 tokens: a first prototype, without lifetimes, got it wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graphstreams import pipeline
from graphstreams.bench import Comparison, compare
from graphstreams.rewriting import regions

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import chaos
import pre_attention

pytestmark = pytest.mark.gpu


def made() -> tuple[torch.nn.Module, Callable[[int], tuple[torch.Tensor, ...]]]:
    block, _ = pre_attention.pre_attention(device="cuda")

    def inputs(seed: int) -> tuple[torch.Tensor, ...]:
        hidden, positions, _, index_cache = pre_attention.deepseek_v32.example_inputs(block.layer.config, "cuda", seed)
        return hidden, positions, index_cache

    return block, inputs


def compared(streams: int, replays: int) -> Comparison:
    block, inputs = made()
    options = {"min_gain": 0.0, "streams": streams}
    return compare("pre-attention", block, inputs, options, replays=replays, rounds=5, reduce_overhead=False)


@pytest.mark.parametrize("streams", [2, 3])
def test_with_lifetimes_it_is_clean_and_equal_over_a_thousand_replays(streams: int) -> None:
    done = compared(streams, 1000)
    assert done.verdict == "clean", done.reason
    assert done.wrong == {"direct": 0, "graph": 0}


@pytest.mark.parametrize("streams", [2, 3])
def test_without_lifetimes_it_is_refused(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "held_values", lambda reading, plan: [])
    done = compared(streams, 10)
    assert done.verdict == "refused"
    assert "races" in done.reason
    assert done.equal


@pytest.mark.parametrize("streams", [2, 3])
def test_without_lifetimes_and_without_the_proof_its_outputs_differ(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "held_values", lambda reading, plan: [])
    monkeypatch.setattr(pipeline, "find_races", lambda trace: [])
    torch._dynamo.reset()
    block, inputs = made()
    # Another option than any other test's, so that no cache has the sound graph.
    options = {"min_gain": 0.0, "strict": True, "streams": streams, "event_us": 0.876, "inductor": chaos.SAME_KERNELS}
    streamed = torch.compile(block, backend="graphstreams", options=options)
    assert chaos.wrong_runs(torch.compile(block, options=chaos.SAME_KERNELS), streamed, inputs, 500) > 0
