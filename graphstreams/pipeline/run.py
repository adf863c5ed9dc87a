"""The recipe: read, price, plan, rewrite, lower, join, prove, measure. One graph goes through it, and is not changed.

Each stage is a function that returns a value. What the stages find is written into the report here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from graphstreams.autotuning.autotuner import Autotuner
from graphstreams.autotuning.cache_keys import graph_key
from graphstreams.costs.roofline import Roofline
from graphstreams.dynamic_shapes.crossover import Tokens, dynamic_tokens
from graphstreams.errors import PlanRefused, StaySerial, Unmeasurable
from graphstreams.inductor import conformance
from graphstreams.inductor.collective_operators import settings_for
from graphstreams.inductor.collectives import collectives_of, notes_on_groups
from graphstreams.inductor.lowering import Lowered, copy_graph, finish_post_grad_passes, lower
from graphstreams.inductor.own_kernels import NOTES
from graphstreams.inductor.scheduler_nodes import joined_kernels
from graphstreams.inductor.scheduling import KERNEL
from graphstreams.inductor.settings import notes_on_collectives, notes_on_settings, pass_over_collectives, stream_settings
from graphstreams.inductor.stream_ops import events_of
from graphstreams.inductor.streamed_code import streamed_code
from graphstreams.inductor.wrapper_registry import REWRITTEN
from graphstreams.ir.devices import Device, device_at_hand
from graphstreams.ir.measurement import Measurement
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.ir.reading import Reading, owners
from graphstreams.messages import with_type
from graphstreams.options import Options
from graphstreams.pipeline.apply_plan import PlanAsGiven, run_given_plan
from graphstreams.pipeline.compilation import GraphCompilation, Progress
from graphstreams.pipeline.other_plans import run_with_other_plans
from graphstreams.pipeline.placement import placed
from graphstreams.pipeline.plan_files import GivenPlan
from graphstreams.pipeline.preconditions import check_tokens, final_graph, notes_on_kernels, unusable
from graphstreams.pipeline.readable_code import readable_code
from graphstreams.pipeline.select_plan import MeasuredPlans, ModelledPlans, PlanChoice, PlanSource, Task, check_gain
from graphstreams.pipeline.select_token_range import dispatch_by_tokens, smaller_sizes, streamed_part, token_range
from graphstreams.pipeline.streamed_body import check_memory, compare_bodies, host_of, join_bodies, prove
from graphstreams.pipeline.undeclared import cost_of_undeclared
from graphstreams.planning.repeated_layers import note_on_layers
from graphstreams.reading.eligibility import check_graph
from graphstreams.reading.naming import inputs_by_position, named_inputs, sizes_named
from graphstreams.reading.reader import read
from graphstreams.reading.stored_values import storages_of
from graphstreams.reports.report import Report
from graphstreams.rewriting.event_comments import event_headings
from graphstreams.rewriting.regions import rewrite
from graphstreams.rewriting.two_bodies import Joined
from graphstreams.rewriting.wrapper_source import Host
from graphstreams.runtime.dispatch import Dispatch, sizes_of
from graphstreams.runtime.ranks import on_rank

log = logging.getLogger("graphstreams")

DIRECT_GAIN = 0.02  # share of the serial time that streams have to save in direct calls to run there: noise is below it
COLLECTIVES_LEFT_OUT = (
    "it holds collectives, each of which takes all ranks: its other kernels and its plans were timed without them, with a "
    "pause of modelled time in place of each, and the generated code was not run"
)
SLOWER = 1.03  # times what its kernels took in a replay, from which on a note says that the generated code is slower


@dataclass(frozen=True)
class ReadGraph:
    """A graph as kernels, and as Inductor lowers it serially."""

    reading: Reading
    serial: Lowered
    host: Host  # the function of the serial wrapper that launches the kernels
    tokens: Tokens | None  # if calls choose their number
    sizes: Mapping[str, str]  # the Python that reads each dynamic size from the list that `host` is called with
    where: str  # which sizes of the inputs make the number of tokens
    joined: tuple[frozenset[int], ...] = ()  # kernels of which the serial code makes one launch


@dataclass(frozen=True)
class Bodies:
    """A graph as Inductor has lowered it serially and on streams, and the function that both bodies belong to."""

    serial: Lowered
    streamed: Lowered
    host: Host


def run_stages(
    gm: fx.GraphModule, options: Options, name: str = "graph", input_names: Sequence[str] = (),
    device: Device | None = None, inputs: Sequence[Any] | None = None, serial: Lowered | None = None,
    marked: Sequence[MarkedModule] = (),
) -> GraphCompilation:  # fmt: skip
    """Put the kernels of `gm`, a post-grad inference graph, on streams, in a body beside the serial one.

    `input_names` are the source names of the graph's inputs, `device` the GPU to plan for (the one at hand by default).
    With `inputs`, the real ones as far as they are known, kernels and plans may be run and measured on the GPU at hand.
    `serial` is the graph as Inductor has lowered it, with its wrapper; without it `gm` is lowered here, after the passes that
    Inductor runs behind the custom post-grad pass. `marked` are the modules that the model's code has given a stream.
    Never raises for a graph that has to stay serial: the report says why.
    """
    progress = Progress(name)
    if serial is not None:
        progress.tell(graph_key=graph_key(serial.source, input_names, options, marked))
    with progress.until_stopped():
        graph = read_graph(progress, gm, options, input_names, device, serial, marked)
        task = Task(graph.reading, device or device_at_hand(), options, graph.joined)
        progress.tell(device=task.device.name)
        with progress.stage("report"):
            progress.tell(graph_serial=readable_code(graph.reading.module), owners_serial=owners(graph.reading.regions))

        def as_given(given: GivenPlan) -> None:
            choice, autotuner = choose_plan(progress, task, inputs, graph, given)
            with contextlib.closing(autotuner) if autotuner else contextlib.nullcontext():
                _run_plan(progress, task, graph, choice, autotuner)

        if not run_given_plan(progress, task, as_given):
            choice, autotuner = choose_plan(progress, task, inputs, graph)
            with contextlib.closing(autotuner) if autotuner else contextlib.nullcontext():
                _run_choice(progress, task, graph, choice, autotuner)
    return progress.compilation


def finish_stages(progress: Progress, task: Task, graph: ReadGraph, choice: PlanChoice, autotuner: Autotuner) -> Report:
    """Go on from a plan that was chosen by measuring: rewrite, lower, join, prove and measure as `run_stages` does.

    `progress` is that of reading and choosing. Nothing is read, compiled or searched again. The caller closes the autotuner.
    Never raises for a graph that has to stay serial: the report says why.
    """
    with progress.until_stopped():
        _run_choice(progress, task, graph, choice, autotuner)
    return progress.report


def _run_choice(progress: Progress, task: Task, graph: ReadGraph, choice: PlanChoice, autotuner: Autotuner | None) -> None:
    """Go on with the chosen plan, or with another one if its code is refused."""
    progress.note(*note_on_layers(graph.reading.kernels))
    progress.note(*cost_of_undeclared(task, progress.report.us, choice.plan))
    run_with_other_plans(progress, task, choice, lambda other: _run_plan(progress, task, graph, other, autotuner), autotuner)


def _run_plan(progress: Progress, task: Task, graph: ReadGraph, choice: PlanChoice, autotuner: Autotuner | None) -> None:
    dispatch = _dispatch(progress, task, choice, autotuner, graph)
    bodies = Bodies(graph.serial, _rewrite(progress, task, graph), graph.host)
    finish(progress, task, bodies, dispatch, graph.tokens.example if graph.tokens else None, autotuner)


def finish(
    progress: Progress, task: Task, bodies: Bodies, dispatch: Dispatch, example: int | None = None,
    autotuner: Autotuner | None = None,
) -> None:  # fmt: skip
    """Join the two bodies, prove the text, time it if the plan was just measured, and prove the text that runs.

    The plan is the report's. `example` is the number of tokens in the call that is compiled, if calls choose it. Raises
    StaySerial if the code is not proved or not worth it.
    """
    # Code is timed if its plan was measured, unless an earlier compile has timed it.
    measured = progress.report.measurement
    timed = autotuner is not None and measured is not None and not (measured.from_disk and measured.compiled_us)
    if timed:  # the streamed body runs however it is called
        joined = _join(progress, task, bodies, Dispatch(direct=True), settled=False)
    else:
        joined = _as_it_runs(progress, task, bodies, dispatch, example)
    _prove(progress, task, joined, bodies.streamed)
    _compare(progress, task, bodies, example)
    if timed:
        assert autotuner is not None
        _time(progress, task, joined, bodies.serial, autotuner)
        joined = _as_it_runs(progress, task, bodies, dispatch, example)
        _prove(progress, task, joined, bodies.streamed)
    progress.tell(verdict="clean", wrapper=joined.source)
    progress.keep(added=joined.added)


def read_graph(
    progress: Progress, gm: fx.GraphModule, options: Options, input_names: Sequence[str], device: Device | None,
    serial: Lowered | None, marked: Sequence[MarkedModule],
) -> ReadGraph:  # fmt: skip
    """Read the kernels of a graph. Raises StaySerial or Unsupported if it can't be put on streams."""
    with progress.stage("read"):
        progress.note(*gm.meta.get(NOTES, ()))
        if reason := unusable(device):
            raise StaySerial("serial", reason)
        explained = serial is None
        if serial is None:
            check_graph(gm)
            gm = copy_graph(gm)
            finish_post_grad_passes(gm)
            serial = lower(gm, generate_code=True)
        final = final_graph(gm, finished=True)
        unchanged = serial if final is gm else None
        with serial.active():
            order = collectives_of(serial, storages_of(serial)).order
        settings = {**stream_settings(), **settings_for(final)}
        reading = read(final, progress.report.name, input_names, settings, options.operators, unchanged, order)
        kernels, notes = placed(reading.kernels, options, marked)
        progress.note(*notes)
        reading = replace(reading, kernels=kernels)
        progress.keep(reading=reading)
        progress.note(*notes_on_kernels(reading))
        with serial.active():
            launches = conformance.launch_count(serial)
            joined = tuple(map(frozenset, joined_kernels(serial, kernels)))
        progress.tell(kernels=kernels, kernels_serial=launches, memory_serial=reading.peak_memory, wrapper=serial.source)
        host = host_of(serial)
        progress.tell(inputs=named_inputs(reading.module, input_names))
        progress.note(*notes_on_settings())
        if kernels.has_collectives():
            progress.note(*notes_on_collectives(explained), *notes_on_groups(kernels))
            if reason := pass_over_collectives():
                raise StaySerial("serial", reason)
        tokens = dynamic_tokens(final)
        if tokens is None:
            check_tokens(final, options)
        values = {node.name: node.meta.get("val") for node in final.graph.find_nodes(op="placeholder")}
        if tokens is None:
            return ReadGraph(reading, serial, host, None, {}, "", joined)
        sizes = sizes_of([values.get(name, name) for name in host.inputs])
        return ReadGraph(reading, serial, host, tokens, sizes, sizes_named(final, tokens.size, input_names), joined)


