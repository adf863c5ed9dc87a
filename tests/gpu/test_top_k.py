"""Check top-k's kernels on the GPU against aten's: every bit of values and indices, and their order."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch

from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.benchmark.bits import equal_bits
from graphstreams.benchmark.ties import equal_but_for_ties
from graphstreams.kernels.top_k import DTYPES, DynamicLength, Form, OneProgram, SeveralPrograms, TopK, program, supports
from graphstreams.kernels.top_k_calls import in_order, launch, select
from tests.support.top_k_cases import ADVERSARIAL, adversarial, random_rows
from tests.support.top_k_times import table, times, together

pytestmark = pytest.mark.gpu

# The last has a list that is nearly always too short.
FORMS: tuple[Form, ...] = (
    OneProgram(16), SeveralPrograms(), SeveralPrograms(programs=64, slack=8, spare=2.0),
    SeveralPrograms(programs=13, slack=40, spare=0.01),
)  # fmt: skip
FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]


def check(x: torch.Tensor, k: int, largest: bool, form: Form) -> None:
    expected = torch.topk(x, k, largest=largest, sorted=False)
    assert equal_bits([*expected], [*select(x, k, largest, form)]), f"{x.shape} {x.dtype}, k {k}, largest {largest}, {form}"


def check_forms(x: torch.Tensor, k: int, largest: bool) -> None:
    """Check every form that can do a top-k of `x`, whose rows lie next to each other."""
    for form in FORMS:
        if supports(TopK(x.shape[0], x.shape[1], k, x.dtype, x.shape[1]), form):
            check(x, k, largest, form)


# A kernel is compiled for the power of 2 above a length, and for that of the root of k, so these are drawn from few.
@pytest.mark.parametrize("seed", range(200))
def test_random_rows(seed: int) -> None:
    drawn = random.Random(seed)
    length = drawn.choice([drawn.randint(257, 512), drawn.randint(2049, 4096), drawn.randint(8193, 16_384), 100_000 + 7 * seed])
    k = drawn.choice([drawn.randint(length // 4, length // 2), min(2048, length), length])
    x = random_rows(drawn.choice([1, 1, 2, 5, 33]), length, drawn.choice([torch.float32, torch.bfloat16]), seed, "cuda")
    check_forms(x, k, drawn.random() < 0.7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_each_type(dtype: torch.dtype) -> None:
    for largest in (True, False):
        check_forms(random_rows(3, 15_000, dtype, 1, "cuda"), 2048, largest)
        check_forms(random_rows(3, 3, dtype, 2, "cuda"), 2, largest)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name: str, dtype: torch.dtype) -> None:
    for length in (1000, 30_000):
        x = adversarial(name, 2, length, dtype, "cuda")
        for k in (1, length // 2, length):
            check_forms(x, k, k != 1)


def test_the_longest_row_of_one_program() -> None:
    for dtype in FLOATS:
        check(random_rows(2, 32_768, dtype, 1, "cuda"), 2048, True, OneProgram(32))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_strided_rows(form: Form) -> None:
    x = random_rows(64, 9000, torch.float32, 1, "cuda")
    check(x[::3, 17:8000], 2000, True, form)
    check(x[:, ::2], 1000, False, form)
    check(x.T, 20, True, form)
    check(x[:1].expand(40, 9000), 900, True, form)


def check_sorted(x: torch.Tensor, k: int, largest: bool) -> None:
    """Check sorted results of every form that can do a top-k of `x`, whose rows lie next to each other."""
    expected = torch.topk(x, k, largest=largest)
    for form in FORMS:
        if supports(TopK(x.shape[0], x.shape[1], k, x.dtype, x.shape[1]), form):
            found = in_order(*select(x, k, largest, form), largest)
            assert equal_but_for_ties(expected, found), f"{x.shape} {x.dtype}, k {k}, largest {largest}, {form}"


@pytest.mark.parametrize("k", [1, 30, 500, 2048, 4096, 6000])  # aten sorts up to 4,096 in another way than more
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sorted_rows_of_each_type(dtype: torch.dtype, k: int) -> None:
    for largest in (True, False):
        check_sorted(random_rows(3, 15_000, dtype, k, "cuda"), k, largest)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_sorted_adversarial_rows(name: str, dtype: torch.dtype) -> None:
    x = adversarial(name, 2, 30_000, dtype, "cuda")
    for k in (700, 5000):
        check_sorted(x, k, True)
        check_sorted(x, k, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_shorter_than_the_launches_are_for(form: Form, dtype: torch.dtype) -> None:
    longest = 16_000 if isinstance(form, OneProgram) else 100_000
    for length in (2048, 2049, 4096, 9999, 15_360, longest):
        x = random_rows(2, length, dtype, length, "cuda")
        buffers = launch(x, program(TopK(2, longest, 2048, dtype, length, dynamic=DynamicLength(length, 2048)), form))
        expected = [*torch.topk(x, 2048, sorted=False)]
        assert equal_bits(expected, [buffers["values"], buffers["indices"]]), f"{length} {dtype} {form}"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_captured_top_k_follows_its_input(form: Form) -> None:
    length, k = 4096 if isinstance(form, OneProgram) else 20_000, 2048
    work = program(TopK(1, length, k, torch.float32, length), form)
    captured = CapturedFunction(
        lambda x: [launch(x, work)[name] for name in ("values", "indices")], [torch.zeros(1, length).cuda()]
    )
    for seed in range(20):
        x = random_rows(1, length, torch.float32, seed, "cuda")
        captured.load([x])
        captured.replay()
        assert equal_bits([*torch.topk(x, k, sorted=False)], captured.outputs)


class _Selecting(torch.nn.Module):
    """Logits of which the largest are taken, beside two products that need none of them."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.logits = torch.nn.Linear(512, length, bias=False)
        self.beside, self.also = (torch.nn.Linear(512, 2048, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, indices = self.logits(x).float().topk(1024, sorted=False)
        return values * 2, indices, self.beside(x).relu(), self.also(x).relu()


@pytest.mark.parametrize(("length", "form"), [(4096, OneProgram(16)), (40_000, SeveralPrograms())], ids=["one", "shared"])
def test_a_compiled_graph_has_serials_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int, form: Form
) -> None:  # fmt: skip
    made = times({form: 1.0}, aten=9.0, rows=1, length=length, k=1024)
    monkeypatch.setattr("graphstreams.pipeline.top_k.times_of", lambda device: made)
    torch.manual_seed(0)
    module = _Selecting(length).to("cuda", torch.bfloat16)
    torch._dynamo.reset()
    options = {"min_gain": 0.0, "strict": "refused", "force_disable_caches": True, "deterministic": True, "dump": str(tmp_path)}
    with torch.no_grad():
        serial = torch.compile(module, options={"deterministic": True})
        ours = torch.compile(module, backend="graphstreams", options=options)
        inputs = [torch.randn(1, 512, device="cuda", dtype=torch.bfloat16)]
        captured = CapturedFunction(ours, inputs)
        for _ in range(10):
            inputs = [torch.randn_like(inputs[0])]
            expected = [*serial(*inputs)]
            captured.load(inputs)
            captured.replay()
            assert equal_bits(expected, [*ours(*inputs)])
            assert equal_bits(expected, captured.outputs)
    (report,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/report.json")]
    (wrapper,) = [path.read_text() for path in tmp_path.glob("*/wrapper.py")]
    assert "aten.topk" not in re.sub("#.*", "", wrapper) and "top_k_" in wrapper
    assert any("is replaced" in note for note in report["notes"])


class _Choosing(torch.nn.Module):
    """The largest of logits whose number each call has, beside two products that need none of them."""

    def __init__(self, is_sorted: bool) -> None:
        super().__init__()
        self.beside, self.also = (torch.nn.Linear(512, 2048, bias=False) for _ in range(2))
        self.sorted = is_sorted

    def forward(self, x: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, indices = logits.float().topk(1024, sorted=self.sorted)
        return values, indices, self.beside(x).relu(), self.also(x).relu()


@pytest.mark.parametrize("is_sorted", [False, True], ids=["not sorted", "sorted"])
@pytest.mark.parametrize(
    ("longest", "form"), [(8192, OneProgram(16)), (40_000, SeveralPrograms())], ids=["one", "shared"]
)  # fmt: skip
def test_a_graph_that_is_compiled_once_takes_rows_of_several_lengths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, longest: int, form: Form, is_sorted: bool
) -> None:
    made = [table({form: 1.0}, 9.0, rows=1, length=length, k=1024) for length in (2000, longest)]
    monkeypatch.setattr("graphstreams.pipeline.top_k.times_of", lambda device: together(*made, of_sorted=made))
    torch.manual_seed(0)
    module = _Choosing(is_sorted).to("cuda", torch.bfloat16)
    torch._dynamo.reset()
    options = {"min_gain": 0.0, "strict": "refused", "force_disable_caches": True, "deterministic": True, "dump": str(tmp_path)}
    with torch.no_grad():
        ours = torch.compile(module, backend="graphstreams", options=options)
        for length in (5000, 2000, 2001, 7777, longest):
            x, logits = (torch.randn(1, size, device="cuda", dtype=torch.bfloat16) for size in (512, length))
            torch._dynamo.mark_dynamic(logits, 1, min=2000, max=longest)
            found = [*ours(x, logits)]
            expected = [*logits.float().topk(1024, sorted=is_sorted)]
            same = equal_but_for_ties(expected, found[:2]) if is_sorted else equal_bits(expected, found[:2])
            assert same, length
    (report,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/report.json")]
    (wrapper,) = [path.read_text() for path in tmp_path.glob("*/wrapper.py")]
    assert "aten.topk" not in re.sub("#.*", "", wrapper) and "top_k_" in wrapper
    assert any(f"1 x 2000 to {longest}, k 1024" in note and "is replaced" in note for note in report["notes"])
