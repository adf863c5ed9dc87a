"""Check what is changed in serial code so that its kernels can be launched in another order, and when that is not enough."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphstreams.autotuning.own_memory import repeatable_source
from graphstreams.autotuning.serial_code import CompiledSerialGraph
from graphstreams.inductor.lowering import Lowered
from graphstreams.ir.kernels import Access, Edge, EdgeKind, Kernel, KernelGraph
from graphstreams.ir.reading import Reading
from graphstreams.pipeline.explain import capture
from tests.support.sample_modules import FREE_EVENTS, as_on_h200, lowered_serially, module_and_inputs


def read_and_lowered(function: Any, *inputs: Any) -> tuple[Reading, Lowered]:
    module = type(module_and_inputs("diamond")[0])(function)
    (outcome,) = capture(module, inputs, "h200", FREE_EVENTS)
    assert outcome.reading is not None, outcome.report.reason
    return outcome.reading, lowered_serially(outcome.reading.module)


def chain(m: Any, x: Tensor) -> Any:
    """Inductor gives the second product the memory of the first one, and writes what `sin` makes over what it reads."""
    return (m.wb(x).relu() @ x.t()).sin() @ x, m.wc(x)


def test_a_buffer_has_memory_of_its_own_and_a_kernel_that_works_in_place_has_not() -> None:
    reading, serial = read_and_lowered(chain, torch.empty(64, 64))
    reused = re.findall(r"(\w+) = .*# reuse", serial.source)
    in_place = serial.graph.wrapper_code.reuses
    assert len(reused) > len(in_place) > 0
    source = repeatable_source(serial, reading)
    assert re.findall(r"(\w+) = .*# reuse", source) == [name for name in reused if name in in_place]
    allocated = re.findall(r"(\w+) = .*new_empty_strided", source)
    assert allocated == [name for name in reused if name not in in_place]
    assert len(source.splitlines()) == len(serial.source.splitlines())


def test_the_memory_that_is_allocated_is_like_that_which_would_be_reused() -> None:
    reading, serial = read_and_lowered(chain, torch.empty(64, 64))
    (line,) = [line for line in repeatable_source(serial, reading).splitlines() if "new_empty_strided" in line][:1]
    (old,) = set(re.findall(r"buf\d+", line.partition("=")[2]))
    tensor = torch.empty_strided((64, 64), (1, 64), dtype=torch.float16)
    found: dict[str, Any] = {old: tensor, "reinterpret_tensor": torch.as_strided}
    exec(line.strip(), found)
    made = found[line.partition("=")[0].strip()]
    assert (made.dtype, made.numel()) == (torch.float16, 64 * 64)
    assert made.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


def test_code_of_which_all_is_safe_is_not_generated_again() -> None:
    reading, serial = read_and_lowered(chain, torch.empty(64, 64))
    with as_on_h200(reading.module):
        code, other = CompiledSerialGraph(reading, serial), CompiledSerialGraph(reading)
    assert code.lowered is serial and other.lowered is not serial
    assert code.source == repeatable_source(serial, reading)
    assert code.kernels == other.kernels
    assert len(code.keys()) == len(other.keys()) == len(reading.kernels.kernels)


def test_code_of_another_lowering_than_was_read_is_generated() -> None:
    reading, serial = read_and_lowered(chain, torch.empty(64, 64))
    assert not repeatable_source(serial, replace(reading, of_serial=False))
    with as_on_h200(reading.module):
        assert CompiledSerialGraph(replace(reading, of_serial=False), serial).lowered is not serial


def lowering(source: str, in_place: dict[str, str]) -> Lowered:
    return Lowered(SimpleNamespace(wrapper_code=SimpleNamespace(reuses=in_place)), {}, source)  # type: ignore[arg-type]


def reading_of(edges: tuple[tuple[int, int], ...]) -> Reading:
    """Kernel 0 makes buf0, kernels 1 and 2 read it, kernel 3 reads what 1 makes; kernel 2 may overwrite buf0 with buf2."""
    reads = ((), ("buf0",), ("buf0",), ("buf1",))
    kernels = tuple(
        Kernel(
            i, f"k{i}", "gemm", launches=("mm",), reads=tuple(Access(name, 4) for name in names), writes=(Access(f"buf{i}", 4),)
        )
        for i, names in enumerate(reads)
    )
    graph = KernelGraph("g", kernels, tuple(Edge(a, b, EdgeKind.RAW) for a, b in edges))
    owners = {f"buf{i}": i for i in range(4)}
    return Reading(None, graph, (), (), (), (0, 1, 2, 3), 0, {}, owners=owners, of_serial=True)  # type: ignore[arg-type]


TEXT = "\ndef call(args):\n    buf2 = buf0; del buf0  # reuse\n    buf3 = buf1; del buf1  # reuse\n"


@pytest.mark.parametrize(
    ("edges", "safe"),
    [
        (((0, 1), (0, 2), (1, 3)), False),  # kernel 1 may run behind kernel 2, which has overwritten what it reads
        (((0, 1), (0, 2), (1, 3), (1, 2)), True),
        (((0, 1), (0, 2), (1, 3), (3, 2)), True),  # by way of another
        (((0, 1), (0, 2), (1, 3), (2, 1)), False),
    ],
)
def test_every_other_reader_comes_before_a_kernel_that_works_in_place(edges: tuple[tuple[int, int], ...], safe: bool) -> None:
    source = repeatable_source(lowering(TEXT, {"buf2": "buf0"}), reading_of(edges))
    assert bool(source) == safe
    if safe:
        assert "buf2 = buf0; del buf0  # reuse" in source
        assert "buf3 = buf1.new_empty_strided(buf1.size(), buf1.stride())" in source


@pytest.mark.parametrize("in_place", [{"buf2": "arg0_1"}, {"buf9": "buf0"}, {"buf2": "buf1"}])
def test_memory_that_no_kernel_is_known_to_touch_is_not_written_in_place(in_place: dict[str, str]) -> None:
    """An input, the buffer of no kernel, and one that the kernel does not read."""
    assert not repeatable_source(lowering(TEXT, in_place), reading_of(((0, 1), (1, 2), (1, 3))))


def test_code_in_parts_is_generated_anew() -> None:
    parts = "\ndef partition_0(args):\n    pass\n" + TEXT
    assert not repeatable_source(lowering(parts, {}), reading_of(()))
    assert repeatable_source(lowering(TEXT, {}), reading_of(()))


@pytest.mark.parametrize(
    "line", ["buf3 = buf1; del buf1  # again", "buf3 = reinterpret_tensor(buf1, (2, ), (1, ), 0); del buf1"]
)
def test_memory_that_is_given_away_in_another_form_is_not_taken_for_safe(line: str) -> None:
    assert not repeatable_source(lowering(TEXT.replace("buf3 = buf1; del buf1  # reuse", line), {}), reading_of(()))
