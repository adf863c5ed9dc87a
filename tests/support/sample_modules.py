"""Hold small modules whose kernels and dependences can be worked out by hand, and lower them.

Captures and CPU inputs are made once for each sample and shared; nothing here may be changed by a test.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._dynamo.utils import detect_fake_mode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphstreams import StreamPass
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.inductor.compile import PostGradBackend
from graphstreams.inductor.fakes import faked
from graphstreams.inductor.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.inductor.offline import offline
from graphstreams.inductor.streamed_code import streamed_code
from graphstreams.ir.devices import DEVICES
from graphstreams.ir.kernels import Kernel, KernelGraph
from graphstreams.ir.plan import Placement, Plan
from graphstreams.ir.reading import Reading
from graphstreams.options import Options
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.pipeline.run import run_stages
from graphstreams.planning.synchronization import place_events
from graphstreams.reports.report import Report
from graphstreams.rewriting.regions import rewrite
from tests.support.finishing import finished

FREE_EVENTS = {"min_gain": 0.0, "event_us": 0.0}  # so that even tiny modules gain from streams


@torch.library.custom_op("graphstreams_tests::append_row", mutates_args={"cache"})
def append_row(cache: Tensor, row: Tensor) -> None:
    cache[0].copy_(row[0])


@torch.library.custom_op("graphstreams_tests::split_signs", mutates_args=())
def split_signs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clamp(min=0), x.clamp(max=0)


@split_signs.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


class _Module(nn.Module):
    """`wa`, `wb`, `wc` and `wd` are projections of 64 features, and the forward pass is a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        for name in ("wa", "wb", "wc", "wd"):
            setattr(self, name, nn.Linear(64, 64, bias=False))
        self.register_buffer("state", torch.randn(8, 64))

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def _diamond(m: Any, x: Tensor) -> Any:
    a = m.wa(x)
    return m.wd(m.wb(a).relu() * m.wc(a))


def _three_arms(m: Any, x: Tensor) -> Any:
    return m.wa(x), m.wb(x), m.wc(x)


def _write_after_read(m: Any, x: Tensor, cache: Tensor, position: Tensor) -> Any:
    y = m.wb(cache)
    cache[position] = m.wa(x)
    return y


def _view_of_written_base(m: Any, x: Tensor, cache: Tensor) -> Any:
    view = cache[:2]
    y = m.wa(cache)
    cache.add_(1)
    return m.wb(view), y, m.wc(x)


def _base_of_written_view(m: Any, x: Tensor, cache: Tensor) -> Any:
    view = cache[:2]
    y = m.wa(cache)
    view.mul_(2)
    return y, m.wb(cache), m.wc(x)


def _two_writes(m: Any, x: Tensor, cache: Tensor) -> Any:
    cache[0:2] = m.wa(x)[:2]
    y = m.wb(cache)
    cache[1:3] = m.wc(x)[:2]
    return y


def _swap(m: Any, x: Tensor, first: Tensor, second: Tensor) -> Any:
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)
    return m.wa(x), m.wb(x)


def _ring(m: Any, x: Tensor, cache: Tensor) -> Any:
    cache[1:] = cache[:-1].clone()
    cache[0] = m.wa(x)[0]
    return m.wb(x)


def _output_is_intermediate(m: Any, x: Tensor) -> Any:
    a = m.wa(x)
    return a, m.wb(a), m.wc(a), a[:2]


def _input_returned(m: Any, x: Tensor) -> Any:
    return x, m.wa(x), m.wb(x), x.t()


def _only_views(m: Any, x: Tensor) -> Any:
    return x[:2], x.t()


def _custom_mutation(m: Any, x: Tensor, cache: Tensor) -> Any:
    y = m.wc(cache)
    append_row(cache, m.wa(x))
    return y, m.wb(cache), m.wd(x)


def _custom_mutation_of_temporary(m: Any, x: Tensor) -> Any:
    out = torch.zeros(4, 64, device=x.device)
    append_row(out, m.wa(x))
    return out * 2, m.wb(x)


def _custom_mutation_of_empty(m: Any, x: Tensor) -> Any:
    # The result of an operator that fills what it is given: only row 0 is defined.
    out = torch.empty(1, 64, device=x.device)
    append_row(out, m.wa(x))
    return m.wc(out), m.wb(x)


def _custom_function(m: Any, x: Tensor) -> Any:
    positive, negative = split_signs(m.wa(x))
    return positive * 2, negative, m.wb(x)


def _topk(m: Any, x: Tensor) -> Any:
    values, indices = torch.topk(m.wa(x), 4)
    return values + 1, indices * 2, m.wb(x)


def _concatenation(m: Any, x: Tensor, y: Tensor, z: Tensor) -> Any:
    return torch.cat([m.wa(x).relu(), y.sin(), z.softmax(-1)], -1), m.wb(x)


def _concatenated_gemms(m: Any, x: Tensor, y: Tensor) -> Any:
    both = torch.cat([m.wa(x), m.wb(y)])
    return m.wc(both), both.sum(0)


