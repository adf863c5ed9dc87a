"""Check the DeepSeek V3.2 example against a naive float64 layer, and under torch.compile on the CPU."""

from dataclasses import replace

import deepseek_v32 as example
import pytest
import torch
from torch import Tensor

import graphstreams

Config = example.Config
FLOAT32 = Config.tiny(dtype=torch.float32)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def make(config, seed=0):
    """Return a layer whose norms differ from the identity, and its inputs."""
    module = example.build(config, "cpu", seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module, example.example_inputs(config, "cpu", seed)


def clones(inputs):
    return tuple(value.clone() for value in inputs)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt() * weight


def rotate(x: Tensor, position: int, pairs: list[tuple[int, int]]) -> Tensor:
    """Rotates each pair of elements as one complex number, the first pair by the largest angle."""
    out = x.clone()
    for index, (real, imaginary) in enumerate(pairs):
        angle = torch.tensor(position * 10000.0 ** (-index / len(pairs)), dtype=torch.float64)
        turned = torch.complex(x[real], x[imaginary]) * torch.polar(torch.ones_like(angle), angle)
        out[real], out[imaginary] = turned.real, turned.imag
    return out


def neighbours(start: int, size: int) -> list[tuple[int, int]]:
    return [(start + 2 * i, start + 2 * i + 1) for i in range(size // 2)]


def halves(size: int) -> list[tuple[int, int]]:
    return [(i, i + size // 2) for i in range(size // 2)]


def index_logits(weights, config, hidden, q_c, position, index_cache):
    """Writes the new index key; returns the logit of every slot up to ``position``."""
    key, head_weights = (weights["indexer.wk_weights_proj.weight"] @ hidden).split([config.index_dim, config.index_heads])
    key = (key - key.mean()) / (key.var(unbiased=False) + 1e-6).sqrt()
    key = key * weights["indexer.k_norm.weight"] + weights["indexer.k_norm.bias"]
    index_cache[position] = rotate(key, position, halves(config.rope))
    queries = (weights["indexer.wq_b.weight"] @ q_c).split(config.index_dim)
    queries = [rotate(query, position, halves(config.rope)) for query in queries]
    scale = (config.index_heads * config.index_dim) ** -0.5
    logits = [
        sum(weight * scale * (query @ slot).clamp(min=0) for weight, query in zip(head_weights, queries, strict=True))
        for slot in index_cache[: position + 1]
    ]
    return torch.stack(logits)


def naive_token(weights, config, hidden, position, kv_cache, index_cache):
    """One token in float64 with keys and values expanded per head; returns its output and its attended slots."""
    q_a, kv_a, k_pe = (weights["fused_qkv_a_proj.weight"] @ hidden).split([config.q_lora, config.kv_lora, config.rope])
    q_c = rms_norm(q_a, weights["q_a_layernorm.weight"])
    kv_cache[position, : config.kv_lora] = rms_norm(kv_a, weights["kv_a_layernorm.weight"])
    kv_cache[position, config.kv_lora :] = rotate(k_pe, position, neighbours(0, config.rope))
    logits = index_logits(weights, config, hidden, q_c, position, index_cache)
    slots = logits.topk(min(config.topk, position + 1)).indices
    values = []
    queries = (weights["q_b_proj.weight"] @ q_c).split(config.nope + config.rope)
    for query, w_uk, w_uv in zip(queries, weights["w_uk"], weights["w_uv"], strict=True):
        query = rotate(query, position, neighbours(config.nope, config.rope))
        keys = [torch.cat((w_uk @ kv_cache[s, : config.kv_lora], kv_cache[s, config.kv_lora :])) for s in slots]
        scores = torch.stack([query @ key for key in keys]) / (config.nope + config.rope) ** 0.5
        expanded = torch.stack([kv_cache[s, : config.kv_lora] @ w_uv for s in slots])
        values.append(scores.softmax(0) @ expanded)
    return weights["o_proj.weight"] @ torch.cat(values), set(slots.tolist())


def naive(module, hidden, positions, kv_cache, index_cache):
    """Outputs, slots and both updated caches of every token, in float64."""
    weights = {name: value.double() for name, value in module.named_parameters()}
    kv_cache, index_cache = kv_cache.double(), index_cache.double()
    tokens = [
        naive_token(weights, module.config, hidden[t].double(), int(positions[t]), kv_cache[t], index_cache[t])
        for t in range(hidden.shape[0])
    ]
    return torch.stack([out for out, _ in tokens]), [slots for _, slots in tokens], kv_cache, index_cache


@pytest.mark.parametrize("tp", [1, 2])
def test_layer_matches_naive_reference(tp):
    module, (hidden, _, kv_cache, index_cache) = make(replace(FLOAT32, tokens=6, tp=tp))
    positions = torch.tensor([0, 3, 7, 8, 20, 31])
    out, slots, expected_kv, expected_index = naive(module, hidden, positions, kv_cache, index_cache)
    actual, indices = module(hidden, positions, kv_cache, index_cache, return_indices=True)
    assert [set(row.tolist()) - {-1} for row in indices] == slots
    torch.testing.assert_close(actual.double(), out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kv_cache.double(), expected_kv, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(index_cache.double(), expected_index, atol=1e-5, rtol=1e-4)


def test_bfloat16_stays_close_to_naive_reference():
    # With every slot selected, rounding cannot change the selection.
    module, inputs = make(Config.tiny(topk=32))
    expected = naive(module, *inputs)[0]
    torch.testing.assert_close(module(*inputs).double(), expected, atol=0.05, rtol=0.05)


def test_slots_beyond_the_position_do_not_contribute():
    module, (hidden, _, kv_cache, index_cache) = make(FLOAT32)
    positions = torch.tensor([2, 7, 20])
    expected = module(hidden, positions, kv_cache.clone(), index_cache.clone())
    future = torch.arange(FLOAT32.context) > positions.unsqueeze(1)
    kv_cache[future], index_cache[future] = 1e4, -1e4
    assert torch.equal(module(hidden, positions, kv_cache, index_cache), expected)


def test_unselected_slots_do_not_contribute():
    module, (hidden, _, kv_cache, index_cache) = make(FLOAT32)
    positions = torch.full((3,), FLOAT32.context - 1)
    expected, indices = module(hidden, positions, kv_cache.clone(), index_cache.clone(), return_indices=True)
    unselected = torch.ones(3, FLOAT32.context, dtype=torch.bool).scatter_(1, indices, False)
    kv_cache[unselected] = 1e4
    assert torch.equal(module(hidden, positions, kv_cache, index_cache), expected)


def test_only_the_slot_at_the_position_is_written():
    module, (hidden, positions, kv_cache, index_cache) = make(FLOAT32)
    before = kv_cache.clone(), index_cache.clone()
    module(hidden, positions, kv_cache, index_cache)
    written = torch.arange(FLOAT32.context) == positions.unsqueeze(1)
    for old, new in zip(before, (kv_cache, index_cache), strict=True):
        assert torch.equal((old != new).any(-1), written)


BLOCKS = {"hidden": 256, "q_lora": 128, "v_dim": 32, "fp8_scales": "block"}  # multiples of 128


@pytest.mark.parametrize("changes", [{}, BLOCKS], ids=["token", "block"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_fp8_stays_close_to_float32(tokens, changes):
    config = Config.tiny(tokens=tokens, topk=32, **changes)
    inputs = example.example_inputs(config, "cpu")
    expected = example.build(replace(config, dtype=torch.float32), "cpu")
    actual = example.build(replace(config, fp8=True), "cpu")
    wide = (inputs[0].float(), inputs[1], inputs[2].float(), inputs[3].float())
    # The two builds draw alike only in one dtype, so the weights are carried over.
    for name, target in actual.named_modules():
        if isinstance(target, example.Float8Linear | example.BlockFloat8Linear) and name != "indexer.wk":
            target.load(expected.get_submodule(name).weight)
    wk, weights_proj = expected.indexer.wk_weights_proj.weight.split([config.index_dim, config.index_heads])
    actual.indexer.wk.load(wk)
    actual.indexer.weights_proj.load(weights_proj)
    actual.w_uk.copy_(expected.w_uk)
    actual.w_uv.copy_(expected.w_uv)
    reference, out = expected(*wide), actual(*inputs).float()
    assert (out - reference).norm() / reference.norm() < 0.1


@pytest.mark.parametrize("changes", [{}, BLOCKS], ids=["token", "block"])
def test_fp8_token_does_not_depend_on_its_batch(changes):
    module, inputs = make(Config.tiny(fp8=True, **changes))
    alone = module(*(value[:1].clone() for value in inputs))
    inputs[0][1:] *= 1000
    torch.testing.assert_close(module(*inputs)[:1], alone)


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_block_of_a_weight_and_128_columns_of_a_token_have_a_scale_each(tokens):
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, 384, generator=generator).exp() for rows in (144, tokens))
    linear = example.BlockFloat8Linear(384, 144)
    linear.load(weight)
    values, scale, counted = linear.operand(x)
    # The strides and the padding are those that cuBLAS takes.
    rows = {1: 4, 5: 8}[tokens]
    assert (counted, values.shape, scale.shape, scale.stride()) == (tokens, (rows, 384), (rows, 3), (1, rows))
    assert not values[tokens:].float().any()
    assert linear.weight_scale.shape == (2, 4)
    largest = torch.finfo(example.FLOAT8).max
    expanded, wide = torch.zeros(144, 384, dtype=torch.float64), torch.zeros(tokens, 384, dtype=torch.float64)
    for start in range(0, 384, 128):
        columns = slice(start, start + 128)
        for token in range(tokens):
            assert scale[token, start // 128] == x[token, columns].max() / largest
            wide[token, columns] = values[token, columns].double() * scale[token, start // 128].double()
        for first in (0, 128):
            block = weight[first : first + 128, columns]
            own = linear.weight_scale[first // 128, start // 128]
            assert own == block.max() / largest
            expanded[first : first + 128, columns] = linear.weight[first : first + 128, columns].double() * own.double()
    torch.testing.assert_close(expanded, weight.double(), rtol=0.07, atol=0.01)
    torch.testing.assert_close(wide, x.double(), rtol=0.07, atol=0.01)
    torch.testing.assert_close(linear.expanded().double(), expanded)
    torch.testing.assert_close(linear(x).double(), wide @ expanded.t(), rtol=0.01, atol=0.0)


def test_an_activation_that_products_share_is_quantized_once():
    config = Config(fp8=True, tp=8)
    report = graphstreams.explain(example.build(config, "meta"), example.example_inputs(config, "meta"), "h200")
    assert report.verdict == "clean", report.reason
    assert report.kernels_streamed <= report.kernels_serial
    stream = {report.kernels.kernels[place.kernel].name: place.stream for place in report.plan.placements}
    # That of q_c is in the kernel of the norm before it.
    assert sum(name.startswith("quantize") for name in stream) == 1
    products = {"fused_qkv_a_proj", "indexer.wk", "indexer.weights_proj", "q_b_proj", "indexer.wq_b", "o_proj"}
    assert products <= stream.keys()
    assert stream["fused_qkv_a_proj"] != stream["indexer.wk"]
    assert stream["q_b_proj"] != stream["indexer.wq_b"]


@pytest.mark.parametrize("config", [FLOAT32, Config.tiny(), Config.tiny(fp8=True), Config.tiny(tokens=1)])
def test_compiled_layer_equals_eager(config):
    module, inputs = make(config)
    eager_inputs, compiled_inputs = clones(inputs), clones(inputs)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*compiled_inputs), module(*eager_inputs))
    for actual, expected in zip(compiled_inputs, eager_inputs, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("fp8", [False, True])
def test_one_dynamic_graph_serves_every_batch(fp8):
    config = Config.tiny(fp8=fp8)
    module, _ = make(config)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (3, 5, 16):
        inputs = example.example_inputs(replace(config, tokens=tokens), "cpu", seed=tokens)
        expected = module(*clones(inputs))
        with torch.compiler.set_stance("default" if tokens == 3 else "fail_on_recompile"):
            torch.testing.assert_close(compiled(*inputs), expected)


def test_build_is_reproducible():
    first, again, other = (example.build(FLOAT32, "cpu", seed) for seed in (0, 0, 1))
    for left, right in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(first.o_proj.weight, other.o_proj.weight)


def test_layer_has_full_size_on_meta():
    module, inputs = example.layer()
    assert all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers(), *inputs))
    assert module.indexer.wk_weights_proj.weight.shape == (128 + 64, 7168)
    assert module.q_b_proj.weight.shape == (128 * 192, 1536)
    out, indices = module(*inputs, return_indices=True)
    assert (out.shape, out.dtype, indices.shape) == ((1, 7168), torch.bfloat16, (1, 2048))


@pytest.mark.parametrize("tp", [1, 8])
def test_full_size_fp8_builds_on_meta(tp):
    config = Config(fp8=True, tp=tp, tokens=2)
    module = example.build(config, "meta")
    assert module.o_proj.weight.shape == (7168, 128 // tp * 128)
    assert module(*example.example_inputs(config, "meta")).shape == (2, 7168)


def test_tiny_runs_on_cpu():
    module, inputs = example.tiny()
    assert module(*inputs).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tp": 3}, "multiple of tp"),
        ({"tp": 0}, "multiple of tp"),
        ({"topk": 33}, "topk must lie"),
        ({"tokens": 0}, "at least 1"),
        ({"fp8": True, "dtype": torch.float32}, "needs dtype bfloat16"),
        ({"fp8_scales": "tensor"}, "fp8_scales must be"),
    ],
)
def test_config_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        Config.tiny(**changes)


def test_fp8_rejects_sizes_the_gemm_cannot_take():
    with pytest.raises(ValueError, match="multiples of 16"):
        example.build(Config.tiny(fp8=True, q_lora=40), "cpu")
    with pytest.raises(ValueError, match="128n -> 16n"):
        example.build(Config.tiny(fp8=True, fp8_scales="block"), "cpu")


def test_command_line_chooses_config():
    assert example.config_from(example.parse_args([])) == Config()
    options = ["--tp", "8", "--tokens", "32", "--context", "8192", "--fp8"]
    assert example.config_from(example.parse_args(options)) == Config(tp=8, tokens=32, context=8192, fp8=True)
    assert example.config_from(example.parse_args(["--tiny", "--tp", "2"])) == Config.tiny(tp=2)
    assert example.config_from(example.parse_args(["--fp8", "--fp8-scales", "token"])) == Config(fp8=True, fp8_scales="token")
