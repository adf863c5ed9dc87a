"""Compare what is read from Inductor's own lowering of a graph with what is read when it is lowered once more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx, nn

from graphstreams.errors import Unsupported
from graphstreams.inductor import serial_values
from graphstreams.inductor.collective_operators import settings_for
from graphstreams.inductor.collectives import collectives_of
from graphstreams.inductor.lowering import copy_graph, lower, lower_to_buffers
from graphstreams.inductor.serial_values import with_values
from graphstreams.inductor.settings import stream_settings, under_settings
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from graphstreams.reading.reader import read
from graphstreams.reading.stored_values import storages_of
from tests.support.collective_modules import SMALL, InPlace, TwoSums, fake_ranks
from tests.support.random_graphs import random_reading
from tests.support.sample_modules import STREAMABLE, as_on_h200, reading_of

REDUCE = "_c10d_functional.all_reduce_.default"
IN_GRAPH_ORDER = {"reorder_for_peak_memory": False, "aten_distributed_optimizations.enable_simple_overlap": False}


def both_ways(gm: fx.GraphModule, lowered_again: bool = False) -> tuple[Reading, Reading]:
    """Return what is read of a graph lowered once more, and of its serial lowering, which may have to be done again too.

    Of a serial lowering without values, as Inductor makes it, the same is read.
    """
    with as_on_h200(gm), under_settings(IN_GRAPH_ORDER):
        again = read(copy_graph(gm), settings={**stream_settings(), **settings_for(gm)})
        serial = lower(gm, generate_code=True)
        inductors = replace(serial, values={}, stores_shared=False)
        assert (with_values(serial) is None) == (with_values(inductors) is None) == lowered_again
        found, same = (read(gm, settings=stream_settings(), serial=each) for each in (serial, inductors))
        assert told(same) == told(found)
        return again, found


def told(reading: Reading) -> list[Any]:
    """Return all that is read of a graph, with the names of its nodes."""
    regions = [[[node.name for node in part] for part in (r.nodes, r.inputs, r.targets)] for r in reading.regions]
    realized = {n.name: (v.position, v.strides, [each.name for each in v.views]) for n, v in reading.realized.items()}
    names = [[node.name for node in nodes] for nodes in (reading.host, reading.epilogue)]
    storages = {node.name: storage for node, storage in reading.storages.items()}
    joined = sorted(node.name for node in reading.concatenations)
    rest = joined, reading.divided, reading.mutated, reading.order, reading.peak_memory, reading.held_memory
    return [reading.kernels, regions, realized, names, storages, *rest]


def test_a_lowering_of_this_package_is_not_lowered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless an operator has a copy to itself of what another one reads too."""
    asked: list[str] = []
    monkeypatch.setattr(serial_values, "lower_to_buffers", lambda gm: asked.append("lowered") or lower_to_buffers(gm))
    for sample, times in (("diamond", 0), ("custom_mutation_of_temporary", 1)):
        gm = reading_of(sample).module
        with as_on_h200(gm):
            serial = lower(gm, generate_code=True)
            assert (with_values(serial) is serial) == serial.stores_shared == (not times)
        assert len(asked) == times


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


@pytest.mark.parametrize("module", [TwoSums, InPlace])
def test_collectives_are_read_the_same(module: type[nn.Module]) -> None:
    """Of a collective whose input Inductor copies, the graph is changed first, so its serial lowering is not read."""
    with fake_ranks():
        (found,) = capture(module(), [torch.empty(8, 64)] * (1 + (module is InPlace)), "h200", SMALL)
        assert found.reading is not None
        again, serial = both_ways(found.reading.module)
    assert told(serial) == told(again)
    assert sorted(kernel.collective for kernel in serial.kernels.kernels if kernel.collective) == ["start"] * 2 + ["wait"] * 2


def test_the_order_of_collectives_is_the_one_that_is_given() -> None:
    """Serial code may wait later than another lowering of the same graph does."""
    with fake_ranks():
        (found,) = capture(TwoSums(), [torch.empty(8, 64)], "h200", SMALL)
        assert found.reading is not None
        gm = found.reading.module
        with as_on_h200(gm), under_settings(IN_GRAPH_ORDER):
            lowered = lower(gm, settings=stream_settings())
            with lowered.active():
                order = collectives_of(lowered, storages_of(lowered)).order
            assert order == ((0, REDUCE), ((0, 0),), (1, REDUCE), ((1, 0),))
            same = read(copy_graph(gm), settings=stream_settings(), order=order)
            assert told(same) == told(read(copy_graph(gm), settings=stream_settings()))
            with pytest.raises(Unsupported, match="are not those that were read"):
                read(copy_graph(gm), settings=stream_settings(), order=order[:-1])


def test_with_a_setting_that_is_off_on_streams_the_serial_lowering_is_not_read() -> None:
    gm = reading_of("diamond").module
    with as_on_h200(gm), under_settings({"combo_kernels": True}):
        serial = lower(gm, generate_code=True)
        assert with_values(serial) is None
        assert len(read(gm, settings=stream_settings(), serial=serial).kernels.kernels) == 5
