"""Check the price of collectives against values worked out by hand."""

from __future__ import annotations

import pytest
import sympy

from graphstreams.costs.collectives import collective_us, sent_share, steps
from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel, LaunchWork

H200 = DEVICES["h200"]


def start(operator: str, size: object, ranks: int) -> Kernel:
    work = LaunchWork("collective", sympy.sympify(size), operator=operator, ranks=ranks)
    return Kernel(0, "s", "collective", work=(work,), collective="start")


@pytest.mark.parametrize(
    ("operator", "ranks", "count", "share"),
    [
        ("all_reduce_", 8, 14, 1.75), ("all_reduce_coalesced_", 2, 2, 1.0), ("all_gather_into_tensor", 8, 7, 0.875),
        ("reduce_scatter_tensor", 4, 3, 0.75), ("all_to_all_single", 2, 1, 0.5), ("broadcast_", 4, 3, 1.0),
    ],
)  # fmt: skip
def test_steps_and_bytes_are_those_of_a_ring(operator: str, ranks: int, count: int, share: float) -> None:
    assert (steps(operator, ranks), sent_share(operator, ranks)) == (count, share)


def test_a_small_message_takes_the_latencies_and_a_large_one_the_bytes() -> None:
    model = Roofline(H200)
    assert model.us(start("all_reduce_", 0, 8)) == pytest.approx(6.6 + 14 * 0.6)
    # 1.75 GB over 80 % of 450 GB/s, and the latencies of the protocol for large messages.
    assert model.us(start("all_reduce_", 10**9, 8)) == pytest.approx(8.4 + 14 * 3.4 + 1.75e9 / (0.8 * 450e9) * 1e6)
    assert Roofline(DEVICES["a100"]).us(start("all_gather_into_tensor", 10**9, 2)) == pytest.approx(
        8.4 + 3.4 + 0.5e9 / (0.8 * 300e9) * 1e6
    )


def test_the_price_grows_with_a_dynamic_size() -> None:
    size = sympy.Symbol("s0", integer=True, positive=True)
    kernel, model = start("all_reduce_", size * 4096, 2), Roofline(H200)
    for tokens in (1, 1000, 100_000):
        expected = collective_us(tokens * 4096 / 450e9 * 1e6, 2)
        assert model.us(kernel, {"s0": tokens}) == pytest.approx(expected)
        assert float(model.expression(kernel).subs(size, tokens)) == pytest.approx(expected)


def test_a_wait_takes_no_time_by_itself() -> None:
    wait = Kernel(0, "w", "wait", work=(LaunchWork("wait", sympy.S.Zero),), collective="wait")
    assert Roofline(H200).us(wait) == 0.0
    assert Roofline(H200).expression(wait) == 0
