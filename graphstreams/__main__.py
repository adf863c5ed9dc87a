"""Run the command line: graphstreams plan | explain | diff | verify | bench | options | cache | demo."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphstreams import __version__
from graphstreams.command_line.arguments import parser
from graphstreams.messages import one_line, with_type

if TYPE_CHECKING:
    from graphstreams.pipeline.given_options import GivenOptions
    from graphstreams.reports.report import Report

MOST_ROUNDS, MOST_REPLAYS = 100_000, 1_000_000
READING_S = 8.0  # the longest that reading a profile or proving a small wrapper may take, in s
LARGEST_WRAPPER = 4 * 2**20  # bytes: one of sixty layers has about a million, and Python's parser can't be stopped
READ_PER_S = 100_000  # characters of a wrapper for which another second is granted

log = logging.getLogger("graphstreams")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 1: races were found, two reports differ, or in a benchmark graphstreams failed or had other bits than serial. 2:
    bad input, or with `--strict` a graph that had to stay serial.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack letters of a name
    arguments = parser(__version__).parse_args(argv)
    try:
        status = _COMMANDS[arguments.command](arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk or a closed pipe can still be reported
        return status
    except Exception as error:
        log.debug("%s failed", arguments.command, exc_info=True)
        closed = isinstance(error, BrokenPipeError)
        _say(f"graphstreams {arguments.command}: {'nobody reads what it prints' if closed else one_line(error)}")
        _drop_output()
        return 2


def _drop_output() -> None:
    """Send what could not be printed nowhere, so that Python does not try once more when it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plan(arguments: argparse.Namespace) -> int:
    from graphstreams.api import check_limits
    from graphstreams.command_line.guards import time_limit
    from graphstreams.costs.profile import load_profile
    from graphstreams.planning.list_schedule import plan_kernels
    from graphstreams.reports.tables import plan_table, summary

    check_limits(arguments.streams, arguments.event_us)
    try:
        with time_limit(READING_S):
            graph, us = load_profile(arguments.profile)
    except TimeoutError as error:
        raise ValueError(f"{arguments.profile}: {error}") from None
    made = plan_kernels(graph, us, arguments.streams, arguments.event_us)
    if arguments.json:
        predicted = {"serial": made.serial_us, "streamed": made.streamed_us, "lower_bound": made.lower_bound_us}
        print(json.dumps({"predicted_us": predicted, **json.loads(made.dumps())}, indent=1))
        return 0
    print(f"{graph.name}\n\n{plan_table(made, graph, us)}\n\n{summary(made)}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from graphstreams.command_line.guards import guarded, held_back
    from graphstreams.command_line.importer import module_and_inputs
    from graphstreams.costs.profile_files import check_profiles
    from graphstreams.errors import CannotPlan
    from graphstreams.files import make_folder
    from graphstreams.ir.devices import device_at_hand, device_by_name
    from graphstreams.pipeline.explain import explain_graphs

    options = _options_to_explain(arguments)
    device = device_at_hand() if arguments.target is None else device_by_name(arguments.target)
    if options.options.profile is not None:
        check_profiles(options.options.profile)
    if arguments.dump:
        make_folder(arguments.dump)
    elif arguments.open:
        arguments.dump = Path(tempfile.mkdtemp(prefix="graphstreams-"))
    module, inputs = module_and_inputs(arguments.function)
    try:
        with held_back():
            reports = guarded(
                f"{arguments.function} cannot be planned",
                lambda: explain_graphs(module, inputs, device, options, arguments.dynamic or None),
            )
    except ValueError as error:
        if isinstance(error.__cause__, CannotPlan):
            raise ValueError(f"{arguments.function}: {error.__cause__}") from None
        raise
    _print_reports(reports, arguments.dump, arguments.open)
    return 2 if arguments.strict and any(report.verdict != "clean" for report in reports) else 0


def _options_to_explain(arguments: argparse.Namespace) -> GivenOptions:
    """Return the options without `dump`, which is written here: of one graph into the folder itself."""
    from graphstreams.pipeline.given_options import read_options, read_texts

    given = read_texts(arguments.option, "--option")
    if "dump" in given:
        raise ValueError("--option dump: give --dump")
    if "streams" in given and arguments.streams is not None:
        raise ValueError("the option streams is given twice, by --streams and by --option; give one of them")
    dump = {} if arguments.dump is None else {"dump": arguments.dump}
    found = read_options({**given, **_streams(arguments), **dump})
    return replace(found, options=replace(found.options, dump=None))


def _print_reports(reports: Sequence[Report], dump: Path | None, opened: bool) -> None:
    """Print which graphs there are, if there are several, and each report; write the reports into the folder `dump`."""
    from graphstreams.command_line.opening import open_page
    from graphstreams.reports.report import to_keep

    several = len(reports) > 1
    if several:
        print(f"{len(reports)} graphs:", *(f"  {report.as_verdict()}" for report in reports), "", sep="\n")
    for number, report in enumerate(reports, 1):
        print(f"graph {number} of {len(reports)}, {report}" if several else report)
        if dump:
            folder = dump / report.name if several else dump
            print(f"report: {report.save(folder)}")
            if kept := to_keep(report, folder):
                print(kept)
            if opened:
                open_page(folder / "report.html")


def _diff(arguments: argparse.Namespace) -> int:
    from graphstreams.command_line.diff import compare

    lines = compare(arguments.one, arguments.other)
    print("\n".join(lines) or "the reports do not differ")
    return 1 if lines else 0


def _streams(arguments: argparse.Namespace) -> dict[str, int]:
    """Return the option if it is given. Raises ValueError if it is out of range."""
    from graphstreams.options import Options

    return {} if arguments.streams is None else {"streams": Options(streams=arguments.streams).streams}


def _verify(arguments: argparse.Namespace) -> int:
    from graphstreams.api import verify
    from graphstreams.command_line.guards import time_limit
    from graphstreams.files import read_text

    try:
        with time_limit(READING_S):
            source = read_text(arguments.wrapper, LARGEST_WRAPPER)
        importlib.import_module("torch")  # the proof asks it for schemas; loading it does not count as reading
        with time_limit(READING_S + len(source) / READ_PER_S):
            races = verify(source)
    except Exception as error:  # an unexpected one proves nothing either
        known = isinstance(error, ValueError | OSError)
        # The reason may end in another error's text, which may be empty.
        reason = (one_line(error) if known else with_type(error)).rstrip(": ")
        named = reason if isinstance(error, OSError) and error.filename is not None else f"{arguments.wrapper}: {reason}"
        raise ValueError(named) from error
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
    if not (2 <= arguments.rounds <= MOST_ROUNDS and 0 <= arguments.replays <= MOST_REPLAYS):
        limits = f"--rounds has to be at least 2, --replays at least 0, and at most {MOST_ROUNDS} and {MOST_REPLAYS}"
        raise ValueError(limits)
    from graphstreams.benchmark.results import report, sound
    from graphstreams.benchmark.variants import BenchmarkSpec
    from graphstreams.command_line.bench import compilers_of, policies_of, run, tokens_of
    from graphstreams.files import make_folder

    batch, compilers, policies = tokens_of(arguments.batch), compilers_of(arguments.rival), policies_of(arguments.policies)
    if arguments.out is not None:
        make_folder(arguments.out)
    spec = BenchmarkSpec(compilers, policies, _streams(arguments), rounds=arguments.rounds, replays=arguments.replays)
    settings = ["deterministic", "default"] if arguments.settings == "both" else [arguments.settings]
    result = run(arguments.function, batch, settings, spec, arguments.out, _say)
    print(report(result))
    return 0 if sound([row for rows in result["passes"].values() for row in rows]) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _calibrate(out: Path | None, kernels: Path | None) -> int:
    from graphstreams.calibration import samples
    from graphstreams.calibration.calibrate import calibrate, calibration_table
    from graphstreams.costs.calibration import user_file
    from graphstreams.files import check_file
    from graphstreams.ir.devices import device_at_hand

    for file in (out, kernels):
        if file is not None:
            check_file(file)
    if out is not None and kernels is not None and out.absolute() == kernels.absolute():
        raise ValueError("--out and --kernels are the same file")
    calibration, timed = calibrate(_say)
    print(f"\n{calibration_table(calibration, timed, device_at_hand())}\n")
    print(f"written: {calibration.save(out or user_file(calibration.device))}")
    if kernels:
        print(f"written: {samples.save(timed, calibration, kernels)}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from graphstreams.command_line.importer import load_function
    from graphstreams.files import make_folder

    examples = Path(__file__).parent.parent / "examples"
    if not (examples / "deepseek_v32.py").is_file():
        raise ValueError("the demo is in the project's repository; run it in a checkout (make demo)")
    make_folder(arguments.dump)
    status = int(load_function(f"{examples / 'deepseek_v32.py'}:main")(["--dump", str(arguments.dump)]) or 0)
    load_function(f"{examples / 'deepseek_v4.py'}:tell")()
    return status


def _options(arguments: argparse.Namespace) -> int:
    from graphstreams.options import ALSO_TAKEN, Options

    print(f"{Options.table()}\n\n{ALSO_TAKEN}")
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    from graphstreams.command_line.cache import clear, show
    from graphstreams.inductor.disk_cache import cache_folder

    print((clear if arguments.clear else show)(cache_folder()))
    return 0


_COMMANDS = {
    "plan": _plan,
    "explain": _explain,
    "diff": _diff,
    "verify": _verify,
    "bench": _bench,
    "options": _options,
    "cache": _cache,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
