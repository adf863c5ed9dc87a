"""Check the DeepSeek V4 example against loops over tokens in float64, decode against prefill, and its rewritten graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import deepseek_v4 as example
import pytest
import torch
from torch import Tensor

from graphstreams.pipeline.explain import capture
from graphstreams.testing.equal_on_cpu import equal_as_captured

Config = example.Config
KINDS = ("csa", "hca", "sliding")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
TOKENS = {"csa": 44, "hca": 132, "sliding": 40}  # more than a window, and more entries than are selected
PREFILL = {"csa": 32, "hca": 128, "sliding": 32}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def tiny(kind: str, **changes) -> example.Config:
    return Config.tiny(kind=kind, dtype=torch.float32, **changes)


def make(config: example.Config, seed: int = 0) -> example.Attention:
    """Return a layer whose norms differ from the identity."""
    module = example.build(config, "cpu", seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def normed(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt() * weight


def rotated(x: Tensor, position: int, rope: int) -> Tensor:
    """Rotates neighbours among the last `rope` elements as complex numbers, by angles that fall with their place."""
    out = x.clone()
    for pair in range(rope // 2):
        place = len(x) - rope + 2 * pair
        angle = torch.tensor(position * 10000.0 ** (-2 * pair / rope), dtype=torch.float64)
        turned = torch.complex(x[place], x[place + 1]) * torch.polar(torch.ones_like(angle), angle)
        out[place], out[place + 1] = turned.real, turned.imag
    return out


class Pool:
    """What a compressor makes of the tokens of one sequence: an entry for each group of `ratio` tokens that is complete."""

    def __init__(self, weights: dict[str, Tensor], prefix: str, config: example.Config, dim: int) -> None:
        self.weights, self.prefix, self.config, self.dim = weights, prefix, config, dim
        self.latents: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.entries: list[Tensor] = []

    def weight(self, name: str) -> Tensor:
        return self.weights[f"{self.prefix}compressor.{name}"]

    def add(self, hidden: Tensor) -> None:
        ratio, slot = self.config.ratio, len(self.latents) % self.config.ratio
        latent, score = (self.weight("wkv_gate.weight") @ hidden).chunk(2)
        self.latents.append(latent)
        self.scores.append(score + self.weight("position_bias")[slot])
        if slot == ratio - 1:
            self.entries.append(self.entry(len(self.latents) - ratio))

    def entry(self, start: int) -> Tensor:
        """Pools each column over its tokens: with overlap, the group's second half and the first half of the group before."""
        overlap = self.config.ratio == 4
        pooled = torch.zeros(self.dim, dtype=torch.float64)
        for column in range(self.dim):
            places = [(token, column + self.dim * overlap) for token in range(start, start + self.config.ratio)]
            if overlap and start:
                places += [(token, column) for token in range(start - self.config.ratio, start)]
            values = torch.stack([self.latents[token][place] for token, place in places])
            scores = torch.stack([self.scores[token][place] for token, place in places])
            pooled[column] = (values * scores.softmax(0)).sum()
        return rotated(normed(pooled, self.weight("norm.weight")), start, self.config.rope)


