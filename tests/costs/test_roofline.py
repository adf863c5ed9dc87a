"""Check times that were worked out by hand from bytes, FLOPs and floors."""

import pytest
import sympy

from graphstreams.costs.calibration import shipped
from graphstreams.costs.roofline import Roofline, candidates, predicted
from graphstreams.costs.work import works_of
from graphstreams.ir.devices import DEVICES, device_at_hand, device_by_name
from graphstreams.ir.kernels import Access, Kernel, KernelGraph, LaunchWork

H200 = DEVICES["h200"]
FITTED = shipped()
LATENCY = FITTED.latency["gemm"]
INNER = FITTED.inner_us["gemm"] / 1000
TOKENS = sympy.Symbol("s0", integer=True, positive=True)


def work_of(each: Kernel, device: object) -> object:
    (work,) = works_of(each, device)
    return work


def together(*terms: float) -> float:
    """Return the us of what overlaps: the longest, and of the others the share that it does not hide."""
    return (1 - FITTED.overlap) * max(terms) + FITTED.overlap * sum(terms)


def kernel(kind: str, size: object = 0, **changes: object) -> Kernel:
    return Kernel(0, "k", kind, reads=(Access("a", sympy.sympify(size)),), **changes)


def test_a_large_gemm_of_few_rows_is_bound_by_bandwidth() -> None:
    # 16384 x 7168 in bf16: 235 MB at 4.8 TB/s take 48.9 us, its 235 MFLOP at 989 TFLOP/s a quarter of one.
    size, flops = 16384 * 7168 * 2, 2 * 16384 * 7168
    us = Roofline(H200).us(kernel("gemm", size, flops=sympy.Integer(flops), dtype="bfloat16"))
    computing = flops / (FITTED.flops_share["gemm"] * 989e12) * 1e6
    assert us == pytest.approx(LATENCY + together(48.93 / FITTED.bandwidth_share["gemm"], computing), abs=0.01)
    assert us == pytest.approx(63, rel=0.15)  # us; on an H200 such products take 61 to 66


def test_a_gemm_of_many_rows_is_bound_by_arithmetic() -> None:
    flops = 2 * 8192**3
    us = Roofline(H200).us(kernel("gemm", 3 * 8192**2 * 2, flops=sympy.Integer(flops), dtype="bfloat16"))
    computing = flops / (FITTED.flops_share["gemm"] * 989e12) * 1e6
    moving = 3 * 8192**2 * 2 / 4.8e6 / FITTED.bandwidth_share["gemm"]
    assert us == pytest.approx(LATENCY + together(moving, computing), abs=0.01)


