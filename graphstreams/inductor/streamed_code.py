"""Lower a rewritten graph and generate its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._inductor import config

from graphstreams.inductor import scheduling, wrapper_registry
from graphstreams.inductor.collective_operators import settings_for
from graphstreams.inductor.lowering import Lowered, copy_graph, lower
from graphstreams.inductor.settings import stream_settings


def streamed_code(module: fx.GraphModule, constants: Mapping[str, torch.Tensor] | None = None) -> Lowered:
    """Return a rewritten module lowered, with its wrapper. The module does not change; nothing is compiled or run.

    `constants` are those of the serial graph's lowering, by name.
    """
    wrapper_registry.register()
    before = config._post_fusion_custom_pass

    def order_fused(nodes: list[Any]) -> list[Any]:
        return scheduling.order_by_stream(before(nodes) if before is not None else nodes)

    settings = {**stream_settings(), **settings_for(module), "_post_fusion_custom_pass": order_fused}
    return lower(
        copy_graph(module), generate_code=True, settings=settings, stores_shared=True, constants=constants,
        scheduler=scheduling.RegionScheduler,
    )  # fmt: skip
