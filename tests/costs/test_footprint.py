"""Check footprints that were worked out by hand from blocks, bytes and times."""

import pytest
import sympy

from graphstreams.costs.footprint import EDGE_US, EDGES_MOST, GEMM_FILL, GEMM_MOST, Footprint, footprints
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Access, Kernel, KernelGraph

H200 = DEVICES["h200"]
TOKENS = sympy.Symbol("s0", integer=True, positive=True)


def kernel(kind, read=0, written=0, launches=1, id=0):
    accesses = [(Access(name, sympy.sympify(size)),) for name, size in (("in", read), ("out", written))]
    return Kernel(id, f"k{id}", kind, launches=("launch",) * launches, reads=accesses[0], writes=accesses[1])


def footprint(kernel, us, device, blocks=(), sizes=None):
    """Return the footprint of the only kernel of a graph."""
    return footprints(KernelGraph("g", (kernel,), (), sizes or {}), [us], device, {kernel.id: blocks})[0]


def test_the_share_is_that_of_the_widest_launch():
    found = footprint(kernel("reduction", launches=2), 5.0, H200, [(1, 2112), (264, 1056)])
    assert found.share == 0.25


def test_a_launch_lasts_as_long_as_one_of_its_blocks_has_of_an_sm():
    """A GEMM split along K with a block on each SM, then a sum with four on an SM: 4 to 1."""
    found = footprint(kernel("gemm", launches=2), 9.0, H200, [(132, 132), (66, 528)])
    assert found.launches == (pytest.approx((1.0, 1.0, 0.8)), pytest.approx((0.125 * GEMM_FILL, 0.5, 0.2)))
    assert (found.share, found.sms) == (1.0, 1.0)


def test_one_launch_is_not_split():
    assert footprint(kernel("gemm"), 9.0, H200, [(66, 132)]).launches == ()
    assert footprint(kernel("gemm", launches=2), 9.0, H200).launches == ()


@pytest.mark.parametrize(("count", "sms"), [(33, 0.25), (132, 1.0), (1056, 1.0)])
def test_blocks_go_to_sms_of_their_own_while_there_are_some(count, sms):
    assert footprint(kernel("pointwise"), 9.0, H200, [(count, 2112)]).sms == sms


def test_a_kernel_goes_through_a_head_its_blocks_and_a_tail():
    last_first = Footprint(share=0.5, edge_us=1.0, sms=0.25).phases(5.0)
    assert last_first == [(1.0, False, 0.0, 0.0), (3.0, True, 0.5, 0.25), (1.0, False, 0.0, 0.0)]
    assert Footprint().phases(5.0) == [(5.0, True, 0.0, 0.0)]


def test_launches_come_one_after_another():
    found = footprint(kernel("gemm", launches=2), 9.0, H200, [(132, 132), (66, 528)])
    phases = found.phases(9.0)[::-1]
    assert [phase.blocks for phase in phases] == [False, True, False, True, False]
    # Between them are the tail of the first and the head of the second.
    blocks_us = 9.0 - 4 * EDGE_US
    expected = [EDGE_US, 0.8 * blocks_us, 2 * EDGE_US, 0.2 * blocks_us, EDGE_US]
    assert [phase.us for phase in phases] == pytest.approx(expected)


def test_more_blocks_than_fit_fill_the_card():
    assert footprint(kernel("reduction"), 10.0, H200, [(8192, 1056)]).share == 1.0


@pytest.mark.parametrize(
    ("blocks", "share"), [((66, 132), 0.5 * GEMM_FILL), ((128, 132), GEMM_MOST), ((132, 132), 1.0), ((500, 132), 1.0)]
)
@pytest.mark.parametrize("kind", ["gemm", "template"])
def test_a_gemm_leaves_less_than_its_blocks_do(kind, blocks, share):
    assert footprint(kernel(kind), 10.0, H200, [blocks]).share == pytest.approx(share)


def test_the_bandwidth_is_asked_for_between_head_and_tail():
    # 48 MB in 20 us less one launch's head and tail, of 4.8 TB/s.
    found = footprint(kernel("gemm", 40e6, 8e6), 20.0, H200, [(66, 132)])
    assert found.bandwidth == pytest.approx(10.0 / (20.0 - 2 * EDGE_US))
    assert found.edge_us == EDGE_US


def test_no_kernel_asks_for_more_than_there_is():
    assert footprint(kernel("pointwise", 480e6), 50.0, H200, [(9999, 2112)]).bandwidth == 1.0


def test_data_that_the_cache_holds_asks_for_no_bandwidth():
    assert footprint(kernel("pointwise", H200.l2 / 33, H200.l2 / 33), 2.0, H200).bandwidth == 0.0


def test_each_launch_has_a_head_and_a_tail():
    assert footprint(kernel("gemm"), 50.0, H200, [(20, 132), (6, 528)]).edge_us == 2 * EDGE_US
    assert footprint(kernel("reduction", launches=4), 50.0, H200).edge_us == 4 * EDGE_US


def test_head_and_tail_leave_some_of_a_short_kernel():
    assert footprint(kernel("pointwise"), 1.0, H200).edge_us == pytest.approx(EDGES_MOST / 2)


@pytest.mark.parametrize(("us", "kind"), [(0.0, "pointwise"), (3.0, "none")])
def test_what_takes_no_time_or_launches_nothing_takes_nothing(us, kind):
    assert footprint(kernel(kind, 1e9), us, H200) == Footprint()


@pytest.mark.parametrize(
    ("made", "share"),
    [
        (kernel("pointwise", 2048), 1 / 2112),  # 1024 elements: one block of the 16 on each of 132 SMs
        (kernel("pointwise", 0, 2048 * 1056), 0.5),
        (kernel("reduction", 2048 * 9999), 1.0),
        (kernel("gemm", 33 * 2**17), 0.25 * GEMM_FILL),
        (kernel("gemm", 2**30), 1.0),
        (kernel("gemm", 0, 66 * 2**14), 0.5 * GEMM_FILL),
        (kernel("extern", 0), 1 / 2112),
    ],
)
def test_blocks_that_were_not_measured_are_estimated(made, share):
    assert footprint(made, 30.0, H200).share == pytest.approx(share)


def test_dynamic_sizes_take_their_values():
    dynamic = kernel("pointwise", 2048 * TOKENS)
    assert footprint(dynamic, 30.0, H200, sizes={"s0": 1056}).share == 0.5
    with pytest.raises(ValueError, match="'s0'"):
        footprint(dynamic, 30.0, H200)


def test_the_kernels_of_a_graph():
    graph = KernelGraph("g", (kernel("pointwise", 2048 * TOKENS), kernel("reduction", id=1)), (), {"s0": 1056})
    assert [f.share for f in footprints(graph, [30.0, 5.0], H200, {1: [(264, 1056)]})] == [0.5, 0.25]
    assert [f.share for f in footprints(graph, [30.0, 5.0], H200)] == [0.5, 1 / 2112]
