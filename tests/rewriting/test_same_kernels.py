"""Check that streamed code launches the kernels of serial code: none is split, merged or compiled in another way."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from tests.support.random_modules import SIZE, RandomModule
from tests.support.sample_modules import FREE_EVENTS, streamed_text

MODULES: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {}
WIDTH = 256


def module(rows: int = 64, inputs: int = 1, features: int = WIDTH):
    """Register a module class under its name, with inputs of `rows` x `features` in bfloat16."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        MODULES[cls.__name__] = lambda: (
            cls().eval().bfloat16(),
            tuple(torch.randn(rows, features, dtype=torch.bfloat16) for _ in range(inputs)),
        )
        return cls

    return register


def linear(inner: int = WIDTH, outer: int = WIDTH, bias: bool = True) -> nn.Linear:
    return nn.Linear(inner, outer, bias)


@module(rows=512)
class SoftmaxGates(nn.Module):
    """Two scaled softmaxes over few columns, each weighting a wide product: their maxima and sums are read by other kernels."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList([linear(outer=8) for _ in range(2)])
        self.wide = nn.ModuleList([linear(outer=8 * WIDTH) for _ in range(2)])

    def forward(self, x):
        pairs = zip(self.gates, self.wide, strict=True)
        return [((g(x).float() * 2).softmax(-1).unsqueeze(-1) * w(x).view(-1, 8, WIDTH)).sum(1) for g, w in pairs]


@module(rows=512)
class BatchNormGates(nn.Module):
    """A mixture of experts, its gates with batch norm and softmax over the experts."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList([nn.Sequential(linear(outer=8), nn.BatchNorm1d(8), nn.Softmax(-1)) for _ in range(3)])
        self.experts = nn.ModuleList([nn.Sequential(linear(), nn.ReLU()) for _ in range(8)])

    def forward(self, x):
        experts = torch.stack([expert(x) for expert in self.experts], 1)
        return [torch.einsum("be,bed->bd", gate(x), experts) for gate in self.gates]


@module()
class SharedStatistics(nn.Module):
    """Several readings of one row: mean, variance, largest, and what is left; used by this kernel's stream and by others."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (linear() for _ in range(3))

    def forward(self, x):
        a, b = self.a(x).float(), self.b(x).float()
        mean, top = a.mean(-1, keepdim=True), a.amax(-1, keepdim=True)
        centred = a - mean
        spread = centred.pow(2).mean(-1, keepdim=True)
        return (centred * spread.rsqrt()).to(x.dtype), self.c((b * top).to(x.dtype)), (b - mean) / spread, top.exp()


@module()
class NormsBesideProducts(nn.Module):
    """Layer norms of one value with different weights, each before a product of its own, and the value itself behind one."""

    def __init__(self):
        super().__init__()
        self.first = linear()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.products = nn.ModuleList([linear(outer=2 * WIDTH) for _ in range(3)])

    def forward(self, x):
        x = self.first(x)
        return [F.gelu(p(n(x))) for n, p in zip(self.norms, self.products, strict=True)] + [F.silu(x)]


@module()
class GeluBranches(nn.Module):
    """MLPs side by side, added up."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (nn.ModuleList([linear() for _ in range(3)]) for _ in range(2))

    def forward(self, x):
        return sum(d(F.gelu(u(x), approximate="tanh")) for u, d in zip(self.up, self.down, strict=True)) + x


