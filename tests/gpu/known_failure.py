"""Find plans that compute garbage in a CUDA graph: the pre-attention block of V3.2 without lifetimes and proof.

    PYTHONPATH=examples python -m tests.gpu.known_failure [--plans 6] [--seeds 20]

The list schedule, a plan made after the first prototype's, and random plans are captured as they are; the list schedule also
with spin kernels inside the capture. Every plan whose outputs differ from serial's has to be one that the proof refuses.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import deepseek_v32
import torch
from deepseek_pre_attention import pre_attention
from tabulate import tabulate

import graphstreams
from graphstreams.autotuning.cuda_graph import CapturedFunction
from graphstreams.benchmark.bits import equal_bits
from graphstreams.costs.roofline import Roofline
from graphstreams.ir.devices import device_by_name
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.pipeline import streamed_body
from graphstreams.planning.list_schedule import plan_kernels
from graphstreams.reports.report import Report
from graphstreams.rewriting import regions
from tests.gpu import chaos
from tests.support.random_graphs import plan_of
from tests.support.same_kernels import SAME_KERNELS

Make = Callable[[KernelGraph], Plan]

VALUES = ("query", "latent", "k_pe", "slots", "hidden", "positions", "index_cache")  # outputs, then inputs
REPLAYS = 50  # of each captured graph, with fresh inputs each
LATE_CYCLES = 400_000  # at most, about 0.2 ms: longer than one run of the block
# us that a wait for another stream adds on an H200. The list schedule whose races are known was made with this very number.
WAIT_US = 0.2731
LAYERS = 4  # runs of the block in one capture with spin kernels: as in a model, one finds the memory as another left it


def block() -> tuple[torch.nn.Module, chaos.Inputs]:
    """Return the block with 16 heads and 64 tokens on the GPU, and a maker of its inputs."""
    module, _ = pre_attention(device="cuda")

    def inputs(seed: int) -> tuple[torch.Tensor, ...]:
        hidden, positions, _, index_cache = deepseek_v32.example_inputs(module.layer.config, "cuda", seed)
        return hidden, positions, index_cache

    return module, inputs


def list_schedule(graph: KernelGraph, streams: int) -> Plan:
    """Return the shortest list schedule by prices for an H200.

    Without lifetimes it has races, but is benign where no kernel is late. Its side stream reads two buffers of the caller's
    stream last, qkv_a's and q_a_layernorm's. Most of what the caller's stream allocates after they are freed is too large
    for their blocks; what may fit, the sum of the logits, is written some 30 us after both reads have ended.
    """
    device = device_by_name("h200")
    return plan_kernels(graph, Roofline(device).price(graph), streams, WAIT_US)


def like_the_prototype(graph: KernelGraph, streams: int) -> Plan:
    """Return a plan under which the last read of qkv_a's buffer surely comes after another kernel has overwritten its block.

    On the caller's stream: qkv_a, then q_b_proj and what follows it. All else is on side streams, and at the very end of
    one, behind the whole indexer, kv_a_layernorm: the last reader of qkv_a's 270,336 bytes. As soon as the host has launched
    it, the buffer is freed. Nothing else of the caller's stream lies in its segment of 2 MiB, so the next allocation there,
    the 393,216 bytes of q_b_proj, begins at the same address. q_b_proj waits for q_a_layernorm only, and has long ended when
    kv_a_layernorm starts.
    """
    ids = {kernel.name: kernel.id for kernel in graph.kernels}
    qkv_a, q_norm = ids["layer.fused_qkv_a_proj"], ids["layer.q_a_layernorm"]
    q_b, last_reader = ids["layer.q_b_proj"], ids["layer.kv_a_layernorm"]
    late = [q_b, *_behind(graph, q_b)]
    slow = [q_norm, *(k for k in _behind(graph, q_norm) if k not in late)]
    other = [k.id for k in graph.kernels if k.id not in {qkv_a, last_reader, *slow, *late}]
    order = [qkv_a, *other, *slow, last_reader, *late]
    stream_of = {**dict.fromkeys(order, streams - 1), **dict.fromkeys(other, 1), **dict.fromkeys([qkv_a, *late], 0)}
    return plan_of(graph, order, stream_of)


def _behind(graph: KernelGraph, kernel: int) -> list[int]:
    """Return all kernels that depend on this one, in program order."""
    successors = graph.successors()
    found: set[int] = set()
    pending = [kernel]
    while pending:
        new = set(successors[pending.pop()]) - found
        found |= new
        pending.extend(new)
    return sorted(found)


def plans(streams: int, count: int) -> Iterator[tuple[str, Make]]:
    """Yield the list schedule, the plan after the prototype's, and `count` random ones, each with its name."""
    yield "list schedule", lambda graph: list_schedule(graph, streams)
    yield "like the prototype's", lambda graph: like_the_prototype(graph, streams)
    for seed in range(count):
        yield f"random {seed}", random_planner(seed, streams)


