"""Twins under torch.compile on the CPU. Both halves are plain Inductor here; which one a call ran is what is looked at."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import compile_fx as inductor
from torch._inductor.custom_graph_pass import CustomGraphPass

from graphstreams.graph.support import token_count
from graphstreams.pairing import compile_with_twin
from graphstreams.runtime.twin import Dispatch, Twin, size_source

LARGEST = 8
SIZES = (4, 8, 9, 300, 2, 3, 50, 8)


class Passes(CustomGraphPass):
    """Counts the graphs that it sees."""

    def __init__(self):
        self.seen = 0

    def __call__(self, graph):
        self.seen += 1

    def uuid(self):
        return "counts"


class Layer(torch.nn.Module):
    """Reads parameters and adds to a cache."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

    def forward(self, x, cache):
        y = self.first(x).relu()
        cache.add_(y.sum(0))
        return y + self.second(x), x * 2


class Products(torch.nn.Module):
    """Two matrix products of a library: nothing that a C++ compiler would have to be waited for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (torch.nn.Linear(16, 16, bias=False) for _ in range(2))

    def forward(self, x, cache):
        return self.second(self.first(x))


class Backend:
    """Plain Inductor for both halves, with a threshold where the number of tokens is dynamic."""

    def __init__(self, largest=LARGEST, smallest=0, passes=(), limited=False):
        self.largest, self.smallest, self.passes, self.limited = largest, smallest, passes, limited
        self.compiled = []

    def __call__(self, gm, example_inputs):
        return inductor.compile_fx(gm, example_inputs, inner_compile=self.inner)

    def inner(self, gm, example_inputs, *args, **kwargs):
        tokens = token_count(gm)

        def dispatch_of(_):
            if not isinstance(tokens, torch.SymInt) or self.largest is None:
                return None
            return Dispatch(size_source(str(tokens.node.expr), example_inputs), self.largest, self.smallest)

        def compile_graph(graph):
            return inductor.compile_fx_inner(graph, example_inputs, *args, **kwargs)

        self.compiled.append(compile_with_twin(gm, compile_graph, self.passes, dispatch_of, lambda: self.limited))
        return self.compiled[-1]


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def _no_caches():
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


@pytest.fixture
def choices(monkeypatch):
    """Whether each call of a twin streamed."""
    found = []
    call = Twin.__call__
    monkeypatch.setattr(Twin, "__call__", lambda self, inputs: (found.append(self._streams(inputs)), call(self, inputs))[1])
    return found


def run(function, sizes=SIZES, module=None):
    """Call `function` with each size and compare outputs and the cache with the module's own."""
    module = module or Layer().requires_grad_(False)
    compiled = torch.compile(module, backend=function)
    for size in sizes:
        x = torch.arange(size * 16.0).reshape(size, 16) / 100
        found, expected = torch.zeros(16), torch.zeros(16)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, found), module(x, expected))
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("_no_caches")
@pytest.mark.parametrize("sizes", [SIZES, SIZES[2:], (300, 4, 9)])
def test_one_graph_serves_sizes_on_both_sides_whichever_comes_first(sizes, choices):
    backend = Backend()
    run(backend, sizes)
    assert [type(each) for each in backend.compiled] == [Twin]
    assert choices == [size <= LARGEST for size in sizes]
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("_no_caches")
def test_sizes_below_the_smallest_run_serially_too(choices):
    run(Backend(LARGEST, smallest=3))
    assert choices == [3 <= size <= LARGEST for size in SIZES]


@pytest.mark.usefixtures("_no_caches")
def test_code_that_does_not_say_for_which_sizes_it_gains_is_not_run(choices, caplog):
    """The first compile lost the line that tells: it is left, and the second, without our pass, is all that runs."""
    seen = Passes()
    backend = Backend(largest=None, limited=True)
    with caplog.at_level(logging.WARNING, "graphstreams"), torch._inductor.config.patch(post_grad_custom_post_pass=seen):
        run(backend)
    assert choices == []
    assert not isinstance(backend.compiled[0], Twin)
    assert seen.seen == 1  # not in the second compile
    assert "does not say for which sizes" in caplog.text


