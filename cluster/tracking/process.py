"""The follower's process, from the side of the process that drives the run.

A process of its own, and a child of the driver rather than a Ray actor: it is there before Ray is and when the
controller is lost, it has the user's environment with whatever a tracker's login needs, and takes no resource that the
cluster counts. Nothing of the run waits for it, but its end, for `tracking.flush_s` at most.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.config.tracking import TrackingConfig
from cluster.terminal.interrupts import Interrupted
from cluster.tracking.examples import write_problems
from cluster.tracking.tracker import Outcome
from verifiers.types import Problem

SLACK_S = 5.0
"""For its own end, beyond `tracking.flush_s`."""


class Following:
    """What the driver says of the run: `outcome`, `finished` unless it is set."""

    def __init__(self) -> None:
        self.outcome: Outcome = "finished"
        self.is_ending = False


@contextmanager
def following(
    config: TrackingConfig,
    run_dir: Path,
    problems: Sequence[Problem],
    *,
    resumed_from: int,
    note: Callable[[str], None],
) -> Iterator[Following]:
    """Trackers are told of the run in `run_dir`, whose settings are there, while this block lasts.

    `resumed_from`: the step of the checkpoint it goes on from, 0 without one. Never raises what a tracker's trouble
    is: `note` hears of it. At the end all processes of the trackers are gone.
    """
    this = Following()
    follower = _start(this, config, run_dir, problems, resumed_from, note) if config.to else None
    try:
        yield this
    except Interrupted:
        this.outcome = "stopped"
        raise
    except BaseException:
        this.outcome = "failed"
        raise
    finally:
        this.is_ending = True
        if follower:
            _end(follower, this.outcome, config.flush_s)


def _start(
    this: Following,
    config: TrackingConfig,
    run_dir: Path,
    problems: Sequence[Problem],
    resumed_from: int,
    note: Callable[[str], None],
) -> subprocess.Popen[bytes] | None:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    try:
        if config.examples_every:
            write_problems(run_dir, problems)
        follower = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "cluster.tracking.follower",
                str(run_dir),
                str(resumed_from),
                repr(time.time()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the driver's business; its end takes the whole group
        )
    except OSError as error:
        note(f"tracking: it does not start ({error}); the run goes on without")
        return None
    threading.Thread(target=_pass_on, args=(this, follower, note), name="tracking", daemon=True).start()
    return follower


def _pass_on(this: Following, follower: subprocess.Popen[bytes], note: Callable[[str], None]) -> None:
    """What it says, until it ends; and that it has, where nobody asked it to."""
    assert follower.stdout
    for line in follower.stdout:
        note(line.decode(errors="replace").rstrip())
    if not this.is_ending:
        note(f"tracking: its process is gone (pid {follower.pid}); the run goes on without")


def _end(follower: subprocess.Popen[bytes], outcome: Outcome, flush_s: float) -> None:
    """Say how the run ended, wait so long, and end what is left of the process and its children."""
    assert follower.stdin
    try:
        with suppress(OSError):  # it is gone already
            follower.stdin.write(outcome.encode())
            follower.stdin.close()
        deadline_s = time.monotonic() + flush_s + SLACK_S
        while not _has_ended(follower) and time.monotonic() < deadline_s:
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(follower.pid, signal.SIGKILL)
        follower.wait()


def _has_ended(follower: subprocess.Popen[bytes]) -> bool:
    """Without having it reaped: until then its number, which is its group's, is nobody else's."""
    return os.waitid(os.P_PID, follower.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
