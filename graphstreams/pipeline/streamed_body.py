"""Put the streamed body beside the serial one, prove the text that runs, and compare the two bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphstreams.errors import CannotJoin, PlanRefused, StaySerial
from graphstreams.inductor import conformance
from graphstreams.inductor.concatenations import on_several_streams
from graphstreams.inductor.lowering import Lowered, peak_memory
from graphstreams.inductor.scheduler_nodes import is_subgraph, joined_kernels, most_saved_us, where_cut
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.reading import Reading
from graphstreams.messages import listed
from graphstreams.rewriting.agreement import disagreement, matching_outputs, undeclared_constants
from graphstreams.rewriting.kernel_differences import kernel_differences
from graphstreams.rewriting.lifetimes import HeldValue, largest_held
from graphstreams.rewriting.two_bodies import Joined, join
from graphstreams.rewriting.wrapper_source import Host, find_host
from graphstreams.runtime.dispatch import Dispatch, cannot_settle
from graphstreams.verification.collectives import misplaced_collectives
from graphstreams.verification.races import lines_of_kernels, racing_kernels
from graphstreams.verification.vector_clocks import find_races
from graphstreams.verification.wrapper.read import launch_order, read_bodies

ALLOWED_MEMORY = 64 * 2**20  # bytes that a plan may always add to the serial graph's peak


@dataclass(frozen=True)
class Differences:
    """How the streamed body differs from the serial one."""

    launches: int  # of the streamed body
    memory: int  # bytes that its buffers take at its peak, by Inductor's estimate
    kernels: tuple[str, ...]  # launches that are not serial's, and why
    lost_fusions: int  # launches more than serial has, without those that serial joins
    joined_us: float  # us that the serial code may save by joining launches
    chosen: str  # what max-autotune chose for the serial code alone; empty if nothing
    split: frozenset[int] = frozenset()  # kernels with more launches than they were read with


@dataclass(frozen=True)
class Proof:
    """What was found in a wrapper with both bodies. It is right if there are no races and no step is out of order."""

    races: tuple[str, ...] = ()  # on every way through it
    out_of_order: str = ""  # where the streamed body leaves the plan's order
    kernels: frozenset[int] = frozenset()  # those that races of the streamed body, or the step out of order, are about
    serial_races: bool = False  # whether the serial body has races, which no plan changes
    lines: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # that launch each kernel on streams

    @property
    def failure(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        if self.races:
            return f"the generated wrapper has {len(self.races)} races, the first: {self.races[0]}"
        return f"the generated wrapper does not keep the plan's order: {self.out_of_order}" if self.out_of_order else ""


def host_of(serial: Lowered) -> Host:
    """Return the function of the serial wrapper that launches the kernels. Raises StaySerial if there are several."""
    with serial.active():
        try:
            host = find_host(serial.source)
        except CannotJoin as reason:
            raise StaySerial("serial", f"{reason}{where_cut(serial)}; each of them stays serial") from None
        cut = where_cut(serial) if host.name != "call" else ""
    if cut:
        raise StaySerial("serial", f"Inductor keeps a part of it out of its CUDA graph{cut}; the rest stays serial")
    return host


def join_bodies(
    serial: Lowered, streamed: Lowered, host: Host, mutated: tuple[str, ...], dispatch: Dispatch,
    settled: bool = True, verdict: Sequence[str] = (),
) -> Joined:  # fmt: skip
    """Return the wrapper with both bodies, of which a call runs the one that `dispatch` says.

    `mutated` are the inputs that the graph changes. With `settled` kernels that only the streamed body launches are reduced to
    one configuration when the wrapper is loaded. `verdict` are lines that tell what was decided. Raises StaySerial if the two
    bodies can't stand in one wrapper.
    """
    if difference := disagreement(serial, streamed, mutated):
        raise StaySerial("refused", difference)
    try:
        outputs = matching_outputs(serial, streamed, host)
        lines = [*undeclared_constants(serial), *verdict]
        joined = join(serial.source, streamed.source, host, dispatch.condition, outputs, settled, lines)
    except CannotJoin as reason:
        raise StaySerial("refused", str(reason)) from None
    if joined.own_kernels and (why := cannot_settle()):
        raise StaySerial("serial", f"{joined.own_kernels} kernels only run on streams, and {why}")
    return joined


def prove(source: str, streamed: Lowered, reading: Reading, plan: Plan) -> Proof:
    """Return the races of a wrapper, on every way through it, and where its streamed body leaves the plan's order."""
    with streamed.active():
        named, unnamed = conformance.lowered_steps(streamed), conformance.unnamed_steps(streamed)
        launched = conformance.launched_kernels(streamed)
    on_streams, *others = read_bodies(source)
    planned, in_wrapper = conformance.planned_steps(plan, reading.kernels), conformance.without_names(launch_order(on_streams))
    difference = conformance.first_difference(planned, named) or conformance.first_difference(unnamed, in_wrapper)
    races, elsewhere = find_races(on_streams), [race for body in others for race in find_races(body)]
    races += [race for serial in others for race in misplaced_collectives(on_streams, serial)]
    racing = frozenset[int]() if elsewhere else racing_kernels(races, on_streams, launched)
    kernels = racing | conformance.differing_kernels(planned, named)
    lines = lines_of_kernels(on_streams, launched)
    return Proof(tuple(map(str, (*races, *elsewhere))), difference, kernels, bool(elsewhere), lines)


