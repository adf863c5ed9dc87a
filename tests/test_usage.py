"""Check each row of docs/usage.md without a GPU. What is tested elsewhere is named in ELSEWHERE."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import graphstreams
from graphstreams import backend
from graphstreams.pipeline.explain import capture
from graphstreams.runtime import verdicts
from tests.support.fork_server import run_forked
from tests.support.sample_modules import FREE_EVENTS

ROOT = Path(__file__).parents[1]
HERE = {
    "mode": ["test_a_mode_is_an_option_or_an_argument_but_not_both"],
    "fullgraph": ["test_a_serial_graph_is_no_error_with_fullgraph_unless_strict"],
    "graph breaks": ["test_each_part_between_graph_breaks_is_a_line"],
    "stance": [
        "test_under_a_stance_that_is_eager_nothing_is_said",
        "test_under_another_stance_the_backend_is_called_when_it_compiles",
    ],
    "regional compile": [
        "test_blocks_with_the_same_code_are_compiled_once",
        "test_an_input_made_outside_of_inference_mode_costs_a_second_compile",
    ],
    "autocast": ["test_casts_of_autocast_are_planned"],
    "two processes, one cache": ["test_processes_that_share_a_cache_are_right_and_each_says_it"],
    "ranks": ["test_each_rank_compiles_for_itself_and_its_line_and_folder_name_it"],
}
ELSEWHERE = {
    "default backend": ["tests/engines/test_any_code.py::test_the_default_backend_is_asked_and_the_result_is_right"],
    "no mode": [
        "tests/runtime/test_verdicts.py::test_a_gain_that_nothing_captures_is_a_warning_in_the_same_line",
        "tests/runtime/test_verdicts.py::test_a_graph_on_streams_is_one_line_that_tells_launch_and_source",
        "tests/pipeline/test_select_plan.py::test_streams_run_outside_cuda_graphs_only_where_they_were_measured_to_gain_there",
    ],
    "dynamic": [
        "tests/dynamic_shapes/test_dynamic_models.py"
        "::test_calls_on_both_sides_of_a_limit_choose_by_their_size_and_have_the_same_bits",
        "tests/dynamic_shapes/test_dynamic_models.py::test_the_line_tells_for_which_sizes_streams_run",
    ],
    "no_grad missing": ["tests/test_backend.py::test_training_stays_serial_and_right"],
    "CPU model": ["tests/test_backend.py::test_a_cpu_graph_runs_serially_with_one_warning_that_says_why"],
    "two processes, one cache": [
        "tests/pipeline/test_publish.py::test_a_second_process_finds_the_graph_in_a_cache_and_writes_its_report"
    ],
    "ranks": [
        "tests/pipeline/test_collectives.py::test_two_ranks_compute_serial_bits_with_different_plans",
    ],
    "a plan kept": ["tests/pipeline/test_apply_plan.py::test_a_plan_that_was_kept_is_in_effect"],
    "pin, exclude": [
        "tests/pipeline/test_placement.py::test_modules_and_kernels_are_where_they_were_put_and_the_report_says_why"
    ],
    "switched off": [
        "tests/test_backend.py::test_disabled_it_is_silent_and_right",
        "tests/test_backend.py::test_one_stream_is_silent_and_right",
    ],
}
ON_GPU = {
    "mode": "tests/gpu/test_says.py::test_a_graph_on_streams_is_one_line",
    "no mode": "tests/gpu/test_two_bodies.py",
    "two processes, one cache": "tests/gpu/test_two_bodies.py"
    "::test_a_second_process_has_both_bodies_and_the_verdict_from_the_cache",
    "ranks": "tests/gpu/test_collectives.py",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdicts, "_said", [])
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


def test_every_row_has_a_test() -> None:
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [row for row in rows[1:] if row in {**HERE, **ELSEWHERE}]
    assert {*rows[1:]} == {*HERE, *ELSEWHERE}
    here = [f"tests/test_usage.py::{name}" for names in HERE.values() for name in names]
    for place in (*here, *(place for places in ELSEWHERE.values() for place in places), *ON_GPU.values()):
        path, _, name = place.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert not name or name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, place


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x).relu() + self.right(x).sigmoid()


class Broken(Block):
    def forward(self, x: Tensor) -> Tensor:
        first = self.left(x).relu()
        torch._dynamo.graph_break()
        return first + self.right(x).sigmoid()


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def check(model: nn.Module, compiled: Any) -> list[str]:
    """Assert that a compiled model computes what the model does, and return what was said of its graphs."""
    with torch.inference_mode():
        x = torch.randn(4, 8)
        torch.testing.assert_close(compiled(x), model(x))
    return [str(verdict) for verdict in graphstreams.reports()]


def test_a_mode_is_an_option_or_an_argument_but_not_both() -> None:
    model = Block()
    for given in ({"mode": "reduce-overhead"}, {"options": {"mode": "reduce-overhead"}}, {}):
        torch._dynamo.reset()
        with mock.patch.object(backend, "compile_graph", wraps=backend.compile_graph) as compile_graph:
            check(model, torch.compile(model, backend="graphstreams", **given))  # type: ignore[call-overload]
        settings = compile_graph.call_args.args[2]
        assert settings.get("triton.cudagraphs", False) is bool(given)  # by which Inductor captures the calls
    with pytest.raises(RuntimeError, match="mode"):
        torch.compile(model, backend="graphstreams", mode="reduce-overhead", options={"streams": 2})


def test_a_serial_graph_is_no_error_with_fullgraph_unless_strict() -> None:
    (line,) = check(model := Block(), torch.compile(model, backend="graphstreams", fullgraph=True))
    assert line.startswith("Block: ") and "runs serially" in line
    torch._dynamo.reset()
    with pytest.raises(Exception, match="read: it has no CUDA tensors"):
        check(model, torch.compile(model, backend="graphstreams", fullgraph=True, options={"strict": True}))


def test_each_part_between_graph_breaks_is_a_line() -> None:
    lines = check(model := Broken(), torch.compile(model, backend="graphstreams"))
    assert len(lines) == 2 and all(line.startswith("Broken: ") for line in lines)


def test_under_a_stance_that_is_eager_nothing_is_said() -> None:
    model = Block()
    compiled = torch.compile(model, backend="graphstreams")
    with torch.compiler.set_stance("force_eager"):
        assert check(model, compiled) == []
    assert len(check(model, compiled)) == 1


def test_under_another_stance_the_backend_is_called_when_it_compiles() -> None:
    """The first call runs eagerly, the second one compiles, and a later one finds what was compiled."""
    compiled = torch.compile(model := Block(), backend="graphstreams")
    with torch.compiler.set_stance("eager_then_compile"):
        assert [len(check(model, compiled)) for _ in range(3)] == [0, 1, 1]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert len(check(model, compiled)) == 1


def regional() -> tuple[Blocks, Blocks]:
    """Return a model, and one with the same weights whose blocks are compiled one by one."""
    plain, model = Blocks(), Blocks()
    model.load_state_dict(plain.state_dict())
    for block in model.blocks:
        block.compile(backend="graphstreams")
    return plain, model


def test_blocks_with_the_same_code_are_compiled_once() -> None:
    (line,) = check(*regional())
    assert line.startswith("Block: ")


def test_an_input_made_outside_of_inference_mode_costs_a_second_compile() -> None:
    """What the first block returns was made inside."""
    x, (plain, model) = torch.randn(4, 8), regional()
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain(x))
    assert [verdict.module for verdict in graphstreams.reports()] == ["Block", "Block"]


def test_casts_of_autocast_are_planned() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arms = nn.ModuleList(nn.Linear(2048, 2048) for _ in range(3))

        def forward(self, x: Tensor) -> list[Tensor]:
            with torch.autocast("cuda", torch.bfloat16):
                return [arm(x).float().softmax(-1) for arm in self.arms]

    with torch.device("meta"):
        module, inputs = Cast(), (torch.empty(4, 2048),)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert outcome.report.verdict == "clean", outcome.report.reason
    assert "bfloat16" in outcome.report.graph_serial or "bf16" in outcome.report.graph_serial


PROGRAM = """
import json, torch, graphstreams
from tests.test_usage import Block
torch.manual_seed(0)
model, x = Block(), torch.ones(4, 8)
with torch.inference_mode():
    same = torch.allclose(torch.compile(model, backend="graphstreams")(x), model(x))
