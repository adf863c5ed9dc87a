"""Check the benchmark of prefetches in whole layers: its variants, its plans, which graphstreams takes, and its tables."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_prefetch_layers
import deepseek_v32
import prefetch_layers
import pytest
import torch
from prefetch_layers import CONTROL, LAUNCHED, WITHOUT, WithPlaces, with_prefetches
from torch._inductor import config

from graphstreams.inductor.prefetch import PrefetchPass, Rule
from graphstreams.ir.plan_file import PlanFile, PlannedKernel
from graphstreams.kernels.prefetch import Prefetch
from graphstreams.pipeline.compilation import GraphCompilation
from graphstreams.pipeline.explain import capture
from graphstreams.planning.list_schedule import plan_kernels
from tests.support.benchmark_on_cpu import ENVIRONMENT, GRAPH, CpuVariant, replace_gpu

FORM = Prefetch("load", 96, 8, 32_768)


@functools.cache
def planned(behind: Any, plan: str = "") -> GraphCompilation:
    """Return V3.2's layer with prefetches by a rule, None for none, and the plan of a file, if one is given."""
    layer = deepseek_v32.Config(tp=8)
    module, inputs = deepseek_v32.build(layer, "meta"), deepseek_v32.example_inputs(layer, "meta")
    wrapped = WithPlaces(module, FORM, 0 if behind is None else prefetch_layers.PLACES)
    rule = None if behind is None else Rule(FORM, 30_000_000, behind=behind)
    options = {"plan": plan, "streams": prefetch_layers.STREAMS, "strict": True} if plan else {}
    with torch.no_grad(), config.patch(post_grad_custom_post_pass=PrefetchPass(rule)):
        (found,) = capture(wrapped, inputs, "h200", options)
    return found


def plan_of(found: GraphCompilation) -> PlanFile:
    assert found.report.plan is not None and found.report.kernels is not None
    return PlanFile.of(found.report.plan, found.report.kernels)


@pytest.mark.parametrize(("behind", "count"), [("top-k", 1), ("product", 4)])
def test_a_plan_with_prefetches_is_the_plan_without_and_a_stream_more(behind: Any, count: int, tmp_path: Path) -> None:
    plan, searched = plan_of(planned(None)), plan_of(planned(behind))
    given = with_prefetches(plan, searched)
    own = [each for each in given.kernels if each.name.endswith(LAUNCHED)]
    assert {each.stream for each in own} == {1 + max(each.stream for each in plan.kernels)} and len(own) == count
    launches = {each.name: sorted(each.launches or ()) for each in searched.kernels}
    others = [(each.stream, launches[each.name]) for each in given.kernels if each not in own]
    assert others == [(each.stream, sorted(each.launches or ())) for each in plan.kernels]
    names = [each.name for each in given.kernels]
    assert all(names.index(each.name) < names.index(each.name.partition(f".{LAUNCHED}")[0]) for each in own)
    file = tmp_path / "given.json"
    file.write_text(given.dumps())
    report = planned(behind, str(file)).report
    assert report.verdict == "clean" and report.plan_file == str(file)
    assert [(each.name, each.stream) for each in report.plan.placements] == [(each.name, each.stream) for each in given.kernels]


def test_a_plan_of_other_kernels_is_refused() -> None:
    plan = plan_of(planned(None))
    with pytest.raises(ValueError, match="other kernels differ"):
        with_prefetches(replace(plan, kernels=plan.kernels[1:]), plan_of(planned("top-k")))


def test_variants_have_names_of_their_own() -> None:
    arguments = bench_prefetch_layers.parse_args([])
    found = prefetch_layers.variants_of(arguments)
    assert len({each.name for each in found}) == len(found) == 3 * (2 * 2 + 1)
    assert [each.rule.form.programs for each in found if each.searched] == [96] * 3
    assert found[0].searched and found[1].rule.behind == found[0].rule.behind


