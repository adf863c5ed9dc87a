"""The torch.compile backend and the post-grad pass: the recipe, put where Inductor calls it."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import fx

from graphstreams.autotuning.cache_keys import graph_key, source_hash
from graphstreams.costs.calibration import fingerprint
from graphstreams.costs.profile_files import hash_of_profiles
from graphstreams.errors import CannotJoin, GraphstreamsError, OptionError, StreamsRemain, Unsupported
from graphstreams.inductor.compile import compile_graph, graph_name, input_names, module_name, post_grad_passes
from graphstreams.inductor.lowering import Lowered
from graphstreams.inductor.settings import unusable_setting
from graphstreams.inductor.undecided import mark_of, mark_undecided
from graphstreams.inductor.wrapper_codegen import Code
from graphstreams.inductor.wrapper_registry import PostGradPass, foreign_generator
from graphstreams.ir.declarations import all_declared
from graphstreams.ir.placement_rules import MarkedModule
from graphstreams.messages import shown
from graphstreams.options import Options, disabled
from graphstreams.pipeline.fast_kernels import use_fast_kernels, why_not_now
from graphstreams.pipeline.given_options import read_options
from graphstreams.pipeline.kernel_variants import GivenGraph
from graphstreams.pipeline.placement import marks_of
from graphstreams.pipeline.plan_files import hash_of_plans
from graphstreams.pipeline.publish import cached_report, keep_report, publish, publishes
from graphstreams.pipeline.run import run_stages
from graphstreams.pipeline.top_k import use_top_k_kernels
from graphstreams.reading.eligibility import NO_CUDA_TENSORS, check_graph
from graphstreams.reports.report import Report, to_keep
from graphstreams.rewriting.placed_streams import placed_streams, serial_code
from graphstreams.rewriting.two_bodies import add_lines
from graphstreams.runtime import verdicts
from graphstreams.runtime.allocator import unsupported_allocator
from graphstreams.runtime.ranks import on_rank
from graphstreams.verification.wrapper.read import UnreadableWrapper, verify

log = logging.getLogger("graphstreams")

TRAINS = "it records gradients, and training is not planned: call it under torch.inference_mode() or torch.no_grad()"


class StreamPass(PostGradPass):
    """Puts the kernels of a post-grad graph on streams: Inductor's `post_grad_custom_post_pass`.

    A graph that cannot be helped, or proved, runs as Inductor would run it. `reports` holds one Report for each graph compiled.
    """

    guarded = True  # whether calls are guarded by the ranges of sizes that torch knows
    captured = False  # whether whoever compiles captures the calls in CUDA graphs, without Inductor knowing

    def __init__(
        self,
        options: Options | Mapping[str, Any] | None = None,
        input_names: Sequence[str] = (),
        inputs: Sequence[Any] = (),
        marked: Sequence[MarkedModule] = (),
    ) -> None:
        """`options` as for the backend; `input_names` are the source names of the graph's inputs, as far as they are known,
        `inputs` their values, and `marked` the modules that the model's code has given a stream. Kernels are run, and plans
        measured, only if the value of every tensor among them is known. Plain Inductor gives a pass none of these: there the
        plan comes from the roofline, or from an earlier compile of the same graph, and marks don't count.

        Raises OptionError for options that are none.
        """
        self.options = options if isinstance(options, Options) else Options.from_dict(options)
        self.input_names = tuple(input_names)
        self.inputs = tuple(inputs)
        self.marked = tuple(marked)
        self.reports: list[Report] = []

    def skips(self, gm: fx.GraphModule, name: str, is_inference: bool) -> bool:
        """Return whether a graph is known to stay serial before it is lowered. Raises GraphstreamsError if strict."""
        if disabled() or (not is_inference and name.endswith("_backward")):  # its forward graph said that it is training
            return True
        reason = _why_not(gm, is_inference)
        told = {(report.name, report.reason) for report in self.reports}
        if reason and (name, reason) not in told:  # which was told of a graph's subgraphs, such as the branches of a condition
            self._done(Report(name, "serial", reason, "read"))
        return bool(reason)

    def tells_of_skipped(self, gm: fx.GraphModule, name: str) -> bool:
        """Return whether a graph that was skipped with a reason has CUDA tensors: only CUDA's wrappers are this package's."""
        return _has_cuda(gm, "val") and any(report.name == name for report in self.reports)

    def code_of_skipped(self, source: str, name: str) -> Code:
        """Return the wrapper of a skipped graph with its verdict, which is told if the wrapper comes from a cache."""
        report = next(report for report in reversed(self.reports) if report.name == name)
        verdicts.compiled(report.as_verdict())
        return _with_verdict(source, report)

    def prepare(self, gm: fx.GraphModule) -> None:
        """Take this package's kernels for top-k, and if asked for products of few rows, where they are faster."""
        use_top_k_kernels(gm, self.options, guarded=self.guarded)
        if not use_fast_kernels(GivenGraph(gm, self.options, graph_name(), self.inputs, self.input_names, self.marked)):
            mark_undecided(self.input_names, self.inputs)

    def planned_with(self, gm: fx.GraphModule) -> tuple[Options, Sequence[Any]]:
        """Return the options and the inputs, as far as they are known, that a graph is planned with."""
        return self.options, self.inputs

    def code_for(self, lowered: Lowered, name: str) -> Code:
        """Return the wrapper to run, with the lines added to Inductor's. Raises GraphstreamsError if strict."""
        gm: Any = lowered.graph.module
        if placed := placed_streams(gm):
            report = _report_on_placed(name, placed, lowered, graph_key(lowered.source, self.input_names, self.options))
            code = _with_verdict(report.wrapper, report)
        else:
            options, inputs = self.planned_with(gm)
            compilation = run_stages(gm, options, name, self.input_names, inputs=inputs, serial=lowered, marked=self.marked)
            report = compilation.report
            clean = report.verdict == "clean"
            code = (report.wrapper, compilation.added) if clean else _with_verdict(lowered.source, report)
        verdicts.compiled(report.as_verdict())
        keep_report(report)
        self._done(report)
        return code

    def uuid(self) -> str | None:
        """Identify options, marked modules, what profile, plans and calibrations hold, and our source in Inductor's cache keys.

        None, which means no caching, if the profile or a plan cannot be read any more. Inductor asks for it right before it
        looks for a graph in its caches, so the wrappers that this thread loads next are told to this pass, which writes their
        reports.
        """
        verdicts.tell(self.publish_cached)
        profile = b"" if self.options.profile is None else hash_of_profiles(self.options.profile)
        plans = hash_of_plans(self.options.plan)
        if profile is None or plans is None:
            return None
        # A report is not part of the code.
        options = "disabled" if disabled() else repr((replace(self.options, dump=None), all_declared(())))
        content = fingerprint() + profile + plans
        seen = (
            options, source_hash(), self.input_names, bool(self.inputs), self.marked, unsupported_allocator(),
            *((why_not_now(), mark_of(self.input_names, self.inputs)) if self.options.kernels == "fast" else ()),
        )  # fmt: skip
        return hashlib.sha256(repr(seen).encode() + content).hexdigest()

    def publish_cached(self, verdict: verdicts.Verdict) -> None:
        """Write the report on a graph that was found in a cache. One that this pass has seen has its report already."""
        if publishes(self.options.dump) and verdict.report_key not in {each.as_verdict().report_key for each in self.reports}:
            publish(cached_report(verdict), self.options.dump)

    def _done(self, report: Report) -> None:
        self.reports.append(report)
        folder = publish(report, self.options.dump)
        log.debug("%s", report)
        strict = self.options.strict
        if report.verdict != "clean" and (report.verdict == strict or strict is True):
            raise GraphstreamsError(on_rank(str(report.as_verdict())))
        verdicts.say(report.as_verdict(), captured=self.captured)
        if folder is not None and (text := to_keep(report, folder)):
            log.info("graphstreams: %s: %s", on_rank(report.name), text)


