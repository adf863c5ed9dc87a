"""The command line: graphstreams plan | explain | verify | bench | demo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_STREAMS = "most streams of a plan, the caller's included (default: the option's)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done; 1 races found, or a benchmark in which graphstreams failed or had
    other bits than serial; 2 bad input, or a graph that had to stay serial where `--strict` asks for more."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"graphstreams {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graphstreams", description="Independent kernels on parallel CUDA streams.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="plan a profile (JSON) and print the predicted timeline")
    plan.add_argument("profile", type=Path)
    plan.add_argument("--streams", type=int, default=2, help="streams in all, the caller's included (default 2)")
    plan.add_argument("--event-us", type=float, default=0.0, help="cost of a wait for another stream in us (default 0)")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(run=_plan)
    explain = commands.add_parser("explain", help="plan a module for a GPU, which need not be here")
    explain.add_argument("function", metavar="MODULE:FUNCTION", help="a function that returns (module, example inputs)")
    explain.add_argument("--target", help="the GPU to plan for, such as h200; default: the one at hand")
    explain.add_argument("--streams", type=int, help=_STREAMS)
    explain.add_argument("--dump", type=Path, metavar="DIR", help="write the report's files there")
    explain.add_argument("--strict", action="store_true", help="exit with 2 where the graph would run serially")
    explain.set_defaults(run=_explain)
    verify = commands.add_parser("verify", help="look for races in the source of an Inductor wrapper")
    verify.add_argument("wrapper", type=Path)
    verify.set_defaults(run=_verify)
    _add_bench(commands.add_parser("bench", help="on a GPU: serial, graphstreams and rivals, equal bits and times"))
    demo = commands.add_parser("demo", help="the DeepSeek V3.2 attention layer, from compile to report")
    demo.add_argument("--dump", type=Path, metavar="DIR", default=Path("graphstreams_dump"))
    demo.set_defaults(run=_demo)
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add("function", metavar="MODULE:FUNCTION", nargs="?", help="a function tokens -> (module, seed -> inputs)")
    add("--batch", default="1", help="token counts, such as 1,16,64 (default 1)")
    add("--streams", type=int, help=_STREAMS)
    rival = "another way to run the module: (module, settings of Inductor) -> compiled function; may be given again"
    add("--rival", action="append", default=[], metavar="NAME=MODULE:FUNCTION", help=rival)
    policies = (
        "names and functions (graph, us, shares) -> Assignment, played on the kernels of the serial graph; none: no such; "
        "default: those of other systems, where the project's examples are there"
    )
    add("--policies", metavar="MODULE:MAPPING", help=policies)
    settings = "of Inductor: deterministic (bits compared, policies played; the default), default (times of what is compiled)"
    add("--settings", choices=("deterministic", "default", "both"), default="deterministic", help=settings)
    add("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    add("--replays", type=int, default=50, help="replays whose bits are compared (default 50)")
    add("--calibrate", action="store_true", help="time kernels of many kinds and fit the roofline to them")
    out = "a folder for bench.md and bench.json; with --calibrate the calibration's file (default: where compiles look for it)"
    add("--out", type=Path, metavar="PLACE", help=out)
    add("--kernels", type=Path, metavar="FILE", help="with --calibrate: write the kernels that were timed there")
    bench.set_defaults(run=_bench)


def _plan(arguments: argparse.Namespace) -> int:
    from graphstreams.api import plan
    from graphstreams.costs.profile import load_profile
    from graphstreams.reports.tables import plan_table, summary

    made = plan(arguments.profile, arguments.streams, arguments.event_us)
    if arguments.json:
        predicted = {"serial": made.serial_us, "streamed": made.streamed_us, "lower_bound": made.lower_bound_us}
        print(json.dumps({"predicted_us": predicted, **json.loads(made.dumps())}, indent=1))
        return 0
    graph, _ = load_profile(arguments.profile)
    print(f"{graph.name}\n\n{plan_table(made, graph)}\n\n{summary(made)}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from graphstreams.explaining import explain

    module, inputs = _module_and_inputs(arguments.function)
    report = explain(module, inputs, target=arguments.target, options=_streams(arguments))
    print(report)
    if arguments.dump:
        print(f"report: {report.save(arguments.dump)}")
    return 2 if arguments.strict and report.verdict != "clean" else 0


def _streams(arguments: argparse.Namespace) -> dict[str, int]:
    """The option as far as it is given. Raises ValueError where it is out of range."""
    from graphstreams.options import Options

    return {} if arguments.streams is None else {"streams": Options(streams=arguments.streams).streams}


def _module_and_inputs(name: str) -> tuple[Any, Any]:
    from graphstreams.loading import load_function

    result = load_function(name)()
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"{name} has to return (module, example inputs)")
    return result


def _verify(arguments: argparse.Namespace) -> int:
    from graphstreams.api import verify
    from graphstreams.verification.wrapper import UnreadableWrapper

    try:
        races = verify(arguments.wrapper.read_text(encoding="utf-8"))
    except (UnreadableWrapper, UnicodeDecodeError) as error:
        raise ValueError(f"{arguments.wrapper}: {error}") from None
    for race in races:
        print(race)
    print(f"{arguments.wrapper}: {len(races)} races" if races else f"{arguments.wrapper}: no races")
    return 1 if races else 0


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.calibrate != (arguments.function is None):
        raise ValueError("give either MODULE:FUNCTION to compare, or --calibrate")
    if arguments.calibrate:
        if arguments.rival or arguments.policies is not None:
            raise ValueError("--rival and --policies go with MODULE:FUNCTION")
        return _calibrate(arguments.out, arguments.kernels)
    if arguments.kernels:
        raise ValueError("--kernels goes with --calibrate")
    if arguments.policies is not None and arguments.settings == "default":
        raise ValueError("--policies are played with --settings deterministic or both")
    if arguments.rounds < 2 or arguments.replays < 0:
        raise ValueError("--rounds has to be at least 2, --replays at least 0")
    from graphstreams.benching import policies_of, rivals_of, run, sound, tokens_of
    from graphstreams.contest.rivals import Contest
    from graphstreams.reports.contest import report

    batch, rivals, policies = tokens_of(arguments.batch), rivals_of(arguments.rival), policies_of(arguments.policies)
    contest = Contest(rivals, policies, _streams(arguments), rounds=arguments.rounds, replays=arguments.replays)
    settings = ["deterministic", "default"] if arguments.settings == "both" else [arguments.settings]
    result = run(arguments.function, batch, settings, contest, arguments.out, _say)
    print(report(result))
    return 0 if sound(result) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _calibrate(out: Path | None, kernels: Path | None) -> int:
    from graphstreams.calibrating import calibrate
    from graphstreams.costs import samples
    from graphstreams.costs.calibration import user_file
    from graphstreams.costs.devices import device_at_hand
    from graphstreams.reports.calibration import calibration_table

    for file in (out, kernels):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise ValueError(f"{file} is no file that can be written")
    if out is not None and kernels is not None and out.absolute() == kernels.absolute():
        raise ValueError("--out and --kernels are the same file")
    calibration, timed = calibrate(_say)
    print(f"\n{calibration_table(calibration, timed, device_at_hand())}\n")
    print(f"written: {calibration.save(out or user_file(calibration.device))}")
    if kernels:
        print(f"written: {samples.save(timed, calibration, kernels)}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from graphstreams.loading import load_function

    example = Path(__file__).parent.parent / "examples" / "deepseek_v32.py"
    if not example.is_file():
        raise ValueError("the demo is in the project's repository; run it in a checkout (make demo)")
    return int(load_function(f"{example}:main")(["--dump", str(arguments.dump)]) or 0)


if __name__ == "__main__":
    sys.exit(main())