class Oracle:
    """A layer in float64 for one sequence, which is given its tokens one by one and keeps all of them."""

    def __init__(self, module: example.Attention) -> None:
        self.config = module.config
        self.weights = {name: value.double() for name, value in module.named_parameters()}
        self.latents: list[Tensor] = []
        self.pools: list[Pool] = []
        if self.config.kind != "sliding":
            self.pools.append(Pool(self.weights, "", self.config, self.config.head_dim))
        if self.config.kind == "csa":
            self.pools.append(Pool(self.weights, "indexer.", self.config, self.config.index_dim))
        self.selected: set[int] = set()

    def token(self, hidden: Tensor) -> Tensor:
        config, weights, position = self.config, self.weights, len(self.latents)
        hidden = hidden.double()
        q_a, kv = (weights["wqa_wkv.weight"] @ hidden).split([config.q_lora, config.head_dim])
        q_c = normed(q_a, weights["q_norm.weight"])
        self.latents.append(rotated(normed(kv, weights["kv_norm.weight"]), position, config.rope))
        for pool in self.pools:
            pool.add(hidden)
        self.selected = self.select(hidden, q_c, position)
        keys = self.latents[-config.window :] + [self.pools[0].entries[entry] for entry in sorted(self.selected)]
        queries = (weights["wq_b.weight"] @ q_c).split(config.head_dim)
        attended = [
            self.attend(rotated(normed(query), position, config.rope), keys, sink, position)
            for query, sink in zip(queries, weights["sink"], strict=True)
        ]
        each = len(attended) // len(weights["wo_a"])
        groups = [torch.cat(attended[each * g : each * (g + 1)]) @ wo_a for g, wo_a in enumerate(weights["wo_a"])]
        return weights["wo_b.weight"] @ torch.cat(groups)

    def select(self, hidden: Tensor, q_c: Tensor, position: int) -> set[int]:
        if self.config.kind != "csa":
            return set(range(len(self.pools[0].entries))) if self.pools else set()
        config, weights, keys = self.config, self.weights, self.pools[1].entries
        queries = (weights["indexer.wq_b.weight"] @ q_c).split(config.index_dim)
        queries = [rotated(query, position, config.rope) for query in queries]
        shares = weights["indexer.weights_proj.weight"] @ hidden
        logits = [sum(share * (query @ key).clamp(min=0) for share, query in zip(shares, queries, strict=True)) for key in keys]
        return set(sorted(range(len(keys)), key=lambda entry: -float(logits[entry]))[: config.topk])

    def attend(self, query: Tensor, keys: list[Tensor], sink: Tensor, position: int) -> Tensor:
        exponents = [(query @ key / self.config.head_dim**0.5).exp() for key in keys]
        total = sum(exponents) + sink.exp()
        value = sum(exponent / total * key for exponent, key in zip(exponents, keys, strict=True))
        return rotated(value, -position, self.config.rope)

    def ring(self) -> Tensor:
        """Return the window as a ring that starts with zeros."""
        ring = torch.zeros(self.config.window, self.config.head_dim, dtype=torch.float64)
        for position, latent in enumerate(self.latents):
            ring[position % self.config.window] = latent
        return ring


def hidden_of(config: example.Config, tokens: int, sequences: int, seed: int = 5) -> Tensor:
    return torch.randn(sequences, tokens, config.hidden, generator=torch.Generator().manual_seed(seed))


def decoded(module: example.Attention, hidden: Tensor, caches: tuple[Tensor, ...], start: int = 0) -> Tensor:
    """Return the outputs `[S, tokens, hidden]` of one token after the other, from position `start` on."""
    found = []
    for place in range(hidden.shape[1]):
        positions = torch.full((hidden.shape[0],), start + place)
        found.append(module(hidden[:, place], positions, *caches))
    return torch.stack(found, dim=1)


