"""The torch.compile backend and the post-grad pass: the stages, put where Inductor calls them.

The pass itself changes nothing. It marks the graph, and once Inductor has lowered it, with whatever passes stand behind this
one, and generated its serial code, the stages run on the graph as it is then, and may add a streamed body to that code.
Read in torch 2.15.0: `_inductor/compile_fx.py` (compile_fx), `_inductor/custom_graph_pass.py`, `_inductor/graph.py` (codegen).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass

from graphstreams.costs.calibration import fingerprint
from graphstreams.graph.lowering import Lowered
from graphstreams.graph.support import Unsupported, check_graph
from graphstreams.options import OptionError, Options, disabled
from graphstreams.pipeline import run_stages
from graphstreams.plan_key import source_hash
from graphstreams.reports.report import Report
from graphstreams.rewriting.placed_streams import StreamsRemain, placed_streams, serial_code
from graphstreams.rewriting.settings import unusable_setting
from graphstreams.rewriting.two_bodies import CannotJoin, add_lines
from graphstreams.rewriting.wrapper import SEEN, foreign_generator, register
from graphstreams.runtime import allocator, verdicts
from graphstreams.verification.wrapper import UnreadableWrapper, verify

log = logging.getLogger("graphstreams")

CAPTURE_IT = 'compile with mode="reduce-overhead", or capture the calls with torch.cuda.graph'


class GraphstreamsError(RuntimeError):
    """Raised with `strict=True` if a graph would run serially; the message names the stage and the reason."""


class StreamPass(CustomInferenceAwareGraphPass):
    """Puts the kernels of a post-grad graph on streams: Inductor's `post_grad_custom_post_pass`.

    A graph that cannot be helped, or proved, runs as Inductor would run it. `reports` holds one Report for each graph compiled.
    """

    def __init__(
        self,
        options: Options | Mapping[str, Any] | None = None,
        input_names: Sequence[str] = (),
        inputs: Sequence[Any] = (),
    ) -> None:
        """`options` as for the backend; `input_names` are the source names of the graph's inputs, as far as they are known,
        `inputs` their values. Kernels are run, and plans measured, only if the value of every tensor among them is known. Plain
        Inductor gives a pass none: there the plan comes from the roofline, or from an earlier compile of the same graph.

        Raises OptionError for options that are none.
        """
        self.options = options if isinstance(options, Options) else Options.from_dict(options)
        self.input_names = tuple(input_names)
        self.inputs = tuple(inputs)
        self.reports: list[Report] = []

    def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
        """Mark `graph`, so that its code gets a streamed body once it is generated. Raises GraphstreamsError if strict."""
        gm = graph.owning_module
        assert gm is not None
        for module in gm.modules():  # subgraphs, which came first, are part of their caller's code
            if isinstance(module, fx.GraphModule):
                module.meta.pop(SEEN, None)
        if disabled():
            return
        name = _graph_name()
        if reason := _why_not(gm, is_inference):
            self._done(Report(name, "serial", reason, "read"))
            return
        register()
        gm.meta[SEEN] = lambda lowered, source: self._add_body(name, lowered, source)

    def _add_body(self, name: str, lowered: Any, source: str) -> tuple[str, Sequence[tuple[int, int]]]:
        """The wrapper to use for a lowered graph with the serial wrapper `source`, and the lines added to that, by place."""
        gm = lowered.module
        gm.meta.pop(SEEN, None)  # Inductor may copy the graph into its cache
        if placed := placed_streams(gm):
            report = _report_on_placed(name, placed, lowered, source)
            source = report.wrapper
        else:
            texts = self.options.dump is not None
            serial = Lowered(lowered, {}, source)
            outcome = run_stages(gm, self.options, name, self.input_names, texts=texts, inputs=self.inputs, serial=serial)
            report = outcome.report
        added: Sequence[tuple[int, int]]
        if report.verdict == "clean":
            source, added = report.wrapper, outcome.added
        else:
            source, added = _with_verdict(source, report)
        verdicts.compiled(report.as_verdict())
        self._done(report)
        return source, added

    def uuid(self) -> str | None:
        """Identify the options, what profile and calibrations hold, and this package's source in Inductor's cache keys.

        None, which means no caching, with `dump`, because a graph from a cache would leave no report, and if the profile cannot
        be read any more.
        """
        if self.options.dump is not None:
            return None
        profile = b""
        if self.options.profile is not None:
            try:
                profile = Path(self.options.profile).read_bytes()
            except OSError:
                return None
        options = "disabled" if disabled() else repr(self.options)
        content = fingerprint() + profile
        seen = (options, source_hash(), self.input_names, bool(self.inputs), allocator.state())
        return hashlib.sha256(repr(seen).encode() + content).hexdigest()

    def _done(self, report: Report) -> None:
        self.reports.append(report)
        if self.options.dump is not None:
            try:
                report.save(Path(self.options.dump) / report.name)
            except (OSError, ValueError) as error:
                log.warning("%s: its report is not written: %s", report.name, error)
        if report.verdict == "clean":
            log.info("%s: %s", report.name, report)
            if not report.direct and not config.triton.cudagraphs:
                gain = report.as_verdict().speedup
                log.warning("%s: %.2fx in a CUDA graph, serial without one: %s", report.name, gain, CAPTURE_IT)
            return
        text = str(report.as_verdict())
        if self.options.strict:
            raise GraphstreamsError(text)
        log.warning(text)


def graphstreams(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The backend of `torch.compile(model, backend="graphstreams", mode=..., options=...)`.

    `options` holds fields of `Options`, and Inductor's own under "inductor". Raises OptionError for others.
    """
    from torch._inductor.compile_fx import compile_fx

    own = dict(options or {})
    settings = {**_mode_settings(mode), **_inductor_settings(own.pop("inductor", None))}
    chosen = Options.from_dict(own)
    if disabled() or chosen.streams == 1:
        return compile_fx(gm, example_inputs, config_patches=settings)
    stream_pass = StreamPass(chosen, _input_names(gm), inputs=example_inputs)
    patches = {**settings, "post_grad_custom_post_pass": [*_user_passes(settings), stream_pass]}
    with verdicts.listening() as loaded:
        try:
            compiled = compile_fx(gm, example_inputs, config_patches=patches)
        finally:
            stream_pass.inputs = ()  # the pass may be kept for long; the caller's tensors must not be
    if not stream_pass.reports and not loaded:
        log.info("a graph was found in a cache of this process; what was decided when it was compiled still holds")
    return compiled