@module(rows=64, inputs=3)
class JointBlock(nn.Module):
    """A block of a diffusion transformer: two streams of tokens, modulated norms, one attention over both."""

    def __init__(self, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.modulate = nn.ModuleList([linear(outer=6 * WIDTH) for _ in range(2)])
        self.qkv = nn.ModuleList([linear(outer=3 * WIDTH) for _ in range(2)])
        self.out, self.up, self.down = (nn.ModuleList() for _ in range(3))
        self.query_norm, self.key_norm = (nn.ModuleList() for _ in range(2))
        for _ in range(2):
            self.out.append(linear())
            self.up.append(linear(outer=4 * WIDTH))
            self.down.append(linear(inner=4 * WIDTH))
            self.query_norm.append(nn.RMSNorm(WIDTH // heads))
            self.key_norm.append(nn.RMSNorm(WIDTH // heads))

    def forward(self, image, text, condition):
        tokens, modulation, parts = (image, text), [], []
        for i, x in enumerate(tokens):
            modulation.append(self.modulate[i](F.silu(condition[:1])).chunk(6, -1))
            shift, scale, *_ = modulation[i]
            q, k, v = self.qkv[i](self.normed(x) * (1 + scale) + shift).view(len(x), 3, self.heads, -1).unbind(1)
            parts.append((self.query_norm[i](q), self.key_norm[i](k), v))
        q, k, v = (torch.cat(both).transpose(0, 1) for both in zip(*parts, strict=True))
        weights = (q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5)).float().softmax(-1).to(v.dtype)
        both = (weights @ v).transpose(0, 1).reshape(-1, WIDTH).split([len(image), len(text)])
        results = []
        for i, (x, attended) in enumerate(zip(tokens, both, strict=True)):
            _, _, gate, shift, scale, last = modulation[i]
            x = x + gate * self.out[i](attended)
            mlp = self.down[i](F.gelu(self.up[i](self.normed(x) * (1 + scale) + shift), approximate="tanh"))
            results.append(x + last * mlp)
        return results

    def normed(self, x):
        return F.layer_norm(x, (WIDTH,), eps=1e-6)


@module(rows=4)
class PooledCompressor(nn.Module):
    """Attention that compresses its cache: rows pooled by gates in fp32, norm and rotation, beside queries and scores."""

    def __init__(self, heads: int = 8, dim: int = 64):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.q_a, self.q_b = linear(outer=128, bias=False), linear(128, heads * dim, bias=False)
        self.kv, self.gate = linear(outer=dim, bias=False), linear(outer=dim, bias=False)
        self.index_kv, self.index_gate = linear(outer=32, bias=False), linear(outer=32, bias=False)
        self.index_q, self.weights = linear(128, 4 * 32, bias=False), linear(outer=4, bias=False)
        self.q_norm, self.kv_norm, self.index_norm = nn.RMSNorm(128), nn.RMSNorm(dim), nn.RMSNorm(32)
        self.register_buffer("state", torch.randn(7, 2, dim))
        self.register_buffer("index_state", torch.randn(7, 2, 32))
        self.register_buffer("cache", torch.randn(96, dim))
        self.register_buffer("angles", torch.randn(2, 16))

    def forward(self, x):
        q_c = self.q_norm(self.q_a(x))
        q = self.q_b(q_c).view(-1, self.heads, self.dim)
        q = q * torch.rsqrt(q.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(q.dtype)
        q = self.rotated(q)
        kv = self.rotated(self.kv_norm(self.pooled(self.kv(x), self.gate(x), self.state)))
        index = self.index_norm(self.pooled(self.index_kv(x), self.index_gate(x), self.index_state))
        scores = F.relu(self.index_q(q_c).view(-1, 4, 32) @ index.t())
        scores = (scores * self.weights(x).unsqueeze(-1)).sum(1)
        keys = torch.cat([self.cache, kv])
        weights = (q @ keys.t()).float().softmax(-1).to(x.dtype)
        return weights @ keys, scores, kv

    def pooled(self, values: Tensor, gates: Tensor, state: Tensor) -> Tensor:
        values, gates = (torch.stack([*state[:, i], part[-1]]).float() for i, part in enumerate((values, gates)))
        return (values * gates.softmax(0)).sum(0, keepdim=True).to(state.dtype)

    def rotated(self, x: Tensor) -> Tensor:
        kept, turned = x.split([x.shape[-1] - 32, 32], -1)
        even, odd = turned.float().unflatten(-1, (16, 2)).unbind(-1)
        cos, sin = self.angles.float()
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
        return torch.cat([kept, turned.to(x.dtype)], -1)


@module()
class MixerBlock(nn.Module):
    """Mixing over tokens, over channels and of both, in parallel."""

    def __init__(self):
        super().__init__()
        self.tokens, self.channels = nn.ModuleList([linear(64, 64) for _ in range(2)]), nn.ModuleList([linear(), linear()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])

    def forward(self, x):
        tokens = self.tokens[1](F.gelu(self.tokens[0](self.norms[0](x).t()))).t()
        channels = self.channels[1](F.gelu(self.channels[0](self.norms[1](x))))
        return x + tokens + channels, tokens.softmax(-1), channels.mean(0)


def outcome_of(model: nn.Module, inputs: tuple[Tensor, ...], **options: int) -> GraphCompilation:
    outcomes = capture(model, inputs, "h200", {**FREE_EVENTS, **options})
    return max(outcomes, key=lambda outcome: outcome.report.kernels_serial)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "SharedStatistics"])
def test_the_launches_are_the_serial_codes(name):
    torch.manual_seed(0)
    report = outcome_of(*MODULES[name]()).report
    assert report.verdict == "clean", report.reason
    assert report.plan.streams > 1
    assert report.kernels_streamed == report.kernels_serial
    assert report.differences == ()


def test_a_kernel_whose_statements_come_in_another_order_is_told():
    report = outcome_of(*MODULES["SharedStatistics"]()).report
    assert report.verdict == "clean", report.reason
    assert report.kernels_streamed == report.kernels_serial
    assert len(report.differences) == 2
    assert "bits may differ" in report.differences[0]
    assert report.as_dict()["differences"] == list(report.differences)
    assert report.differences[0] in str(report)


class Distant(nn.Module):
    """Two readings of one value, so far from each other in the serial order that Inductor does not make one kernel of them."""

    def __init__(self, between: int = 36):
        super().__init__()
        self.first, self.second, self.third = (linear(bias=False) for _ in range(3))
        self.between = nn.ModuleList([linear(bias=False) for _ in range(between)])

    def forward(self, x, y):
        t = self.first(x)
        early = self.second(F.silu(t))
        for layer in self.between:
            y = layer(F.gelu(y))
        return early, y, self.third(F.relu(t))


def test_kernels_that_the_plan_brings_together_stay_apart():
    inputs = tuple(torch.randn(8, WIDTH, dtype=torch.bfloat16) for _ in range(2))
    report = outcome_of(Distant().bfloat16(), inputs, streams=2).report
    assert report.verdict == "clean", report.reason
    assert (report.kernels_streamed, report.differences) == (report.kernels_serial, ())


def launches(source: str, body: str) -> Counter[str]:
    """Return every launch of a body of a wrapper: of a Triton kernel its text without names, of an operator its name."""
    texts = dict(re.findall(r"^(\w+) = async_compile\.triton\('\w+', '''(.*?)'''", source, re.M | re.S))
    bare = {name: re.sub(r"in_out_ptr|in_ptr|out_ptr|\d+", "", text.split("tl.constexpr):")[1]) for name, text in texts.items()}
    found = re.findall(r"(\w+)\.run\(|(extern_kernels\.\w+|torch\.ops\.aten\.\w+)[\w.]*\(", body)
    return Counter(bare[kernel] if kernel else operator for kernel, operator in found)


@pytest.mark.parametrize("seed", [1, 3, 5, 10, 13, 16, 26, 32])
def test_random_modules_launch_the_same_kernels_or_say_so(seed):
    torch.manual_seed(0)
    small = [torch.randn(SIZE, SIZE) for _ in range(3)]
    outcome = outcome_of(RandomModule(seed).eval(), (*small, torch.randn(2 * SIZE, SIZE), torch.randperm(2 * SIZE)[:SIZE]))
    report = outcome.report
    assert report.verdict == "clean", report.reason
    serial = report.wrapper[report.wrapper.index("if _runs_on_streams(") :]
    streamed = streamed_text(report.wrapper).partition("\ndef call_on_streams")[2]
    assert launches(report.wrapper, serial) == launches(report.wrapper, streamed) or report.differences
    assert report.kernels_streamed == report.kernels_serial or report.differences
