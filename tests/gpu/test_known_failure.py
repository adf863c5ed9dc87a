"""The pre-attention block of V3.2 with 16 heads and 64 tokens: a first prototype, without lifetimes, got it wrong."""

import sys
from pathlib import Path

import pytest
import torch

from graphstreams.benchmark.comparison import Comparison, compare
from graphstreams.rewriting import regions

sys.path.insert(0, str(Path(__file__).parent))
import chaos
import known_failure
from same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


def compared(streams: int, replays: int) -> Comparison:
    block, inputs = known_failure.block()
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
def test_without_lifetimes_and_without_the_proof_its_outputs_differ(streams: int) -> None:
    torch._dynamo.reset()
    block, inputs = known_failure.block()
    _, list_schedule = next(known_failure.plans(streams, 0))
    broken = (known_failure.without_lifetimes(), known_failure.without_proof(), chaos.planned_by(list_schedule))
    with torch.no_grad(), broken[0], broken[1], broken[2]:
        streamed, _ = chaos.compiled(block, inputs, {"streams": streams, "strict": True})
    assert chaos.wrong_runs(torch.compile(block, options=SAME_KERNELS), streamed, inputs, 500) > 0


@pytest.mark.parametrize("streams", [2, 3])
def test_without_lifetimes_and_proof_a_captured_graph_gives_garbage(streams: int) -> None:
    """As planned, for some plan; and with spin kernels in the capture, on the list schedule. The proof refuses each."""
    trial = known_failure.Trial()
    found = []
    for name, make in known_failure.plans(streams, 30):
        found.append(trial.captured(name, make, streams))
        if found[-1].wrong:
            break
    assert found[-1].wrong, known_failure.table(found)
    _, list_schedule = next(known_failure.plans(streams, 0))
    found.append(trial.captured_late(list_schedule, streams, 20, until_wrong=True))
    assert found[-1].wrong, known_failure.table(found)
    assert all(finding.proof_holds for finding in found), known_failure.table(found)
