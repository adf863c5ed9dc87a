"""Check the code of serial graphs and its keys, and which graphs can be run again and again. No GPU."""

from __future__ import annotations

import ast
import functools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from graphstreams.autotuning.serial_code import CompiledSerialGraph, check_nothing_accumulates, check_repeatable
from graphstreams.errors import Unmeasurable
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS, captured, lowered_serially, module_and_inputs, reading_of, serial_code


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))


def reading_of_function(function: Any, *inputs: Any, dynamic: bool | None = None) -> Reading:
    """Return how the graph of a module with the samples' projections is read."""
    module = type(module_and_inputs("diamond")[0])(function)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS, dynamic)
    assert outcome.reading is not None, outcome.report.reason
    return outcome.reading


def keys_of(reading: Reading) -> dict[str, str]:
    """Return the key of each kernel by its short name."""
    names = (kernel.name.rpartition(".")[2] for kernel in reading.kernels.kernels)
    return dict(zip(names, serial_code(reading).keys(), strict=True))


# --- the code


@functools.cache
def code_of(sample: str) -> CompiledSerialGraph:
    return serial_code(reading_of(sample))


@pytest.mark.parametrize("sample", ["diamond", "topk", "concatenation", "write_after_read", "two_writes"])
def test_each_line_launches_the_kernel_that_stands_in_the_order(sample: str) -> None:
    reading, code = reading_of(sample), code_of(sample)
    assert code.lines == sorted(set(code.lines))
    text, placed = code.lowered.source.splitlines(), []
    for line, kernel in zip(code.lines, reading.order, strict=True):
        call = ast.parse(text[line - 1].strip()).body[0].value  # type: ignore[attr-defined]
        name = re.sub(r"(_\d+)?(\.run)?$", "", ast.unparse(call.func)).replace("triton_per_", "triton_red_")
        assert name in reading.kernels.kernels[kernel].launches
        placed.append(kernel)
    assert {k: placed.count(k) for k in placed} == {k.id: len(k.launches) for k in reading.kernels.kernels}


def test_nothing_in_the_code_depends_on_the_order_of_the_kernels() -> None:
    """Inductor's own code for this graph works in place, and gives a kernel the buffer of an earlier one."""

    def chain(m: Any, x: Tensor) -> Any:
        return (m.wb(x).relu() @ x.t()).sin() @ x, m.wc(x)

    reading = reading_of_function(chain, torch.empty(64, 64))
    own = lowered_serially(reading.module).source
    assert "in_out_ptr" in own and "# reuse" in own
    source = serial_code(reading).lowered.source
    assert "in_out_ptr" not in source and "# reuse" not in source


def test_a_kernel_of_two_launches_has_the_keys_of_both() -> None:
    keys = keys_of(reading_of("split_reduction"))
    assert "extern_kernels.mm" in keys["wa"]
    assert keys["sum"].count(".run(") == 2


def test_equal_kernels_of_one_graph_have_one_key() -> None:
    keys = keys_of(reading_of("three_arms"))
    assert keys.keys() == {"wa", "wb", "wc"}
    assert len(set(keys.values())) == 1


def test_equal_kernels_of_two_graphs_have_equal_keys() -> None:
    """In the second graph they are other kernels, with other numbers, names and buffers in front of them."""

    def alone(m: Any, x: Tensor, y: Tensor) -> Any:
        return m.wa(x), y.softmax(-1)

    def behind(m: Any, y: Tensor, x: Tensor) -> Any:
        return y.sin().sum(0), m.wb(x), m.wc(x.sigmoid()), y.softmax(-1)

    x, y = torch.empty(4, 64), torch.empty(5, 32)
    one, other = keys_of(reading_of_function(alone, x, y)), keys_of(reading_of_function(behind, y, x))
    assert one["wa"] == other["wb"]
    (first,) = (key for name, key in one.items() if name != "wa")
    assert first in other.values()