def _why_not(gm: fx.GraphModule, is_inference: bool) -> str:
    """Why a graph stays serial, as far as it can be told before it is lowered; empty if nothing is known."""
    if not is_inference:
        return "it belongs to training, whose backward graph is not planned yet"
    try:
        check_graph(gm)
    except Unsupported as reason:
        return str(reason)
    return unusable_setting() or foreign_generator()


def _report_on_placed(name: str, placed: Sequence[str], lowered: Any, source: str) -> Report:
    """The report on a graph in which another pass placed streams, with the wrapper to use: without them if possible."""
    # Whoever placed them saw a serial graph, and knows of no streams but the caller's.
    reason = f"a pass behind this one placed {len(placed)} nodes on streams, {placed[0]} first; "
    try:
        source = serial_code(lowered, source)
        reason += f"they are taken out{_unproved(source)}"
    except Exception as why:
        log.debug("streams are not taken out", exc_info=True)
        text = str(why) if isinstance(why, StreamsRemain) else f"{type(why).__name__}: {why}"
        reason += f"they run as that pass has it, because they can't be taken out: {text}"
    return Report(name, "refused", reason, "verify", wrapper=source)


def _unproved(serial: str) -> str:
    """What the proof says against a serial wrapper, for the end of a sentence; empty if it has no race."""
    try:
        races = verify(serial)
    except UnreadableWrapper as reason:
        return f"; the serial code can't be proved ({reason})"
    return f"; the serial code has a race: {races[0]}" if races else ""


def _with_verdict(source: str, report: Report) -> tuple[str, Sequence[tuple[int, int]]]:
    """A serial wrapper that carries what was decided."""
    try:
        joined = add_lines(source, report.as_verdict().lines)
    except (CannotJoin, SyntaxError, ValueError, RecursionError, MemoryError):  # another form, or too deep; it runs as it is
        return source, ()
    return joined.source, joined.added


def _input_names(gm: fx.GraphModule) -> list[str]:
    """The expression that Dynamo reads each input of its graph from, such as `L['self']._parameters['weight']`."""
    names = []
    for node in gm.graph.find_nodes(op="placeholder"):
        source = getattr(node.meta.get("grapharg"), "source", None) or getattr(node, "_dynamo_source", None)
        name = getattr(source, "name", node.name)
        names.append(name() if callable(name) else str(name))
    return names


def _graph_name() -> str:
    context = torch._guards.TracingContext.try_get()
    name = "_".join(context.aot_graph_name) if context and context.aot_graph_name else "graph"
    return re.sub(r"[^\w.-]", "_", name)


def _mode_settings(mode: str | None) -> dict[str, Any]:
    if mode is None or mode == "default":
        return {}
    from torch._inductor import list_mode_options

    try:
        return dict(list_mode_options(mode))
    except (KeyError, RuntimeError):
        raise OptionError(f"unknown mode {mode!r}; Inductor knows {', '.join(list_mode_options())}") from None


def _inductor_settings(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise OptionError(f"option 'inductor' takes a dict of Inductor's own options, not {given!r}")
    return dict(given)


def _user_passes(settings: Mapping[str, Any]) -> list[Any]:
    given = settings.get("post_grad_custom_post_pass", config.post_grad_custom_post_pass)
    passes = given if isinstance(given, list | tuple) else [given]
    return [each for each in passes if each is not None]