def test_fp8_has_twice_the_rate_of_bf16() -> None:
    flops = sympy.Integer(2 * 8192**3)
    times = [Roofline(H200).us(kernel("gemm", 0, flops=flops, dtype=d)) for d in ("bfloat16", "float8_e4m3fn")]
    assert (times[0] - LATENCY) / (times[1] - LATENCY) == pytest.approx(1979 / 989)


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_the_latency_of_a_gemm_grows_with_its_inner_dimension(dtype: str, width: int) -> None:
    # M x K times K x N is 2 M N K FLOPs and writes M N elements: of equal bytes and FLOPs, the longer K has fewer results.
    short, long = (
        kernel("gemm", 2**20, writes=(Access("b", sympy.Integer(width * 16 * n)),), flops=2 * 16 * 2**20, dtype=dtype)
        for n in (2**20 // 128, 2**20 // 4096)
    )
    assert [1000 * work_of(each, H200).inner for each in (short, long)] == [128, 4096]
    # By the term of the inner dimension, which the others overlap.
    inner = [candidates(work_of(each, H200), FITTED)[-1] for each in (short, long)]
    written = width * 16 * (2**20 // 128 - 2**20 // 4096) / (FITTED.bandwidth_share["gemm"] * 4.8e6)
    if dtype != "float32":  # whose products have a latency and rates of their own
        assert float(inner[1] - inner[0]) == pytest.approx((4096 - 128) * INNER - FITTED.overlap * written)


@pytest.mark.parametrize("kind", ["gemm", "reduction", "pointwise", "extern"])
def test_a_tiny_kernel_takes_its_floor(kind: str) -> None:
    assert Roofline(H200).us(kernel(kind, 64)) == pytest.approx(FITTED.floors[kind], abs=1e-3)


def test_each_launch_of_a_unit_has_its_floor() -> None:
    assert Roofline(H200).us(kernel("pointwise", 64, launches=("a", "b", "c"))) == pytest.approx(
        3 * FITTED.floors["pointwise"], abs=1e-3
    )


def test_an_operation_that_one_block_does_takes_longer_than_its_bytes_say() -> None:
    start, slope = FITTED.serial["topk"]
    us = Roofline(H200).us(kernel("extern", 16384, ops=("topk",)))
    assert us == pytest.approx(start + slope * 0.016384)
    assert us > 5 * Roofline(H200).us(kernel("extern", 16384))


def test_each_launch_of_a_unit_is_priced_by_itself() -> None:
    """A mixture of experts: a sort of few indices, and products that read all experts' weights, joined to one unit."""
    size = sympy.Symbol("s0")
    parts = (LaunchWork("extern", 64 * size, operator="sort"), LaunchWork("gemm", 700e6 * size, dtype="bfloat16"))
    unit = kernel("extern", 700e6, ops=("mm", "sort"), launches=("sort", "mm"), work=parts)
    model = Roofline(DEVICES["h200"])
    sort, product = (model.us(kernel(part.kind, 0, work=(part,)), {"s0": 1}) for part in parts)
    assert model.us(unit, {"s0": 1}) == pytest.approx(sort + product)
    assert sort == pytest.approx(FITTED.serial["sort"][0], abs=0.01)
    assert float(model.expression(unit).subs(size, 1)) == pytest.approx(sort + product)
    assert model.us(kernel("extern", 700e6, ops=("mm", "sort"))) > 10 * (sort + product)


def launch(operator: str, size: int = 0, **changes: object) -> float:
    """Return the us of one launch of an operator."""
    work = LaunchWork("extern", sympy.Integer(size), operator=operator, dtype="bfloat16", **changes)
    return Roofline(H200).us(kernel("extern", 0, work=(work,)))


def test_attention_has_a_latency_and_a_rate_of_its_own() -> None:
    attention = "_scaled_dot_product_cudnn_attention"
    assert launch(attention) == pytest.approx(FITTED.latency["attention"])
    longer = launch(attention, inner=sympy.Integer(2000)) - launch(attention, inner=sympy.Integer(1000))
    assert longer == pytest.approx(FITTED.inner_us["attention"])
    flops = 10**12
    computing = flops / (FITTED.flops_share["attention"] * 989e6)
    assert launch(attention, flops=sympy.Integer(flops)) == pytest.approx(FITTED.latency["attention"] + computing)


def test_convolutions_by_layout_channels_and_groups() -> None:
    latency, inner = FITTED.latency["convolution"], sympy.Integer(3000)
    plain = launch("convolution", inner=inner)
    assert plain == pytest.approx(latency + 3 * FITTED.inner_us["convolution"])
    assert launch("convolution", inner=inner, rearranged=True) == pytest.approx(plain + 3 * FITTED.copy_us)
    assert launch("convolution", inner=inner, narrow=True) == pytest.approx(latency + 3 * FITTED.narrow_us)
    grouped = launch("convolution", inner=inner, matrices=sympy.Integer(16))
    assert grouped == pytest.approx(16 * (latency + 3 * FITTED.grouped_us))


def test_float32_computes_faster_with_tf32() -> None:
    flops = sympy.Integer(2 * 8192**3)
    full, rounded = (
        Roofline(H200).us(kernel("gemm", 0, work=(LaunchWork("gemm", sympy.S.Zero, dtype=dtype, flops=flops),)))
        for dtype in ("float32", "tfloat32")
    )
    rates = FITTED.flops_share["gemm"] * 494 / (FITTED.flops_share["float32"] * 67)
    assert (full - FITTED.latency["float32"]) / (rounded - LATENCY) == pytest.approx(rates)


def test_a_batch_of_float32_products_reads_its_operands_for_each() -> None:
    work = LaunchWork("gemm", sympy.Integer(10**6), operator="bmm", dtype="float32", streamed=sympy.Integer(10**9))
    us = Roofline(H200).us(kernel("gemm", 0, work=(work,)))
    assert us == pytest.approx(FITTED.latency["float32"] + 1e9 / 4.8e6 / FITTED.cache_share)


def test_indices_that_are_read_first_take_longer() -> None:
    plain, gather = (
        Roofline(H200).us(kernel("pointwise", 0, work=(LaunchWork("pointwise", sympy.Integer(10**8), gathers=each),)))
        for each in (False, True)
    )
    assert gather - plain == pytest.approx(FITTED.gather_us)


def test_what_launches_nothing_costs_nothing() -> None:
    assert Roofline(H200).us(kernel("none", 10**9)) == 0


def test_the_time_is_an_expression_in_the_dynamic_size() -> None:
    model, dynamic = Roofline(H200), kernel("pointwise", TOKENS * 2**20)
    assert model.expression(dynamic).free_symbols == {TOKENS}
    share = FITTED.bandwidth_share["other"] * H200.bandwidth
    assert model.us(dynamic, {"s0": 1000}) == pytest.approx(FITTED.latency["other"] + 1000 * 2**20 / share * 1e6)
    smallest = FITTED.latency["other"] + 0.2185 / FITTED.bandwidth_share["other"]
    assert model.us(dynamic, {"s0": 1}) == pytest.approx(max(FITTED.floors["pointwise"], smallest), abs=1e-3)


def test_a_dynamic_gemm_is_a_maximum_of_lines_in_its_rows() -> None:
    rows = TOKENS
    reads = (Access("x", 2 * rows * 7168), Access("w", sympy.Integer(2 * 7168 * 2112)))
    dynamic = Kernel(
        0, "k", "gemm", reads=reads, writes=(Access("y", 2 * rows * 2112),), flops=2 * rows * 2112 * 7168, dtype="bfloat16"
    )
    assert 1000 * work_of(dynamic, H200).inner == 7168
    expression = Roofline(H200).expression(dynamic)
    assert isinstance(expression, sympy.Max)
    assert all(each.as_poly(TOKENS).degree() <= 1 for each in expression.args if each.free_symbols)
    for count in (1, 64, 8192):
        work = work_of(dynamic, H200).at({"s0": count})
        assert float(expression.subs(TOKENS, count)) == pytest.approx(predicted([work], FITTED))


def test_a_size_without_a_value_is_named() -> None:
    with pytest.raises(ValueError, match="'s0'"):
        Roofline(H200).us(kernel("pointwise", TOKENS))


def test_a_graph_is_priced_at_its_example_sizes() -> None:
    graph = KernelGraph("g", (kernel("pointwise", TOKENS * 2**20),), (), {"s0": 64})
    assert Roofline(H200).price(graph) == [Roofline(H200).us(graph.kernels[0], {"s0": 64})]


@pytest.mark.parametrize("name", ["h200", "H200", "NVIDIA H200", "nvidia h200"])
def test_a_device_is_found_by_either_name(name: str) -> None:
    assert device_by_name(name) is H200


def test_an_unknown_device_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'h200'"):
        device_by_name("h2000")


def test_no_device_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="target='h200'"):
        device_at_hand()


def test_the_device_at_hand_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: "NVIDIA H200" if device is None else "another")
    assert device_at_hand() is H200


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_figures_of_the_table_are_in_proportion(name: str) -> None:
    device = DEVICES[name]
    assert device.flops["bfloat16"] == device.flops["float16"] > device.flops["float32"] >= device.flops["float64"]
    assert device.flops["tfloat32"] == pytest.approx(device.flops["bfloat16"] / 2, rel=0.03)
    for eight_bits in {"float8", "int8"} & device.flops.keys():
        assert device.flops[eight_bits] == pytest.approx(2 * device.flops["bfloat16"], rel=0.02)
    assert ("float8" in device.flops) == (device.capability >= (8, 9))
    # GB/s and GB of device memory, MiB of L2, as they were read in the data sheets.
    sheet = {
        "h200": (4800, 141, 50),
        "h100": (3350, 80, 50),
        "a100": (2039, 80, 40),
        "b200": (7700, 180, 126),
        "l40s": (864, 48, 96),
    }
    assert (device.bandwidth / 1e9, device.memory / 1e9, device.l2 / 2**20) == pytest.approx(sheet[name])


def test_a_device_that_is_not_listed_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    properties = SimpleNamespace(
        major=9, minor=0, multi_processor_count=66, total_memory=2**36, memory_clock_rate=2_619_000, memory_bus_width=5120
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "NVIDIA Something")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda *_: properties)
    found = device_at_hand()
    assert found.bandwidth == pytest.approx(2_619_000e3 * 2 * 5120 / 8)  # 3.35 TB/s, the H100's
    assert found.flops["bfloat16"] == pytest.approx(989e12 / 2)
