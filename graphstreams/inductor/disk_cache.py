"""Keep measurements on disk: a folder of small JSON files, each of which is found by a key.

Read in torch 2.15.0: `_inductor/runtime/cache_dir_utils.py`, `_inductor/compile_fx.py` (which caches a compile asks).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path


def cache_folder() -> Path:
    """Return our folder beside Inductor's own caches, so that emptying or moving those does the same to ours."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "graphstreams"


def caches_graphs() -> bool:
    """Return whether a compile puts its graph into a cache, so that another process may find it there."""
    from torch._functorch import config as functorch_config
    from torch._inductor import config

    if config.force_disable_caches:
        return False
    return bool(config.fx_graph_cache or config.fx_graph_remote_cache or functorch_config.enable_autograd_cache)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees a part of it. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    temporary.replace(path)


class Store:
    """A folder of small JSON files, each of which is named by the hash of its key. Processes and threads may share it."""

    def __init__(self, folder: Path, setting: str) -> None:
        """Make `setting`, such as the device and versions, part of every key."""
        self._folder, self._setting = folder, setting

    def get(self, key: str) -> object | None:
        """Return what was put under `key`; None if there is nothing that can be read."""
        try:
            return json.loads(self._path(key).read_text())  # type: ignore[no-any-return]
        except (OSError, ValueError, RecursionError):
            return None

    def put(self, key: str, value: object) -> None:
        """Keep a value that JSON can hold. A folder that cannot be written is no error: it is measured again later."""
        with contextlib.suppress(OSError):
            write_whole(self._path(key), json.dumps(value).encode())

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self._setting}\n{key}".encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
