"""Check that V4's layer with streams by hand computes what the plain layer does. Without a GPU its parts run in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import deepseek_v4
import hand_streams_v4
import pytest
import torch
from hand_streams import PHASES

from graphstreams.autotuning.cuda_graph import clones

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here streams would be real, on a module that is not")


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def check(config: deepseek_v4.Config, phases: frozenset[int], settings: dict[str, Any] | None) -> None:
    module, values = deepseek_v4.build(config, "cpu"), list(deepseek_v4.example_inputs(config, "cpu", 3))
    variant = hand_streams_v4.HandStreamsV4(module, phases, settings)
    own, other = clones(values), clones(values)
    expected, found = module(*own), variant(*other)
    for one, two in zip([expected, *own], [found, *other], strict=True):
        if settings is None:
            assert torch.equal(one, two)
        else:
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("prefill", [False, True], ids=["decode", "prefill"])
@pytest.mark.parametrize("kind", ["csa", "hca", "sliding"])
def test_a_layer_by_hand_has_the_bits_of_the_plain_one(kind: str, prefill: bool, phases: frozenset[int]) -> None:
    check(deepseek_v4.Config.tiny(kind=kind, prefill=prefill, tokens=128 if prefill else 3), phases, None)


def test_its_parts_are_compiled_one_by_one() -> None:
    check(deepseek_v4.Config.tiny(kind="csa", tokens=3, dtype=torch.float32), PHASES["both"], {})


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear"):
        hand_streams_v4.by_hand(torch.nn.Linear(2, 2), {})
