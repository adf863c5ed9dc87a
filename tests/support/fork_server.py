"""Run programs in forks of a process that has imported torch and the package, which takes seconds, and has run nothing of them.

A program finds what a process of its own would: no graph compiled, no cache filled, no setting made. Only what torch reads from
the environment while it is imported was read before. Tests of that, and of what is imported, need `subprocess`.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping
from typing import Any

from tests.support.processes import environment

SECONDS = 300  # that a program may take


def run_forked(program: str, *arguments: str, more: Mapping[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
    """Return what `python -c program *arguments` does, with `more` in its environment. A signal's number is negative.

    Forks of calls from several threads run at the same time.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_server()[0])
        request = {"arguments": ["-c", *arguments], "program": program, "environment": environment(more), "folder": os.getcwd()}
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        status, output, errors = json.loads(_received(connection))
    return subprocess.CompletedProcess(program, status, output, errors)


def last_line_forked(program: str, *arguments: str, more: Mapping[str, str | None] | None = None) -> str:
    """Return the last line that a program prints. Raises AssertionError, with standard error, if it fails."""
    done = run_forked(program, *arguments, more=more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@functools.cache
def _server() -> tuple[str, Any]:
    """Start the server. Return its socket's path and what it lives as long as: its standard input, and the path's folder."""
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({listener.fileno()})"]
        process = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    return path, (process, folder)


def serve(listener: int) -> None:
    """Fork for each connection until standard input ends."""
    import torch  # noqa: F401

    import graphstreams.pipeline.explain  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork is waited for here
    with socket.socket(fileno=listener) as server:
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    _answer(connection)
                    os._exit(0)


def _answer(connection: socket.socket) -> None:
    """Run a connection's program in a fork of this one, and send its status and what it wrote."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(_received(connection))
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            connection.close()
            _run(request, output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    connection.sendall(json.dumps([os.waitstatus_to_exitcode(status), *texts]).encode())


def _run(request: Mapping[str, Any], output: int, errors: int) -> None:
    """Become the program. Does not return."""
    signal.alarm(SECONDS)
    for place, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
        os.dup2(file, place)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["arguments"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(request["program"], "<string>", "exec"), vars(main))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _received(connection: socket.socket) -> str:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts).decode()