@pytest.mark.parametrize(
    "x",
    [torch.empty(8, 64), torch.empty(64, 4).t(), torch.empty(4, 64, dtype=torch.float64)],
    ids=["shape", "strides", "dtype"],
)
def test_kernels_of_other_inputs_have_other_keys(x: Tensor) -> None:
    def both(m: Any, x: Tensor) -> Any:
        return m.wa(x.sin().float()), torch.topk(x, 2)

    one, other = (set(keys_of(reading_of_function(both, value)).values()) for value in (torch.empty(4, 64), x))
    assert len(one) == 3
    # The matrix product of a copy in float32 is the same one.
    assert len(one & other) == (1 if x.dtype == torch.float64 else 0)


def test_kernels_of_a_dynamic_graph_have_the_keys_of_its_example() -> None:
    def rows(m: Any, x: Tensor) -> Any:
        return m.wa(x).relu(), x.sum(0)

    keys = [keys_of(reading_of_function(rows, torch.empty(n, 64), dynamic=True)) for n in (40, 40, 24)]
    assert keys[0] == keys[1]
    assert all(key != keys[2][name] for name, key in keys[0].items())


def test_every_kernel_that_launches_has_a_key() -> None:
    for sample in ("diamond", "split_reduction", "two_writes", "write_after_read"):
        assert all(code_of(sample).keys())
        assert len(code_of(sample).keys()) == len(reading_of(sample).kernels.kernels)


def test_code_with_other_launches_than_were_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of("diamond")
    monkeypatch.setattr(Reading, "launches", property(lambda self: 9))
    with pytest.raises(Unmeasurable, match="5 launches where 9 were read"):
        serial_code(reading)


# --- what can be repeated


def test_a_graph_of_pure_kernels_can_be_repeated() -> None:
    for sample in ("diamond", "topk", "concatenation", "casts"):
        check_repeatable(reading_of(sample))


@pytest.mark.parametrize("sample", ["write_after_read", "two_writes", "buffer_write"])
def test_a_write_of_computed_rows_into_a_cache_can_be_repeated(sample: str) -> None:
    check_repeatable(reading_of(sample))


@pytest.mark.parametrize("sample", ["custom_mutation", "custom_function"])
def test_an_exclusive_kernel_cannot_be_repeated(sample: str) -> None:
    (exclusive,) = (kernel for kernel in captured(sample).reading.kernels.kernels if kernel.exclusive)
    with pytest.raises(Unmeasurable, match=rf"what '{exclusive.name}' does when it is repeated is not known"):
        check_repeatable(reading_of(sample))


def test_an_input_that_is_counted_up_accumulates() -> None:
    def count(m: Any, x: Tensor, position: Tensor) -> Any:
        position.add_(1)
        return m.wa(x), m.wb(x)

    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        check_nothing_accumulates(reading_of_function(count, torch.empty(4, 64), torch.zeros(4, dtype=torch.int64)))


def test_nor_one_that_is_updated_through_an_intermediate_buffer() -> None:
    def updated(m: Any, x: Tensor, state: Tensor) -> Any:
        state.copy_(m.wa(state))
        return m.wb(x)

    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        check_nothing_accumulates(reading_of_function(updated, torch.empty(4, 64), torch.empty(4, 64)))


def test_nor_two_that_are_updated_from_each_other() -> None:
    """Repeated twice, each is counted up."""

    def turns(m: Any, x: Tensor, first: Tensor, second: Tensor) -> Any:
        projected = m.wa(first)
        first.copy_(m.wb(second))
        second.copy_(projected)
        return m.wc(x)

    inputs = torch.empty(4, 64), torch.empty(4, 64), torch.empty(4, 64)
    with pytest.raises(Unmeasurable, match="updates an input of the graph from its own value"):
        check_nothing_accumulates(reading_of_function(turns, *inputs))


def test_inputs_that_follow_from_each_other_in_one_direction_can_be_repeated() -> None:
    """A cache is filled from a state, and the state from the input."""

    def forwards(m: Any, x: Tensor, state: Tensor, cache: Tensor) -> Any:
        cache[:4] = m.wa(state)
        state.copy_(m.wb(x))
        return m.wc(cache)

    check_nothing_accumulates(reading_of_function(forwards, torch.empty(4, 64), torch.empty(4, 64), torch.empty(8, 64)))


def test_nothing_is_repeated_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(Unmeasurable, match="a CUDA graph is being captured"):
        check_repeatable(reading_of("diamond"))