def graphstreams(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    **newer: Any,
) -> Any:
    """The backend of `torch.compile(model, backend="graphstreams", mode=..., options=...)`.

    `options` holds fields of `Options`, settings of Inductor, and a "mode". `name` is what the log calls the model; by default
    the class of the module. Of `newer` keywords, which another release of torch may pass, a warning says that they do nothing.
    Raises OptionError for other options.
    """
    for keyword in newer:
        log.warning("graphstreams: torch.compile passes %r, which is not known here and does nothing", keyword)
    given = read_options(options, mode)
    chosen, settings = given.options, given.settings
    if disabled() or chosen.streams == 1:
        if chosen.kernels != "exact":
            why = "streams=1 turns graphstreams off" if chosen.streams == 1 else "GRAPHSTREAMS_DISABLE is set"
            log.warning("graphstreams: kernels=%r has no effect: %s", chosen.kernels, why)
        return compile_graph(gm, example_inputs, settings)
    stream_pass = StreamPass(chosen, input_names(gm), inputs=example_inputs, marked=marks_of(gm))
    patches = {**settings, "post_grad_custom_post_pass": [*post_grad_passes(settings), stream_pass]}
    module = name or module_name()
    with verdicts.listening(module) as loaded:
        try:
            compiled = compile_graph(gm, example_inputs, patches)
        finally:
            stream_pass.inputs = ()  # the pass may be kept for long; the caller's tensors must not be
    if not stream_pass.reports and not loaded.cached:
        for verdict in loaded.known:
            verdicts.keep_for(verdict, module)
        known = loaded.known[0].name if loaded.known else ""
        silent = _say_of_cached(module, example_inputs, known, _has_cuda(gm, "example_value"))
        if silent is not None:
            stream_pass.publish_cached(silent)
    return compiled


