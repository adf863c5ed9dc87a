"""Compare what is read from Inductor's own lowering of a graph with what is read when it is lowered once more."""

from __future__ import annotations

from typing import Any

import pytest
from torch import fx

from graphstreams.inductor.lowering import copy_graph, lower
from graphstreams.inductor.serial_values import with_values
from graphstreams.inductor.settings import stream_settings, under_settings
from graphstreams.ir.reading import Reading
from graphstreams.reading.reader import read
from tests.support.random_graphs import random_reading
from tests.support.sample_modules import STREAMABLE, as_on_h200, reading_of

IN_GRAPH_ORDER = {"reorder_for_peak_memory": False}


def both_ways(gm: fx.GraphModule, lowered_again: bool = False) -> tuple[Reading, Reading]:
    """Return what is read of a graph lowered once more, and of its serial lowering, which may have to be done again too."""
    with as_on_h200(gm), under_settings(IN_GRAPH_ORDER):
        again = read(copy_graph(gm), settings=stream_settings())
        serial = lower(gm, generate_code=True)
        assert (with_values(serial) is None) == lowered_again
        return again, read(gm, settings=stream_settings(), serial=serial)


def told(reading: Reading) -> list[Any]:
    """Return all that is read of a graph, with the names of its nodes."""
    regions = [[[node.name for node in part] for part in (r.nodes, r.inputs, r.targets)] for r in reading.regions]
    realized = {n.name: (v.position, v.strides, [each.name for each in v.views]) for n, v in reading.realized.items()}
    names = [[node.name for node in nodes] for nodes in (reading.host, reading.epilogue)]
    storages = {node.name: storage for node, storage in reading.storages.items()}
    joined = sorted(node.name for node in reading.concatenations)
    rest = joined, reading.divided, reading.mutated, reading.order, reading.peak_memory, reading.held_memory
    return [reading.kernels, regions, realized, names, storages, *rest]


@pytest.mark.parametrize("sample", STREAMABLE)
def test_the_serial_lowering_tells_what_another_one_would(sample: str) -> None:
    # Its operator wants a layout of a value that another one reads too.
    again, serial = both_ways(reading_of(sample).module, sample == "custom_mutation_of_temporary")
    assert told(serial) == told(again)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_are_read_the_same(seed: int) -> None:
    reading = random_reading(seed)
    if reading is None:
        pytest.skip("a graph without kernels")
    again, serial = both_ways(reading.module)
    assert told(serial) == told(again)


def test_with_a_setting_that_is_off_on_streams_the_serial_lowering_is_not_read() -> None:
    gm = reading_of("diamond").module
    with as_on_h200(gm), under_settings({"combo_kernels": True}):
        serial = lower(gm, generate_code=True)
        assert with_values(serial) is None
        assert len(read(gm, settings=stream_settings(), serial=serial).kernels.kernels) == 5
