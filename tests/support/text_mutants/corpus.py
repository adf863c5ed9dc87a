"""Generate the wrappers to make mutants of, by Inductor for an H200, in every form that it writes.

Each is generated once a process. Comments are left out, which keeps line numbers small and mutants of comments away.
"""

from __future__ import annotations

import functools
import io
import random
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import deepseek_v32
import pytest
import torch
from deepseek_pre_attention import PreAttention, pre_attention_inputs
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams import backend
from graphstreams.inductor.fakes import faked
from graphstreams.inductor.offline import offline
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from graphstreams.rewriting.regions import rewrite
from tests.support.autotune_choices import choose
from tests.support.collective_modules import DecoderLayer, EveryKind, InPlace, OfViews, TwoSums, fake_ranks
from tests.support.concatenations import CASES
from tests.support.random_graphs import generated, random_plan
from tests.support.random_modules import SIZE, RandomModule
from tests.support.sample_modules import FREE_EVENTS, captured, reading_of
from tests.support.text_mutants.models import (
    USER_KERNELS,
    Convolutions,
    Lists,
    Names,
    Shared,
    TwoLists,
    TwoProducts,
    UserKernels,
)


@dataclass(frozen=True)
class Wrapper:
    """A generated wrapper, and what its author knows of the kernels that Inductor did not write."""

    name: str
    source: str
    accesses: Mapping[str, tuple[Names, Names]]  # by function of a user's kernel: the parameters that it reads, and writes


def _planned(module: nn.Module, inputs: Sequence[Any], options: Mapping[str, Any], dynamic: bool | None = None) -> str:
    outcomes = capture(module, inputs, "h200", {**FREE_EVENTS, **options}, dynamic)
    report = max((outcome.report for outcome in outcomes), key=lambda report: report.kernels_serial)
    if report.verdict != "clean":
        raise RuntimeError(f"no streams to make mutants of: {report.verdict}: {report.reason}")
    return report.wrapper


class _Generated(BaseException):
    """Ends a compile when its code is there: what follows needs a GPU. Not an error that the backend would mend."""


def _compiled(module: nn.Module, inputs: Sequence[Any], options: Mapping[str, Any]) -> str:
    """Return what `torch.compile(module, backend="graphstreams")` generates, alignment checks of the inputs included."""
    sources: list[str] = []

    def stop(_: Any, code: Any) -> Any:
        sources.append(code.value)
        raise _Generated

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with offline(DEVICES["h200"]), faked(module, list(inputs), mode) as (_, fakes):
        torch._dynamo.reset()
        compiler = functools.partial(backend.graphstreams, options={**FREE_EVENTS, **options})
        # The GPU is described, not at hand.
        stages = functools.partial(backend.run_stages, device=DEVICES["h200"])
        try:
            with (
                mode,
                torch.no_grad(),
                mock.patch.object(backend, "run_stages", stages),
                mock.patch.object(GraphLowering, "_compile_to_module_lines", stop),
            ):
                torch.compile(module, backend=compiler)(*fakes)
        except _Generated:
            pass
        finally:
            torch._dynamo.reset()
    return sources[-1]


def _rows(count: int) -> Tensor:
    return torch.empty(count, 64)


def _sample(name: str, dynamic: bool | None = None) -> str:
    return captured(name, dynamic).report.wrapper


def _layer(tokens: int, streams: int) -> str:
    config = deepseek_v32.Config(tokens=tokens, tp=8)
    return _planned(deepseek_v32.build(config, "meta"), deepseek_v32.example_inputs(config, "meta"), {"streams": streams})


def _block() -> tuple[nn.Module, Sequence[Any]]:
    config = deepseek_v32.Config(tokens=4, tp=8)
    return PreAttention(deepseek_v32.build(config, "meta")), pre_attention_inputs(config, "meta")


def _any_plan(reading: Reading, seed: int) -> str:
    return generated(reading, rewrite(reading, random_plan(reading.kernels, random.Random(seed)))).source


def _two_lists(seed: int) -> str:
    outcomes = capture(TwoLists(), (_rows(4), _rows(4)), "h200", FREE_EVENTS)
    assert outcomes[0].reading is not None
    return _any_plan(outcomes[0].reading, seed)


def _random(seed: int) -> str:
    matrix, cache = torch.empty(SIZE, SIZE), torch.empty(16, SIZE)
    where = torch.arange(SIZE)
    return _planned(RandomModule(seed), (matrix, matrix, matrix, cache, where), {})


_SUBGRAPH = re.compile(r"^def (decompose_k_\w+)\(args\):\n(?:(?:[ #].*)?\n)*?    return .*\n", re.MULTILINE)
_PRODUCT = re.compile(r"( +)extern_kernels\.mm\((\w+, .*), out=(buf\d+)\)\n")


