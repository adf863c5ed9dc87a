"""Check the pre-attention block of V3.2 with 16 heads and 64 tokens, which computes garbage without lifetimes."""

from typing import Any

import pytest
import torch

from graphstreams.benchmark.run import run_workload
from graphstreams.benchmark.variants import BenchmarkSpec
from graphstreams.rewriting import regions
from tests.gpu import chaos, known_failure
from tests.support.same_kernels import SAME_KERNELS

pytestmark = pytest.mark.gpu


def compared(streams: int, replays: int) -> dict[str, Any]:
    """Return the record of graphstreams, of so many replays and of 20 calls launched by the host."""
    options = {"min_gain": 0.0, "streams": streams}
    spec = BenchmarkSpec(options=options, own={"default": {}}, replays=replays, direct_runs=20, rounds=5)
    row = run_workload("pre-attention", known_failure.block, spec)
    assert "failed" not in row
    record: dict[str, Any] = row["rivals"]["graphstreams: default"]
    return record


@pytest.mark.parametrize("streams", [2, 3])
def test_with_lifetimes_it_is_clean_and_equal_over_a_thousand_replays(streams: int) -> None:
    done = compared(streams, 1000)
    assert done["verdict"] == "clean", done["reason"]
    assert done["wrong"] == {"direct": 0, "graph": 0}


@pytest.mark.parametrize("streams", [2, 3])
def test_without_lifetimes_it_is_refused(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "held_values", lambda reading, plan: {})
    done = compared(streams, 10)
    assert done["verdict"] == "refused"
    assert "races" in done["reason"]
    assert not any(done["wrong"].values())


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
