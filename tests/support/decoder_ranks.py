"""Run a decoder on the ranks of a gloo process group, each with its share of one decoder's weights.

As torchrun does, the environment tells the ranks: torchrun --nproc-per-node 2 tests/support/decoder_ranks.py MODEL
"""

from __future__ import annotations

import sys

import torch
from deepseek_decoder import Config, Decoder, build, divided, example_inputs
from process_group import started_ranks

TOLERANCE = 2e-4  # of sums in float32 in another order


def share(name: str, whole: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """Return a rank's share of a parameter of the undivided decoder."""
    dim = divided(name)
    if dim is None:
        return whole
    if "gate_up" in name:  # halves, of each of which every rank has a share
        halves = whole.chunk(2, dim=dim)
        return torch.cat([half.chunk(size, dim=dim)[rank] for half in halves], dim=dim)
    return whole.chunk(size, dim=dim)[rank]


def shared_out(whole: Decoder, own: Decoder, rank: int, size: int) -> None:
    """Copy a rank's share of all weights."""
    weights = dict(whole.named_parameters())
    for name, parameter in own.named_parameters():
        parameter.copy_(share(name, weights[name], rank, size))


@torch.no_grad()
def main(model: str) -> None:
    """Compare the outputs and caches of every rank with the undivided decoder's, over two tokens."""
    with started_ranks() as ranks:
        single, divided_config = (Config.tiny(model, tp=tp, dtype=torch.float32) for tp in (1, ranks.size))
        whole, own = build(single, "cpu"), build(divided_config, "cpu", rank=ranks.rank, group=ranks.group)
        shared_out(whole, own, ranks.rank, ranks.size)
        expected, found = (list(example_inputs(single, "cpu", steps=2)) for _ in range(2))
        for _ in range(2):
            outputs = [decoder(*values) for decoder, values in ((whole, expected), (own, found))]
            for one, other in zip((outputs[0], *expected), (outputs[1], *found), strict=True):
                torch.testing.assert_close(other, one, atol=TOLERANCE, rtol=TOLERANCE)
            expected[1], found[1] = expected[1] + 1, found[1] + 1
        everywhere = ranks.gathered(outputs[1].tolist())
        assert all(each == everywhere[0] for each in everywhere), "ranks differ"
        if ranks.rank == 0:
            print(f"equal on {len(everywhere)} ranks")


if __name__ == "__main__":
    main(sys.argv[1])
