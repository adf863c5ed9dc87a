"""Check whole decoder layers against their definition, over ranks of a process group, in a loop, and with streams by hand."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import bench_decoder
import deepseek_decoder as example
import deepseek_v32 as v32
import pytest
import torch
from deepseek_residual import HyperConnections
from hand_decoder import FirstHalf, HandDecoder, SecondHalf
from hand_streams import PHASES
from process_group import fake_ranks
from torch import Tensor

from graphstreams.autotuning.cuda_graph import clones
from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured
from tests.examples.test_deepseek_experts import mlp
from tests.examples.test_deepseek_experts import naive as naive_experts
from tests.examples.test_deepseek_v32 import naive as naive_attention
from tests.support.fork_server import run_forked

MODELS = ("v32", "v4")


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def tiny(model: str, dense: int = 0, head: bool = False, **changes) -> example.Config:
    return replace(example.Config.tiny(model, dtype=torch.float32, **changes), dense_layers=dense, head=head)


def made(config: example.Config, seed: int = 0) -> example.Decoder:
    """A decoder whose norms differ from the identity."""
    decoder = example.build(config, "cpu", seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return decoder


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()


def naive_mlp(layer: example.DecoderLayer, x: Tensor) -> Tensor:
    if hasattr(layer.mlp, "router"):
        return naive_experts(layer.mlp, x)
    gate_up, down = layer.mlp.gate_up.weight.double(), layer.mlp.down.weight.double()
    return torch.stack([mlp(row, gate_up, down, layer.mlp.limit) for row in x])


def naive_v32(decoder: example.Decoder, hidden: Tensor, positions: Tensor, caches: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One token of each sequence through V3.2's layers in float64, and the caches."""
    hidden, kept = hidden.double(), []
    for number, layer in enumerate(decoder.layers):
        x = normed(hidden, layer.attention_norm.weight)
        out, _, *own = naive_attention(layer.attention, x, positions, *caches[2 * number : 2 * number + 2])
        hidden = hidden + out
        hidden = hidden + naive_mlp(layer, normed(hidden, layer.mlp_norm.weight))
        kept += own
    return (hidden if decoder.norm is None else normed(hidden, decoder.norm.weight)), kept


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dense", [0, 1])
def test_v32_decodes_in_a_loop_as_the_definition_says(dense: int) -> None:
    decoder = made(tiny("v32", dense=dense, head=True))
    steps = 4
    hidden, positions, *caches = example.example_inputs(decoder.config, "cpu", steps=steps)
    positions[0] = 0  # from the first token on, whose cache has nothing before it
    start = positions.clone()
    expected, place, kept = hidden.clone(), positions.clone(), clones(caches)
    step = bench_decoder.Step(decoder)
    for _ in range(steps):
        step(hidden, positions, *caches)
        expected, kept = naive_v32(decoder, expected, place, kept)
        place = place + 1
        close(hidden, expected)
    assert positions.tolist() == (start + steps).tolist()
    for found, other in zip(caches, kept, strict=True):
        close(found, other)


def test_a_step_writes_the_slots_of_its_positions_only() -> None:
    decoder = made(tiny("v32", head=True))
    hidden, positions, *caches = example.example_inputs(decoder.config, "cpu", steps=3)
    before, start = clones(caches), positions.clone()
    step = bench_decoder.Step(decoder)
    for _ in range(3):
        step(hidden, positions, *caches)
    for found, old in zip(caches, before, strict=True):
        changed = (found != old).any(dim=-1)
        for sequence, first in enumerate(start.tolist()):
            assert changed[sequence].nonzero().flatten().tolist() == list(range(first, first + 3))


def test_v4_mixes_copies_around_attention_and_experts() -> None:
    decoder = made(tiny("v4", head=True))
    hidden, positions, *caches = example.example_inputs(decoder.config, "cpu")
    own = clones(caches)
    copies = hidden.unsqueeze(1).repeat(1, 4, 1)
    for layer, window in zip(decoder.layers, decoder.caches_by_layer(tuple(own)), strict=True):
        x, held = layer.attention_residual((copies,))
        output = layer.attention(layer.attention_norm(x), positions, *window)
        copies = HyperConnections.finish((output, *held))
        x, held = layer.mlp_residual((copies,))
        output = naive_mlp(layer, normed(x.double(), layer.mlp_norm.weight)).float()
        copies = HyperConnections.finish((output, *held))
    expected = normed(decoder.collapse(copies).double(), decoder.norm.weight)
    close(decoder(hidden, positions, *caches), expected)
    for found, other in zip(caches, own, strict=True):
        close(found, other)


