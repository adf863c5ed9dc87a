"""Check what the GPU tests of chaos and of the known failure rest on, as far as it shows without a GPU."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepseek_pre_attention import pre_attention

import graphstreams
from tests.gpu import chaos, known_failure
from tests.support.random_modules import SIZE, RandomModule

PRICED = {"min_gain": 0.0, "costs": "roofline"}


@pytest.mark.parametrize("streams", [2, 3])
def test_the_plan_after_the_prototypes_is_refused_for_what_it_would_overwrite(streams: int) -> None:
    module, inputs = pre_attention()
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


def test_every_few_runs_are_replays_of_a_capture_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Capturing:
        def __init__(self, function: Any) -> None:
            self.function = function

        def capture(self, values: Any) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
            static, outputs = chaos.clones(values), [torch.zeros(2)]
            made.append(static)
            return SimpleNamespace(replay=lambda: outputs[0].copy_(self.function(*static))), static, outputs

    monkeypatch.setattr(chaos, "Capturing", Capturing)
    replay = chaos._replayed(lambda x: 2 * x, lambda seed: [torch.full((2,), -1.0)])
    for run in range(2 * chaos.REPLAYS):
        (output,), (inner,) = replay(run, [torch.full((2,), float(run))])
        assert (output.tolist(), inner.tolist()) == ([2.0 * run] * 2, [float(run)] * 2)
    assert len(made) == 2


def test_freed_blocks_are_poisoned_in_captures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned: list[Any] = []
    monkeypatch.setattr(chaos, "pressure", lambda rng, sizes: poisoned.append(sizes))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    for capturing, sizes in ((False, (64,)), (True, ()), (True, (64,))):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        late = chaos._Late(SimpleNamespace(run=lambda number: number + 1), random.Random(0), (10,), sizes)
        assert [late.run(number) for number in range(50)] == list(range(1, 51))
        assert bool(poisoned) == (capturing and bool(sizes))
