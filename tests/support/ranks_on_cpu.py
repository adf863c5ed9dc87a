"""Run graphs with collectives in two processes on the CPU, over gloo, rewritten to another plan on each rank."""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

from graphstreams.benchmark.bits import equal_bits
from graphstreams.inductor.compile import fresh_dynamo
from graphstreams.pipeline.explain import capture
from graphstreams.testing.cpu_execution import run_on_cpu
from tests.support.collective_modules import SMALL, DecoderLayer, EveryKind, InPlace, OfViews, TwoSums

Made = tuple[nn.Module, list[Tensor]]
CASES: dict[str, Callable[[], Made]] = {
    "two sums": lambda: (TwoSums(), [torch.randn(8, 64)]),
    "every kind": lambda: (EveryKind(), [torch.randn(8, 64)]),
    "in place": lambda: (InPlace(), [torch.randn(8, 64), torch.randn(8, 64)]),
    "of views": lambda: (OfViews(), [torch.randn(8, 64)]),
    "decoder layer": lambda: (DecoderLayer(64, 32), [torch.randn(8, 64)]),
}
STREAMS = (2, 4)  # of each rank


def main(rank: int, stores: str) -> None:
    """Print a JSON object of what `compare` says of each case. `stores` is a folder that both ranks see."""
    print(json.dumps({case: _told(case, rank, os.path.join(stores, case)) for case in CASES}))


def _told(case: str, rank: int, store: str) -> str:
    """Return what `compare` says, or the error. The other rank then gives up too, and both go on with the next case."""
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        return compare(case, rank)
    except Exception:
        return traceback.format_exc()
    finally:
        dist.destroy_process_group()


def compare(case: str, rank: int) -> str:
    """Return "equal" if a rank computes on its plan what its graph computes serially; it has to be nearly what the module does.

    The other rank has another plan. In a second round the first rank runs serially and the second one its plan.
    """
    torch.manual_seed(rank)
    module, inputs = CASES[case]()
    (found,) = capture(module, copy.deepcopy(inputs), "h200", {**SMALL, "streams": STREAMS[rank]})
    if found.module is None or found.reading is None:
        return found.report.reason
    given = _graph_inputs(module, inputs)
    # Each call takes part in the other rank's collectives, which are in one order in all of these graphs.
    serial = run_on_cpu(found.reading.module, given)
    streamed = run_on_cpu(found.module, given)
    mixed = run_on_cpu(found.reading.module if rank == 0 else found.module, given)
    with torch.no_grad():
        eager = module(*copy.deepcopy(inputs))
    torch.testing.assert_close([*serial[0]], [*eager] if isinstance(eager, tuple) else [eager], rtol=1e-4, atol=1e-4)
    same = all(equal_bits(one, two) for other in (streamed, mixed) for one, two in zip(serial, other, strict=True))
    return "equal" if same else "different"


def _graph_inputs(module: nn.Module, inputs: list[Tensor]) -> list[Any]:
    """Return what the graph of a module is called with."""
    recorded: list[Any] = []

    def record(gm: fx.GraphModule, example_inputs: Any) -> Any:
        recorded.extend(copy.deepcopy(list(example_inputs)))
        return lambda *_: [node.meta.get("example_value") for node in ()]

    with torch.no_grad(), fresh_dynamo():
        try:
            torch.compile(module, backend=record)(*copy.deepcopy(inputs))
        except Exception:
            if not recorded:
                raise
    return recorded
