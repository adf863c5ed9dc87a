"""The torch.compile backend and the post-grad pass: the stages, put where Inductor calls them.

Read in torch 2.15.0: `_inductor/compile_fx.py` (compile_fx, compile_fx_inner), `_inductor/custom_graph_pass.py`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass

from graphstreams.costs.calibration import fingerprint
from graphstreams.graph.lowering import Lowered, copy_graph, replace_graph
from graphstreams.options import OptionError, Options, disabled
from graphstreams.outcome import Outcome
from graphstreams.pairing import compile_with_twin, dispatch_in_source
from graphstreams.pipeline import prove, run_stages
from graphstreams.plan_key import source_hash
from graphstreams.reports.report import Report
from graphstreams.rewriting.wrapper import MARK, Mark, register
from graphstreams.runtime import allocator

log = logging.getLogger("graphstreams")


class GraphstreamsError(RuntimeError):
    """Raised with `strict=True` where a graph would run serially; the message names the stage and the reason."""


class Unproved(RuntimeError):
    """Stops Inductor from using code that was not proved; the backend then compiles the graph serially."""


class StreamPass(CustomInferenceAwareGraphPass):
    """Puts the kernels of a post-grad graph on streams: Inductor's `post_grad_custom_post_pass`.

    A graph that cannot be helped, or proved, is left as it is. `reports` holds one Report for each graph seen.
    """

    def __init__(
        self,
        options: Options | Mapping[str, Any] | None = None,
        input_names: Sequence[str] = (),
        proof: bool = True,
        inputs: Sequence[Any] = (),
    ) -> None:
        """`options` as for the backend; `input_names` are the source names of the graph's inputs, where known, `inputs` their
        values. Kernels are run, and plans measured, only where the value of every tensor among them is known. Plain Inductor
        gives a pass none: there the plan comes from the roofline, or from an earlier compile of the same graph that measured.

        With `proof` the pass generates code for the rewritten graph and checks it before it changes anything. Without, the
        check comes when Inductor generates its code, and raises there; the caller has to compile again, without the pass.
        Raises OptionError for options that are none.
        """
        self.options = options if isinstance(options, Options) else Options.from_dict(options)
        self.input_names = tuple(input_names)
        self.proof = proof
        self.inputs = tuple(inputs)
        self.reports: list[Report] = []
        self._waiting: list[tuple[Outcome, Mark]] = []  # rewritten graphs whose code was not generated yet

    def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
        """Rewrite `graph` in place where that is proved and predicted to gain. Raises GraphstreamsError if strict."""
        if disabled():
            return
        gm = graph.owning_module
        assert gm is not None
        name = _graph_name()
        if not is_inference:
            self._done(Report(name, "serial", "it belongs to training, whose backward graph is not planned yet", "read"))
            return
        texts = self.options.dump is not None
        outcome = run_stages(
            gm, self.options, name, self.input_names, texts=texts, proof=self.proof, inputs=self.inputs, twin=not self.proof
        )
        if outcome.module is not None:
            mark = _install(gm, outcome.module, None if self.proof else self._proof_of(outcome))
            if not self.proof:
                self._waiting.append((outcome, mark))
        if self.proof or outcome.module is None:
            self._done(outcome.report)

    def _proof_of(self, outcome: Outcome) -> Callable[[Any, str], None]:
        def check(graph: Any, source: str) -> None:
            self._waiting = [(other, mark) for other, mark in self._waiting if other is not outcome]
            report = prove(outcome, Lowered(graph, {}, source), self.options).report
            self._done(report)
            if report.verdict != "clean":
                raise Unproved(report.reason)

        return check

    def end_of_compile(self, error: BaseException | None = None) -> bool:
        """Whether the code of every graph that was rewritten has been proved since the last call, or refused.

        The others are reported as refused, and what their compile has left behind is put right. `error` is what ended it.
        """
        waiting, self._waiting = self._waiting, []
        for _, mark in reversed(waiting):  # each puts back what it found
            mark.settings.close()
        for outcome, _ in waiting:
            ended = f": {type(error).__name__}: {error}" if error is not None else ""
            reason = f"its code was not generated, or not proved{ended}"
            self._done(replace(outcome.report, verdict="refused", stage="verify", reason=reason))
        return not waiting

    def uuid(self) -> str | None:
        """Identifies the options, what profile and calibrations hold, and this package's source in Inductor's cache keys.

        None, which means no caching, with `dump`, for a graph from a cache would leave no report, and where the profile cannot
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
        seen = (options, source_hash(), self.input_names, self.proof, allocator.state())
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
            return
        text = f"{report.name} runs serially: {report.stage or 'the pass'}: {report.reason}"
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
    stream_pass = StreamPass(chosen, _input_names(gm), proof=False, inputs=example_inputs)
    patches = {**settings, "post_grad_custom_post_pass": [*_user_passes(settings), stream_pass]}
    cudagraphs = settings.get("triton.cudagraphs", config.triton.cudagraphs)
    if cudagraphs:
        # Cutting a graph into partitions would separate a record from its wait.
        patches["graph_partition"] = False
    try:
        compiled = compile_fx(gm, example_inputs, inner_compile=_ProvedCompile(stream_pass, settings), config_patches=patches)
    finally:
        stream_pass.inputs = ()  # the pass may be kept for long; the caller's tensors must not be
    if not stream_pass.reports:
        log.info("a graph was found in a cache; what was decided when it was compiled still holds")
    if cudagraphs and any(report.verdict != "clean" for report in stream_pass.reports):
        return compile_fx(gm, example_inputs, config_patches=settings)
    return compiled


class _ProvedCompile:
    """Inductor's compile of one graph; once more without the pass where the streamed code was not proved."""

    def __init__(self, stream_pass: StreamPass, settings: Mapping[str, Any]) -> None:
        self.stream_pass, self.settings = stream_pass, settings

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx_inner

        before = copy_graph(gm)
        seen = len(self.stream_pass.reports)
        passes = _user_passes(self.settings)  # without ours

        def compile_graph(graph: fx.GraphModule) -> Any:
            return compile_fx_inner(graph, example_inputs, *args, **kwargs)

        def limited() -> bool:
            reports = self.stream_pass.reports[seen:]
            return any(report.verdict == "clean" and report.threshold and report.threshold.limits for report in reports)

        try:
            compiled = compile_with_twin(gm, compile_graph, passes, dispatch_in_source, limited)
            if self.stream_pass.end_of_compile():
                return compiled
        except GraphstreamsError:
            raise
        except Exception as error:
            self.stream_pass.end_of_compile(error)
            if self.stream_pass.options.strict or not _unproved(self.stream_pass.reports[seen:]):
                raise
        with config.patch(post_grad_custom_post_pass=passes or None):
            return compile_graph(before)


def _unproved(reports: Sequence[Report]) -> bool:
    return any(report.stage == "verify" and report.verdict != "clean" for report in reports)


def _install(gm: fx.GraphModule, module: fx.GraphModule, proof: Callable[[Any, str], None] | None) -> Mark:
    """Make `gm`, which Inductor is about to lower, the rewritten module."""
    for node in module.graph.find_nodes(op="get_attr"):
        value = getattr(module, node.target, None)
        if isinstance(value, fx.GraphModule):
            setattr(gm, node.target, value)
    replace_graph(gm.graph, module.graph)
    register()
    mark = gm.meta[MARK] = replace(module.meta[MARK], proof=proof)
    gm.recompile()
    return mark


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
    # Within a compile of ours the setting holds our pass too.
    return [each for each in passes if each is not None and not isinstance(each, StreamPass)]