def check_caches(caches: tuple[Tensor, ...], row: int, oracle: Oracle) -> None:
    """Check the ring, the complete entries, and of the states what later entries read."""
    config, tokens = oracle.config, len(oracle.latents)
    torch.testing.assert_close(caches[0][row].double(), oracle.ring(), **CLOSE)
    for pool, cache, state in zip(oracle.pools, caches[1::2], caches[2::2], strict=True):
        complete, rest = divmod(tokens, config.ratio)
        torch.testing.assert_close(cache[row, :complete].double(), torch.stack(pool.entries), **CLOSE)
        for part, kept in enumerate((pool.latents, pool.scores)):
            for token in range(tokens - rest - (config.ratio if config.ratio == 4 else 0), tokens):
                torch.testing.assert_close(state[row, part, token % state.shape[2]].double(), kept[token], **CLOSE)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_decode_from_the_first_token_computes_what_loops_do(kind: str, tp: int) -> None:
    config = tiny(kind, tokens=2, tp=tp)
    module, caches = make(config), example.fresh_caches(config, "cpu")
    hidden = hidden_of(config, TOKENS[kind], 2)
    found = decoded(module, hidden, caches)
    for row in range(2):
        oracle = Oracle(module)
        expected = torch.stack([oracle.token(token) for token in hidden[row]])
        torch.testing.assert_close(found[row].double(), expected, **CLOSE)
        check_caches(caches, row, oracle)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_one_call_stand_at_positions_of_their_own(kind: str) -> None:
    config = tiny(kind, tokens=2)
    module, caches = make(config), example.fresh_caches(config, "cpu")
    hidden, ahead = hidden_of(config, TOKENS[kind], 2), 6
    decoded(module, hidden[:1, :ahead], tuple(cache[:1] for cache in caches))
    oracles = [Oracle(module), Oracle(module)]
    for token in hidden[0, :ahead]:
        oracles[0].token(token)
    for place in range(TOKENS[kind] - ahead):
        tokens = torch.stack((hidden[0, ahead + place], hidden[1, place]))
        found = module(tokens, torch.tensor([ahead + place, place]), *caches)
        expected = torch.stack([oracle.token(token) for oracle, token in zip(oracles, tokens, strict=True)])
        torch.testing.assert_close(found.double(), expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_computes_what_loops_do_and_decode_goes_on_from_it(kind: str) -> None:
    tokens = PREFILL[kind]
    config = tiny(kind, tokens=tokens, prefill=True)
    module, caches = make(config), example.fresh_caches(config, "cpu")
    hidden = hidden_of(config, tokens + 9, 1)
    oracle = Oracle(module)
    expected = torch.stack([oracle.token(token) for token in hidden[0, :tokens]])
    found = module(hidden[0, :tokens], torch.arange(tokens), *caches)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    check_caches(caches, 0, oracle)
    later = make(replace(config, tokens=1, prefill=False))
    later.load_state_dict(module.state_dict())
    expected = torch.stack([oracle.token(token) for token in hidden[0, tokens:]])
    torch.testing.assert_close(decoded(later, hidden[:, tokens:], caches, tokens)[0].double(), expected, **CLOSE)
    check_caches(caches, 0, oracle)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_fills_caches_as_prefill_does(kind: str) -> None:
    tokens = PREFILL[kind]
    config = tiny(kind, tokens=tokens, prefill=True)
    module, step = make(config), make(replace(config, tokens=1, prefill=False))
    step.load_state_dict(module.state_dict())
    hidden = hidden_of(config, tokens, 1)
    filled, stepped = example.fresh_caches(config, "cpu"), example.fresh_caches(config, "cpu")
    outputs = module(hidden[0], torch.arange(tokens), *filled)
    torch.testing.assert_close(outputs, decoded(step, hidden, stepped)[0], **CLOSE)
    for one, other in zip(filled, stepped, strict=True):
        if one.dim() == 4:  # of a state, the last tokens that the next entry reads
            one, other = one[:, :, -config.ratio :], other[:, :, -config.ratio :]
        torch.testing.assert_close(one, other, **CLOSE)


def test_the_indexer_selects_the_entries_with_the_largest_logits() -> None:
    config = tiny("csa", tokens=1)
    module, caches = make(config), example.fresh_caches(config, "cpu")
    hidden, oracle = hidden_of(config, 60, 1)[0], Oracle(module)
    for place, token in enumerate(hidden):
        position = torch.tensor([place])
        module(token[None], position, *caches)
        q_c = module.query_latent(module.wqa_wkv(token[None]))
        selected = module.selected(q_c, module.indexer.weights_proj(token[None]), position, caches[3], caches[3])
        complete = {int(entry) for entry in selected[0] if entry < (place + 1) // config.ratio}
        oracle.token(token)
        assert complete == oracle.selected
    assert len(oracle.selected) == config.topk


@pytest.mark.parametrize("kind", ["csa", "hca"])
def test_an_entry_is_read_from_its_last_token_on(kind: str) -> None:
    config = tiny(kind, tokens=1)
    module, inputs = make(config), example.example_inputs(config, "cpu")
    for place, read in ((config.ratio - 2, False), (config.ratio - 1, True), (2 * config.ratio - 2, True)):
        position = torch.tensor([place])
        spoilt = [cache.clone() for cache in inputs[2:]]
        for state in spoilt[2::2]:
            state[:, 0] += 1.0
        first, second = (module(inputs[0], position, *(c.clone() for c in own)) for own in (inputs[2:], spoilt))
        # The entry of the token itself, which the spoilt state goes into, is complete at the last of its tokens only.
        assert torch.equal(first, second) is not (read and place % config.ratio == config.ratio - 1)


@pytest.mark.parametrize("kind", ["csa", "hca"])
def test_entries_behind_the_position_do_not_contribute(kind: str) -> None:
    config = tiny(kind, tokens=2)
    module, (hidden, _, window, *caches) = make(config), example.example_inputs(config, "cpu")
    positions = torch.tensor([config.ratio + 1, 2 * config.ratio - 2])
    expected = module(hidden, positions, window.clone(), *(cache.clone() for cache in caches))
    for cache in caches[::2]:
        cache[:, 1:] = 1e4
    assert torch.equal(module(hidden, positions, window, *caches), expected)


def test_window_slots_behind_the_position_do_not_contribute() -> None:
    config = tiny("sliding", tokens=1)
    module, (hidden, _, window) = make(config), example.example_inputs(config, "cpu")
    expected = module(hidden, torch.tensor([3]), window.clone())
    window[:, 4:] = 1e4
    assert torch.equal(module(hidden, torch.tensor([3]), window), expected)


def test_a_large_sink_takes_all_weight() -> None:
    config = tiny("sliding", tokens=1)
    module, inputs = make(config), example.example_inputs(config, "cpu")
    module.sink.fill_(1e4)
    assert not module(*inputs).any()
    module.sink.fill_(-1e4)
    assert torch.allclose(module._probabilities(torch.zeros(1, module.heads, 5)), torch.tensor(0.2))


def test_rotating_back_undoes_a_rotation() -> None:
    x = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    cos_sin = example.rope_table(50, 16)[torch.tensor([1, 7, 49])]
    there = example.rotate_last(x, cos_sin, 16)
    assert torch.equal(there[..., :16], x[..., :16])
    assert not torch.allclose(there, x)
    torch.testing.assert_close(example.rotate_last(there, cos_sin, 16, inverse=True), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "dense"}, "kind must be"),
        ({"tokens": 0}, "at least 1"),
        ({"tp": 3}, "multiples of tp"),
        ({"tp": 0}, "multiples of tp"),
        ({"tp": 4}, "o_groups"),
        ({"context": 100}, "multiple of 16"),
        ({"kind": "hca", "context": 192}, "multiple of 128"),
        ({"topk": 65}, r"topk must lie in 1\.\.64"),
        ({"topk": 0}, "topk must lie"),
        ({"prefill": True, "tokens": 24}, "multiple of 16 tokens"),
        ({"prefill": True, "tokens": 512}, "at most the context"),
        ({"kind": "hca", "prefill": True, "tokens": 64}, "multiple of 128 tokens"),
    ],
)
def test_config_rejects(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.tiny(**changes)


def test_only_a_layer_with_an_indexer_selects() -> None:
    assert Config.tiny(kind="hca", topk=1000).ratio == 128
    assert Config.tiny(kind="sliding", topk=1000).ratio == 1


@pytest.mark.parametrize(("name", "hidden", "q_b"), [("flash", 4096, (4096, 1024)), ("pro", 7168, (8192, 1536))])
def test_a_layer_has_full_size_on_meta(name: str, hidden: int, q_b: tuple[int, int]) -> None:
    config = getattr(Config, name)(tp=8, tokens=2)
    module, inputs = example.build(config, "meta"), example.example_inputs(config, "meta")
    assert all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers(), *inputs))
    assert module.wq_b.weight.shape == q_b
    assert [compressor.wkv_gate.weight.shape[0] for compressor in module.compressors()] == [2048, 512]
    out = module(*inputs)
    assert (out.shape, out.dtype) == ((2, hidden), torch.bfloat16)