@pytest.mark.parametrize("model", MODELS)
def test_ranks_of_a_process_group_compute_what_one_does(model: str) -> None:
    """With what torchrun sets."""
    program = "import sys; from tests.support.decoder_ranks import main; main(sys.argv[1])"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def run(rank: int) -> subprocess.CompletedProcess[str]:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return run_forked(program, model, more={**own, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "equal on 2 ranks" in first.stdout


def test_what_is_not_divided_is_the_same_on_all_ranks() -> None:
    first, second = (dict(example.build(tiny("v32", tp=2), "cpu", rank=rank).named_parameters()) for rank in range(2))
    for name, parameter in first.items():
        same = torch.equal(parameter, second[name])
        assert same == (example.divided(name) is None or "norm" in name), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="here streams would be real, on a module that is not")
@pytest.mark.parametrize("dense", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_streams_by_hand_compute_what_the_decoder_does(model: str, dense: int) -> None:
    decoder = made(tiny(model, dense=dense, head=True))
    inputs = example.example_inputs(decoder.config, "cpu")
    expected, found = clones(inputs), clones(inputs)
    hand = HandDecoder(decoder, PHASES["both"])
    assert torch.equal(hand(*found), decoder(*expected))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here streams would be real, on a module that is not")
def test_halves_by_hand_are_one_graph_each() -> None:
    decoder = made(tiny("v32", layers=1))
    hidden, positions, *caches = example.example_inputs(decoder.config, "cpu")
    first, second = FirstHalf(decoder.layers[0], PHASES["both"]), SecondHalf(decoder.layers[0], sums=False)
    traced = [torch.compile(half, backend="aot_eager", fullgraph=True) for half in (first, second)]
    found = traced[1](traced[0]((hidden,), positions, *clones(caches))[0])[0]
    assert torch.equal(decoder.finish(found), decoder(hidden, positions, *caches))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here streams would be real, on a module that is not")
def test_halves_by_hand_sum_over_the_process_group() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    with fake_ranks(2) as ranks:
        decoder = example.build(tiny("v32", layers=1, tp=2), "cpu", group=ranks.group)
        hidden, positions, *caches = example.example_inputs(decoder.config, "cpu")
        first, second = FirstHalf(decoder.layers[0], PHASES["both"]), SecondHalf(decoder.layers[0], sums=False)
        traced = [torch.compile(half, backend=keep, fullgraph=True) for half in (first, second)]
        traced[1](traced[0]((hidden,), positions, *caches)[0])
    called = [[str(node.target) for node in graph.graph.nodes if "all_reduce" in str(node.target)] for graph in graphs]
    assert list(map(len, called)) == [1, 1], called
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("model", MODELS)
def test_compiled_layer_by_layer_it_is_the_same(model: str) -> None:
    decoder = made(tiny(model, head=True))
    inputs = example.example_inputs(decoder.config, "cpu")
    by_layer = bench_decoder.compiled(decoder, lambda function: function, layer_by_layer=True)
    assert torch.equal(by_layer(*clones(inputs)), decoder(*clones(inputs)))


def test_without_a_group_a_share_stands_for_the_sum() -> None:
    x = torch.ones(2)
    assert example.all_reduce(x, None) is x


@pytest.mark.parametrize(
    ("config", "gate_up"),
    [(example.Config.v32(4), (256, 512, 7168)), (example.Config.v4_flash(("csa", "hca"), experts=8), (8, 512, 4096))],
    ids=MODELS,
)
def test_layers_have_full_size_on_meta(config: example.Config, gate_up: tuple[int, int, int]) -> None:
    decoder = example.build(config, "meta")
    assert decoder.layers[-1].mlp.experts.gate_up.shape == gate_up
    assert len(example.example_inputs(config, "meta")) == 2 + sum(map(example.cache_count, config.attention))


def test_fp8_has_narrow_products_but_for_routed_experts() -> None:
    decoder = example.build(example.Config.v32(fp8=True), "meta")
    layer = decoder.layers[0]
    assert layer.mlp.shared.gate_up.weight.dtype == layer.attention.o_proj.weight.dtype == v32.FLOAT8
    assert layer.mlp.experts.gate_up.dtype == torch.bfloat16


def test_fp8_stays_close_to_bfloat16() -> None:
    outputs = []
    for fp8 in (False, True):
        config = example.Config.tiny("v32", layers=1, fp8=fp8, topk=32)  # all slots, so that rounding changes none
        outputs.append(example.build(config, "cpu")(*example.example_inputs(config, "cpu")).float())
    assert torch.nn.functional.cosine_similarity(*outputs).min() > 0.98


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": ()}, "at least one layer"),
        ({"attention": (v32.Config.tiny(), v32.Config.tiny(tokens=4))}, "have to agree"),
        ({"attention": (v32.Config.tiny(heads=3, tp=3),)}, r"intermediate \(32\) must be a multiple of tp \(3\)"),
    ],
)
def test_config_rejects(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny("v32"), **changes)


@pytest.mark.parametrize("tokens", [1, 4, 6])
def test_an_operand_has_the_rows_that_padding_gives(tokens: int) -> None:
    config = v32.Config(fp8=True)
    x = torch.randn(tokens, 256, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    expected, found = v32.operand(config, x), example._operand(config, x)
    assert found.tokens == expected.tokens == tokens
    assert torch.equal(found.values.view(torch.uint8), expected.values.view(torch.uint8))
    assert torch.equal(found.scale, expected.scale) and found.scale.stride() == expected.scale.stride()


def test_a_rewritten_layer_is_clean_and_has_the_bits_of_the_serial_one() -> None:
    config = example.Config.tiny("v32", layers=1)
    decoder, inputs = example.build(config, "cpu"), example.example_inputs(config, "cpu")
    (outcome,) = capture(decoder, inputs, "h200", {"min_gain": 0.0})
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert outcome.report.plan.streams > 1
    assert outcome.report.kernels_streamed == outcome.report.kernels_serial, outcome.report.differences
    assert equal_as_captured(decoder, inputs, [outcome]) == [True]
