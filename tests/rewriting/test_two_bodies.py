"""Check wrappers with two bodies: small texts worked out by hand, and what Inductor generates. No GPU."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch
from torch._inductor import config

from graphstreams.errors import CannotJoin
from graphstreams.pipeline.explain import capture
from graphstreams.rewriting.two_bodies import add_lines, join
from graphstreams.rewriting.wrapper_source import Host, find_host
from graphstreams.verification.wrapper.read import read_bodies, verify
from tests.support.sample_modules import FREE_EVENTS, captured, module_and_inputs, split_signs, streamed_text

KERNEL = "{name} = async_compile.triton('{name}', '''\ndef {name}(in_ptr0):\n    {body}\n''', device_str='cuda')"
HEADER = "import torch\nfrom torch._inductor.async_compile import AsyncCompile\nasync_compile = AsyncCompile()\n"
WAIT = "async_compile.wait(globals())\ndel async_compile\n"
CALL = Host("call", ("arg0_1", "arg1_1"), (), ())


def kernel(name: str, body: str) -> str:
    return KERNEL.format(name=name, body=body)


def wrapper(*kernels: str, body: str, name: str = "call", inputs: str = "arg0_1, arg1_1") -> str:
    lines = "\n".join(f"    {line}" for line in (f"{inputs} = args", "args.clear()", *body.split("\n")))
    return f"{HEADER}\n{chr(10).join(kernels)}\n\n{WAIT}\ndef {name}(args):\n{lines}\n"


SERIAL = wrapper(kernel("k_0", "first"), kernel("k_1", "second"), body="k_0.run(arg0_1)\nk_1.run(arg1_1)\nreturn (arg0_1, )")


def test_the_call_chooses_first_and_kernels_with_one_text_are_written_once() -> None:
    streamed = wrapper(
        kernel("k_0", "second"), kernel("k_1", "first"), body="k_0.run(arg1_1)\nk_1.run(arg0_1)\nreturn (arg0_1, )"
    )
    joined = join(SERIAL, streamed, CALL, "False", {})
    assert joined.own_kernels == 0
    body = joined.source[joined.source.index("def call_on_streams") :]
    assert "k_1.run(arg1_1)\n    k_0.run(arg0_1)" in body[: body.index("async_compile.wait")]
    assert (
        "def call(args):\n    if _runs_on_streams(args, False):\n        return call_on_streams(args)\n    arg0_1"
        in joined.source
    )
    assert joined.source.count("async_compile.triton(") == 2
    assert "_settle" not in joined.source


def test_a_kernel_that_only_the_streamed_body_has_gets_a_name_of_its_own_and_is_settled() -> None:
    streamed = wrapper(kernel("k_0", "third"), body="k_0.run(arg1_1)\nk_0_xnumel = 3\nreturn (arg0_1, )")
    joined = join(SERIAL, streamed, CALL, "False", {})
    assert joined.own_kernels == 1
    assert "k_0_streams = async_compile.triton('k_0_streams', '''\ndef k_0_streams(in_ptr0):\n    third" in joined.source
    assert "    k_0_streams.run(arg1_1)\n    k_0_xnumel = 3" in joined.source
    assert "async_compile.wait(globals())\n_settle(k_0_streams)\n" in joined.source
    assert "def call_on_streams(args):\n    _adopt(k_0_streams, k_0)\n" in joined.source
    assert "_settle" not in join(SERIAL, streamed, CALL, "False", {}, settled=False).source


def test_the_likeness_of_an_own_kernel_is_found_if_its_text_has_quotes_of_both_kinds() -> None:
    def sized(body: str) -> str:
        return kernel("k_0", f"size_hints={{'x': 64}}; tl.device_assert(tmp0 < 8, \"index\"); {body}")

    serial = wrapper(sized("first"), body="k_0.run(arg0_1)\nreturn (arg0_1, )")
    streamed = wrapper(sized("second"), body="k_0.run(arg0_1)\nreturn (arg0_1, )")
    assert "    _adopt(k_0_streams, k_0)\n" in join(serial, streamed, CALL, "False", {}).source


def test_lines_of_the_serial_wrapper_are_found_again() -> None:
    streamed = wrapper(kernel("k_0", "third"), body="k_0.run(arg1_1)\nreturn (arg0_1, )")
    joined = join(SERIAL, streamed, CALL, "False", {}, lines=["GRAPHSTREAMS = 'told'"])
    lines = joined.source.split("\n")
    for number, line in enumerate(SERIAL.split("\n"), 1):
        assert lines[number - 1 + sum(count for at, count in joined.added if at <= number)] == line


PARTITION = wrapper(
    kernel("k_0", "first"), body="k_0.run(arg1_1)\nreturn (buf1, arg1_1, buf0, )", name="partition_0", inputs="arg1_1, s7"
) + "\nclass Runner:\n    def call(self, args):\n        arg0_1, arg1_1 = args\n        return ()\n"  # fmt: skip


def test_a_partition_gets_its_own_inputs_and_results_in_its_own_order() -> None:
    host = find_host(PARTITION)
    assert host == Host("partition_0", ("arg1_1", "s7"), ("buf1", "arg1_1", "buf0"), ())
    streamed = wrapper(kernel("k_0", "first"), body="s7 = arg0_1\nk_0.run(arg1_1, s7)\nreturn (buf4, s7, buf9, arg1_1, )")
    joined = join(PARTITION, streamed, host, "False, 'inputs[1]', 8, 0", {"buf1": "buf9", "arg1_1": "arg1_1", "buf0": "buf4"})
    assert (
        "def call_on_streams(args):\n    arg1_1, s7 = args\n    args.clear()\n    k_0.run(arg1_1, s7)\n"
        "    return (buf9, arg1_1, buf4, )\n"
    ) in joined.source
    assert "def partition_0(args):\n    if _runs_on_streams(args, False, 'inputs[1]', 8, 0):" in joined.source


@pytest.mark.parametrize(
    ("streamed", "reason"),
    [
        (wrapper(body="k.run(arg0_1)\nreturn ()", inputs="arg1_1, arg0_1"), "take other inputs"),
        (wrapper("other = something()", body="return ()"), "at the top level"),
        (wrapper("from elsewhere import torch", body="return ()"), "mean different things by 'torch'"),
        (wrapper("def helper(args):\n    pass", body="return ()"), "at the top level"),
    ],
)
def test_what_there_is_no_rule_for_is_not_joined(streamed: str, reason: str) -> None:
    with pytest.raises(CannotJoin, match=reason):
        join(SERIAL, streamed, CALL, "False", {})


def test_a_size_that_only_the_graphs_own_return_reads_is_not_read_on_streams() -> None:
    streamed = wrapper(kernel("k_0", "first"), body="s8 = arg0_1\nk_0.run(arg1_1)\nreturn (buf4, 2*s8, buf9, arg1_1, )")
    joined = join(PARTITION, streamed, find_host(PARTITION), "False", {"buf1": "buf9", "arg1_1": "arg1_1", "buf0": "buf4"})
    assert "def call_on_streams(args):\n    arg1_1, s7 = args\n    args.clear()\n    k_0.run(arg1_1)\n" in joined.source
    used = streamed.replace("k_0.run(arg1_1)\n", "k_0.run(arg1_1, s8)\n")
    with pytest.raises(CannotJoin, match="reads arg0_1, which partition_0 is not given"):
        join(PARTITION, used, find_host(PARTITION), "False", {"buf1": "buf9", "arg1_1": "arg1_1", "buf0": "buf4"})


def test_a_partition_must_be_given_all_that_the_streamed_body_reads() -> None:
    streamed = wrapper(kernel("k_0", "first"), body="k_0.run(arg0_1)\nreturn (buf0, )")
    with pytest.raises(CannotJoin, match="reads arg0_1, which partition_0 is not given"):
        join(PARTITION, streamed, find_host(PARTITION), "False", {"buf1": "buf0", "arg1_1": "arg1_1", "buf0": "buf0"})


def test_two_partitions_have_no_place_for_a_streamed_body() -> None:
    with pytest.raises(CannotJoin, match="2 CUDA graphs"):
        find_host(PARTITION + PARTITION[PARTITION.index("\ndef partition_0") :].replace("partition_0", "partition_1"))


def test_a_verdict_alone_changes_no_other_line() -> None:
    joined = add_lines(SERIAL, ["GRAPHSTREAMS = 'told'"])
    assert [line for line in joined.source.split("\n") if line != "GRAPHSTREAMS = 'told'"] == SERIAL.split("\n")


# --- what Inductor generates


def explained(sample: str, settings: dict[str, Any] | None = None, dynamic: bool | None = None, **options: Any) -> Any:
    with config.patch(settings or {}):
        (outcome,) = capture(*module_and_inputs(sample), "h200", {**FREE_EVENTS, **options}, dynamic)
    return outcome.report


REDUCE_OVERHEAD = {"triton.cudagraphs": True}


@pytest.mark.parametrize("sample", ["diamond", "write_after_read", "norms", "buffer_write", "sized"])
@pytest.mark.parametrize("settings", [{}, REDUCE_OVERHEAD, {"graph_partition": False}])
def test_both_bodies_are_in_the_wrapper_and_proved(sample: str, settings: dict[str, Any]) -> None:
    report = explained(sample, settings, dynamic=sample == "sized" or None)
    assert report.verdict == "clean", report.reason
    assert verify(report.wrapper) == []
    streamed, serial = read_bodies(report.wrapper)
    assert {step.stream for step in serial.steps} == {0}
    assert len({step.stream for step in streamed.steps}) == report.plan.streams > 1
    host = "partition_0" if settings == REDUCE_OVERHEAD else "call"
    assert re.search(rf"def {host}\((self, )?args\):\n *if _runs_on_streams\(args, False", report.wrapper)


def test_where_kernels_are_tuned_in_another_way_none_runs_on_streams_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first call would be in a capture, in which nothing can be tuned."""
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    assert explained("norms").own_kernels > 0
    monkeypatch.delattr(CachingAutotuner, "precompile")
    report = explained("norms")
    assert report.verdict == "serial" and "CachingAutotuner has no precompile" in report.reason
    assert explained("write_after_read").verdict == "clean"


