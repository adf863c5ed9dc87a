"""Take this package's kernels for a graph's top-k, before it is lowered: what is planned, and both bodies, have them."""

from __future__ import annotations

from torch import fx

from graphstreams.costs.top_k import choose_form
from graphstreams.costs.top_k_times import times_of
from graphstreams.inductor.top_k import replace_top_k
from graphstreams.ir.devices import Device, device_at_hand
from graphstreams.kernels.top_k import Choice, TopK
from graphstreams.options import Options
from graphstreams.runtime.verdicts import captures_graphs

UNGUARDED = "the length of its rows is dynamic, and calls of this graph are not guarded by the greatest that torch knows"


def use_top_k_kernels(gm: fx.GraphModule, options: Options, device: Device | None = None, guarded: bool = True) -> None:
    """Replace each top-k of `gm` for which a faster form was measured on `device`, by default the GPU at hand.

    Notes in the meta of `gm` say what was chosen, and why. With the option `top_k` off nothing is done. `guarded` says that a
    call of other sizes than torch has assumed does not run this graph.
    """

    def choose(top_k: TopK) -> Choice:
        if top_k.dynamic and not guarded:
            return Choice(None, UNGUARDED)
        target = device or device_at_hand()
        return choose_form(top_k, times_of(target), target.name, captures_graphs())

    if options.top_k:
        replace_top_k(gm, choose)