def random_planner(seed: int, streams: int) -> Make:
    """Return what makes the random plan of this seed for a graph."""
    return lambda graph: chaos.random_plan_on(graph, random.Random(seed), streams)


@contextmanager
def without_lifetimes() -> Iterator[None]:
    """Hold no value for another stream within this context."""
    with mock.patch.object(regions, "held_values", return_value={}):
        yield


@contextmanager
def without_proof() -> Iterator[list[Any]]:
    """Let no race stop a graph within this context. Yields the races that the verifier finds all the same."""
    races: list[Any] = []
    find = streamed_body.find_races

    def none(trace: Any) -> list[Any]:
        races.extend(race for race in find(trace) if race not in races)  # of either body
        return []

    with mock.patch.object(streamed_body, "find_races", none):
        yield races


def verdict(module: torch.nn.Module, inputs: Sequence[Any], make: Make, streams: int, target: str | None = None) -> Report:
    """Return what the pipeline, with its proof, says of a plan without lifetimes. Nothing runs; `target` as for `explain`."""
    options = {**chaos.PRICED, "streams": streams}
    del options["inductor"]
    with without_lifetimes(), chaos.planned_by(make) as made:
        report = graphstreams.explain(module, inputs, target, options)
    assert made, "the package did not ask for the plan"
    return report


@dataclass(frozen=True)
class Finding:
    """What one plan did in CUDA graphs: replays, how many had other bits than serial, and what the verifier says."""

    streams: int
    plan: str
    replays: int
    wrong: int
    shares: tuple[float, ...]  # of the elements of each of VALUES that differed, the most in one replay
    races: int  # in the very wrapper that ran
    verdict: str = ""  # of the pipeline with its proof, asked where something differed; or why there are no replays

    def __str__(self) -> str:
        differing = [f"{name} {share:.1%}" for name, share in zip(VALUES, self.shares, strict=True) if share]
        found = f"{self.wrong} of {self.replays} replays wrong{': ' if differing else ''}{', '.join(differing)}"
        proof = f"; {self.races} races in its wrapper{f', {self.verdict}' if self.verdict else ''}"
        return f"{self.streams} streams, {self.plan}: {found}{proof}"

    @property
    def proof_holds(self) -> bool:
        """Whether the verifier refuses what computed garbage."""
        return not self.wrong or (self.races > 0 and self.verdict == "refused")