print(json.dumps([same, list(map(str, graphstreams.reports()))]))
"""


def test_processes_that_share_a_cache_are_right_and_each_says_it(tmp_path: Path) -> None:
    def run(_: int) -> tuple[list[Any], str]:
        done = run_forked(PROGRAM, more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(run, range(2)), run(2)]  # two at once, and one that finds what they wrote
    for (same, lines), _ in results:
        assert same and len(lines) == 1
        assert re.fullmatch(r"Block: \w+ runs serially: read: it has no CUDA tensors.*", lines[0])
    said = [line for line in results[-1][1].splitlines() if line.startswith("graphstreams: Block: ")]
    assert len(said) == 1 and said[0].endswith(" (from a cache)")


RANK = """
import sys, torch, torch.distributed as dist
from tests.test_usage import Block
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
with torch.inference_mode():
    torch.compile(Block(), backend="graphstreams", options={"dump": f"{folder}/dump"})(torch.ones(4, 8))
dist.barrier()
"""


def test_each_rank_compiles_for_itself_and_its_line_and_folder_name_it(tmp_path: Path) -> None:
    def run(rank: int) -> str:
        done = run_forked(RANK, str(rank), str(tmp_path), more={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(run, range(2)))
    for rank, said in enumerate(told):
        (line,) = [line for line in said.splitlines() if line.startswith("graphstreams: ")]
        assert line.startswith(f"graphstreams: rank {rank}: Block: ")
        assert len([*(tmp_path / "dump" / f"rank{rank}").rglob("report.html")]) == 1
