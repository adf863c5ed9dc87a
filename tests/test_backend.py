"""Check the backend and the pass under torch.compile: the CPU's graphs stay as they are, and offline a GPU is described."""

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

import graphstreams
import graphstreams.rewriting.regions as regions
from graphstreams import GraphstreamsError, OptionError, Options, StreamPass
from graphstreams.backend import _with_verdict
from graphstreams.inductor import conformance, wrapper_lines
from graphstreams.pipeline.explain import capture
from graphstreams.reports.folder import MARK
from graphstreams.reports.report import FILES, Report
from graphstreams.verification.wrapper.read import verify
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs


@pytest.fixture(autouse=True)
def fresh_dynamo(monkeypatch):
    monkeypatch.delenv("GRAPHSTREAMS_DISABLE", raising=False)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


def two_arms(x, y):
    return (x @ y).relu(), y @ x


INPUTS = torch.arange(16.0).reshape(4, 4), torch.eye(4) * 2


def compiled(**settings):
    with torch.no_grad():
        return torch.compile(two_arms, backend="graphstreams", **settings)(*INPUTS)


def assert_right(outputs):
    for found, expected in zip(outputs, two_arms(*INPUTS), strict=True):
        torch.testing.assert_close(found, expected)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "graphstreams" and r.levelno >= logging.WARNING]


def test_torch_finds_the_backend_by_name_without_an_import():
    code = "import sys, torch; b = torch._dynamo.list_backends(); print('graphstreams' in b, 'graphstreams' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"]


def test_a_cpu_graph_runs_serially_with_one_warning_that_says_why(caplog):
    assert_right(compiled())
    (message,) = warnings_of(caplog)
    assert "runs serially: read: it has no CUDA tensors" in message


def test_strict_raises_the_stage_and_the_reason():
    with pytest.raises(Exception, match="read: it has no CUDA tensors") as raised:
        compiled(options={"strict": True})
    assert GraphstreamsError.__name__ in f"{type(raised.value)} {raised.value!r} {raised.value.__cause__!r}"


def test_disabled_it_is_silent_and_right(monkeypatch, caplog):
    monkeypatch.setenv("GRAPHSTREAMS_DISABLE", "1")
    assert_right(compiled(options={"strict": True}))
    assert warnings_of(caplog) == []


def test_one_stream_is_silent_and_right(caplog):
    assert_right(compiled(options={"streams": 1, "strict": True}))
    assert warnings_of(caplog) == []


def test_inductors_own_options_and_passes_reach_it():
    seen = []
    assert_right(compiled(options={"inductor": {"post_grad_custom_post_pass": seen.append}}))
    assert [type(graph) for graph in seen] == [torch.fx.Graph]


def test_an_unknown_option_of_inductors_is_an_error():
    with pytest.raises(Exception, match="no_such_option"):
        compiled(options={"inductor": {"no_such_option": 1}})


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_inductors_modes_are_accepted(mode):
    assert_right(compiled(mode=mode))


def test_an_unknown_mode_names_those_that_there_are():
    with pytest.raises(Exception, match="reduce-overhead"):
        compiled(mode="fastest")


def test_a_dump_holds_the_reason(tmp_path):
    compiled(options={"dump": str(tmp_path)})
    (report,) = tmp_path.rglob("report.json")
    assert "it has no CUDA tensors" in report.read_text()


def test_a_dump_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    assert_right(compiled(options={"dump": str(file)}))
    (told,) = [message for message in warnings_of(caplog) if "its report is not written" in message]
    assert str(file) in told
    assert file.read_text() == ""


def test_a_dump_that_fails_is_a_warning(tmp_path, caplog, monkeypatch):
    def broken(report):
        raise RecursionError("too deep")

    monkeypatch.setitem(FILES, "report.html", broken)
    assert_right(compiled(options={"dump": str(tmp_path)}))
    (told,) = [message for message in warnings_of(caplog) if "its report is not written" in message]
    assert told.endswith("RecursionError: too deep")


