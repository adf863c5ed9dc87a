"""Check the comments that readable code gets: headings, inputs, and no comment that says nothing."""

from __future__ import annotations

from graphstreams.reports.dump import code_by_kernel, headings, readable
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
    assert readable(TEXT, OWNERS, heads, ["g: clean", ""], {"arg0_1": "model.x", "s0": "s0"}) == (
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
