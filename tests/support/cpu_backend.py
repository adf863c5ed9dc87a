"""Let graphs of the CPU go through the backend as graphs of a GPU do: lowered, given to the stages, and cached by Inductor.

The stages find no CUDA kernels, so the code stays serial, and carries the verdict, as that of a GPU's serial graph does. Run as
a program, compile one model so, in a process of its own, and print what was said, what was cached and what was written.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch._dynamo.utils import counters
from torch._inductor.codegen import common

import graphstreams
from graphstreams import backend
from graphstreams.inductor import wrapper_registry


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let the backend take graphs of the CPU inside the context."""
    common.init_backend_registration()
    entry = common.device_codegens["cpu"]
    selector = wrapper_registry._Selector(entry.wrapper_codegen)
    with (
        mock.patch.object(backend, "_why_not", return_value=""),
        mock.patch.object(wrapper_registry, "register"),
        mock.patch.object(entry, "wrapper_codegen", selector),
    ):
        yield


class Mix(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x).relu() + self.right(x).sigmoid()


def main(dump: str | None = None) -> None:
    """Compile and run one model, and print a dict as JSON."""
    model, x = Mix(), torch.ones(4, 8)
    options = {} if dump is None else {"dump": dump}
    with as_on_a_gpu(), torch.inference_mode():
        same = torch.allclose(torch.compile(model, backend="graphstreams", options=options)(x), model(x))
    found = {
        "same": same,
        "lines": list(map(str, graphstreams.reports())),
        "hits": counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"],
        "bypassed": counters["inductor"]["fxgraph_cache_bypass"] + counters["aot_autograd"]["autograd_cache_bypass"],
        "files": sorted(path.relative_to(dump).as_posix() for path in Path(dump).rglob("*.*")) if dump else [],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