def _split_reduction(m: Any, x: Tensor, big: Tensor) -> Any:
    return m.wa(x), big.sum()


def _norms(m: Any, x: Tensor) -> Any:
    a, b = F.layer_norm(m.wa(x), (64,)), F.rms_norm(m.wb(x), (64,))
    return a * 2, b, a.t() @ b


def _scatter_into_copy(m: Any, x: Tensor, cache: Tensor, rows: Tensor) -> Any:
    return cache.index_add(0, rows, m.wa(x)), m.wb(x)


def _scatter_into_zeros(m: Any, x: Tensor, rows: Tensor) -> Any:
    sums = torch.zeros(8, 64, device=x.device)
    sums.index_add_(0, rows, m.wa(x))
    return m.wb(sums), m.wc(x)


def _buffer_write(m: Any, x: Tensor) -> Any:
    read = m.wa(m.state)
    m.state[:4] = m.wb(x)
    return read


def _casts(m: Any, x: Tensor) -> Any:
    a, b = m.wa(x).to(torch.bfloat16), m.wb(x).to(torch.float64)
    return a, b, a.float() + b


def _sized(m: Any, x: Tensor) -> Any:
    return m.wa(x).relu(), m.wb(x), x.sum(0)


def _rows(count: int) -> Tensor:
    return torch.randn(count, 64)


SAMPLES: Mapping[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "diamond": (_diamond, lambda: (_rows(4),)),
    "three_arms": (_three_arms, lambda: (_rows(4),)),
    "write_after_read": (_write_after_read, lambda: (_rows(2), _rows(16), torch.tensor([3, 5]))),
    "view_of_written_base": (_view_of_written_base, lambda: (_rows(4), _rows(8))),
    "base_of_written_view": (_base_of_written_view, lambda: (_rows(4), _rows(8))),
    "two_writes": (_two_writes, lambda: (_rows(4), _rows(8))),
    "swap": (_swap, lambda: (_rows(4), torch.randn(4, 4), torch.randn(4, 4))),
    "ring": (_ring, lambda: (_rows(4), _rows(8))),
    "output_is_intermediate": (_output_is_intermediate, lambda: (_rows(4),)),
    "input_returned": (_input_returned, lambda: (_rows(4),)),
    "only_views": (_only_views, lambda: (_rows(4),)),
    "custom_mutation": (_custom_mutation, lambda: (_rows(4), _rows(8))),
    "custom_mutation_of_temporary": (_custom_mutation_of_temporary, lambda: (_rows(4),)),
    "custom_mutation_of_empty": (_custom_mutation_of_empty, lambda: (_rows(4),)),
    "custom_function": (_custom_function, lambda: (_rows(4),)),
    "topk": (_topk, lambda: (_rows(4),)),
    "concatenation": (_concatenation, lambda: (_rows(4), torch.randn(4, 32), torch.randn(4, 300))),
    "concatenated_gemms": (_concatenated_gemms, lambda: (_rows(4), _rows(5))),
    "split_reduction": (_split_reduction, lambda: (_rows(4), torch.randn(2**21))),
    "norms": (_norms, lambda: (_rows(4),)),
    "scatter_into_copy": (_scatter_into_copy, lambda: (_rows(4), _rows(8), torch.tensor([1, 1, 3, 5]))),
    "scatter_into_zeros": (_scatter_into_zeros, lambda: (_rows(4), torch.tensor([1, 1, 3, 5]))),
    "buffer_write": (_buffer_write, lambda: (_rows(4),)),
    "casts": (_casts, lambda: (_rows(4),)),
    "sized": (_sized, lambda: (_rows(40),)),
}

STREAMABLE = sorted(SAMPLES.keys() - {"only_views"})
TORCH_2_14 = torch.__version__.startswith("2.14.")
TORCH_2_14_0 = torch.__version__.startswith("2.14.0")


