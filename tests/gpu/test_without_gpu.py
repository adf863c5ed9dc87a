"""What the GPU tests of chaos and of the known failure rest on, as far as it shows without a GPU."""

import sys
from pathlib import Path

import pytest
import torch

import graphstreams

sys.path.insert(0, str(Path(__file__).parent))
import chaos
import known_failure

from tests.verification.random_modules import SIZE, RandomModule

PRICED = {"min_gain": 0.0, "costs": "roofline"}


@pytest.mark.parametrize("streams", [2, 3])
def test_the_plan_after_the_prototypes_is_refused_for_what_it_would_overwrite(streams: int) -> None:
    module, inputs = known_failure.pre_attention.pre_attention()
    name, make = list(known_failure.plans(streams, 0))[1]
    report = known_failure.verdict(module, inputs, make, streams, target="h200")
    assert name == "like the prototype's"
    assert report.plan is not None and report.plan.streams == streams
    assert (report.verdict, report.stage, report.order_kept) == ("refused", "verify", True)
    # qkv_a's buffer, and the allocation that gets its memory.
    last_reader = next(line for line in report.races if "_fused_rms_norm" in line and " reads buf" in line)
    assert "on the caller's stream frees" in last_reader


def test_random_plans_are_used_and_proved() -> None:
    kinds = []
    rows = torch.empty(SIZE, dtype=torch.int64)
    inputs = [*(torch.empty(SIZE, SIZE) for _ in range(3)), torch.empty(2 * SIZE, SIZE), rows]
    for seed in range(4):
        streams = 2 + seed % 3
        with chaos.planned_by(known_failure.random_planner(seed, streams)) as plans:
            report = graphstreams.explain(RandomModule(seed), inputs, "h200", {**PRICED, "streams": streams})
        kinds.append((report.verdict, bool(plans)))
        assert report.verdict != "refused", f"{seed}: {report.reason}"
        assert report.verdict == "serial" or report.plan in plans
    assert ("clean", True) in kinds
