"""Check that input that cannot be used ends a command with status 2 and one line that names it, before any work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graphstreams.__main__ import main
from tests.support.paths import DSV32

USERS = """
import sys
import torch

X = torch.ones(4, 64)


class Failing(torch.nn.Module):
    def __init__(self, fail):
        super().__init__()
        self.fail = fail

    def forward(self, x):
        return self.fail(x)


class NoText(Exception):
    def __str__(self):
        raise ValueError("not even this")


class Stop(BaseException):
    pass


def do_raise(error):
    raise error


def key(): raise KeyError("half")
def stop(): raise Stop("at once")
def no_text(): raise NoText
def leaves(): sys.exit(0)
def endless(): return endless()
def memory(): raise MemoryError
def interrupted(): raise KeyboardInterrupt
def wants(tokens): return tokens
def nothing(): return None
def three(): return 1, 2, 3
def yields(): yield torch.nn.Linear(64, 64), (X,)
def a_class(): return torch.nn.Linear, (X,)
def a_function(): return torch.relu, (X,)
def a_method(): return torch.nn.Linear(64, 64).forward, (X,)
def a_number(): return 3, (X,)
def one_tensor(): return torch.nn.Linear(64, 64), X
def by_name(): return torch.nn.Linear(64, 64), {"input": X}
def numbered(): return torch.nn.Linear(64, 64), {0: X}
def sparse(): return torch.nn.Linear(64, 64), (X.to_sparse(),)
def text(): return torch.nn.Linear(64, 64), "abc"
def iterator(): return torch.nn.Linear(64, 64), iter([X])
def no_inputs(): return torch.nn.Linear(64, 64), None
def no_tensors(): return torch.nn.Identity(), (3,)
def too_many(): return torch.nn.Linear(64, 64), (X, X)
def other_shape(): return torch.nn.Linear(32, 32), (X,)
def forward_raises(): return Failing(lambda x: do_raise(KeyError("in forward"))), (X,)
def forward_leaves(): return Failing(lambda x: sys.exit(3)), (X,)
def forward_endless():
    module = Failing(None)
    module.fail = module.forward
    return module, (X,)