@functools.cache
def module_and_inputs(sample: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return the sample's module and inputs on the CPU, the same numbers every time."""
    function, inputs = SAMPLES[sample]
    torch.manual_seed(0)
    return _Module(function), inputs()


@functools.cache
def captured(sample: str, dynamic: bool | None = None) -> GraphCompilation:
    """Return what the stages make of the sample's graph for an H200, with free events."""
    (outcome,) = capture(*module_and_inputs(sample), "h200", FREE_EVENTS, dynamic)
    return outcome


def reading_of(sample: str) -> Reading:
    """Return how the sample's graph was read. Fails with the report's reason if it was not."""
    outcome = captured(sample)
    assert outcome.reading is not None, f"{outcome.report.stage}: {outcome.report.reason}"
    return outcome.reading


def kernels_of(sample: str) -> KernelGraph:
    """Return the sample's kernels."""
    return reading_of(sample).kernels


def short_names(graph: KernelGraph) -> list[str]:
    """Return the kernels' names without the function that they come from: "mul" for "diamond.mul"."""
    return [k.name.rpartition(".")[2] for k in graph.kernels]


def kernel_named(sample: str, name: str) -> Kernel:
    """Return the sample's kernel of that short name."""
    graph = kernels_of(sample)
    return graph.kernels[short_names(graph).index(name)]


def named_edges(graph: KernelGraph) -> set[tuple[str, str, str]]:
    """Return every edge as short names of its kernels and its kind."""
    names = short_names(graph)
    return {(names[e.before], names[e.after], e.kind.value) for e in graph.edges}


@functools.cache
def graph_inputs(sample: str) -> tuple[Any, ...]:
    """Return the inputs of the sample's graph, parameters included, in the graph's order."""
    recorded: list[Any] = []

    def record(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        recorded.extend(v.clone() if isinstance(v, torch.Tensor) else v for v in example_inputs)
        return gm.forward

    module, inputs = module_and_inputs(sample)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(copy.deepcopy(module), backend=record)(*(v.clone() for v in inputs))
    torch._dynamo.reset()
    return tuple(recorded)


def plan_by_hand(graph: KernelGraph, order: Sequence[int], stream_of: Mapping[int, int]) -> Plan:
    """Return a plan with that order and those streams, the events that these need, and a gain that is enough for any option."""
    placements = tuple(Placement(k, graph.kernels[k].name, stream_of[k], 0.0, 1.0) for k in order)
    events = place_events(graph, order, stream_of)
    return Plan(graph.name, 1 + max(stream_of.values()), placements, events, 1e9, 1.0, 1.0, 1.0, ())


def rewritten_by_hand(reading: Reading, plan: Plan) -> tuple[torch.fx.GraphModule, GraphCompilation]:
    """Return the graph rewritten to a plan, and the outcome once its generated wrapper has been checked."""
    module = rewrite(reading, plan)
    serial, streamed = lowered_serially(reading.module), lowered_with_code(module)
    return module, finished(reading, module, plan, serial, streamed, Options.from_dict(FREE_EVENTS))


def compiled_by_pass(
    sample: str, behind: Callable[[torch.fx.GraphModule], None] = lambda gm: None, **options: Any
) -> tuple[Report, Lowered, str]:
    """Let StreamPass see the sample's graph, then the pass `behind` it, and lower it as Inductor does, for an H200.

    Returns the report, the lowered graph with the code that runs, and the serial code of the graph without either pass.
    """
    stream_pass = StreamPass({**FREE_EVENTS, "costs": "roofline", **options})
    module, inputs = module_and_inputs(sample)
    found: list[Any] = []

    def visit(gm: torch.fx.GraphModule, _: list[str], __: Sequence[Any]) -> None:
        plain = copy_graph(gm)
        stream_pass(gm.graph)
        behind(gm)
        for each in (plain, gm):
            finish_post_grad_passes(each)
        values = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
        checked = [i for i, value in enumerate(values) if isinstance(value, Tensor)]  # as if none were a parameter
        lowered = lower(gm, generate_code=True, inputs_to_check=checked)
        found.extend((lowered, lower(plain, generate_code=True, inputs_to_check=checked).source))

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    torch._dynamo.reset()
    for_h200 = mock.patch("graphstreams.backend.run_stages", functools.partial(run_stages, device=DEVICES["h200"]))
    with for_h200, offline(DEVICES["h200"]), faked(module, list(inputs), mode) as (_, fakes), mode, torch.no_grad():
        torch.compile(module, backend=PostGradBackend(visit))(*fakes)
    torch._dynamo.reset()
    (report,) = stream_pass.reports
    lowered, serial = found
    return report, lowered, serial


def streamed_text(source: str) -> str:
    """Return the streamed function of a wrapper with two bodies, behind the module's imports and kernels."""
    lines = source.split("\n")
    (start,) = (i for i, line in enumerate(lines) if line.startswith("def call_on_streams("))
    end = next(i for i, line in enumerate(lines[start:], start) if line.startswith("    return ("))
    return "\n".join(lines[: end + 1])


def lowered_with_code(module: torch.fx.GraphModule) -> Lowered:
    """Return Inductor's lowering of a rewritten graph for an H200, with its wrapper."""
    with as_on_h200(module):
        return streamed_code(module)


def lowered_serially(module: torch.fx.GraphModule) -> Lowered:
    """Return Inductor's lowering of a graph for an H200, with its wrapper."""
    with as_on_h200(module):
        return lower(copy_graph(module), generate_code=True)


def serial_code(reading: Reading) -> CompiledSerialGraph:
    """Return the code of a graph that was read, from which kernels are measured, for an H200."""
    with as_on_h200(reading.module):
        return CompiledSerialGraph(reading)


@contextlib.contextmanager
def as_on_h200(module: torch.fx.GraphModule) -> Iterator[None]:
    """Let a graph that was read on this machine be lowered for an H200 within this context."""
    mode = detect_fake_mode([n.meta["val"] for n in module.graph.find_nodes(op="placeholder")])
    with offline(DEVICES["h200"]), V.set_fake_mode(mode):
        yield
