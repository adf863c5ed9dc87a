"""The cost model that takes times from profiles: one file, or a folder with one for each graph, such as a dump of reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from graphstreams.costs.profile import MOST_TO_COMPARE, load_profile
from graphstreams.errors import ProfileError
from graphstreams.files import files_in_folder, hash_of_files
from graphstreams.ir.kernels import KernelGraph
from graphstreams.runtime.ranks import folder_of_rank

NAME = "profile.json"  # of a profile in a folder; also <something>.profile.json


@dataclass(frozen=True)
class Profile:
    """The cost model that takes times from a profile which names the graph's kernels."""

    name: str  # path of the file, or of a folder of files

    def price(self, graph: KernelGraph) -> list[float]:
        """Return the time of each kernel of `graph` in us: of several files, as the one has them that is most like the graph.

        Raises ProfileError if no profile has all kernels, with one that is missing and the nearest name, and as
        `load_profile` does.
        """
        names = [kernel.name for kernel in graph.kernels]
        fitting: list[tuple[bool, bool, dict[str, float]]] = []
        lacking: list[tuple[int, str]] = []
        for path in profile_paths(self.name):
            profile, us = load_profile(path)
            times = {kernel.name: time for kernel, time in zip(profile.kernels, us, strict=True)}
            missing = [name for name in names if name not in times]
            if missing:
                lacking.append((len(missing), _lacks(path, missing[0], times)))
            else:
                fitting.append((len(times) == len(names), profile.name == graph.name, times))
        if not fitting:
            _, why = min(lacking, key=lambda each: each[0])
            several = f"of {len(lacking)} profiles none has the graph's kernels; " if len(lacking) > 1 else ""
            raise ProfileError(several + why)
        *_, times = max(fitting, key=lambda each: each[:2])
        return [times[name] for name in names]


def profile_paths(path: str) -> list[Path]:
    """Return the file, or those of a folder. Raises ProfileError for a folder without profiles."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    found = files_in_folder(folder, folder_of_rank(), NAME)
    if not found:
        raise ProfileError(f"the folder {folder} has no {NAME}, nor one in a folder below it")
    return found


def check_profiles(path: str) -> None:
    """Raise ProfileError, or OSError, if a file, or one of a folder, is no profile."""
    for each in profile_paths(path):
        load_profile(each)


def hash_of_profiles(path: str) -> bytes | None:
    """Return a hash of the paths and contents of profiles, for the key of a cache; None if one can't be read."""
    try:
        return hash_of_files(profile_paths(path))
    except (OSError, ProfileError):
        return None


def _lacks(path: Path, name: str, times: Mapping[str, float]) -> str:
    near = get_close_matches(name, list(times)[:MOST_TO_COMPARE], n=1, cutoff=0.0)[0]
    return f"the profile {path} has no time for kernel {name!r}; the nearest name it has is {near!r}"
