"""Find, among the files that the option `plan` names, the plan of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphstreams.errors import PlanFileError
from graphstreams.files import files_in_folder, hash_of_files, read_text
from graphstreams.ir.kernels import KernelGraph
from graphstreams.ir.plan import Plan
from graphstreams.ir.plan_file import PlanFile, TokenRange
from graphstreams.messages import one_line
from graphstreams.planning.given_plan import given_plan, likeness, misfit
from graphstreams.runtime.ranks import folder_of_rank

NAME = "plan.json"  # of a plan in a folder; also <something>.plan.json
FOR_THIS_GRAPH = 0.5  # share of kernels with the same names from which on a plan was meant for the graph


@dataclass(frozen=True)
class GivenPlan:
    """What the files say of one graph."""

    path: str = ""  # of the file that has a plan for it
    tokens: TokenRange | None = None  # for which it runs, if the file says so
    plan: Plan | None = None  # None if that file keeps the graph serial, or can't be used
    refused: str = ""  # why the file that was meant for the graph is not used
    others: str = ""  # if no file was meant for the graph: which is nearest, and why it is not the graph's
    rival: str = ""  # a later file that is for the graph too, and says otherwise
    several: bool = False  # whether there are several files, none with this graph's name: they may all be for others

    @property
    def serial(self) -> bool:
        """Whether a file says that the graph stays serial."""
        return bool(self.path) and self.plan is None and not self.refused


def plan_paths(given: Sequence[str]) -> list[Path]:
    """Return the files of plans among paths; those of a folder by name, of which each graph may have one below it.

    If a folder has one for this rank, it is that. Raises PlanFileError for a folder without plans.
    """
    found: list[Path] = []
    for path in map(Path, given):
        found += _in_folder(path) if path.is_dir() else [path]
    return found


def hash_of_plans(given: Sequence[str]) -> bytes | None:
    """Return a hash of the paths and contents of plans, for the key of a cache; None if one can't be read."""
    try:
        return hash_of_files(plan_paths(given))
    except (OSError, PlanFileError):
        return None


def plan_for(graph: KernelGraph, given: Sequence[str], streams: int) -> GivenPlan:
    """Return what the first file says that is for `graph`, on at most `streams` streams. No file raises anything."""
    files: list[tuple[Path, PlanFile]] = []
    unreadable = ""
    try:
        for path in plan_paths(given):
            try:
                files.append((path, PlanFile.loads(read_text(path))))
            except (OSError, ValueError) as error:
                unreadable = unreadable or (one_line(error) if isinstance(error, OSError) else f"{path}: {one_line(error)}")
    except PlanFileError as error:
        unreadable = str(error)
    fitting = [(path, file) for path, file in files if not misfit(file, graph)]
    if fitting:
        (path, file), *others = fitting
        rivals = [str(other) for other, its in others if replace(its, graph=file.graph) != file]
        return replace(_of_graph(path, file, graph, streams), rival=rivals[0] if rivals else "")
    if unreadable:
        return GivenPlan(refused=unreadable)
    path, nearest = max(files, key=lambda each: likeness(each[1], graph))
    why = f"{path}: {misfit(nearest, graph)}"
    if likeness(nearest, graph) >= FOR_THIS_GRAPH:
        return GivenPlan(str(path), refused=why)
    named = any(file.graph == graph.name for _, file in files)
    return GivenPlan(others=why, several=len(files) > 1 and not named)


def _of_graph(path: Path, file: PlanFile, graph: KernelGraph, streams: int) -> GivenPlan:
    if file.runs == "serial":
        return GivenPlan(str(path))
    try:
        plan = given_plan(file, graph, streams)
    except PlanFileError as error:
        return GivenPlan(str(path), refused=f"{path}: {error}")
    on_one = plan.streams == 1 and not graph.has_collectives()
    return GivenPlan(str(path), file.tokens, None if on_one else plan)


def _in_folder(folder: Path) -> list[Path]:
    found = files_in_folder(folder, folder_of_rank(), NAME)
    if not found:
        raise PlanFileError(f"the folder {folder} has no {NAME}, nor one in a folder below it")
    return found