def choose_plan(
    progress: Progress, task: Task, inputs: Sequence[Any] | None, graph: ReadGraph, given: GivenPlan | None = None
) -> tuple[PlanChoice, Autotuner | None]:
    """Price the kernels and choose the plan: by measuring if that is wanted and possible, else from modelled times.

    Return the choice, and the autotuner if generated code can be timed, which no rank may do with collectives. A plan that is
    `given` is chosen whatever it gains. Raises StaySerial if it is not for so many tokens.
    """
    limit, tokens = task.options.max_tokens, graph.tokens
    if tokens is not None and limit is not None and tokens.example > limit:
        progress.tell(us=tuple(Roofline(task.device).price(task.reading.kernels)), costs="roofline")
        rejected = f"there are {tokens.example} tokens, more than max_tokens={limit}"
        if given is not None:
            raise StaySerial("serial", rejected)
        return PlanChoice(None, rejected=rejected), None
    plan, given_tokens = (given.plan, given.tokens) if given else (None, None)
    if given_tokens is not None and tokens is None:
        raise StaySerial("serial", "its plan is for a number of tokens that each call chooses; leave out its 'tokens'")
    modelled = PlanAsGiven(ModelledPlans(), plan, given_tokens) if plan else ModelledPlans()
    if inputs is None or task.options.costs not in ("auto", "measured"):
        return _choose_by(progress, task, modelled), None
    try:
        values = inputs_by_position(task.reading.module, inputs)
        with contextlib.ExitStack() as stack:  # it is closed whatever stops it, also an interrupt
            autotuner = stack.enter_context(
                contextlib.closing(Autotuner(task.reading, task.device, task.options, values, graph.serial, plan))
            )
            plans = MeasuredPlans(autotuner)
            choice = _choose_by(progress, task, PlanAsGiven(plans, plan, given_tokens, autotuner) if plan else plans)
            if task.reading.kernels.has_collectives():
                progress.note(COLLECTIVES_LEFT_OUT)
                return choice, None
            stack.pop_all()  # the caller closes it
            return choice, autotuner
    except Exception as error:
        log.debug("measuring failed", exc_info=True)
        reason = str(error) if isinstance(error, Unmeasurable) else with_type(error)
        progress.note(f"kernels were not measured: {reason}")
        if task.options.costs == "measured":
            name = on_rank(progress.report.name)
            log.warning("graphstreams: %s: kernels were not measured, their times are modelled: %s", name, reason)
        progress.tell(us=(), plan=None, measurement=None)
    return _choose_by(progress, task, modelled), None


