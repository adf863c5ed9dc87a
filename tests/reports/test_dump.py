"""Check the comments that readable code gets: headings, inputs, and no comment that says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphstreams.ir.kernels import Edge, EdgeKind, KernelGraph
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports import dump
from graphstreams.reports.dump import code_by_kernel, headings, readable, shortened_code
from graphstreams.reports.report import Report
from graphstreams.reports.texts import html_text
from graphstreams.reports.wrapper_lines import wrapper_by_kernel
from tests.support.hand_plan import GRAPH, PLAN, US

TEXT = """class GraphModule(torch.nn.Module):
    def forward(self, arg0_1: "f32[4]", s0: "Sym(s0)"):
        # File: m.py:1 in forward, code: a = f(x)
        first: "f32[4]" = torch.ops.aten.relu.default(arg0_1)

        # Annotation: {'stream': 1} File: m.py:2 in forward, code: b = g(x)
        second: "f32[4]" = torch.ops.aten.relu.default(arg0_1)

        # Annotation: {'stream': 1} No stacktrace found for following nodes
        wait = torch.ops.higher_order.control_deps((first,), graph)

        # No stacktrace found for following nodes
        third = second[0];  second = None

        # File: m.py:3 in forward, code: c = h(a)
        fourth: "f32[4]" = torch.ops.aten.relu.default(first)
        return (fourth,)
"""
OWNERS = {"first": 0, "second": 1, "third": 1, "fourth": 0}


def test_each_region_is_headed_once_above_its_comments() -> None:
    heads = {0: ["==== a: stream 0", "     launches k"], 1: ["==== b"]}
    events = {"wait": "event 0, waited for on stream 1: b needs a", "first": "", "other": "of no node"}
    assert readable(TEXT, OWNERS, heads, ["g: clean", ""], {"arg0_1": "model.x", "s0": "s0"}, events) == (
        """# g: clean
#

class GraphModule(torch.nn.Module):
    def forward(self, arg0_1: "f32[4]", s0: "Sym(s0)"):
        # arg0_1: model.x

        # ==== a: stream 0
        #      launches k
        # File: m.py:1 in forward, code: a = f(x)
        first: "f32[4]" = torch.ops.aten.relu.default(arg0_1)

        # ==== b
        # File: m.py:2 in forward, code: b = g(x)
        second: "f32[4]" = torch.ops.aten.relu.default(arg0_1)

        # event 0, waited for on stream 1: b needs a
        wait = torch.ops.higher_order.control_deps((first,), graph)

        third = second[0];  second = None

        # ---- a: stream 0, continued
        # File: m.py:3 in forward, code: c = h(a)
        fourth: "f32[4]" = torch.ops.aten.relu.default(first)
        return (fourth,)
"""
    )


def test_the_code_of_a_kernel_is_all_its_lines() -> None:
    code = code_by_kernel(TEXT, OWNERS)
    assert code[1] == (
        '# File: m.py:2 in forward, code: b = g(x)\nsecond: "f32[4]" = torch.ops.aten.relu.default(arg0_1)\n\n'
        "third = second[0];  second = None"
    )
    assert code[0].count("relu") == 2 and "return" not in code[0]


def test_code_on_a_page_has_no_lines_that_only_free_and_is_cut_if_all_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    code = {0: "a = f(x);  x = y = None\nb = g(a);  a = None", 1: "one\ntwo\n\nthree", 2: "x" * 30}
    assert shortened_code(code, "g.py") == {0: "a = f(x)\nb = g(a)", 1: code[1], 2: code[2]}
    monkeypatch.setattr(dump, "MOST_CODE", 30)
    monkeypatch.setattr(dump, "LEAST_CODE", 5)
    assert shortened_code(code, "g.py") == {
        0: "a = f(x)\n# ... 1 more lines in g.py", 1: "one\ntwo\n# ... 1 more lines in g.py", 2: "# ... 1 more lines in g.py"
    }  # fmt: skip
    assert shortened_code({}, "g.py") == {}


def test_the_page_of_500_kernels_has_less_than_two_mib() -> None:
    """Each has twice the code, and other text, of a kernel of DeepSeek V3.2, whose 24 layers make a page of 1.4 MB."""
    count = 500
    kernels = tuple(
        replace(GRAPH.kernels[0], id=each, name=f"layers.{each}.attention.project", launches=("triton_red_fused_norm",) * 2)
        for each in range(count)
    )
    graph = KernelGraph("g", kernels, tuple(Edge(each, each + 1, EdgeKind.RAW, f"buf{each}") for each in range(count - 1)))
    plan = plan_kernels(graph, (2.0,) * count, 2, 0.5)
    lines = [f"        value_{each} = torch.ops.aten.add.Tensor(\"x\", 'y') " + "z" * 3000 for each in range(count)]
    owners = {f"value_{each}": each for each in range(count)}
    report = Report(
        "g", "clean", kernels=graph, us=(2.0,) * count, plan=plan, graph_streams="\n".join(lines), owners_streams=owners
    )
    assert len(html_text(report).encode()) < 2 * 2**20


def test_headings_say_both_times() -> None:
    assert headings(GRAPH, US, PLAN)[1] == [
        "==== short: stream 1, 2.5 us in the plan, 2.0 us alone", "     launches a, b", "     waits for load (stream 0)",
    ]  # fmt: skip
    assert headings(GRAPH, US, None)[0] == [
        "==== load: 2.0 us alone", "     launches extern_kernels.mm", "     reads load.weight",
    ]  # fmt: skip
    assert headings(GRAPH, (), None)[2][0] == "==== long"


def test_lines_of_a_kernel_are_its_launches_and_its_events() -> None:
    wrapper = "\n".join([
        "event0.record(default_stream)",  # not in the body: a line of somebody else's
        "def call_on_streams(args):",
        "    load()",
        "    event0.record(default_stream)  # behind load",
        "    with stream1:",
        "        event0.wait(stream1)",
        "        short()",
        "        event1.record(stream1)",
        "",
        "def call(args):",
        "    event1.wait(default_stream)",
    ])  # fmt: skip
    found = wrapper_by_kernel(wrapper, {0: (3,), 1: (7,), 2: (99,), 3: ()}, PLAN)
    assert found[0] == "3: load()\n4: event0.record(default_stream)  # behind load"
    assert found[1] == "6: event0.wait(stream1)\n7: short()\n8: event1.record(stream1)"
    assert found[2] == found[3] == ""