def test_a_dump_into_the_folder_of_another_process_has_its_own(tmp_path):
    """The parent of this process runs, and has written a report of the same name."""
    done = StreamPass({"dump": str(tmp_path)})._done
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / MARK).write_text(f"{socket.gethostname()} {os.getppid()}")
    done(Report("g", "serial", "why", "plan"))
    assert [path.parent.name for path in tmp_path.rglob("report.json")] == [f"g.process{os.getpid()}"]


def test_training_stays_serial_and_right(caplog):
    x, y = (value.clone().requires_grad_() for value in INPUTS)
    first, second = torch.compile(two_arms, backend="graphstreams")(x, y)
    (first.sum() + second.sum()).backward()
    expected = torch.autograd.grad(sum(value.sum() for value in two_arms(x, y)), [x, y])
    torch.testing.assert_close([x.grad, y.grad], list(expected))
    (message,) = warnings_of(caplog)
    assert message.startswith("graphstreams: ") and "it records gradients" in message and "torch.inference_mode()" in message


def test_the_pass_in_plain_inductor_leaves_a_cpu_graph_right(caplog):
    stream_pass = StreamPass()
    with torch.no_grad():
        function = torch.compile(two_arms, options={"post_grad_custom_post_pass": stream_pass})
        assert_right(function(*INPUTS))
    (report,) = stream_pass.reports
    assert (report.verdict, report.stage) == ("serial", "read")
    assert len(warnings_of(caplog)) == 1


def test_the_pass_takes_options_as_a_mapping_or_as_options():
    assert StreamPass({"streams": 2}).options == StreamPass(Options(streams=2)).options
    assert StreamPass().options == Options()


def test_the_uuid_is_stable_and_changes_with_what_decides(monkeypatch, tmp_path):
    profile = tmp_path / "costs.json"
    profile.write_text("{}")
    passes = [StreamPass(), StreamPass({"streams": 2}), StreamPass({"costs": str(profile)}), StreamPass({}, ["x"])]
    uuids = [p.uuid() for p in passes]
    assert len(set(uuids)) == len(uuids)
    assert StreamPass().uuid() == uuids[0]
    profile.write_text("{ }")
    assert passes[2].uuid() != uuids[2]
    monkeypatch.setenv("GRAPHSTREAMS_DISABLE", "1")
    assert StreamPass().uuid() != uuids[0]


def test_the_uuid_of_fast_kernels_changes_with_whether_they_can_be_measured(monkeypatch):
    passes = [StreamPass({"kernels": kernels}) for kernels in ("exact", "fast")]
    before = [each.uuid() for each in passes]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("graphstreams.pipeline.fast_kernels.several_ranks", lambda: False)
    alone = [each.uuid() for each in passes]
    monkeypatch.setattr("graphstreams.pipeline.fast_kernels.several_ranks", lambda: True)
    exact, fast = zip(before, alone, [each.uuid() for each in passes], strict=True)
    assert len(set(exact)) == 1 and len(set(fast)) == 3


