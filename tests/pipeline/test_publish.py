"""Check that reports are where they are looked for: in a dump, in the structured trace, and of graphs from caches too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import graphstreams
from graphstreams import StreamPass, backend
from graphstreams.pipeline import publish
from graphstreams.pipeline.publish import cached_report, keep_report
from graphstreams.reports.kept import SUFFIX
from graphstreams.reports.report import FILES, Report
from graphstreams.runtime import verdicts
from graphstreams.runtime.verdicts import Verdict
from tests.support.cpu_backend import Mix, as_on_a_gpu
from tests.support.sample_modules import captured

ROOT = Path(__file__).parents[2]
LINE = "Mix: 0_inference runs serially: read: it has no CUDA tensors: only kernels on a GPU run on streams"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the caches of this process in a folder of the test's."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "caches"))
    with torch._inductor.config.patch(force_disable_caches=False):
        return tmp_path / "caches" / "graphstreams" / "reports"


def compiled(caches: Path, *dump: Path) -> dict[str, Any]:
    """Compile a model in a process of its own, and return what that prints."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(caches), "TORCH_TRACE": str(caches / "trace")}
    command = [sys.executable, "-m", "tests.support.cpu_backend", *map(str, dump)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return {"stderr": done.stderr, **json.loads(done.stdout.splitlines()[-1])}


def artifacts(folder: Path) -> list[tuple[str, str, str]]:
    """Return name, encoding and text of each artifact of ours in the only trace of a folder, which is left empty.

    A line that begins with a tab is a line of the text of the record above it.
    """
    (file,) = folder.glob("*.log")
    found: list[tuple[str, str, list[str]]] = []
    ours = False
    for line in file.read_text(encoding="utf-8").split("\n"):
        if line.startswith("\t"):
            if ours:
                found[-1][2].append(line[1:])
        else:
            record = json.loads(line.partition("] ")[2]) if '"artifact"' in line else {}
            ours = record.get("artifact", {}).get("name", "").startswith("graphstreams_")
            if ours:
                assert record["frame_id"] is not None
                found.append((record["artifact"]["name"], record["artifact"]["encoding"], []))
    file.unlink()
    return [(name, encoding, "\n".join(text)) for name, encoding, text in found]


def test_a_second_process_finds_the_graph_in_a_cache_and_writes_its_report(tmp_path: Path) -> None:
    """The first one has no `dump`: what it keeps is enough."""
    first = compiled(tmp_path)
    assert first["same"] and first["lines"] == [LINE]
    assert (first["hits"], first["bypassed"]) == (0, 0)
    (told,) = artifacts(tmp_path / "trace")
    second = compiled(tmp_path, tmp_path / "dump")
    assert second["same"] and second["lines"] == [f"{LINE} (from a cache)"] and second["lines"][0] in second["stderr"]
    assert second["hits"] > 0 and second["bypassed"] == 0
    assert second["files"] == ["0_inference/.process", "0_inference/report.html", "0_inference/report.json"]
    data = json.loads((tmp_path / "dump" / "0_inference" / "report.json").read_text())
    assert data["from_cache"] and "found in a cache" in data["notes"][-1]
    (again,) = artifacts(tmp_path / "trace")
    assert again[:2] == told[:2] == ("graphstreams_report", "json") and json.loads(again[2]) == data
    assert {**json.loads(told[2]), "from_cache": True, "notes": data["notes"]} == data


def test_a_dump_is_written_again_of_a_graph_that_this_process_has_compiled(caches: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        torch._dynamo.reset()
        with as_on_a_gpu(), torch.inference_mode(), torch._inductor.config.patch(force_disable_caches=False):
            options = {"dump": str(tmp_path / folder)}
            torch.compile(Mix(), backend="graphstreams", options=options)(torch.ones(4, 8))
    (first,), (second,) = ((tmp_path / folder).rglob("report.json") for folder in ("one", "two"))
    one, two = (json.loads(path.read_text()) for path in (first, second))
    assert (one["from_cache"], two["from_cache"]) == (False, True)
    assert one["name"] == two["name"] and one["reason"] == two["reason"]


def test_a_graph_that_is_skipped_for_a_reason_carries_it_into_the_caches(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph of a GPU with a size that depends on data, or with a setting that streams don't bear."""
    model, x = Mix(), torch.ones(4, 8)
    said = []
    with as_on_a_gpu(), monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(backend, "_why_not", lambda gm, is_inference: "it is odd")  # a patch over one of `as_on_a_gpu`
        patch.setattr(backend, "_has_cuda", lambda gm, key: True)
        for _ in range(2):  # in the second the thread has forgotten what it compiled, as another process has
            torch._dynamo.reset()
            patch.setattr(verdicts, "_said", [])
            patch.setattr(verdicts, "_known", set())
            before = counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"]
            torch.compile(model, backend="graphstreams")(x)
            hits = counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"] - before
            said.append((hits > 0, [(verdict.stage, verdict.reason) for verdict in graphstreams.reports()]))
    assert said == [(False, [("read", "it is odd")]), (True, [("read", "it is odd")])]


def test_branches_of_a_condition_are_no_graphs_of_their_own(caches: Path) -> None:
    def choose(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: y.sin() + 1, lambda y: y.cos() * 2, (x,))  # type: ignore[no-any-return]

    before = len(graphstreams.reports())
    with torch.inference_mode():
        torch.compile(choose, backend="graphstreams")(torch.ones(8))
    assert len(graphstreams.reports()) == before + 1


def test_a_pass_of_plain_inductor_writes_what_comes_from_a_cache_too(caches: Path, tmp_path: Path) -> None:
    """The third compile, with the pass of the second, writes the report once more, into the same folder."""
    passes = [StreamPass({"dump": str(tmp_path / name)}) for name in ("one", "two")]
    for each in (*passes, passes[1]):
        torch._dynamo.reset()
        with as_on_a_gpu(), torch.inference_mode(), torch._inductor.config.patch(force_disable_caches=False):
            torch.compile(Mix(), options={"post_grad_custom_post_pass": each})(torch.ones(4, 8))
    found = [[json.loads(path.read_text()) for path in (tmp_path / name).rglob("report.json")] for name in ("one", "two")]
    assert [[report["from_cache"] for report in reports] for reports in found] == [[False], [True]]
    assert [len(each.reports) for each in passes] == [1, 0]


def test_the_report_on_a_graph_on_streams_has_all_its_files(caches: Path, tmp_path: Path) -> None:
    report = replace(captured("diamond").report, graph_key="a")
    keep_report(report)
    found = cached_report(report.as_verdict())
    assert found == replace(report, from_cache=True, notes=(*report.notes, found.notes[-1]))
    publish.publish(found, str(tmp_path))
    assert {path.name for path in (tmp_path / report.name).iterdir()} == {*FILES, ".process"}


def test_without_the_kept_report_what_the_line_says_is_written(caches: Path) -> None:
    verdict = Verdict(
        "g", "clean", streams=3, serial_us=10.0, streamed_us=8.0, kernels_serial=4, kernels_streamed=5, report_key="k"
    )
    report = cached_report(verdict)
    assert (report.name, report.verdict, report.kernels_serial, report.kernels_streamed) == ("g", "clean", 4, 5)
    assert str(verdict) in report.notes[0] and str(caches) in report.notes[0]
    serial = cached_report(Verdict("g", "serial", "read", "why"))
    assert (serial.verdict, serial.stage, serial.reason) == ("serial", "read", "why")


def test_nothing_is_kept_where_nothing_is_cached(caches: Path) -> None:
    report = Report("g", "serial", graph_key="a")
    with torch._inductor.config.patch(force_disable_caches=True):
        keep_report(report)
    assert not caches.exists()
    keep_report(report)
    assert [path.suffix for path in caches.rglob("*.*")] == [SUFFIX]


def test_a_folder_that_can_not_be_written_is_no_error(caches: Path) -> None:
    caches.parent.mkdir(parents=True)
    caches.write_text("a file")
    keep_report(Report("g", "serial", graph_key="a"))


def listed_by_tlparse(folder: Path) -> dict[str, str]:
    """Return name and text of each file of ours that the index lists which tlparse makes of the only trace of a folder."""
    (log,) = folder.glob("*.log")
    out = folder / "tlparse"
    command = [Path(sys.executable).with_name("tlparse"), log, "--no-browser", "-o", out]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    links = re.findall(r'<a href="([^"]*/(graphstreams_\w+?)_\d+\.(\w+))"', (out / "index.html").read_text(encoding="utf-8"))
    return {f"{name}.{kind}": (out / path).read_text(encoding="utf-8") for path, name, kind in links}


TRACED = """
from tests.support.sample_modules import compiled_by_pass
print(compiled_by_pass("three_arms")[0].verdict)
"""


def test_the_trace_of_a_graph_has_its_report_plan_and_code(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_TRACE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TRACED], env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split() == ["clean"]
    listed = listed_by_tlparse(tmp_path)
    report, plan, graph = artifacts(tmp_path)
    assert report[:2] == ("graphstreams_report", "json") and json.loads(report[2])["verdict"] == "clean"
    assert plan[:2] == ("graphstreams_plan", "string") and "predicted: " in plan[2]
    assert graph[:2] == ("graphstreams_graph", "string") and "# ==== " in graph[2] and "def forward(" in graph[2]
    assert json.loads(listed.pop("graphstreams_report.json")) == json.loads(report[2])  # tlparse sorts the keys
    assert listed == {"graphstreams_plan.txt": plan[2], "graphstreams_graph.txt": graph[2]}
