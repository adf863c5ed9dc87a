"""Check that kernels that start late at random, and an allocator under pressure, change no bit."""

import deepseek_v32
import pytest
import torch
from deepseek_pre_attention import pre_attention

from graphstreams.pipeline import streamed_body
from graphstreams.rewriting import regions
from tests.gpu import chaos, known_failure
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("tokens", "tp", "streams"), [(1, 8, 2), (1, 8, 3), (64, 8, 3)])
def test_late_kernels_and_poisoned_blocks_change_nothing(tokens: int, tp: int, streams: int) -> None:
    torch._dynamo.reset()
    module, inputs = chaos.layer(tokens, tp)
    options = {**chaos.PRICED, "strict": True, "streams": streams}
    streamed = torch.compile(module, backend="graphstreams", options=options)
    assert chaos.wrong_runs(torch.compile(module, options=SAME_KERNELS), streamed, inputs, 200) == 0


@pytest.mark.parametrize(("model", "kind", "tokens"), chaos.V4_LAYERS)
def test_late_kernels_change_nothing_in_caches_and_states_written_in_place(model: str, kind: str, tokens: int) -> None:
    torch._dynamo.reset()
    module, inputs = chaos.v4_layer(model, kind, tokens)
    streamed = torch.compile(module, backend="graphstreams", options={**chaos.PRICED, "strict": True, "streams": 4})
    assert chaos.wrong_runs(torch.compile(module, options=SAME_KERNELS), streamed, inputs, 200) == 0


def test_the_disturbance_finds_a_graph_without_its_lifetimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a block that reads nothing at computed places: garbage for an index would end the process."""
    monkeypatch.setattr(regions, "held_values", lambda reading, plan: {})
    monkeypatch.setattr(streamed_body, "find_races", lambda trace: [])
    torch._dynamo.reset()
    block, _ = pre_attention(16, 64, "cuda")

    def inputs(seed: int) -> list[torch.Tensor]:
        hidden, positions, _, index_cache = deepseek_v32.example_inputs(block.layer.config, "cuda", seed)
        return [hidden, positions, index_cache]

    with torch.no_grad(), chaos.planned_by(lambda graph: known_failure.like_the_prototype(graph, 2)):
        streamed, report = chaos.compiled(block, inputs, {"streams": 2, "strict": True})
    assert report["verdict"] == "clean"
    assert chaos.wrong_runs(torch.compile(block, options=SAME_KERNELS), streamed, inputs, 100) > 0


def test_late_kernels_and_poisoned_blocks_change_nothing_in_random_graphs_on_random_plans() -> None:
    rows = [row for row in chaos.random_rows(3, 50) if not row.serial]
    assert [row.runs for row in rows] == [50, 50, 50], rows
    assert not any(row.wrong for row in rows), chaos.table(rows)
