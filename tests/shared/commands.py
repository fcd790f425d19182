"""`bonfire ...` in a process of its own, with a directory, an environment and standard streams of its own.

It is a fork of one that has imported what commands import. `tests.shared.runs` and `tests.shared.user_cluster` start the
command as a shell does, for tests that look at its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from tests.shared.warm import WARM

TIMEOUT_S = 90.0


@contextmanager
def started(*arguments: object, cwd: Path) -> Iterator[Command]:
    """`bonfire ARGUMENTS` in that directory; whatever is left of its processes at the end is killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = ["bonfire", *map(str, arguments)]
        streams = [WARM.reducer.DupFd(stream.fileno()) for stream in (out, err)]
        process = WARM.Process(target=_run, args=(command, str(cwd), dict(os.environ), streams))
        process.start()
        try:
            yield Command(command, process, out, err)
        finally:
            if process.exitcode is None:
                for one in (*psutil.Process(process.pid).children(recursive=True), process):
                    one.kill()
                process.join()


def bonfire(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Exit code, output and errors of `bonfire ARGUMENTS` in that directory."""
    with started(*arguments, cwd=cwd) as command:
        return command.finish()


class Command:
    """One that runs."""

    def __init__(self, command: list[str], process: Any, out: IO[bytes], err: IO[bytes]) -> None:
        self._command = command
        self._process = process
        self._streams = (out, err)

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Exit code, output and errors, once it has ended."""
        self._process.join(TIMEOUT_S)
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode())
        code = self._process.exitcode
        assert code is not None, f"{self._command} did not end within {TIMEOUT_S:g} s; it wrote {texts}"
        return subprocess.CompletedProcess(self._command, code, *texts)


def _run(command: list[str], cwd: str, environment: dict[str, str], streams: list) -> None:
    from cluster.commands.cli import main

    for stream, descriptor in zip(streams, (1, 2), strict=True):
        os.dup2(stream.detach(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    main()