def test_a_layer_is_measured_with_every_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace_gpu(monkeypatch)
    prefetch = PlannedKernel(f"k1.{LAUNCHED}", 1, (), (LAUNCHED,), 0)
    plain = tuple(replace(each, launches=("extern_kernels.mm",)) for each in GRAPH.kernels)
    given: list[PlanFile] = []

    def compiled(module: Any, backend: str = "inductor", options: Any = None) -> Any:
        if backend == "graphstreams":
            plan = PlanFile.of(plan_kernels(GRAPH, [1.0] * 4, 2), replace(GRAPH, kernels=plain))
            if options["inductor"]["post_grad_custom_post_pass"].rule is not None:
                plan = replace(plan, kernels=(prefetch, *plan.kernels))
            if "plan" in options:
                plan = PlanFile.loads(Path(options["plan"]).read_text())
                given.append(plan)
            folder = Path(options["dump"]) / "0_inference"
            folder.mkdir()
            report = {"verdict": "clean", "reason": "", "streams": 3, "kernels_streamed": 5, "kernels_serial": 5}
            (folder / "report.json").write_text(json.dumps(report))
            (folder / "plan.json").write_text(plan.dumps())
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(prefetch_layers, "CompiledVariant", CpuVariant)
    module = torch.nn.Linear(4, 4).requires_grad_(False)
    layer = ("a layer", lambda: (module, lambda seed: [torch.full((2, 4), float(seed))]))
    monkeypatch.setitem(prefetch_layers.LAYERS, "v32-tp8-1", layer)
    monkeypatch.setattr(bench_prefetch_layers, "environment", lambda: {**ENVIRONMENT, "command": "?"})
    result = bench_prefetch_layers.run(bench_prefetch_layers.parse_args(["--out", str(tmp_path), "--rounds", "5"]))
    (row,) = result["rows"]
    assert "failed" not in row and not row["left_out"]
    assert len(row["variants"]) == 3 + 3 * (2 * 2 + 1)
    assert all(not each.get("failed") and each["graph"] for each in row["variants"].values())
    assert [len(plan.kernels) for plan in given] == [4] + [5] * 12  # that of the control, and those with a prefetch
    assert "serial's" in (tmp_path / "prefetch_layers.md").read_text()


def test_gains_are_against_the_plan_without_prefetches() -> None:
    def record(us: float, **more: Any) -> dict[str, Any]:
        return {"graph": {"median": us, "first_quartile": us, "third_quartile": us}, **more}

    variants = {
        "serial": record(150.0), WITHOUT: record(100.0, wrong={"graph": 0}), CONTROL: record(101.0, wrong={"graph": 0}),
        "better": record(80.0, wrong={"graph": 2}), "none": {"failed": "RuntimeError: no"},
    }  # fmt: skip
    row = {"name": "one", "title": "a layer", "variants": variants, "left_out": ["late"]}
    assert [line[1:] for line in bench_prefetch_layers.table_rows(row)] == [
        ["better", "80.00 (80.00..80.00)", "20.00", "1.250x", "2 runs other"],
        [WITHOUT, "100.00 (100.00..100.00)", "0.00", "1.000x", "serial's"],
        [CONTROL, "101.00 (101.00..101.00)", "-1.00", "0.990x", "serial's"],
        ["serial", "150.00 (150.00..150.00)", "-50.00", "0.667x", "-"],
        ["none", "failed: RuntimeError: no", "-", "-", "-"],
    ]
    machine = {name: name for name in ("device", "driver", "cuda", "torch", "triton", "python", "date", "command")}
    rows = [row, {"title": "another", "failed": "RuntimeError: nothing"}]
    text = bench_prefetch_layers.tables({**machine, "rounds": 40, "captures": 5, "replays": 10, "rows": rows})
    assert "left out because time was up: late" in text and "another failed: RuntimeError: nothing" in text


@pytest.mark.parametrize("given", [["--programs", "0"], ["--megabytes", "0"], ["--rounds", "1"], ["--replays", "0"]])
def test_the_command_line_refuses_what_cannot_run(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        bench_prefetch_layers.parse_args(given)


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_prefetch_layers.main([]) == 2
    assert "bench_prefetch_layers needs a CUDA device" in capsys.readouterr().err
