"""Check that Inductor's own lowering of a graph keeps the value of each node, so that the graph is not lowered for them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.graph import GraphLowering
from torch.fx.graph import CodeGen

from graphstreams.inductor.kept_values import keep_values, take_values
from graphstreams.inductor.stream_ops import empty_module, force_realize
from tests.support.sample_modules import compiled_by_pass


class _KeepValues(CustomGraphPass):  # type: ignore[misc]
    def __call__(self, graph: fx.Graph) -> None:
        keep_values(graph)

    def uuid(self) -> None:
        return None


def function(x: Tensor) -> Tensor:
    return (x @ x).relu() @ x + 1


def test_inductors_own_lowering_keeps_the_value_of_each_node() -> None:
    taken, generate = [], GraphLowering.codegen

    def codegen(graph: GraphLowering) -> Any:
        nodes = list(graph.graph.nodes)
        taken.append((nodes, take_values(graph), take_values(graph), type(graph.graph._codegen), graph.env))
        return generate(graph)

    x = torch.randn(4, 4)
    with mock.patch.object(GraphLowering, "codegen", codegen), torch.no_grad():
        options = {"post_grad_custom_post_pass": _KeepValues(), "force_disable_caches": True}
        torch._dynamo.reset()
        assert torch.allclose(torch.compile(function, options=options)(x), function(x), atol=1e-4)
    ((nodes, values, again, generator, left),) = taken
    assert list(values) == nodes
    assert all(values[node] is not None for node in nodes[:-1])  # the output has none
    assert (again, generator, left) == ({}, CodeGen, {})


def test_a_graph_with_a_code_generator_of_its_own_keeps_it() -> None:
    class Own(CodeGen):
        """Another one."""

    graph = fx.Graph()
    graph.set_codegen(Own())
    keep_values(graph)
    assert type(graph._codegen) is Own


def test_a_graph_is_lowered_for_its_serial_code_and_for_streams_and_not_once_more() -> None:
    run = GraphLowering.run
    lowerings: list[Any] = []

    def counting(graph: GraphLowering, *args: Any) -> Any:
        lowerings.append(graph)
        return run(graph, *args)

    with mock.patch.object(GraphLowering, "run", counting):
        report, _, _ = compiled_by_pass("diamond")
    assert report.verdict == "clean"
    assert len(lowerings) == 3  # the helper lowers the graph without the pass, too


def test_a_thousand_points_at_which_values_are_stored_have_names_in_order() -> None:
    module = empty_module(fx.GraphModule(torch.nn.Module(), fx.Graph()))
    x = module.graph.placeholder("x")
    x.meta["val"] = torch.empty(1, device="meta")
    for _ in range(1000):
        force_realize(module, [x], {})
    expected = ["graphstreams_realize", *(f"graphstreams_realize_{number}" for number in range(2, 1001))]
    assert [node.target for node in module.graph.find_nodes(op="get_attr")] == expected