def _choose_by(progress: Progress, task: Task, source: PlanSource) -> PlanChoice:
    with progress.stage("price"):
        prices = source.price(task)
    progress.tell(us=prices.us, costs=prices.source)
    with progress.stage("plan"):
        choice = source.choose(task, prices)
    progress.tell(plan=choice.plan, measurement=choice.measurement)
    return choice


def _dispatch(progress: Progress, task: Task, choice: PlanChoice, autotuner: Autotuner | None, graph: ReadGraph) -> Dispatch:
    """Return which calls run on streams. Raises StaySerial if none do."""
    us, tokens = progress.report.us, graph.tokens
    if tokens is None:
        if choice.rejected:
            raise StaySerial("serial", choice.rejected)
        return Dispatch()
    smaller, why_not = smaller_sizes(task, tokens, us, choice) if choice.rejected else (None, "")
    if choice.rejected and smaller is None:
        progress.note(why_not)
        limit = task.options.max_tokens  # where it is why the call's own number was not tried, calls with fewer are what counts
        beyond = limit is not None and tokens.example > limit
        raise StaySerial("serial", f"{choice.rejected}; {why_not}" if beyond else choice.rejected)
    if smaller is not None:
        # This call, and others with as many tokens, will run the serial body.
        count = smaller.costs.tokens.example
        progress.note(f"planned for {count} tokens: {tokens.example}, of the call that was compiled, run serially")
        progress.tell(plan=smaller.plan, us=smaller.us, measurement=None)
    with progress.stage("threshold"):
        threshold, notes = token_range(task, tokens, us, choice, smaller, autotuner.gain_at if autotuner else None)
        progress.note(*notes)
        progress.tell(threshold=replace(threshold, where=graph.where))
        return dispatch_by_tokens(threshold, graph.sizes)