@pytest.mark.parametrize("prefill", [False, True], ids=["decode", "prefill"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rewritten_layer_is_clean_and_has_the_bits_of_the_serial_one(kind: str, prefill: bool) -> None:
    config = Config.tiny(kind=kind, prefill=prefill, tokens=PREFILL[kind] if prefill else 3)
    module, inputs = example.build(config, "cpu"), example.example_inputs(config, "cpu")
    (outcome,) = capture(module, inputs, "h200", {"min_gain": 0.0})
    report = outcome.report
    assert report.verdict == "clean", report.reason
    assert report.plan.streams > 1
    assert report.kernels_streamed <= report.kernels_serial, report.differences
    assert equal_as_captured(module, inputs, [outcome]) == [True]


def test_the_command_line_chooses_the_config() -> None:
    def chosen(*given: str) -> example.Config:
        return example.config_from(example.parse_args(given))

    assert chosen() == Config()
    assert chosen("--model", "pro", "--kind", "hca", "--tp", "8", "--tokens", "32") == Config.pro(kind="hca", tp=8, tokens=32)
    assert chosen("--prefill", "--tokens", "1024") == Config(prefill=True, tokens=1024)
    assert chosen("--prefill").tokens == 256
    assert chosen("--tiny", "--kind", "sliding", "--prefill") == Config.tiny(kind="sliding", prefill=True, tokens=32)


def test_what_is_told_of_the_layer_are_products_on_different_streams(capsys: pytest.CaptureFixture[str]) -> None:
    example.tell()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("V4-Flash, CSA layer, TP 8, 1 token: clean; side by side ")
    assert "compressor.wkv_gate" in first and " with " in first and "wqa_wkv" in first
    assert "times as fast as on one" in second
