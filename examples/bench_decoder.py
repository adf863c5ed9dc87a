"""Measure a decoder on all ranks at once: serial Inductor, graphstreams, streams by hand. `deepseek_model.py` is the command.

All ranks do the same in the same order, because a collective waits for every rank: compile and capture each variant, compare
bits, replay in turns. What has failed on one rank is dropped on all, unless others already wait for it in a collective.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepseek_cases import Case
from deepseek_decoder import Decoder, all_reduce, build, example_inputs
from hand_decoder import by_hand
from hand_streams import PHASES
from process_group import Ranks
from torch import Tensor

from graphstreams.autotuning.timing import device_us
from graphstreams.benchmark.bits import difference, equal_bits
from graphstreams.benchmark.compile_variants import REPORTED
from graphstreams.benchmark.results import largest_report, reports_in
from graphstreams.benchmark.run import release
from graphstreams.benchmark.timing import REPEATS, samples_over_captures, summary
from graphstreams.benchmark.variants import OURS, SERIAL, CompiledVariant, WorkloadRun

DEVICE = "cuda"
HAND = "by hand"  # what the names of these variants begin with
STEPS = 4  # tokens of a decode loop whose bits are compared
CHAINED = 20  # all-reduces in the graph that times one
# Tokens that a loop decodes from where its inputs begin: a capture is called three times before, a sample replays one more.
ROOM = max(STEPS, REPEATS + 1) + 4
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Measures:
    """What to run and how often."""

    settings: Mapping[str, Any] = field(default_factory=lambda: {"deterministic": True})  # of Inductor, for all variants
    options: Mapping[str, Any] = field(default_factory=dict)  # of graphstreams
    hand: Sequence[str] = ("both",)  # names of PHASES
    layer_by_layer: bool = False  # compile each layer by itself, not the whole decoder
    rounds: int = 40
    replays: int = 50  # whose bits are compared


class Step:
    """A decoder in a loop: each token's result is the next one's input, at the next position. All is written in place."""

    def __init__(self, decoder: Function) -> None:
        self.decoder = decoder

    def __call__(self, hidden: Tensor, positions: Tensor, *caches: Tensor) -> Tensor:
        result = self.decoder(hidden, positions, *caches)
        hidden.copy_(result)
        positions.add_(1)
        return result


class DecodingVariant(CompiledVariant):
    """A compiled decoder as a CUDA graph that decodes one token of each sequence. Called, it is replayed once."""

    def __init__(self, function: Function, values: Sequence[Tensor], steps: int) -> None:
        self.steps = steps
        super().__init__(function, values)

    def __call__(self) -> None:
        self.replay()

    def results(self, values: Sequence[Any], direct: bool = False) -> list[Any]:
        """Return outputs and changed inputs after `steps` tokens from fresh inputs."""
        self.load(values)
        for _ in range(self.steps):
            self.direct() if direct else self.replay()
        return [*self.outputs, *self.inputs]


def compiled(decoder: Decoder, compile_one: Callable[[Any], Any], layer_by_layer: bool) -> Function:
    """Return the decoder compiled as one, or each of its layers and its end by themselves."""
    if not layer_by_layer:
        return compile_one(decoder)  # type: ignore[no-any-return]
    layers, finish = [compile_one(layer) for layer in decoder.layers], compile_one(decoder.finish)

    def run(hidden: Tensor, positions: Tensor, *caches: Tensor) -> Tensor:
        carried = decoder.start(hidden)
        for layer, own in zip(layers, decoder.caches_by_layer(caches), strict=True):
            carried = layer(carried, positions, *own)
        return finish(carried)  # type: ignore[no-any-return]

    return run


def measure(name: str, case: Case, ranks: Ranks, measures: Measures, say: Callable[[str], None]) -> dict[str, Any]:
    """Return all about a case as plain data, the same on every rank. Errors of variants are written down and printed."""
    started, run = time.perf_counter(), WorkloadRun()
    torch.compiler.reset()
    row: dict[str, Any] = {
        "name": name, "title": case.title, "model": case.model, "layers": case.layers, "ranks": ranks.size,
        "rivals": run.records,
    }  # fmt: skip
    with torch.no_grad():
        try:
            row["all_reduce_us"] = _measure_variants(run, case, ranks, measures, say)
        except RuntimeError as error:  # serial has failed, on all ranks
            row["failed"] = str(error)
    run.compiled.clear()  # CUDA graphs with collectives have to go before the process group
    release()
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _measure_variants(
    run: WorkloadRun, case: Case, ranks: Ranks, measures: Measures, say: Callable[[str], None]
) -> float | None:
    decoder = build(case.config, DEVICE, rank=ranks.rank, group=ranks.group)
    inputs = partial(example_inputs, case.config, DEVICE, steps=ROOM if case.loop else 1)
    values = inputs(0)
    for name, compile_variant in _compilers(decoder, measures).items():
        with run.record(name) as record, tempfile.TemporaryDirectory() as dump:
            function = compile_variant(dump)
            step = Step(function) if case.loop else function
            run.compiled[name] = DecodingVariant(step, values, STEPS if case.loop else 1)
            if name == OURS:
                record.update(_reported(Path(dump)))
        _agree(run, ranks)
        say(f"{case.title}: {name} {run.records[name].get('failed', 'compiled')} in {run.records[name]['seconds']:.0f} s")
    _compare_bits(run, ranks, inputs, measures.replays)
    say(f"{case.title}: bits compared")
    _time(run, ranks, values, measures.rounds)
    return _time_of_all_reduce(case, ranks, measures)


def _compilers(decoder: Decoder, measures: Measures) -> dict[str, Callable[[str], Function]]:
    """Return what compiles each variant. It is passed a directory for reports."""

    def serial(_: str) -> Function:
        return compiled(decoder, partial(torch.compile, options=dict(measures.settings)), measures.layer_by_layer)

    def ours(dump: str) -> Function:
        options = {**measures.options, "inductor": dict(measures.settings), "dump": dump}
        return compiled(decoder, partial(torch.compile, backend=OURS, options=options), measures.layer_by_layer)

    def hand(_: str, phases: str) -> Function:
        return by_hand(decoder, measures.settings, PHASES[phases])

    return {SERIAL: serial, OURS: ours, **{f"{HAND}: {name}": partial(hand, phases=name) for name in measures.hand}}


def _reported(dump: Path) -> dict[str, Any]:
    """Return what graphstreams reports of the largest graph, and the verdicts on all."""
    report = largest_report(dump)[1]
    verdicts = [each["verdict"] for each in reports_in(dump).values()]
    return {**{key: report[key] for key in REPORTED}, "verdicts": verdicts, "notes": report["notes"]}


def _agree(run: WorkloadRun, ranks: Ranks) -> None:
    """Drop on all ranks what has failed on one. Raises RuntimeError if serial has."""
    for record in run.records.values():
        failed = [(rank, text) for rank, text in enumerate(ranks.gathered(record.get("failed"))) if text]
        if failed and ranks.size > 1:
            record["failed"] = f"on rank {failed[0][0]}: {failed[0][1]}"
    run.drop_failed()


def _compare_bits(run: WorkloadRun, ranks: Ranks, inputs: Callable[..., Sequence[Tensor]], replays: int) -> None:
    """Count, over all ranks, the runs on fresh inputs with other outputs, positions or caches than serial's."""
    others = {name: each for name, each in run.compiled.items() if name != SERIAL}
    wrong, largest = dict.fromkeys(others, 0), dict.fromkeys(others, 0.0)
    for seed in range(1, replays + 1):
        fresh = inputs(seed=seed)
        expected = run.compiled[SERIAL].results(fresh)
        for name, each in others.items():
            found = each.results(fresh)
            if not equal_bits(expected, found):
                wrong[name] += 1
                largest[name] = max(largest[name], difference(expected, found))
    for name in others:
        by_rank, sizes = ranks.gathered(wrong[name]), ranks.gathered(largest[name])
        run.records[name].update(wrong=sum(by_rank), runs=replays * ranks.size, difference=max(sizes))


