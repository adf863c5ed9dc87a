"""The torch.compile backend and the post-grad pass: the stages, put where Inductor calls them.

Read in torch 2.15.0: `_inductor/compile_fx.py` (compile_fx, compile_fx_inner), `_inductor/custom_graph_pass.py`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomInferenceAwareGraphPass

from graphstreams.graph.lowering import copy_graph, replace_graph
from graphstreams.options import OptionError, Options, disabled
from graphstreams.pipeline import run_stages
from graphstreams.reports.report import Report
from graphstreams.rewriting.wrapper import MARK
from graphstreams.verification.happens_before import find_races
from graphstreams.verification.wrapper import UnreadableWrapper, launch_order, read_wrapper

log = logging.getLogger("graphstreams")


class GraphstreamsError(RuntimeError):
    """Raised with `strict=True` where a graph would run serially; the message names the stage and the reason."""


class StreamPass(CustomInferenceAwareGraphPass):
    """Puts the kernels of a post-grad graph on streams: Inductor's `post_grad_custom_post_pass`.

    A graph that cannot be helped, or proved, is left as it is. `reports` holds one Report for each graph seen.
    """

    def __init__(self, options: Options | Mapping[str, Any] | None = None, input_names: Sequence[str] = ()) -> None:
        """`options` as for the backend; `input_names` are the source names of the graph's inputs, where known."""
        self.options = options if isinstance(options, Options) else Options.from_dict(options)
        self.input_names = tuple(input_names)
        self.reports: list[Report] = []

    def __call__(self, graph: fx.Graph, is_inference: bool = True) -> None:
        """Rewrite `graph` in place where that is proved and predicted to gain. Raises GraphstreamsError if strict."""
        if disabled():
            return
        gm = graph.owning_module
        if not is_inference:
            self._done(Report(_graph_name(), "serial", "it belongs to training, whose backward graph is not planned yet"))
            return
        outcome = run_stages(gm, self.options, _graph_name(), self.input_names, texts=self.options.dump is not None)
        if outcome.module is not None:
            _install(gm, outcome.module)
        self._done(outcome.report)

    def uuid(self) -> str:
        """Identifies the options, the profile's content and this package's source in Inductor's cache keys."""
        options = "disabled" if disabled() else repr(self.options)
        profile = self.options.costs
        content = Path(profile).read_bytes() if profile != "roofline" else b""
        return hashlib.sha256(repr((options, _source_hash(), self.input_names)).encode() + content).hexdigest()

    def _done(self, report: Report) -> None:
        self.reports.append(report)
        if self.options.dump is not None:
            report.save(Path(self.options.dump) / report.name)
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
) -> Callable[..., Any]:
    """The backend of `torch.compile(model, backend="graphstreams", mode=..., options=...)`.

    `options` holds fields of `Options`, and Inductor's own under "inductor". Raises OptionError for others.
    """
    from torch._inductor.compile_fx import compile_fx

    own = dict(options or {})
    settings = {**_mode_settings(mode), **_inductor_settings(own.pop("inductor", None))}
    chosen = Options.from_dict(own)
    if disabled() or chosen.streams == 1:
        return compile_fx(gm, example_inputs, config_patches=settings)
    stream_pass = StreamPass(chosen, _input_names(gm))
    patches = {**settings, "post_grad_custom_post_pass": [*_user_passes(settings), stream_pass]}
    cudagraphs = settings.get("triton.cudagraphs", config.triton.cudagraphs)
    if cudagraphs:
        # Cutting a graph into partitions would separate a record from its wait.
        patches["graph_partition"] = False
    compiled = compile_fx(
        gm, example_inputs, inner_compile=_ProvedCompile(stream_pass), config_patches=patches
    )
    if cudagraphs and any(report.verdict != "clean" for report in stream_pass.reports):
        return compile_fx(gm, example_inputs, config_patches=settings)
    return compiled


class _ProvedCompile:
    """Inductor's compile of one graph, after which the wrapper that will run is compared with the one that was proved."""

    def __init__(self, stream_pass: StreamPass) -> None:
        self.stream_pass = stream_pass

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx_inner

        before = copy_graph(gm)
        seen = len(self.stream_pass.reports)
        compiled = compile_fx_inner(gm, example_inputs, *args, **kwargs)
        proved = self.stream_pass.reports[seen].wrapper if len(self.stream_pass.reports) > seen else None
        reason = _doubt(getattr(compiled, "source_code", ""), proved)
        if not reason:
            return compiled
        if self.stream_pass.options.strict:
            raise GraphstreamsError(reason)
        log.warning("a graph runs serially: verify: %s", reason)
        passes = [p for p in _user_passes({}) if p is not self.stream_pass]
        with config.patch(post_grad_custom_post_pass=passes or None):
            return compile_fx_inner(before, example_inputs, *args, **kwargs)


def _doubt(source: str, proved: str | None) -> str:
    """Why a compiled wrapper must not run; an empty string where it is proved or has no streams."""
    if "_acquire_streams(" not in source:
        return ""
    try:
        trace = read_wrapper(source)
        races = find_races(trace)
        if races:
            return f"the compiled wrapper has {len(races)} races, the first: {races[0]}"
        if proved and launch_order(trace) != launch_order(read_wrapper(proved)):
            return "the compiled wrapper launches in another order than the one that was planned"
    except UnreadableWrapper as error:
        return f"the compiled wrapper cannot be read: {error}"
    return ""


def _install(gm: fx.GraphModule, module: fx.GraphModule) -> None:
    """Make `gm`, which Inductor is about to lower, the rewritten module."""
    for node in module.graph.find_nodes(op="get_attr"):
        value = getattr(module, node.target, None)
        if isinstance(value, fx.GraphModule):
            setattr(gm, node.target, value)
    replace_graph(gm.graph, module.graph)
    gm.meta[MARK] = module.meta[MARK]
    gm.recompile()


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
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _source_hash() -> str:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()