def _rewrite(progress: Progress, task: Task, graph: ReadGraph) -> Lowered:
    """Rewrite the graph to the report's plan, and return the code that Inductor generates for it."""
    reading, plan = task.reading, progress.report.plan
    assert plan is not None
    with progress.stage("rewrite"):
        module = rewrite(reading, plan)
        module.meta[REWRITTEN] = replace(module.meta[REWRITTEN], aligned=graph.host.aligned)
        progress.keep(module=module)
    with progress.stage("report"):
        own = {node.name: node.meta[KERNEL] for node in module.graph.nodes if KERNEL in node.meta}
        events = event_headings(plan, reading.kernels, events_of(module))
        progress.tell(graph_streams=readable_code(module), owners_streams=own, event_nodes=events)
    with progress.stage("lower"):
        return streamed_code(module, graph.serial.graph.constants)


def _as_it_runs(progress: Progress, task: Task, bodies: Bodies, dispatch: Dispatch, example: int | None) -> Joined:
    """Return the wrapper with both bodies, of which direct calls run the streamed one if that was measured to gain."""
    direct = gains_directly(progress.report.measurement, example)
    progress.tell(direct=direct)
    return _join(progress, task, bodies, replace(dispatch, direct=direct))


def gains_directly(measurement: Measurement | None, example: int | None) -> bool:
    """Return whether the streamed body also runs if the host launches the kernels: a measurement says so for one size only."""
    # With fewer tokens than in the example the host may be what counts.
    if example is not None or measurement is None or measurement.waits_for_host:
        return False
    return (measurement.direct_gain or 0.0) >= DIRECT_GAIN


