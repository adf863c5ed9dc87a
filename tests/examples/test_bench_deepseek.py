"""Check that the benchmark's variants compute what the plain modules do, and its arguments, tables and course. No GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_deepseek as bench
import deepseek_parts
import deepseek_pre_attention
import deepseek_v4
import deepseek_v32
import deepseek_workloads
import pytest
import torch
from custom_op_streams import CustomOpStreams
from hand_streams import PHASES, HandStreams

from graphstreams.autotuning.cuda_graph import clones, leaves
from graphstreams.benchmark import results as benchmark_results
from graphstreams.benchmark import timing
from graphstreams.benchmark.results import report
from tests.support.benchmark_on_cpu import ENVIRONMENT, CpuReplayer, CpuVariant, replace_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here streams would be real, on a module that is not")

TINY = deepseek_v32.Config.tiny(dtype=torch.float32)
V32: dict[str, Any] = {name: each for name, each in bench.WORKLOADS.items() if isinstance(each, deepseek_workloads.Workload)}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def made(whole: bool, config: deepseek_v32.Config = TINY) -> tuple[torch.nn.Module, list[Any]]:
    """The layer or the block with norms that differ from the identity, and inputs."""
    layer = deepseek_v32.build(config, "cpu")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in layer.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    inputs = deepseek_v32.example_inputs if whole else deepseek_pre_attention.pre_attention_inputs
    return layer if whole else deepseek_pre_attention.PreAttention(layer), list(inputs(config, "cpu", 3))


def results(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
    """Outputs and changed inputs."""
    own = clones(values)
    return [*leaves(function(*own)), *own]


def by_hand(module: torch.nn.Module, phases: frozenset[int]) -> torch.nn.Module:
    return HandStreams(deepseek_parts.parts_of(module), phases)


def by_operators(module: torch.nn.Module, phases: frozenset[int]) -> torch.nn.Module:
    return CustomOpStreams(deepseek_parts.parts_of(module), phases)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("make", [by_hand, by_operators])
@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("whole", [True, False], ids=["layer", "block"])
def test_a_variant_computes_what_the_module_does(whole: bool, phases: frozenset[int], make: Any, compiled: bool) -> None:
    module, values = made(whole)
    variant = make(module, phases)
    function = torch.compile(variant, backend="aot_eager", fullgraph=True) if compiled else variant
    taken = (lambda *own: function(*own)[0]) if make is by_hand else function
    for expected, found in zip(results(module, values), results(taken, values), strict=True):
        assert torch.equal(expected, found)


def test_a_variant_by_hand_also_returns_what_both_streams_read() -> None:
    module, values = made(False)
    outputs, (q_c,) = by_hand(module, PHASES["both"])(*clones(values))
    assert len(outputs) == 4
    assert torch.equal(q_c, deepseek_parts.parts_of(module).down(values[0])[0])


@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("whole", [True, False], ids=["layer", "block"])
def test_streams_by_hand_compute_what_an_fp8_layer_does(whole: bool, phases: frozenset[int]) -> None:
    module, values = made(whole, deepseek_v32.Config.tiny(fp8=True))
    variant = by_hand(module, phases)
    for expected, found in zip(results(module, values), results(lambda *own: variant(*own)[0], values), strict=True):
        assert torch.equal(expected, found)
    q_c, shared = variant(*clones(values))[1]
    assert [q_c.values.dtype, shared.values.dtype] == [torch.float8_e4m3fn] * 2  # both are read on both streams


def test_operators_declare_the_caches_that_they_write() -> None:
    ops = torch.ops.deepseek_operators
    written = {
        name: {a.name for a in getattr(ops, name).default._schema.arguments if a.alias_info and a.alias_info.is_write}
        for name in ("phase_1", "block_phase_2", "layer_phase_2")
    }
    assert written == {"phase_1": set(), "block_phase_2": {"index_cache"}, "layer_phase_2": {"kv_cache", "index_cache"}}


@pytest.mark.parametrize("whole", [True, False], ids=["layer", "block"])
def test_operators_return_the_shapes_and_strides_that_tracing_believes(whole: bool) -> None:
    module, values = made(whole, deepseek_v32.Config.tiny(tokens=5))
    variant = by_operators(module, PHASES["both"])
    first = torch.ops.deepseek_operators.phase_1(values[0], variant.name)
    taken = [first[0], first[1], first[2], first[3], *clones(values)[1:], variant.name]
    second = variant.second(*taken)
    with torch._subclasses.fake_tensor.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for value in taken]
        believed = [*torch.ops.deepseek_operators.phase_1(mode.from_tensor(values[0]), variant.name), *variant.second(*fakes)]
    for real, fake in zip([*first, *second], believed, strict=True):
        assert (real.shape, real.stride(), real.dtype) == (fake.shape, fake.stride(), fake.dtype)


def test_what_has_no_operators_or_parts_is_named() -> None:
    with pytest.raises(ValueError, match="fp8"):
        by_operators(deepseek_v32.build(deepseek_v32.Config.tiny(fp8=True), "meta"), PHASES["both"])
    with pytest.raises(TypeError, match="Linear"):
        deepseek_parts.parts_of(torch.nn.Linear(2, 2))


def test_the_pre_attention_block_is_the_layers_first_part() -> None:
    block, inputs = deepseek_pre_attention.pre_attention(16, 2)
    assert block.layer.config == deepseek_v32.Config(heads=16, tokens=2)
    assert [tuple(value.shape) for value in inputs] == [(2, 7168), (2,), (2, 4096, 128)]


def test_the_command_line_runs_everything_by_default() -> None:
    arguments = bench.parse_args([])
    assert arguments.workloads == list(bench.WORKLOADS)
    assert len(bench.WORKLOADS) == 13 + 4 + 6
    assert arguments.settings == ["deterministic", "default"]
    assert arguments.hand == list(PHASES)
    assert (arguments.rounds, arguments.replays, arguments.limit, arguments.out) == (40, 50, None, Path("bench"))


def test_the_command_line_takes_a_part() -> None:
    given = ["--workloads", "layer-tp8-1", "block-16-1", "--rounds", "5", "--replays", "0", "--out", "x", "--custom", "phase 1"]
    arguments = bench.parse_args([*given, "--settings", "default", "--limit", "200"])
    assert arguments.workloads == ["layer-tp8-1", "block-16-1"]
    assert (arguments.rounds, arguments.replays, arguments.limit, arguments.out) == (5, 0, 200.0, Path("x"))
    assert (arguments.custom, arguments.settings) == (["phase 1"], ["default"])


@pytest.mark.parametrize("given", [["--workloads", "layer"], ["--rounds", "1"], ["--replays", "-1"], ["--hand", "all"]])
def test_the_command_line_refuses_what_it_does_not_know(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse_args(given)


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 2
    assert "CUDA" in capsys.readouterr().err


def test_the_workloads_are_those_of_the_measurements() -> None:
    assert bench.WORKLOADS["block-128-64"].title == "block before the attention, 128 heads, 64 tokens"
    assert bench.WORKLOADS["layer-tp8-1"].title == "layer, TP 8, 1 token"
    for name, workload in V32.items():
        kind, _, tokens, *context = name.removesuffix("-fp8").split("-")
        assert workload.config.fp8 == name.endswith("-fp8")
        assert (workload.config.tokens, workload.whole) == (int(tokens), kind == "layer")
        assert workload.config.context == int(*context or [4096])
        assert workload.config.tp == (8 if "tp8" in name else 1)


def test_a_title_names_a_context_of_another_size() -> None:
    title = "block before the attention, 16 heads, 64 tokens, 2,048 slots"
    assert bench.WORKLOADS["block-16-64-2048"].title == title
    assert bench.WORKLOADS["block-128-64-2048"].config == deepseek_v32.Config(heads=128, tokens=64, context=2048)
    whole = deepseek_workloads.Workload(deepseek_v32.Config(tp=8, topk=512, context=1024), True)
    assert whole.title == "layer, TP 8, 1 token, 1,024 slots"


def test_the_blocks_stand_before_the_layers_and_fp8_behind_bf16() -> None:
    assert [workload.whole for workload in V32.values()] == [False] * 6 + [True] * 7 + [False] * 2 + [True] * 2
    assert list(bench.WORKLOADS)[: len(V32)] == list(V32)


def test_the_layers_of_v4_are_those_that_their_names_say() -> None:
    v4 = {name: workload for name, workload in bench.WORKLOADS.items() if name not in V32}
    for name, workload in v4.items():
        _, model, kind, *prefill, tokens = name.split("-")
        assert (workload.model, workload.config.kind, workload.config.tp) == (model.capitalize(), kind, 8)
        assert (workload.config.tokens, workload.config.prefill) == (int(tokens), bool(prefill))
        assert workload.config.hidden == {"flash": 4096, "pro": 7168}[model]
    assert v4["v4-pro-csa-32"].title == "V4-Pro CSA layer, TP 8, 32 tokens"
    assert v4["v4-flash-hca-1"].title == "V4-Flash HCA layer, TP 8, 1 token"
    assert v4["v4-flash-csa-prefill-1024"].title == "V4-Flash CSA layer, TP 8, prefill of 1,024 tokens"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> CpuReplayer:
    """Return the benchmark with everything replaced that needs a GPU."""
    monkeypatch.setattr(deepseek_workloads, "DEVICE", "cpu")
    monkeypatch.setattr(benchmark_results, "environment", lambda: ENVIRONMENT)
    tiny = {"block": deepseek_workloads.Workload(TINY, False), "layer": deepseek_workloads.Workload(TINY, True)}
    monkeypatch.setattr(bench, "WORKLOADS", tiny)
    return replace_gpu(monkeypatch)


def arguments(tmp_path: Path, *given: str) -> Any:
    return bench.parse_args(
        ["--workloads", "block", "layer", "--rounds", "3", "--replays", "7", "--out", str(tmp_path), *given]
    )


@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_through_all_variants_and_writes_what_it_found(on_cpu: CpuReplayer, tmp_path: Path) -> None:
    bench.run(arguments(tmp_path))
    result = json.loads((tmp_path / "bench.json").read_text())
    assert list(result["passes"]) == ["deterministic", "default"]
    for row in result["passes"]["deterministic"]:
        rivals = row["rivals"]
        assert "failed" not in row
        assert {"hand: phase 1", "hand: phase 2", "hand: both", "custom op: both"} < set(rivals)
        for name in ("hand: both", "custom op: both", "graphstreams: roofline"):
            assert rivals[name]["wrong"] == {"graph": 0, "direct": 0}
            assert rivals[name]["runs"] == {"graph": 7, "direct": 5}
        assert rivals["graphstreams: measured"]["failed"] == "RuntimeError: no measuring here"
        assert rivals["graphstreams: search"]["wrong"] == {"graph": 7, "direct": 5}
        assert rivals["graphstreams: search"]["unstable"] == 0
        assert rivals["played: Nimble"]["inner_waits"] <= rivals["played: Nimble"]["reduction_syncs"]
        assert set(rivals["hand: both"]["graph"]) == {"median", "first_quartile", "third_quartile"}
        assert "direct" not in rivals["played: Opara"]
    # Without the setting: serial, the variant by hand that was fastest, operators and all of ours, for speed alone.
    for row in result["passes"]["default"]:
        assert list(row["rivals"]) == ["serial", "hand: phase 1", "custom op: both", *OURS]
        assert all("wrong" not in rival for rival in row["rivals"].values())
    # Two plans of ours and five policies, for each workload, captured in each of three rounds.
    assert len(on_cpu.plans) == 2 * 7 * 3
    assert "| layer, TP 1, 3 tokens" in (tmp_path / "bench.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_layer_of_v4_has_streams_by_hand_and_a_note_in_place_of_operators(
    on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = deepseek_workloads.V4Workload("Flash", deepseek_v4.Config.tiny(dtype=torch.float32))
    monkeypatch.setattr(bench, "WORKLOADS", {"block": tiny, "layer": tiny})
    result = bench.run(arguments(tmp_path, "--workloads", "layer"))
    for row in result["passes"]["deterministic"]:
        assert row["rivals"]["hand: both"]["wrong"] == {"graph": 0, "direct": 0}
        assert row["rivals"]["custom op: both"] == {"reason": "not run: there are no custom operators for V4 and FP8"}
    assert [row["rivals"]["hand: phase 1"]["graph"]["median"] > 0 for row in result["passes"]["default"]] == [True]
    assert "| custom op: both" in report(result) and "there are no custom operators for V4" in report(result)


OURS = ("graphstreams: roofline", "graphstreams: measured", "graphstreams: search")


@pytest.mark.filterwarnings("ignore")
def test_the_default_setting_alone_takes_the_variants_that_are_given(on_cpu: CpuReplayer, tmp_path: Path) -> None:
    result = bench.run(arguments(tmp_path, "--settings", "default", "--hand", "both", "phase 2"))
    assert list(result["passes"]) == ["default"]
    for row in result["passes"]["default"]:
        assert list(row["rivals"]) == ["serial", "hand: both", "hand: phase 2", "custom op: both", *OURS]
        assert row["rivals"]["graphstreams: roofline"]["graph"]["median"] > 0
    assert not on_cpu.plans
    assert "policies" not in (tmp_path / "bench.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_variants_of_ours_and_policies_can_be_left_out(on_cpu: CpuReplayer, tmp_path: Path) -> None:
    given = ["--workloads", "block", "--settings", "deterministic", "--hand", "both", "--own", "search", "--no-policies"]
    (row,) = bench.run(arguments(tmp_path, *given))["passes"]["deterministic"]
    assert list(row["rivals"]) == ["serial", "hand: both", "custom op: both", "graphstreams: search"]
    assert not on_cpu.plans


@pytest.mark.filterwarnings("ignore")
def test_fast_kernels_and_max_autotune_are_columns_if_asked_for(
    on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "autotuned", lambda module, settings: module)
    given = ["--workloads", "block", "--settings", "default", "--hand", "--custom", "--own", "fast", "--autotuned"]
    (row,) = bench.run(arguments(tmp_path, *given))["passes"]["default"]
    assert list(row["rivals"]) == ["serial", "max-autotune", "graphstreams: fast"]
    header = next(line for line in (tmp_path / "bench.md").read_text().splitlines() if line.startswith("| workload"))
    assert "Inductor, max-autotune" in header and "graphstreams, fast kernels" in header
    assert row["rivals"]["max-autotune"]["difference"] == 0.0 < row["rivals"]["graphstreams: fast"]["difference"]
    assert "### Against serial Inductor at its best" in (tmp_path / "bench.md").read_text()
    assert "### Largest difference from serial" in (tmp_path / "bench.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_max_autotune_is_never_dropped_without_a_word(
    on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(module: Any, settings: Any) -> Any:
        raise RuntimeError("no template compiles")

    monkeypatch.setattr(bench, "autotuned", failing)
    given = ["--settings", "default", "--hand", "--custom", "--own", "fast", "--autotuned"]
    for limit, text in (("1000", "no template compiles"), ("1e-9", "s had passed")):
        bench.run(arguments(tmp_path, *given, "--limit", limit))
        table = (tmp_path / "bench.md").read_text().split("### Against serial Inductor at its best")[1].split("How many")[0]
        lines = table.strip().splitlines()[2:]
        assert len(lines) == 2 and all(text in line for line in lines)
        assert all({*line.replace(" ", "").strip("|").split("|")[3:]} == {"-"} for line in lines)  # no ratio


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("replays", ["0", "7"])
def test_all_variants_are_timed_on_the_first_inputs(
    on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replays: str
) -> None:
    timed = []

    def times(functions: Sequence[Any], rounds: int, repeats: int, *_: Any) -> list[list[float]]:
        variants = [f.__self__ for f in functions if isinstance(getattr(f, "__self__", None), CpuVariant)]
        timed.append([torch.equal(variant.inputs[0], hidden) for variant in variants])
        return [[10.0] * rounds for _ in functions]

    hidden = deepseek_workloads.Workload(TINY, True).make()[1](0)[0]
    monkeypatch.setattr(timing, "times_in_turns", times)
    bench.run(arguments(tmp_path, "--workloads", "layer", "--settings", "deterministic", "--replays", replays))
    # Replays of three captures, direct launches, and their host times, of serial, three by hand, the operators, two of ours.
    assert timed == [[True] * 7] * (3 + 2)


@pytest.mark.filterwarnings("ignore")
def test_a_workload_that_fails_stops_no_other(on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deepseek_workloads.Workload.make

    def make(self: Any) -> Any:
        if not self.whole:
            raise torch.OutOfMemoryError("too large")
        return real(self)

    monkeypatch.setattr(deepseek_workloads.Workload, "make", make)
    result = bench.run(arguments(tmp_path, "--settings", "deterministic"))
    first, second = result["passes"]["deterministic"]
    assert first["failed"] == "OutOfMemoryError: too large"
    assert "failed" not in second


@pytest.mark.filterwarnings("ignore")
def test_a_serial_compile_that_fails_fails_the_workload(
    on_cpu: CpuReplayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(module: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", failing)
    result = bench.run(arguments(tmp_path, "--settings", "default"))
    assert [row["failed"] for row in result["passes"]["default"]] == ["RuntimeError: RuntimeError: no compiler"] * 2
    assert "no compiler" in report(result)


def test_after_the_limit_nothing_is_started(on_cpu: CpuReplayer, tmp_path: Path) -> None:
    result = bench.run(arguments(tmp_path, "--limit", "1e-9"))
    rows = [row for rows in result["passes"].values() for row in rows]
    assert len(rows) == 4
    assert all(row["failed"].startswith("not run") for row in rows)