def test_code_is_not_found_again_if_fast_kernels_could_not_be_measured(monkeypatch, tmp_path):
    """Out of memory for once, torch's products would else stay in Inductor's caches for all processes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("graphstreams.backend.use_top_k_kernels", lambda *_, **__: None)
    monkeypatch.setattr("graphstreams.backend.use_fast_kernels", lambda given: decided.pop())

    def passes():
        narrow, wide = [torch.zeros(4, 64)], [torch.zeros(4, 128)]
        fast = [StreamPass({"kernels": "fast"}, ["x"], inputs) for inputs in (narrow, wide)]
        return [*fast, StreamPass({"kernels": "fast"}, ["y"], narrow), StreamPass({}, ["x"], narrow)]

    decided, before = [True], [each.uuid() for each in passes()]
    passes()[0].prepare(torch.fx.symbolic_trace(torch.nn.ReLU()))
    assert [each.uuid() for each in passes()] == before
    for _ in range(2):  # what the second failure leaves is not found either
        decided.append(False)
        passes()[0].prepare(torch.fx.symbolic_trace(torch.nn.ReLU()))
        after = [each.uuid() for each in passes()]
        assert after[0] != before[0] and after[1:] == before[1:]
        assert after == [each.uuid() for each in passes()]
        before = after


def test_the_uuid_changes_with_what_a_plan_holds_and_without_it_nothing_is_cached(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "kernels": [{"name": "wa", "stream": 0}]}')
    stream_pass = StreamPass({"plan": str(plan)})
    before = stream_pass.uuid()
    assert before not in (None, StreamPass().uuid())
    assert StreamPass({"plan": [str(plan)]}).uuid() == before
    plan.write_text('{"version": 1, "kernels": [{"name": "wa", "stream": 1}]}')
    assert stream_pass.uuid() not in (None, before)
    plan.unlink()
    assert stream_pass.uuid() is None


def hits(function, inputs, **options):
    """Compile and call, and return how many graphs Inductor's cache and AOTAutograd's gave."""
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        torch.compile(function, backend="graphstreams", options=options)(*inputs)
    return counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"]


def test_what_is_in_a_cache_is_not_taken_for_a_plan_that_has_changed(tmp_path):
    plan = tmp_path / "plan.json"
    with torch._inductor.config.patch(force_disable_caches=False), fresh_cache():
        for stream in (0, 1):
            plan.write_text(json.dumps({"version": 1, "kernels": [{"name": "a", "stream": stream}]}))
            assert hits(two_arms, INPUTS, plan=str(plan)) == (0, 0)
            assert hits(two_arms, INPUTS, plan=str(plan)) == (1, 1)


def test_nor_for_other_pins_or_a_module_with_another_mark():
    module, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), (INPUTS[0],)
    with torch._inductor.config.patch(force_disable_caches=False), fresh_cache():
        for pins in ({}, {"0": 1}):
            assert (hits(module, x, pin=pins), hits(module, x, pin=pins)) == ((0, 0), (1, 1))
        for stream in (0, 1):
            graphstreams.pin(module[1], stream)
            assert (hits(module, x), hits(module, x)) == ((0, 0), (1, 1))


def test_the_log_says_how_to_keep_the_plan_of_a_report_that_was_written(tmp_path, caplog):
    caplog.set_level(logging.INFO, "graphstreams")
    report = captured("diamond").report
    done = StreamPass({"dump": str(tmp_path)})._done
    done(report)
    done(Report("g", "serial", "why", "plan"))
    file = tmp_path / report.name / "plan.json"
    kept = [message for message in caplog.messages if "to keep this plan" in message]
    assert kept == [f'graphstreams: {report.name}: to keep this plan: options={{"plan": "{file}"}}']
    assert StreamPass(json.loads(kept[0].partition("options=")[2])).options.plan == (str(file),)


def test_without_its_profile_a_graph_is_not_cached_and_the_report_says_why(tmp_path):
    profile = tmp_path / "costs.json"
    profile.write_text('{"unit": "us", "kernels": []}')
    stream_pass = StreamPass({"costs": str(profile)})
    assert stream_pass.uuid() is not None
    profile.unlink()
    assert stream_pass.uuid() is None
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", stream_pass.options)
    assert (outcome.report.verdict, outcome.report.stage) == ("refused", "price")
    assert "costs.json" in outcome.report.reason


def offline(sample="diamond"):
    (outcome,) = capture(*module_and_inputs(sample), "h200", FREE_EVENTS)
    return outcome


def raising(*_args, **_kwargs):
    raise KeyError("planted")


@pytest.mark.parametrize(
    ("function", "stage"),
    [
        ("pipeline.run.read", "read"),
        ("pipeline.select_plan.cost_model", "price"),
        ("planning.modelled_plan.search_on_simulator", "plan"),
        ("pipeline.select_plan.check_plan", "plan"),
        ("pipeline.run.rewrite", "rewrite"),
        ("pipeline.streamed_body.find_races", "verify"),
    ],
)
def test_a_stage_that_fails_is_named_and_leaves_the_graph_serial(monkeypatch, function, stage):
    monkeypatch.setattr(f"graphstreams.{function}", raising)
    outcome = offline()
    assert (outcome.report.verdict, outcome.report.stage) == ("refused", stage)
    assert "KeyError: 'planted'" in outcome.report.reason
    assert outcome.module is None


def test_values_that_are_freed_too_early_are_refused(monkeypatch):
    monkeypatch.setattr(regions, "held_values", lambda *_: {})
    report = offline("norms").report
    refused, *_ = report.notes
    assert refused.startswith("the first plan, ") and "is not used: the generated wrapper has " in refused
    assert " races, the first: line " in refused and " frees; nothing makes " in refused
    # What runs in its place is another plan, which holds nothing for another stream.
    assert report.verdict == "clean" and not report.races and verify(report.wrapper) == []


def test_a_wait_that_is_lost_is_refused(monkeypatch):
    def lost(node):
        text = emit(node)
        return "" if text and ".wait(" in text else text

    emit = wrapper_lines.stream_operation_line
    monkeypatch.setattr(wrapper_lines, "stream_operation_line", lost)
    report = offline().report
    assert (report.verdict, report.stage) == ("refused", "verify")


def test_kernels_in_another_order_than_planned_are_refused(monkeypatch):
    planned = conformance.planned_steps
    monkeypatch.setattr(conformance, "planned_steps", lambda *a: {s: list(reversed(own)) for s, own in planned(*a).items()})
    report = offline().report
    assert (report.verdict, report.order_kept) == ("refused", False)
    assert "does not keep the plan's order" in report.reason


def test_too_small_a_gain_is_serial_and_says_so():
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", {**FREE_EVENTS, "min_gain": 0.9})
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "plan")
    assert "less than min_gain=90.0%" in outcome.report.reason


@pytest.mark.parametrize(("limit", "verdict"), [(3, "serial"), (4, "clean")])
def test_more_tokens_than_the_limit_stay_serial(limit, verdict):
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", {**FREE_EVENTS, "max_tokens": limit})
    assert outcome.report.verdict == verdict


def test_a_chain_has_nothing_to_gain():
    chain = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    (outcome,) = capture(chain, (torch.empty(2, 8),), "h200", FREE_EVENTS)
    assert outcome.report.verdict == "serial"
    assert "chain" in outcome.report.reason


def test_one_stream_is_the_reason_where_it_was_asked_for():
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", {**FREE_EVENTS, "streams": 1})
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "plan")
    assert "streams" in outcome.report.reason and "chain" not in outcome.report.reason


def test_no_plan_has_more_streams_than_allowed():
    module, inputs = module_and_inputs("three_arms")
    (outcome,) = capture(module, inputs, "h200", {**FREE_EVENTS, "streams": 2})
    assert outcome.report.plan.streams == 2
    assert captured("three_arms").report.plan.streams == 3


def test_costs_come_from_a_profile_that_names_the_kernels(tmp_path):
    names = [k.name for k in captured("diamond").reading.kernels.kernels]
    profile = tmp_path / "us.json"
    kernels = [{"id": name, "us": 10.0 + i} for i, name in enumerate(names)]
    profile.write_text(json.dumps({"unit": "us", "kernels": kernels}))
    module, inputs = module_and_inputs("diamond")
    (outcome,) = capture(module, inputs, "h200", replace(Options(**FREE_EVENTS), costs=str(profile)))
    assert outcome.report.us == tuple(10.0 + i for i in range(len(names)))


def test_a_profile_without_a_kernel_is_refused_with_the_nearest_name(tmp_path):
    profile = tmp_path / "us.json"
    profile.write_text('{"unit": "us", "kernels": [{"id": "wa", "us": 1.0}]}')
    module, inputs = module_and_inputs("diamond")
    (outcome,) = capture(module, inputs, "h200", {**FREE_EVENTS, "costs": str(profile)})
    assert (outcome.report.verdict, outcome.report.stage) == ("refused", "price")
    assert "'wa'" in outcome.report.reason


def test_a_dump_is_no_part_of_the_key_of_a_cache(tmp_path):
    assert StreamPass({"dump": str(tmp_path)}).uuid() == StreamPass().uuid() is not None


@pytest.mark.parametrize("source", ["x = " + "-" * 100_000 + "1", "x = '\0'", "x = ("])
def test_code_that_cannot_be_parsed_runs_as_it_is(source):
    assert _with_verdict(source, Report("graph", "serial", "why", "read")) == (source, ())


def test_settings_of_inductors_reach_it_from_the_top_level_too():
    seen = []
    assert_right(compiled(options={"post_grad_custom_post_pass": seen.append, "mode": "max-autotune-no-cudagraphs"}))
    assert [type(graph) for graph in seen] == [torch.fx.Graph]


def test_a_backend_with_options_checks_them_at_once_and_compiles():
    with pytest.raises(OptionError, match="did you mean 'streams'"):
        graphstreams.backend(stream=3)
    with pytest.raises(OptionError, match="unknown mode"):
        graphstreams.backend(mode="fastest")
    with torch.no_grad():
        assert_right(torch.compile(two_arms, backend=graphstreams.backend(streams=3, mode="default"), name="mine")(*INPUTS))
    assert graphstreams.reports("mine")


def test_backends_with_equal_options_are_equal_so_that_torch_does_not_compile_again():
    one, same, other = (graphstreams.backend(streams=n) for n in (3, 3, 2))
    assert one == same and hash(one) == hash(same) and one != other
    assert repr(one) == "graphstreams.backend(streams=3)"


def test_what_the_compile_is_given_wins_over_the_backends_options():
    with pytest.raises(Exception, match="read: it has no CUDA tensors"), torch.no_grad():
        torch.compile(two_arms, backend=graphstreams.backend(strict=False), options={"strict": True})(*INPUTS)


def test_a_keyword_of_a_newer_torch_is_a_warning(caplog):
    def newer(gm, inputs):
        return graphstreams.graphstreams(gm, inputs, dynamism=3)

    with torch.no_grad():
        assert_right(torch.compile(two_arms, backend=newer)(*INPUTS))
    assert "graphstreams: torch.compile passes 'dynamism', which is not known here and does nothing" in warnings_of(caplog)


@pytest.mark.parametrize(
    ("strict", "verdict", "raises"),
    [
        (True, "serial", True), (True, "refused", True), ("refused", "serial", False), ("refused", "refused", True),
        (False, "refused", False), (True, "clean", False),
    ],
)  # fmt: skip
def test_strict_tells_refused_graphs_from_those_that_gain_nothing(strict, verdict, raises):
    report = Report("0_inference", verdict, "" if verdict == "clean" else "why", "plan")
    done = StreamPass({"strict": strict})._done
    if raises:
        with pytest.raises(GraphstreamsError, match="0_inference runs serially: plan: why"):
            done(report)
    else:
        done(report)


def test_the_function_that_makes_backends_is_one_too(caplog):
    with torch.no_grad():
        assert_right(torch.compile(two_arms, backend=graphstreams.backend)(*INPUTS))
    assert "runs serially: read: it has no CUDA tensors" in warnings_of(caplog)[0]
    with pytest.raises(OptionError, match=r"takes options by name, as in backend\(streams=3\), not "):
        graphstreams.backend({"streams": 3})
