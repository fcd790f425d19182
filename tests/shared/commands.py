"""`bonfire ...` in a process of its own that need not import first what every command imports.

Python's fork server imports it once; each command is a fork of that process, with a directory, an environment, and
standard streams of its own. `tests.shared.runs` starts the command as a shell does, for tests that look at its process.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = (
    "cluster.commands.cli",
    "cluster.commands.plan",
    "cluster.commands.train",
    "cluster.evaluation.evaluation",
    "cluster.evaluation.rescoring",
    "learner.sft",
    "transformers.models.auto.tokenization_auto",
)
"""Not Ray: it reads its environment when it is imported."""
TIMEOUT_S = 90.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


def bonfire(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Exit code, output and errors of `bonfire ARGUMENTS` in that directory."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = ["bonfire", *map(str, arguments)]
        streams = [_context.reducer.DupFd(stream.fileno()) for stream in (out, err)]
        process = _context.Process(target=_run, args=(command, str(cwd), dict(os.environ), streams))
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{command} did not end within {TIMEOUT_S:g} s")
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run(command: list[str], cwd: str, environment: dict[str, str], streams: list) -> None:
    from cluster.commands.cli import main

    for stream, descriptor in zip(streams, (1, 2), strict=True):
        os.dup2(stream.detach(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, "")  # as for a program started there
    sys.argv = command
    main()