def _join(progress: Progress, task: Task, bodies: Bodies, dispatch: Dispatch, settled: bool = True) -> Joined:
    with progress.stage("verify"):
        with bodies.streamed.active():
            progress.tell(kernels_streamed=conformance.launch_count(bodies.streamed))
        verdict = progress.report.as_verdict("clean").lines if settled else []
        joined = join_bodies(bodies.serial, bodies.streamed, bodies.host, task.reading.mutated, dispatch, settled, verdict)
        progress.tell(own_kernels=joined.own_kernels)
        return joined


def _prove(progress: Progress, task: Task, joined: Joined, streamed: Lowered) -> None:
    """Raise StaySerial if the text with both bodies has a race or another order than the plan; PlanRefused if a plan is why."""
    plan = progress.report.plan
    assert plan is not None
    with progress.stage("verify"):
        progress.tell(wrapper=joined.source)
        proof = prove(joined.source, streamed, task.reading, plan)
        progress.tell(order_kept=not proof.out_of_order, races=proof.races, launch_lines=proof.lines)
        if proof.serial_races:
            raise StaySerial("refused", proof.failure)
        if proof.failure:
            raise PlanRefused("refused", proof.failure, proof.kernels)


def _compare(progress: Progress, task: Task, bodies: Bodies, example: int | None) -> None:
    """Raise StaySerial if the serial code, with the user's settings, may be no slower, or if streams need too much memory.

    It is PlanRefused if another plan may lose fewer fusions, or need less memory.
    """
    report = progress.report
    assert report.plan is not None
    with progress.stage("verify"):
        found = compare_bodies(bodies.serial, bodies.streamed, task.reading.kernels, report.us, report.kernels_serial)
        progress.tell(kernels_streamed=found.launches, memory_streamed=found.memory, differences=found.kernels)
        # Code that will be timed is compared then, with all that was lost or chosen.
        timed = report.measurement is not None and not task.reading.kernels.has_collectives()
        if found.chosen and not timed:
            text = f"max-autotune chose {found.chosen}, which streams go without"
            why = "code with collectives is not measured" if report.measurement else "nothing was measured"
            raise StaySerial("serial", f"{text}; {why}, and how long they take can't be predicted")
        lost, joined = (0, 0.0) if timed else (found.lost_fusions, found.joined_us)
        if not report.plan_file:
            check_gain(task, report.us, report.plan, report.measurement, lost, joined, found.split)
        part = streamed_part(report.threshold, example)
        memory = int(report.memory_serial * part), int(found.memory * part)
        check_memory(*memory, task.options.max_extra_memory, task.reading, report.plan)


def _time(progress: Progress, task: Task, joined: Joined, serial: Lowered, autotuner: Autotuner) -> None:
    """Time the code that was proved. Raises StaySerial if it gains too little."""
    report = progress.report
    assert report.plan is not None and report.measurement is not None
    with progress.stage("measure"):
        # In this wrapper every call runs the streamed body.
        measured = autotuner.benchmark.time_generated_code(joined.source, serial, report.measurement)
        autotuner.save(report.us, report.plan, measured)  # for the next compile
        progress.tell(measurement=measured)
        if not report.plan_file:
            check_gain(task, report.us, report.plan, measured)
    if measured.compiled_us > SLOWER * measured.played_us:
        text = f"the generated code took {measured.compiled_us:.1f} us, its kernels as played {measured.played_us:.1f} us"
        progress.note(text)