class Trial:
    """The block and its serial graph, captured once, to compare others with."""

    @torch.no_grad()
    def __init__(self) -> None:
        torch._dynamo.reset()
        self.module, self.inputs = block()
        self.serial = CapturedFunction(torch.compile(self.module, options=SAME_KERNELS), self.inputs(0))

    @torch.no_grad()
    def captured(self, plan: str, make: Make, streams: int) -> Finding:
        """Replay one capture of this plan with fresh inputs."""
        streamed, races, serial = self._compiled(make, streams)
        if serial:
            return Finding(streams, plan, 0, 0, (0.0,) * len(VALUES), len(races), serial)
        wrong, shares = self._compared(CapturedFunction(streamed, self.inputs(0)), range(1, REPLAYS + 1))
        return self._finding(streams, plan, make, REPLAYS, wrong, shares, races)

    @torch.no_grad()
    def captured_late(self, make: Make, streams: int, seeds: int, replays: int = 3, until_wrong: bool = False) -> Finding:
        """Make one capture a seed of several runs in a row with spin kernels among their own; until one is wrong, or all."""
        streamed, races, serial = self._compiled(make, streams)
        assert not serial, serial

        def layers(*values: Any) -> list[Any]:
            return [streamed(*values) for _ in range(LAYERS)]

        done = wrong_seeds = wrong = 0
        shares = [0.0] * len(VALUES)
        for seed in range(seeds):
            with chaos.late_kernels(random.Random(seed), [LATE_CYCLES]):
                graph = CapturedFunction(layers, self.inputs(0))
            some, found = self._compared(graph, range(1, replays + 1))
            done, wrong, wrong_seeds = done + replays, wrong + some, wrong_seeds + bool(some)
            shares = [max(pair) for pair in zip(shares, found, strict=True)]
            if wrong and until_wrong:
                break
        name = f"list schedule, late kernels ({wrong_seeds} of {done // replays} captures wrong)"
        return self._finding(streams, name, make, done, wrong, shares, races)

    def _compiled(self, make: Make, streams: int) -> tuple[Callable[..., Any], list[Any], str]:
        """Return the block on this plan, the races in its wrapper, and why it runs serially all the same, if so."""
        torch._dynamo.reset()
        with without_lifetimes(), without_proof() as races, chaos.planned_by(make) as made:
            streamed, report = chaos.compiled(self.module, self.inputs, {"streams": streams})
        assert made, "the package did not ask for the plan"
        return streamed, races, "" if report["verdict"] == "clean" else f"{report['verdict']}: {report['reason']}"

    def _compared(self, graph: CapturedFunction, seeds: Sequence[int]) -> tuple[int, list[float]]:
        """Return how many replays differ from serial's, and the largest share of a value. A graph may run the block often."""
        wrong, most = 0, [0.0] * len(VALUES)
        outputs = len(self.serial.outputs)
        for seed in seeds:
            fresh = self.inputs(seed)
            for each in (self.serial, graph):
                each.load(fresh)
                each.replay()
            runs = [graph.outputs[i : i + outputs] for i in range(0, len(graph.outputs), outputs)]
            found = [self._differing(run, graph.inputs) for run in runs]
            wrong += any(any(shares) for shares in found)
            most = [max(column) for column in zip(most, *found, strict=True)]
        return wrong, most

    def _differing(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> list[float]:
        expected = [*self.serial.outputs, *self.serial.inputs]
        return [differing_share(*pair) for pair in zip(expected, [*outputs, *inputs], strict=True)]

    def _finding(
        self, streams: int, plan: str, make: Make, replays: int, wrong: int, shares: Sequence[float], races: Sequence[Any]
    ) -> Finding:
        # Last, for it resets Dynamo.
        said = verdict(self.module, self.inputs(0), make, streams).verdict if wrong else ""
        return Finding(streams, plan, replays, wrong, tuple(shares), len(races), said)


def differing_share(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return which share of the elements have other bits."""
    if equal_bits([expected], [found]):
        return 0.0
    rows = [t.detach().contiguous().reshape(-1, 1).view(torch.uint8) for t in (expected, found)]
    return float((rows[0] != rows[1]).any(1).double().mean())


def table(findings: Sequence[Finding]) -> str:
    """Return a table with a row for each plan and the largest share of each value that differed."""
    rows = []
    for finding in findings:
        shares = [f"{share:.1%}" if share else "" for share in finding.shares]
        wrong = f"{finding.wrong}/{finding.replays}"
        rows.append((finding.streams, finding.plan, wrong, *shares, finding.races, finding.verdict))
    headers = ("streams", "plan", "wrong", *VALUES, "races", "verdict")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Go both ways on two and three streams; exit status 1 if one shows no garbage, or the proof misses some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=6, help="how many random plans on each number of streams")
    parser.add_argument("--seeds", type=int, default=20, help="how many captures with spin kernels")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    trial = Trial()
    found: dict[tuple[int, str], list[Finding]] = {}

    def note(way: str, finding: Finding) -> None:
        found.setdefault((finding.streams, way), []).append(finding)
        print(f"{time.monotonic() - started:4.0f} s  {finding}", flush=True)

    for streams in (2, 3):
        for name, make in plans(streams, arguments.plans):
            note("as planned", trial.captured(name, make, streams))
        _, make = next(plans(streams, 0))
        note("late", trial.captured_late(make, streams, arguments.seeds))
    findings = [finding for some in found.values() for finding in some]
    print(f"\n{table(findings)}\n")
    silent = [f"{way} on {streams} streams" for (streams, way), some in found.items() if not any(f.wrong for f in some)]
    missed = [f.plan for f in findings if not f.proof_holds]
    print(f"no garbage: {', '.join(silent) or 'nowhere'}; garbage that is not refused: {', '.join(missed) or 'none'}")
    return int(bool(silent or missed))


if __name__ == "__main__":
    raise SystemExit(main())
