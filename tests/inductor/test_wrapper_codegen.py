"""Check who generates the code of a rewritten graph, what proves it, and what is left if that fails. No GPU."""

from __future__ import annotations

from typing import Any

import pytest
from torch._inductor import config
from torch._inductor.codegen import common
from torch._inductor.codegen import wrapper as inductor
from torch._inductor.virtualized import V

from graphstreams.inductor import wrapper_codegen, wrapper_registry
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS, captured, lowered_with_code, module_and_inputs

SETTINGS = ("reorder_for_peak_memory", "graph_partition", "allow_buffer_reuse", "inplace_buffers")


def settings() -> list[Any]:
    return [getattr(config, name) for name in SETTINGS]


class Other(inductor.PythonWrapperCodegen):
    """Stands for a wrapper class that somebody else has registered."""

    @staticmethod
    def create(*args: Any, **kwargs: Any) -> Any:
        return Other()


@pytest.fixture
def _other(monkeypatch: pytest.MonkeyPatch) -> None:
    common.init_backend_registration()
    monkeypatch.setattr(common.device_codegens["cuda"], "wrapper_codegen", Other)


@pytest.mark.usefixtures("_other")
def test_with_another_wrapper_class_for_cuda_graphs_stay_serial() -> None:
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert "Other" in outcome.report.reason


def test_a_rewritten_graph_gets_no_other_wrapper_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other would drop the mark, and with it the proof, and take its streams from Dynamo's table."""
    module = captured("diamond").module
    assert module is not None
    monkeypatch.setattr(common.device_codegens["cuda"].wrapper_codegen, "before", Other)
    with pytest.raises(RuntimeError, match="whose code cannot be generated"):
        lowered_with_code(module)


@pytest.mark.parametrize("setting", ["cpp_wrapper", "fx_wrapper"])
def test_only_python_wrappers_know_streams(setting: str) -> None:
    with config.patch({setting: True}):
        (outcome,) = capture(*module_and_inputs("diamond"), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert "only Python wrappers know streams" in outcome.report.reason


def test_ahead_of_time_code_is_not_rewritten() -> None:
    """What is proved is Python; AOTInductor would then generate C++ from the same graph."""
    with V.set_aot_compilation(True):
        assert "ahead-of-time" in wrapper_registry.foreign_generator()
    assert wrapper_registry.foreign_generator() == ""


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("planted, in code generation")

    monkeypatch.setattr("torch._inductor.scheduler.Scheduler.codegen", fail)


def test_settings_are_put_back_where_code_generation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    failing(monkeypatch)
    (outcome,) = capture(*module_and_inputs("diamond"), "h200", FREE_EVENTS)
    assert outcome.report.verdict == "refused"
    assert "planted" in outcome.report.reason
    assert settings() == before


def test_a_variable_holds_a_handle_until_another_one_is_assigned_to_it() -> None:
    code: Any = wrapper_codegen.StreamWrapperCodegen.__new__(wrapper_codegen.StreamWrapperCodegen)
    code._handles, code._stream_index = {}, 0

    def holds(line: Any, stream: int = 0) -> bool:
        code._stream_index = stream
        return bool(code._holds_handle(line))

    assert [holds("raw_stream0 = get_raw_stream(0)") for _ in range(3)] == [False, True, True]
    assert [holds("raw_stream = get_raw_stream(0)", stream) for stream in (1, 1, 2, 2, 1)] == [False, True, False, True, False]
    assert holds("raw_stream0 = get_raw_stream(0)")  # the aux streams have another variable
    assert [holds(f"raw_stream = get_raw_stream({device})", 1) for device in (1, 0, 0)] == [False, False, True]
    assert not holds("triton_poi_0.run(buf0, stream=raw_stream)") and not holds(None)