class ConfiguredBackend:
    """A backend for torch.compile with options that were checked when it was made. Equal options make equal backends."""

    __name__ = "graphstreams"  # what torch calls the backend

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises OptionError for options that are none."""
        read_options(options)
        self.options = dict(options)

    def __call__(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        options: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        """Compile a graph from Dynamo. What torch.compile was given beside the backend wins over the backend's options."""
        return graphstreams(gm, example_inputs, options={**self.options, **(options or {})}, **given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfiguredBackend) and self.options == other.options

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.options)))

    def __repr__(self) -> str:
        return f"graphstreams.backend({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


class _Callable(ModuleType):
    """This module, with a call: the package's name for both is `backend`."""

    def __call__(self, *graph: Any, **options: Any) -> Any:
        """Return a backend for `torch.compile(model, backend=...)` with `options`, checked at once.

        Raises OptionError as the compile would. Where torch calls it with a graph, because it was given as the backend itself,
        it is one.
        """
        if graph and isinstance(graph[0], fx.GraphModule):
            return graphstreams(*graph, **options)
        if graph:
            raise OptionError(f"graphstreams.backend takes options by name, as in backend(streams=3), not {shown(graph[0])}")
        return ConfiguredBackend(options)


sys.modules[__name__].__class__ = _Callable


def _say_of_cached(module: str, inputs: Sequence[Any], known: str, on_cuda: bool = False) -> verdicts.Verdict | None:
    """Say what can be said of a graph from a cache whose wrapper says nothing, and return it if that is a verdict.

    `known` is its name if this process has told of the graph before, and `on_cuda` says that it has CUDA tensors beside its
    inputs.
    """
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    reason = ""
    if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
        reason = TRAINS
    elif not on_cuda and not any(value.is_cuda for value in tensors):
        reason = NO_CUDA_TENSORS
    if reason and not known:
        verdict = verdicts.Verdict("graph", "serial", "read", reason, module=module, from_cache=True)
        verdicts.say(verdict)
        return verdict
    text = f"{known} was found in a cache; what was said of it before, when this process had it first, still holds"
    if not known:
        text = "it was found in a cache, and runs serially; its code does not say why"
    log.info("graphstreams: %s", on_rank(f"{module or 'a graph'}: {text}"))
    return None


def _has_cuda(gm: fx.GraphModule, key: str) -> bool:
    """Return whether a node has a CUDA tensor under a key of its meta, where a graph's values stand."""
    values = (node.meta.get(key) for node in gm.graph.nodes)
    return any(isinstance(value, torch.Tensor) and value.is_cuda for value in values)


def _why_not(gm: fx.GraphModule, is_inference: bool) -> str:
    """Why a graph stays serial, as far as it can be told before it is lowered; empty if nothing is known."""
    if not is_inference:
        return TRAINS
    try:
        check_graph(gm)
    except Unsupported as reason:
        return str(reason)
    return unusable_setting() or foreign_generator()


def _report_on_placed(name: str, placed: Sequence[str], lowered: Lowered, key: str) -> Report:
    """The report on a graph in which another pass placed streams, with the wrapper to use: without them if possible.

    `key` is the graph's.
    """
    # Whoever placed them saw a serial graph, and knows of no streams but the caller's.
    source = lowered.source
    reason = f"a pass behind this one placed {len(placed)} nodes on streams, {placed[0]} first; "
    try:
        source = serial_code(lowered.graph, source)
        reason += f"they are taken out{_unproved(source)}"
    except Exception as why:
        log.debug("streams are not taken out", exc_info=True)
        text = str(why) if isinstance(why, StreamsRemain) else f"{type(why).__name__}: {why}"
        reason += f"they run as that pass has it, because they can't be taken out: {text}"
    return Report(name, "refused", reason, "verify", wrapper=source, graph_key=key)


def _unproved(serial: str) -> str:
    """What the proof says against a serial wrapper, for the end of a sentence; empty if it has no race."""
    try:
        races = verify(serial)
    except UnreadableWrapper as reason:
        return f"; the serial code can't be proved ({reason})"
    return f"; the serial code has a race: {races[0]}" if races else ""


def _with_verdict(source: str, report: Report) -> Code:
    """A serial wrapper that carries what was decided."""
    try:
        joined = add_lines(source, report.as_verdict().lines)
    except (CannotJoin, SyntaxError, ValueError, RecursionError, MemoryError):  # another form, or too deep; it runs as it is
        return source, ()
    return joined.source, joined.added