def test_the_serial_body_is_inductors_own_code() -> None:
    report = captured("norms").report
    streamed = report.wrapper.index("def call_on_streams")
    serial = report.wrapper[report.wrapper.index("class Runner") if "class Runner" in report.wrapper else streamed :]
    assert "stream1" in streamed_text(report.wrapper)
    assert "stream1" not in serial.replace(streamed_text(report.wrapper), "")


def checked(function: str) -> set[str]:
    return set(re.findall(r"(\w+) = copy_if_misaligned\(\1\)", function))


@pytest.mark.parametrize("sample", ["diamond", "write_after_read", "norms", "buffer_write", "three_arms"])
@pytest.mark.parametrize("settings", [{}, REDUCE_OVERHEAD])
def test_the_inputs_that_are_realigned_are_serials(
    monkeypatch: pytest.MonkeyPatch, sample: str, settings: dict[str, Any]
) -> None:
    """Inductor checks the inputs that it is told to; here it is told to check each, and leaves out those that it changes."""
    lowered = torch._inductor.graph.GraphLowering.__init__

    def told(self: Any, gm: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [i for i, node in enumerate(gm.graph.find_nodes(op="placeholder")) if hasattr(node.meta["val"], "device")]
        lowered(self, gm, *args, **{**kwargs, "inputs_to_check": tensors})

    monkeypatch.setattr(torch._inductor.graph.GraphLowering, "__init__", told)
    report = explained(sample, settings)
    assert report.verdict == "clean", report.reason
    streamed = streamed_text(report.wrapper).partition("def call_on_streams")[2]
    start = report.wrapper.index("if _runs_on_streams")
    assert checked(streamed) == checked(report.wrapper[start:]) != set()
    ahead = streamed[: streamed.index("_acquire_streams(")]
    assert checked(ahead) == checked(streamed)
    assert verify(report.wrapper) == []


@torch.library.custom_op("graphstreams_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Cut(torch.nn.Module):
    """An operator between two halves that Inductor is told to keep out of CUDA graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Linear(64, 64) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(split_signs(self.first(x))[0]), self.first(x * 2)


class CutAtTheEnd(Cut):
    """Such an operator behind all others, so that one CUDA graph holds the rest."""

    def forward(self, x: torch.Tensor) -> Any:
        return doubled(self.second(x * 3) + self.first(x * 2))


def test_an_operator_outside_the_only_cuda_graph_keeps_it_serial_too() -> None:
    with config.patch({**REDUCE_OVERHEAD, "custom_should_partition_ops": ["graphstreams_tests::doubled"]}):
        (outcome,) = capture(CutAtTheEnd(), (torch.randn(4, 64),), "h200", FREE_EVENTS)
    assert (outcome.report.verdict, outcome.report.stage) == ("serial", "read")
    assert "out of its CUDA graph at" in outcome.report.reason and "doubled" in outcome.report.reason


class Views(torch.nn.Module):
    """Returns a view of an input that no kernel reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Linear(64, 64) for _ in range(2))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.first(x), self.second(x * 2), y.view(-1)[3:]


@pytest.mark.parametrize("settings", [{}, REDUCE_OVERHEAD])
def test_an_input_that_is_only_viewed_need_not_be_given_to_a_part(settings: dict[str, Any]) -> None:
    with config.patch(settings):
        (outcome,) = capture(Views(), (torch.randn(4, 64), torch.randn(4, 64)), "h200", FREE_EVENTS)
    assert outcome.report.verdict == "clean", outcome.report.reason


@pytest.mark.parametrize("partition", [True, False])
def test_a_graph_that_inductor_cuts_into_several_cuda_graphs_stays_serial_with_the_operator(partition: bool) -> None:
    settings = {
        **REDUCE_OVERHEAD,
        "custom_should_partition_ops": ["graphstreams_tests::split_signs"],
        "graph_partition": partition,
    }
    with config.patch(settings):
        (outcome,) = capture(Cut(), (torch.randn(4, 64),), "h200", FREE_EVENTS)
    report = outcome.report
    if partition:
        assert (report.verdict, report.stage) == ("serial", "read")
        assert "CUDA graphs at" in report.reason and "split_signs" in report.reason
    else:
        assert report.verdict == "clean", report.reason


def test_a_wrapper_is_python_without_anything_behind_the_return_of_its_streamed_body() -> None:
    tree = ast.parse(captured("diamond").report.wrapper)
    (function,) = (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "call_on_streams")
    assert isinstance(function.body[-1], ast.Return)


def test_a_size_that_a_part_of_the_graph_is_given_by_name_is_no_difference() -> None:
    report = explained("sized", REDUCE_OVERHEAD, dynamic=True)
    assert "def partition_0" in report.wrapper
    assert report.differences == ()
