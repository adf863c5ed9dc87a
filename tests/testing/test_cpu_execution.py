"""Check that a run on the CPU leaves its inputs alone, and what it returns."""

from graphstreams.benchmark.bits import equal_bits
from graphstreams.testing.cpu_execution import run_on_cpu
from tests.support.sample_modules import captured, graph_inputs


def test_a_run_leaves_its_inputs_alone_and_returns_them_as_the_graph_leaves_them():
    inputs = graph_inputs("write_after_read")
    before = [v.clone() for v in inputs]
    _, after = run_on_cpu(captured("write_after_read").reading.module, inputs)
    assert equal_bits(inputs, before)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not equal_bits([a], [b])]
    assert [tuple(inputs[i].shape) for i in changed] == [(16, 64)]
