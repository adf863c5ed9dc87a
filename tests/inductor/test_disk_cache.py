"""Check the folder of what was measured: its files, their keys, and writers at once."""

from __future__ import annotations

import itertools
import json
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graphstreams.inductor import disk_cache
from graphstreams.inductor.disk_cache import Store

# --- the folder


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", [3.25, 0.1 + 0.2, {"us": [1.0, 2.5], "plan": "{}"}, [], "text"])
def test_a_value_comes_back(value: object, tmp_path: Path) -> None:
    Store(tmp_path / "deep" / "er", "H200").put("a\nkey of any length" * 1000, value)
    assert Store(tmp_path / "deep" / "er", "H200").get("a\nkey of any length" * 1000) == value


def test_a_key_that_was_not_put_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path, "H200")
    assert store.get("key") is None
    store.put("key", 1.0)
    assert store.get("other key") is None


def test_another_setting_has_values_of_its_own(tmp_path: Path) -> None:
    h200, b200 = Store(tmp_path, "H200"), Store(tmp_path, "B200")
    h200.put("key", 1.0)
    assert b200.get("key") is None
    b200.put("key", 2.0)
    assert (h200.get("key"), b200.get("key")) == (1.0, 2.0)


def test_a_later_value_replaces_an_earlier_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    store = Store(tmp_path, "H200")
    for value in (1.0, 2.0):
        store.put("key", value)
    assert store.get("key") == 2.0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"3.5 and more"])
def test_a_broken_file_is_none_and_can_be_replaced(content: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path, "H200")
    store.put("key", 1.0)
    files(tmp_path)[0].write_bytes(content)
    assert store.get("key") is None
    store.put("key", 2.0)
    assert store.get("key") == 2.0


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path, "H200")
    store.put("key", 1.0)
    (file,) = files(tmp_path)
    file.unlink()
    file.mkdir()  # even root cannot read that as a file
    assert store.get("key") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = Store(blocked / "folder", "H200")
    store.put("key", 1.0)
    assert store.get("key") is None


def test_a_file_that_cannot_be_replaced_is_no_error(tmp_path: Path) -> None:
    store = Store(tmp_path, "H200")
    store.put("key", 1.0)
    (file,) = files(tmp_path)
    file.unlink()
    file.mkdir()
    store.put("key", 2.0)
    assert store.get("key") is None


# Of different lengths, so that a mixture of two would show.
VALUES: list[object] = ["a" * 10, ["b" * 5000], {"c": "c" * 200_000}]


def test_threads_that_write_one_key_at_once_leave_whole_values(tmp_path: Path) -> None:
    stop = threading.Event()

    def write(value: object) -> None:
        while not stop.is_set():
            Store(tmp_path, "H200").put("key", value)

    Store(tmp_path, "H200").put("key", VALUES[0])
    threads = [threading.Thread(target=write, args=(value,)) for value in VALUES * 2]
    for thread in threads:
        thread.start()
    seen, end = [], time.monotonic() + 1.0
    while time.monotonic() < end:
        seen.append(Store(tmp_path, "H200").get("key"))
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert all(value in VALUES for value in seen)
    assert Store(tmp_path, "H200").get("key") in VALUES
    assert len(files(tmp_path)) == 1


WRITER = """
import json, runpy, sys
source, folder, value = sys.argv[1:]
Store = runpy.run_path(source)["Store"]
print("started", flush=True)
for _ in range(300):
    Store(__import__("pathlib").Path(folder), "H200").put("key", json.loads(value))
"""


def test_processes_that_write_one_key_at_once_leave_whole_values(tmp_path: Path) -> None:
    values: list[object] = ["a" * 10, ["b" * 5000]]
    path = disk_cache.__file__
    assert "Store" in runpy.run_path(path)  # in a process of its own it needs no torch
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(tmp_path), json.dumps(value)], stdout=subprocess.PIPE)
        for value in values
    ]
    seen = []
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"started\n"
    while any(writer.poll() is None for writer in writers):
        seen.append(Store(tmp_path, "H200").get("key"))
    assert all(writer.returncode == 0 for writer in writers)
    there = list(itertools.dropwhile(lambda value: value is None, seen))
    assert there
    assert all(value in values for value in there)
    assert Store(tmp_path, "H200").get("key") in values
    assert len(files(tmp_path)) == 1
