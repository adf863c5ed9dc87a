"""Whole decoder layers of DeepSeek V3.2 or V4, tensor parallel: plan them without a GPU, and time a token on one or several.

Without a GPU, the plan of rank 0 of eight, whose other ranks are not there:

    python examples/deepseek_model.py --cases v32-1

On GPUs, one rank each, every case in turn; results are written after each case, and compiled kernels are kept by Inductor:

    torchrun --nproc-per-node 2 examples/deepseek_model.py --bench --out model
    torchrun --nproc-per-node 2 examples/deepseek_model.py --bench --cases v32-1 v32-32 --out model
    python examples/deepseek_model.py --bench --cases v32-1

A case of one's own is put together by arguments, such as `--model v4 --kinds csa hca --layers 4 --loop`. What is timed is one
replay of a CUDA graph of all layers, which decodes one token of each sequence: compiled by serial Inductor, by graphstreams,
and with streams by hand (`hand_decoder.py`), all with the same settings of Inductor. Outputs, positions and caches are compared
bit by bit with serial's in the same run, on every rank. In a decode loop each replay's result is the next one's input, at the
next position, as if it were the next token's embedding.

The shapes are those of one of eight ranks (`--tp`), with all 256 routed experts, of which each rank has an eighth of every one;
on two ranks that is what runs, with the all-reduces of two ranks. What eight ranks would take is computed from it if
`--all-reduce-us` says what one of their all-reduces takes. The experts of a V3.2 layer are 2.8 GB a rank. Of 256 experts that
32 tokens take at random 162 are different: 1.8 GB, which an H200 reads in no less than 370 us, longer than one token's whole
layer by modelled times. `--experts` has fewer, as the title of the case then says. What is left out of the layers stands in
`deepseek_decoder.py`.

An error that all ranks have in a variant is written down, and the others go on. If only one rank has it, the others wait in a
collective, and the run ends after five minutes.
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_decoder import Measures, measure
from decoder_report import progress, tables
from deepseek_cases import CASES, DEFAULT, Case, looped
from deepseek_decoder import Config, build, example_inputs
from hand_streams import PHASES
from process_group import Ranks, fake_ranks, started_ranks

from graphstreams.benchmark.results import environment, write
from graphstreams.benchmark.run import has_gpu, parse_counts, prepared
from graphstreams.benchmark.timing import captures_in
from graphstreams.benchmark.variants import OURS

OWN = ("model", "layers", "kinds", "tokens", "context", "tp", "fp8", "dense", "loop", "tiny")  # arguments of one's own case


def plan(name: str, case: Case, arguments: argparse.Namespace) -> bool:
    """Print the plan of rank 0 for a GPU that need not be there. Return whether it has one."""
    from graphstreams import explain

    started = time.perf_counter()
    ranks = fake_ranks(1 if arguments.no_process_group else case.config.first.tp)
    with torch.no_grad(), ranks as found:
        decoder = build(case.config, "meta", group=found.group)
        report = explain(decoder, example_inputs(case.config, "meta"), arguments.target, options_from(arguments))
    print(f"{name}: {case.title}, rank 0 of {found.size}\n{report}")
    print(f"planned for {report.device} in {time.perf_counter() - started:.1f} s", flush=True)
    if arguments.dump:
        print(f"report: {report.save(str(Path(arguments.dump) / name))}")
    return bool(report.verdict == "clean")


def bench(cases: dict[str, Case], ranks: Ranks, arguments: argparse.Namespace) -> bool:
    """Measure the cases on all ranks; rank 0 prints and writes after each.

    Return whether no case failed, and graphstreams had serial's bits in each. What is compiled in other pieces, as streams by
    hand are, may round otherwise.
    """
    started = time.perf_counter()
    say = partial(_say, started) if ranks.rank == 0 else _nothing
    settings = {"deterministic": arguments.deterministic, **dict(arguments.set)}
    measures = Measures(
        settings, options_from(arguments), arguments.hand, arguments.compile == "layers", arguments.rounds, arguments.replays
    )
    result: dict[str, Any] = {
        **environment(), "settings": settings, "rounds": arguments.rounds, "captures": captures_in(arguments.rounds),
        "compiled": "layer by layer" if measures.layer_by_layer else "as one graph",
        "replays": arguments.replays, "all_reduce_us": arguments.all_reduce_us, "rows": [],
    }  # fmt: skip
    for name, case in cases.items():
        row = measure(name, case, ranks, measures, say)
        result["rows"].append(row)
        result["seconds"] = round(time.perf_counter() - started, 1)
        say(progress(row))
        if ranks.rank == 0:
            write(result, tables(result), arguments.out / "model")
    say(f"\n{tables(result)}\nwritten to {arguments.out}/model.md and model.json")
    ours = [row["rivals"].get(OURS, {}) for row in result["rows"]]
    return not any(each.get("failed") for each in (*result["rows"], *ours)) and not any(each.get("wrong") for each in ours)


def _say(started: float, text: str) -> None:
    print(f"[{time.perf_counter() - started:.0f} s] {text}", flush=True)


def _nothing(_: str) -> None:
    """Leave it to rank 0 to print."""


def own_case(arguments: argparse.Namespace) -> Case:
    """Return the case that the arguments put together. Raises ValueError if its sizes do not fit."""
    given = {name: value for name in ("tokens", "context", "tp") if (value := getattr(arguments, name)) is not None}
    layers = arguments.layers or 1
    kinds = tuple((arguments.kinds or ["csa"])[layer % len(arguments.kinds or ["csa"])] for layer in range(layers))
    if arguments.fp8:
        if arguments.model == "v4":
            raise ValueError("the layers of V4 have no fp8 here")
        given["fp8"] = True
    if arguments.tiny:
        config = Config.tiny(arguments.model or "v32", layers, kinds, **given)
    elif arguments.model == "v4":
        config = Config.v4_flash(kinds, **given)
    else:
        config = Config.v32(layers, **given)
    config = replace(config, dense_layers=arguments.dense or 0)
    return looped(config) if arguments.loop else Case(config)


def with_experts(case: Case, arguments: argparse.Namespace) -> Case:
    """Return the case with the routed experts that the arguments ask for. Raises ValueError if their sizes do not fit."""
    routed = {name: value for name in ("experts", "products") if (value := getattr(arguments, name)) is not None}
    return replace(case, config=replace(case.config, experts=replace(case.config.experts, **routed)))


def cases_from(arguments: argparse.Namespace) -> dict[str, Case]:
    """Return the cases to plan or measure by name: those named, one's own, or the default. Raises ValueError for both."""
    own = [f"--{name}" for name in OWN if getattr(arguments, name) not in (None, False)]
    if arguments.cases and own:
        raise ValueError(f"{own[0]} is of a case of one's own, which --cases does not name")
    found = {name: CASES[name] for name in arguments.cases or (DEFAULT if arguments.bench else DEFAULT[:1])}
    if own:
        found = {"own": own_case(arguments)}
    return {name: with_experts(case, arguments) for name, case in found.items()}


