"""Kernels that start late at random, and an allocator under pressure, change no bit."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import chaos

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("tokens", "tp", "streams"), [(1, 8, 2), (1, 8, 3), (64, 8, 3)])
def test_late_kernels_and_poisoned_blocks_change_nothing(tokens: int, tp: int, streams: int) -> None:
    torch._dynamo.reset()
    module, inputs = chaos.layer(tokens, tp)
    options = {**chaos.PRICED, "strict": True, "streams": streams}
    streamed = torch.compile(module, backend="graphstreams", options=options)
    assert chaos.wrong_runs(torch.compile(module, options=chaos.SAME_KERNELS), streamed, inputs, 200) == 0


def test_the_disturbance_finds_a_graph_without_its_lifetimes(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphstreams import pipeline
    from graphstreams.rewriting import regions

    monkeypatch.setattr(regions, "held_values", lambda reading, plan: [])
    monkeypatch.setattr(pipeline, "find_races", lambda trace: [])
    torch._dynamo.reset()
    module, inputs = chaos.layer(64, 8)
    # Another option than any other test's, so that no cache has the sound graph.
    options = {**chaos.PRICED, "strict": True, "event_us": 0.987}
    streamed = torch.compile(module, backend="graphstreams", options=options)
    assert chaos.wrong_runs(torch.compile(module, options=chaos.SAME_KERNELS), streamed, inputs, 100) > 0


def test_late_kernels_and_poisoned_blocks_change_nothing_in_random_graphs_on_random_plans() -> None:
    rows = [row for row in chaos.random_rows(3, 50) if not row.serial]
    assert [row.runs for row in rows] == [50, 50, 50], rows
    assert not any(row.wrong for row in rows), chaos.table(rows)
