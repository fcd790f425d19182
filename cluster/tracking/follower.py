"""The process beside a run that tells its trackers: `python -m cluster.tracking.follower RUN_DIR STEP TIME`.

Steps after STEP that were done before TIME, in seconds since the epoch, are those that a resumed run does again.

Its stdin is a pipe from the process that drives the run, which writes the outcome at the end; when that process is
gone, however it went, the pipe ends too. What the user should know goes to stdout, a line each; all that the libraries
say goes to RUN_DIR/tracking.log.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import tomli_w

from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.config.tracking import TrackerName
from cluster.run_directory.record import SETTINGS_FILE, WriteFailed
from cluster.tracking.feed import Feed, Followed
from cluster.tracking.state import State
from cluster.tracking.to_mlflow import MLflow
from cluster.tracking.to_tensorboard import TensorBoard
from cluster.tracking.to_trackio import Trackio
from cluster.tracking.to_wandb import Wandb
from cluster.tracking.tracker import Outcome, TrackedRun, Tracker

LOG_FILE = "tracking.log"
TRACKERS: dict[TrackerName, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}
LOOK_EVERY_S = 1.0
HANGS_AFTER_S = 60.0
NICENESS = 10


def follow(run_dir: Path, resumed_from: int, since_s: float, stdin: int, note: Callable[[str], None]) -> bool:
    """Tell the trackers until the pipe ends, and `tracking.flush_s` longer; whether all of them have ended."""
    config = load_config(run_dir / SETTINGS_FILE)
    state = State(run_dir)
    followed = Followed(
        run=tracked_run(config, run_dir),
        config=config.tracking,
        resumed_from=resumed_from,
        since_s=since_s,
    )
    feeds = [Feed(name, TRACKERS[name](), followed, state, note) for name in config.tracking.to]
    for feed in feeds:
        feed.start()
    outcome = _until_the_end(feeds, state, stdin, note)
    for feed in feeds:
        feed.end(outcome)
    deadline_s = time.monotonic() + config.tracking.flush_s
    for feed in feeds:
        feed.join(max(0.0, deadline_s - time.monotonic()))
    for feed in feeds:
        told = state.told(feed.tracker_name)
        if feed.is_alive():
            note(
                f"tracking: {feed.tracker_name} has not taken all within tracking.flush_s = "
                f"{config.tracking.flush_s:g} (steps up to {told.mark.step} are there); --resume tells it the rest"
            )
        if told.dropped:
            note(f"tracking: {feed.tracker_name} did not take {told.dropped} steps, tables or reports")
    _write(state)
    return not any(feed.is_alive() for feed in feeds)


def tracked_run(config: RunConfig, run_dir: Path) -> TrackedRun:
    """What the trackers are told of the run itself."""
    settings = config.model_dump(mode="json", exclude_none=True)
    return TrackedRun(
        run_dir=run_dir,
        name=config.tracking.name or run_dir.absolute().name,
        project=config.tracking.project,
        settings=dotted(settings),
        settings_toml=tomli_w.dumps(settings),
    )


def dotted(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= (
            dotted(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
        )
    return found


def _until_the_end(feeds: list[Feed], state: State, stdin: int, note: Callable[[str], None]) -> Outcome:
    """What the driver says that became of the run; `failed` where it says nothing more."""
    said = b""
    while True:
        if select.select([stdin], [], [], LOOK_EVERY_S)[0]:
            if not (more := os.read(stdin, 64)):
                word = said.decode(errors="replace").strip()
                return next((outcome for outcome in get_args(Outcome) if outcome == word), "failed")
            said += more
        _write(state)
        for feed in feeds:
            since_s = feed.call_since_s
            if since_s and time.monotonic() - since_s > HANGS_AFTER_S and not feed.has_told_of_hang:
                feed.has_told_of_hang = True
                note(
                    f"tracking: {feed.tracker_name} has not answered for {HANGS_AFTER_S:g} s; the run goes on "
                    "without waiting for it"
                )


def _write(state: State) -> None:
    with suppress(WriteFailed):  # the run itself says that its disk is full
        state.write()


def main() -> None:
    """Keep the pipes of the driver to oneself, and have whatever the libraries print in the log."""
    run_dir, resumed_from, since_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    stdin, stdout = os.dup(0), os.dup(1)
    log = os.open(run_dir / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    with suppress(OSError):
        os.nice(NICENESS)  # engines and learner first
    lock = threading.Lock()

    def note(line: str) -> None:
        logging.getLogger(__name__).warning("%s", line)
        with lock, suppress(OSError):  # the driver may be gone
            os.write(stdout, (line + "\n").encode())

    try:
        have_ended = follow(run_dir, resumed_from, since_s, stdin, note)
    except Exception as error:
        logging.getLogger(__name__).exception("the follower ends")
        note(f"tracking: it fails ({' '.join(str(error).split())[:200]})")
        os._exit(1)
    if not have_ended:
        os._exit(0)  # a library's call that never returns must not be waited for


if __name__ == "__main__":
    main()