def fine(): return torch.nn.Linear(64, 64), (X,)
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users_of_bad_input.py"
    path.write_text(USERS)
    return path


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a command prints when it ends with status 2 and one line."""

    def of(*arguments: object) -> str:
        status = main([str(each) for each in arguments])
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        (line,) = printed.err.splitlines()
        head = f"graphstreams {arguments[0]}: "
        assert line.startswith(head) and len(line) > len(head)
        return line

    return of


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("key", "cannot be called: KeyError: 'half'"),
        ("stop", "cannot be called: Stop: at once"),
        ("no_text", "cannot be called: NoText"),
        ("leaves", "cannot be called: it exits with 0"),
        ("endless", "cannot be called: RecursionError"),
        ("memory", "cannot be called: MemoryError"),
        ("wants", "cannot be called: TypeError: wants() missing 1 required"),
        ("nothing", "has to return (module, example inputs), not None"),
        ("three", "not a tuple of 3"),
        ("yields", "not a value of type generator"),
        ("a_class", "not the class Linear; make one of it first"),
        ("a_number", "only a module, a function or a method can be planned, not a value of type int"),
        ("text", "one tensor, not a value of type str"),
        ("iterator", "one tensor, not a value of type list_iterator"),
        ("no_inputs", "one tensor, not a value of type NoneType"),
        ("numbered", "one tensor, not a dict whose keys are no names"),
        ("sparse", "inputs[0] is torch.sparse_coo; only dense tensors can be planned"),
        ("no_tensors", "computes nothing on tensors"),
        ("too_many", "cannot be planned: TypeError: Linear.forward() takes 2"),
        ("other_shape", "cannot be planned: "),
        ("forward_raises", "cannot be planned: KeyError: 'in forward'"),
        ("forward_leaves", "cannot be planned: it exits with 3"),
        ("forward_endless", "cannot be planned: "),
    ],
)
def test_a_function_that_gives_nothing_to_plan(complaint: Callable[..., str], users: Path, function: str, told: str) -> None:
    line = complaint("explain", f"{users}:{function}", "--target", "h200")
    assert f"{users}:{function}" in line
    assert told in line


@pytest.mark.parametrize("function", ["a_function", "a_method", "one_tensor", "by_name"])
def test_what_else_can_be_planned(capsys: pytest.CaptureFixture[str], users: Path, function: str) -> None:
    assert main(["explain", f"{users}:{function}", "--target", "h200"]) == 0
    assert "inference: serial" in capsys.readouterr().out


def test_who_interrupts_is_heard(users: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        main(["explain", f"{users}:interrupted", "--target", "h200"])


@pytest.mark.parametrize("place", ["a file", "/dev/null/dump", "/proc/dump", "x" * 300])
@pytest.mark.parametrize("command", ["explain", "demo"])
def test_a_folder_that_cannot_be_written_is_found_first(
    complaint: Callable[..., str], users: Path, command: str, place: str
) -> None:
    folder = str(users) if place == "a file" else place
    function = [f"{users}:key", "--target", "h200"] if command == "explain" else []
    line = complaint(command, *function, "--dump", folder)  # the function was not called yet
    assert folder in line and "is no folder that can be written" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bench", "{users}:fine", "--out", "{users}"], "users_of_bad_input.py is no folder that can be written"),
        (["bench", "--calibrate", "--out", "/proc/file.json"], "/proc/file.json is no file that can be written"),
        (["bench", "--calibrate", "--kernels", "{users}/file.json"], "file.json is no file that can be written"),
        (["bench", "{users}:fine", "--rounds", "9" * 30], "at most 100000 and 1000000"),
        (["bench", "{users}:fine", "--replays", "1000001"], "at most 100000 and 1000000"),
        (["bench", "{users}:fine", "--batch", "9" * 5000], "has to be numbers of tokens"),
        (["bench", "{users}:fine", "--streams", "100000"], "'streams' is 100000; it has to be from 1 to 8"),
        (["explain", "{users}:fine", "--streams", "100000"], "'streams' is 100000; it has to be from 1 to 8"),
        (["explain", "{users}:fine", "--target", ""], "unknown device ''"),
        (["plan", DSV32, "--streams", "100000"], "streams is 100000; it has to be from 1 to 32"),
        (["plan", DSV32, "--streams", "-1"], "streams is -1; it has to be from 1 to 32"),
        (["plan", DSV32, "--event-us", "nan"], "event_us is nan; it has to be from 0 to"),
        (["plan", DSV32, "--event-us", "1e308"], "event_us is 1e+308; it has to be from 0 to"),
    ],
)
def test_arguments_out_of_range(complaint: Callable[..., str], users: Path, arguments: list[str], told: str) -> None:
    assert told in complaint(*(str(each).replace("{users}", str(users)) for each in arguments))


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("GRAPHSTREAMS_STREAMS", "two", "GRAPHSTREAMS_STREAMS='two' is not a whole number"),
        ("GRAPHSTREAMS_STREAMS", "9" * 5000, "is not a whole number"),
        ("GRAPHSTREAMS_MIN_GAIN", "nan", "option 'min_gain' is nan"),
        ("GRAPHSTREAMS_DISABLE", "maybe", "GRAPHSTREAMS_DISABLE='maybe' is neither 0 nor 1"),
        ("GRAPHSTREAMS_COSTS", "measurd", "did you mean 'measured'"),
        ("GRAPHSTREAMS_COSTS", "{users}", "users_of_bad_input.py: it is not JSON"),
    ],
)
def test_variables_that_are_no_options(
    complaint: Callable[..., str], users: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, told: str
) -> None:
    monkeypatch.setenv(variable, text.replace("{users}", str(users)))
    assert told in complaint("explain", f"{users}:key", "--target", "h200")


def nested_calls(depth: int) -> str:
    """Return a wrapper of which each function calls the next one twice."""
    functions = [f"def f{i}(a):\n    f{i + 1}(a)\n    f{i + 1}(a)\n    return ()\n" for i in range(depth)]
    return "".join(functions) + f"def f{depth}(a):\n    return ()\ndef call(args):\n    f0(args)\n    return ()\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"import a\0b",
        b"def call(args:\n",
        b"def call(args):\n    x = " + b"-" * 20_000 + b"1\n",
        b"def call(args):\n    x = " + b"(" * 5_000 + b"\n",
        b"x = " + b"9" * 5_000,
        b"[" * 200_000,
        nested_calls(45).encode(),
    ],
)
def test_files_that_are_no_wrappers(complaint: Callable[..., str], tmp_path: Path, content: bytes, short: None) -> None:
    path = tmp_path / "wrapper.py"
    path.write_bytes(content)
    line = complaint("verify", path)
    assert len(line.split(f"{path}: ")[1]) > 5
    assert not line.endswith(": ")


def test_a_wrapper_that_is_too_large(complaint: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "wrapper.py"
    path.write_bytes(b"x=1\n" * 2**20 + b"\n")
    assert complaint("verify", path).endswith(f"{path}: it has more than 4194304 bytes")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphstreams.__main__.READING_S", 1.0)


@pytest.mark.parametrize("command", ["plan", "verify"])
def test_places_that_hold_no_text(complaint: Callable[..., str], tmp_path: Path, command: str, short: None) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, told in [
        (tmp_path, f"{tmp_path}: Is a directory"),
        (tmp_path / "gone", f"{tmp_path / 'gone'}: No such file or directory"),
        (tmp_path / "pipe", f"{tmp_path / 'pipe'}: it takes longer than 1 s"),
        ("/dev/zero", "/dev/zero: it "),
        ("/dev/null", "/dev/null: "),
    ]:
        assert told in complaint(command, place)


@pytest.mark.parametrize("command", [["plan", str(DSV32)], ["plan", str(DSV32), "--json"]])
@pytest.mark.parametrize(("place", "told"), [("| true", "nobody reads what it prints"), ("> /dev/full", "No space left")])
def test_output_that_cannot_be_written(command: list[str], place: str, told: str) -> None:
    """In a process of its own, which also writes when it exits."""
    program = " ".join([sys.executable, "-m", "graphstreams", *command])
    script = f"set -o pipefail; (sleep 0.2; exec {program}) {place}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"unit": "us", "name": "größe", "kernels": [{"id": "ä", "us": 1}]}')
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "graphstreams", "plan", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gr\\xf6\\xdfe\n")
