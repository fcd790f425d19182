"""`bonfire ...` in a process of its own, with a directory, an environment and standard streams of its own.

It is a fork of one that has imported what commands import. `tests.shared.runs` and `tests.shared.user_cluster` start the
command as a shell does, for tests that look at its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.shared.warm import WARM

TIMEOUT_S = 90.0


def bonfire(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Exit code, output and errors of `bonfire ARGUMENTS` in that directory; not for those that train.

    Fails, and ends all of its processes, when it takes longer than TIMEOUT_S.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = ["bonfire", *map(str, arguments)]
        streams = [WARM.reducer.DupFd(stream.fileno()) for stream in (out, err)]
        process = WARM.Process(target=_run, args=(command, str(cwd), dict(os.environ), streams))
        process.start()
        process.join(TIMEOUT_S)
        is_late = process.exitcode is None
        if is_late:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.join()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        assert not is_late, f"{command} did not end within {TIMEOUT_S:g} s; it wrote {texts}"
        return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run(command: list[str], cwd: str, environment: dict[str, str], streams: list) -> None:
    from cluster.commands.cli import main

    for stream, descriptor in zip(streams, (1, 2), strict=True):
        os.dup2(stream.detach(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    main()