def _time(run: WorkloadRun, ranks: Ranks, values: Sequence[Tensor], rounds: int) -> None:
    """Add median and quartiles of the us of a token, of each round those of the slowest rank."""

    def capture(again: bool) -> dict[str, Callable[[], None]]:
        for each in run.compiled.values() if again else ():
            each.capture_again()
        return dict(run.compiled)  # type: ignore[arg-type]

    def from_the_start(variant: Any, repeats: int) -> float:
        variant.load(values)
        ranks.gathered(None)
        variant()  # whose all-reduces bring the ranks' GPUs into step
        return device_us(variant, repeats)

    samples = samples_over_captures(capture, rounds, REPEATS, from_the_start)
    for name in run.compiled:
        own = [max(each) for each in zip(*ranks.gathered(samples[name]), strict=True)]
        run.records[name]["graph"] = summary(own)


def _time_of_all_reduce(case: Case, ranks: Ranks, measures: Measures) -> float | None:
    """Return the median us of an all-reduce of what a layer sums, in a chain of them; None if there is one rank."""
    if ranks.group is None:
        return None
    first = case.config.first
    values = [torch.zeros(first.tokens, first.hidden, dtype=first.dtype, device=DEVICE)]

    def chain(x: Tensor) -> Tensor:
        for _ in range(CHAINED):
            x = all_reduce(x, ranks.group)
        return x

    variant = DecodingVariant(torch.compile(chain, options=dict(measures.settings)), values, 1)
    samples = [device_us(variant, REPEATS) / REPEATS / CHAINED for _ in range(measures.rounds)]
    return summary([max(each) for each in zip(*ranks.gathered(samples), strict=True)])["median"]