def compare_bodies(serial: Lowered, streamed: Lowered, kernels: KernelGraph, us: Sequence[float], launches: int) -> Differences:
    """Return how the streamed body differs from the serial one, which makes `launches` launches."""
    with streamed.active():
        streamed_launches = conformance.launch_count(streamed)
        memory = peak_memory(streamed, on_several_streams(streamed.graph.scheduler))  # these are alive from the start
        launched = conformance.launched_kernels(streamed)
        templates = -sum(bool(node.is_template()) for node in streamed.nodes)
    with serial.active():
        joined, split = joined_kernels(serial, kernels), sum(map(is_subgraph, serial.nodes))
        templates += sum(bool(node.is_template()) for node in serial.nodes)
    chosen = [f"templates for {templates} of the serial code's kernels"] * (templates > 0)
    chosen += [f"a split along K (decompose_k) for {split} of the serial code's products"] * (split > 0)
    lost = streamed_launches - launches - sum(len(each) - 1 for each in joined)
    saved = most_saved_us(joined, us) if us else 0.0
    different = kernel_differences(serial.source, streamed.source)
    counts = Counter(kernel for own in launched.values() for together in own for kernel in together)
    in_pieces = frozenset(each.id for each in kernels.kernels if counts[each.id] > len(each.launches))
    return Differences(streamed_launches, memory, different, lost, saved, " and ".join(chosen), in_pieces)


def check_memory(serial: int, streamed: int, max_extra_memory: float, reading: Reading, plan: Plan) -> None:
    """Raise PlanRefused if the streamed body needs too much more memory; sizes are in bytes.

    `serial` and `streamed` are peaks of buffers. The limit is a share of all that the serial graph holds, weights included.
    """
    allowed = max(max_extra_memory * (serial + reading.held_memory), ALLOWED_MEMORY)
    too_much = streamed - serial - allowed
    if too_much > 0:
        held = largest_held(reading, plan, too_much)
        text = f"it needs {(streamed - serial) / 2**20:.0f} MiB more than serial, because {_why_more(held, too_much, reading)}"
        text += f"; {allowed / 2**20:.0f} MiB are allowed"
        raise PlanRefused("serial", text, frozenset().union(*(each.held_for for each in held)))


def _why_more(held: Sequence[HeldValue], too_much: float, reading: Reading) -> str:
    """Return which values are held for which kernels, and if those don't make up for `too_much` bytes, that there are more."""
    names = [kernel.name for kernel in reading.kernels.kernels]

    def told(each: HeldValue) -> str:
        readers = listed([repr(names[kernel]) for kernel in sorted(each.held_for)])
        return f"{each.bytes / 2**20:.1f} MiB of {names[each.kernel]!r}" + (f" for {readers}" if readers else "")

    parts = [f"other streams hold {listed(list(map(told, held)))}"] if held else []
    parts += ["more is alive at once"] * (sum(each.bytes for each in held) < too_much)
    return " and ".join(parts)