def options_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of graphstreams."""
    return {} if arguments.streams is None else {"streams": arguments.streams}


def setting(text: str) -> tuple[str, Any]:
    """Return name and value of a setting of Inductor from NAME=VALUE, the value as a Python literal."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a Python literal") from None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add: Callable[..., Any] = parser.add_argument
    add("--cases", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}")
    add("--bench", action="store_true", help=f"measure, on GPUs (default cases {', '.join(DEFAULT)}); else plan")
    add("--experts", type=int, help="routed experts of each layer (default 256)")
    add("--products", choices=("grouped", "batched"), help="of the routed experts (default grouped)")
    _add_own(parser.add_argument_group("a case of one's own"))
    add("--no-process-group", action="store_true", help="plan without all-reduces")
    add("--target", default="h200", help="the GPU to plan for (default h200)")
    add("--dump", help="directory for the reports of plans")
    add("--streams", type=int, help="most streams of a plan, the caller's included")
    add("--compile", choices=("whole", "layers"), default="whole", help="all layers as one graph, or each by itself")
    add("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="Inductor's setting (default yes)")
    add("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="another setting of Inductor")
    add("--hand", nargs="*", choices=PHASES, default=["both"], help="phases of attention on streams by hand (default both)")
    add("--all-reduce-us", type=float, help="of one all-reduce on other ranks, for which a token's time is computed")
    add("--out", type=Path, default=Path("model"), help="directory for model.md and model.json (default model)")
    arguments = parse_counts(parser, argv, replays=20)
    try:
        arguments.found = cases_from(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def _add_own(group: Any) -> None:
    group.add_argument("--model", choices=("v32", "v4"), help="V3.2 or V4-Flash (default v32)")
    group.add_argument("--layers", type=int, help="decoder layers (default 1)")
    group.add_argument("--kinds", nargs="+", choices=("csa", "hca", "sliding"), help="of V4's layers, in turns (default csa)")
    group.add_argument("--tokens", type=int, help="sequences, each decoding one token (default 1)")
    group.add_argument("--context", type=int, help="slots of each sequence's cache")
    group.add_argument("--tp", type=int, help="ranks whose share is one rank's shapes (default 8)")
    group.add_argument("--fp8", action="store_true", help="fp8 weights and products, but for routed experts")
    group.add_argument("--dense", type=int, help="how many of the first layers have a dense MLP (default none)")
    group.add_argument("--loop", action="store_true", help="a decode loop, each result the next token's input")
    group.add_argument("--tiny", action="store_true", help="layers small enough for a CPU")


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, or measure. Return 1 if a case has no plan, failed, or has other bits on streams, 2 without a GPU to measure on."""
    arguments = parse_args(argv)
    if not arguments.bench:
        return int(not all([plan(name, case, arguments) for name, case in arguments.found.items()]))
    if not has_gpu("deepseek_model --bench"):
        return 2
    with started_ranks() as ranks, prepared():
        sound = bench(arguments.found, ranks, arguments)
    return int(not sound)


if __name__ == "__main__":
    raise SystemExit(main())