@pytest.mark.usefixtures("_no_caches")
@pytest.mark.parametrize("backend", [Backend(largest=None), Backend(LARGEST)])
def test_no_twin_where_none_is_needed(backend, choices):
    if backend.largest is None:
        run(backend)
    else:
        # A static number of tokens was decided on when the graph was compiled.
        with torch._dynamo.config.patch(assume_static_by_default=True), torch.no_grad():
            torch.compile(Layer().requires_grad_(False), backend=backend)(torch.ones(4, 16), torch.zeros(16))
    assert choices == []
    assert not any(isinstance(each, Twin) for each in backend.compiled)


@pytest.mark.usefixtures("_no_caches")
def test_graphs_of_others_are_left_alone(choices):
    run(Backend())
    before = len(choices)
    torch._dynamo.reset()
    run("inductor")
    assert len(choices) == before


@pytest.mark.usefixtures("_no_caches")
def test_the_passes_of_the_serial_half_are_those_that_were_asked_for():
    ours, theirs = Passes(), Passes()
    with torch._inductor.config.patch(post_grad_custom_post_pass=[ours, theirs]):
        run(Backend(passes=[theirs]), SIZES[:3])
    assert (ours.seen, theirs.seen) == (1, 2)


@pytest.mark.usefixtures("_no_caches")
@pytest.mark.parametrize("difference", ["output_strides", "mutated_input_idxs"])
def test_halves_that_differ_to_their_caller_leave_the_serial_one(monkeypatch, caplog, choices, difference):
    made, real = [], inductor._InProcessFxCompile.codegen_and_compile

    def changed(*args, **kwargs):
        made.append(real(*args, **kwargs))
        if len(made) == 1:
            setattr(made[0], difference, [None] * len(getattr(made[0], difference)))
        return made[-1]

    monkeypatch.setattr(inductor._InProcessFxCompile, "codegen_and_compile", changed)
    with caplog.at_level(logging.WARNING, "graphstreams"):
        run(Backend(), SIZES[:3])
    assert choices == []
    assert f"the {difference} of the streamed and the serial graph differ" in caplog.text


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from torch._dynamo.utils import counters
import test_pairing as t
torch._functorch.config.bundled_autograd_cache = sys.argv[2] == "bundled"
torch._functorch.config.enable_autograd_cache = sys.argv[2] != "fx"
choices, call = [], t.Twin.__call__
def chosen(self, inputs):
    choices.append(self._streams(inputs))
    return call(self, inputs)
t.Twin.__call__ = chosen
backend = t.Backend()
t.run(backend, [int(size) for size in sys.argv[3].split(",")], t.Products().requires_grad_(False))
print(json.dumps({
    "choices": choices, "inner": len(backend.compiled), "graphs": counters["stats"]["unique_graphs"],
    "aot": counters["aot_autograd"]["autograd_cache_hit"], "fx": counters["inductor"]["fxgraph_cache_hit"],
}))
"""


def in_a_process(cache, caches, sizes):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    arguments = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), caches, ",".join(map(str, sizes))]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("caches", ["aot", "fx", "bundled"])
def test_another_process_finds_the_twin_in_the_cache_and_chooses_the_same(tmp_path, caches):
    first, second = (in_a_process(tmp_path, caches, SIZES) for _ in range(2))
    assert (first["aot"], first["fx"], first["inner"]) == (0, 0, 1)
    assert first["choices"] == second["choices"] == [size <= LARGEST for size in SIZES]
    assert first["graphs"] == second["graphs"] == 1
    # Both halves come from Inductor's cache; AOTAutograd's, which would keep one of them, has none, and where graphs are
    # bundled into its entries there is no other.
    assert (second["aot"], second["fx"], second["inner"]) == (0, 0 if caches == "bundled" else 2, 1)
    # So does one that starts on the other side.
    third = in_a_process(tmp_path, caches, SIZES[2:])
    assert third["choices"] == first["choices"][2:]