def _split_along_k() -> str:
    """Return a serial body whose products run as functions, and a streamed one that calls them too, unlike Inductor's.

    They stand in front of the body, where mutations reach them.
    """
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, "decompose_k")
        (outcome,) = capture(TwoProducts(), (torch.empty(32, 16384, dtype=torch.bfloat16),), "h200", FREE_EVENTS)
    source = outcome.report.wrapper
    functions = list(_SUBGRAPH.finditer(source))
    source = _SUBGRAPH.sub("", source)
    start = source.index("def call_on_streams(")
    head, body, end = source[:start], *re.split(r"(?<=\n)(?=async_compile\.wait)", source[start:])
    for function in functions:
        name, product = function[1], _PRODUCT.search(body)
        assert product is not None
        indent, operands, result = product.groups()
        call = f"{indent}{name}_args = [{operands}]\n{indent}({result},) = {name}({name}_args)\n"
        body = body[: product.start()] + call + body[product.end() :]
        body = re.sub(rf" +{result} = empty_strided.*\n", "", body)
    return "".join([head, *(function[0] for function in functions), body, end])


def _case(name: str, seed: int | None = None) -> str:
    make, inputs = CASES[name]
    (outcome,) = capture(make(), inputs(), "h200", FREE_EVENTS)
    assert outcome.reading is not None
    return outcome.report.wrapper if seed is None else _any_plan(outcome.reading, seed)


def _collectives(name: str, seed: int | None = None) -> str:
    """Return the wrapper of a module with collectives, for two ranks that this process stands for."""
    with fake_ranks():
        (outcome,) = capture(*COLLECTIVES[name](), "h200", FREE_EVENTS)
    assert outcome.report.verdict == "clean" and outcome.reading is not None
    return outcome.report.wrapper if seed is None else _any_plan(outcome.reading, seed)


COLLECTIVES: Mapping[str, Callable[[], tuple[nn.Module, Sequence[Tensor]]]] = {
    "two sums": lambda: (TwoSums(), [_rows(8)]),
    "every kind": lambda: (EveryKind(), [_rows(8)]),
    "in place": lambda: (InPlace(), [_rows(8), _rows(8)]),
    "of views": lambda: (OfViews(), [_rows(8)]),
    "decoder layer": lambda: (DecoderLayer(64, 32), [_rows(8)]),
}


def _images() -> tuple[Tensor, Tensor]:
    return torch.empty(2, 8, 16, 16), torch.empty(4, 8)


GENERATED: Mapping[str, Callable[[], str]] = {
    "V3.2 layer, 1 token": lambda: _layer(1, 3),
    "V3.2 layer, 16 tokens": lambda: _layer(16, 2),
    "topk": lambda: _sample("topk"),
    "write_after_read": lambda: _sample("write_after_read"),
    "two_writes": lambda: _sample("two_writes"),
    "norms": lambda: _sample("norms"),
    "custom_mutation": lambda: _sample("custom_mutation"),
    "custom_function": lambda: _sample("custom_function"),
    "dynamic": lambda: _sample("sized", True),
    "lists": lambda: _planned(Lists(), (_rows(4), _rows(4)), {}),
    "user kernels": lambda: _planned(UserKernels(), (_rows(4), _rows(4)), {}),
    "convolutions": lambda: _planned(Convolutions(), _images(), {}),
    "split along K": _split_along_k,
    "random 3": lambda: _random(3),
    "random 8": lambda: _random(8),
    "topk, any plan": lambda: _any_plan(reading_of("topk"), 1),
    "two writes, any plan": lambda: _any_plan(reading_of("two_writes"), 2),
    "custom function, any plan": lambda: _any_plan(reading_of("custom_function"), 3),
    "norms, any plan": lambda: _any_plan(reading_of("norms"), 4),
    "two lists, any plan": lambda: _two_lists(5),
    "two lists, another plan": lambda: _two_lists(6),
    "concatenations": lambda: _case("nested"),
    "concatenations, any plan": lambda: _case("two", 7),
    "returned concatenation, any plan": lambda: _case("returned", 8),
    "compiled concatenation": lambda: _compiled(CASES["first dimension"][0](), CASES["first dimension"][1](), {}),
    "compiled block": lambda: _compiled(*_block(), {}),
    "compiled lists": lambda: _compiled(Lists(), (_rows(4), _rows(4)), {}),
    "compiled convolutions": lambda: _compiled(Convolutions(), _images(), {}),
    "compiled partition": lambda: _compiled(
        Shared(), (_rows(8), _rows(8), _rows(8), torch.zeros(8, dtype=torch.int64)), {"inductor": {"triton.cudagraphs": True}}
    ),
    **{f"collectives, {name}": functools.partial(_collectives, name) for name in COLLECTIVES},
    "collectives, any plan": lambda: _collectives("every kind", 9),
    "compiled shared inputs": lambda: _compiled(
        Shared(), (_rows(8), _rows(8), _rows(8), torch.zeros(8, dtype=torch.int64)), {}
    ),
}


def without_comments(source: str) -> str:
    """Return the source without comments and blank lines outside strings."""
    lines = source.splitlines(keepends=True)
    inside: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            inside.update(range(token.start[0], token.end[0] + 1))
    kept = [line for i, line in enumerate(lines, 1) if i in inside or (line.strip() and not line.lstrip().startswith("#"))]
    return "".join(kept)


@functools.cache
def wrapper(name: str) -> Wrapper:
    """Return the wrapper of that name."""
    return Wrapper(name, without_comments(GENERATED[name]()), USER_KERNELS)
