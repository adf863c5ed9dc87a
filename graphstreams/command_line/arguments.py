"""Define the options of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

_STREAMS = "most streams of a plan, the caller's included (default: the option's)"


def parser(version: str) -> argparse.ArgumentParser:
    """Return the parser of `graphstreams plan | explain | diff | verify | bench | options | cache | demo`."""
    made = argparse.ArgumentParser(prog="graphstreams", description="Independent kernels on parallel CUDA streams.")
    made.add_argument("--version", action="version", version=f"graphstreams {version}")
    commands = made.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="plan a profile (JSON) and print the predicted timeline")
    plan.add_argument("profile", type=Path)
    plan.add_argument("--streams", type=int, default=2, help="streams in all, the caller's included (default 2)")
    plan.add_argument("--event-us", type=float, default=0.0, help="cost of a wait for another stream in us (default 0)")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    explain = commands.add_parser("explain", help="plan a module for a GPU, which need not be here")
    explain.add_argument("function", metavar="MODULE:FUNCTION", help="a function that returns (module, example inputs)")
    explain.add_argument("--target", help="the GPU to plan for, such as h200; default: the one at hand")
    explain.add_argument("--streams", type=int, help=_STREAMS)
    explain.add_argument("--dump", "--out", type=Path, metavar="DIR", help="write the report's files there")
    explain.add_argument(
        "--open", action="store_true", help="open report.html in a browser; without --dump in a temporary folder"
    )
    option = "an option as options= takes it, such as pin=q_b_proj=1 or mode=reduce-overhead; for each option once"
    explain.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=option)
    explain.add_argument("--dynamic", action="store_true", help="plan for sizes that each call chooses")
    explain.add_argument("--strict", action="store_true", help="exit with 2 if the graph would run serially")
    diff = commands.add_parser("diff", help="how two reports differ: what moved, times, launches, waits, gain, reasons")
    for place in ("one", "other"):
        diff.add_argument(place, type=Path, metavar=place.upper(), help="a report.json, its folder, or a folder of reports")
    verify = commands.add_parser("verify", help="look for races in the source of an Inductor wrapper")
    verify.add_argument("wrapper", type=Path)
    _add_bench(commands.add_parser("bench", help="on a GPU: bits and times of serial, graphstreams and other variants"))
    commands.add_parser("options", help="the options of the backend: default, values and meaning of each")
    cache = commands.add_parser("cache", help="the folder of kernel times, plans and calibrations")
    action = cache.add_mutually_exclusive_group(required=True)
    action.add_argument("--show", action="store_true", help="print where it is and what it holds")
    action.add_argument("--clear", action="store_true", help="delete the plans and kernel times; calibrations stay")
    demo = commands.add_parser("demo", help="the DeepSeek V3.2 attention layer, from compile to report")
    demo.add_argument("--dump", type=Path, metavar="DIR", default=Path("graphstreams_dump"))
    return made


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add("function", metavar="MODULE:FUNCTION", nargs="?", help="a function tokens -> (module, seed -> inputs)")
    add("--batch", default="1", help="token counts, such as 1,16,64 (default 1)")
    add("--streams", type=int, help=_STREAMS)
    rival = "another way to run the module: (module, settings of Inductor) -> compiled function; may be given again"
    add("--rival", action="append", default=[], metavar="NAME=MODULE:FUNCTION", help=rival)
    policies = (
        "names and functions (graph, us, shares) -> Assignment, replayed on the kernels of the serial graph; none: no such; "
        "default: those of other systems, if the project's examples are there"
    )
    add("--policies", metavar="MODULE:MAPPING", help=policies)
    settings = "of Inductor: deterministic (bits compared, policies replayed; the default), default (times of what is compiled)"
    add("--settings", choices=("deterministic", "default", "both"), default="deterministic", help=settings)
    add("--rounds", type=int, default=40, help="rounds of timing (default 40)")
    add("--replays", type=int, default=50, help="replays whose bits are compared (default 50)")
    add("--calibrate", action="store_true", help="time kernels of many kinds and fit the roofline to them")
    out = "a folder for bench.md and bench.json; with --calibrate the calibration's file (default: the one that compiles read)"
    add("--out", type=Path, metavar="PLACE", help=out)
    add("--kernels", type=Path, metavar="FILE", help="with --calibrate: write the kernels that were timed there")
