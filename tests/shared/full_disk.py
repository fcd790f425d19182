"""On a disk that is full: what the record's writes say and leave, as JSON. A program, run by tests/cluster/run_directory/test_full_disk.py.

unshare -rm sh -c 'mount -t tmpfs -o size=1m none DIR && python -m tests.shared.full_disk DIR'
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ray.exceptions import RayTaskError
from safetensors import SafetensorError
from safetensors.numpy import save_file

from actors.types import ScoredGroup
from cluster.config.parse import parse_config
from cluster.fleet.calls import Halt, WorkerLost
from cluster.run.metrics import Metrics
from cluster.run.saving import Saver
from cluster.run_directory.checkpoints import usable_checkpoint
from cluster.run_directory.integrity import find_damage
from cluster.run_directory.record import RunRecord, WriteFailed, write_atomically
from learner.trajectories import write_trajectories
from tests.shared.run_directories import record_trajectories
from tests.shared.tiny_model import make_group

ROOM_BYTES = 60_000


def on_small_disk(directory: Path, size: str, script: str = 'exec "$@"') -> list[str]:
    """What to put before a command, so that for it `directory` is a file system of its own; no privilege is needed."""
    mount = f"mount -t tmpfs -o size={size} none {shlex.quote(str(directory))}"
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{mount} && {script}", "sh"]


def fill(directory: Path, leave_bytes: int) -> None:
    """Take what the disk has, but for some pages."""
    with (directory / "filling").open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - leave_bytes))


class Writer:
    """The learner's writer, in this process; what it raises is brought to the controller as Ray brings it."""

    def __init__(self, groups: list[ScoredGroup]) -> None:
        self._groups = groups

    async def write_trajectories(self, path: Path) -> None:
        try:
            write_trajectories(path, 2, self._groups, np.ones((len(self._groups), 64)))
        except OSError as error:
            task_error = RayTaskError("write_trajectories", "traceback", error)
            raise WorkerLost(f"learner failed while writing trajectories: {error!r}") from task_error


def failure(write: Callable[[], Any]) -> str:
    try:
        write()
    except (WriteFailed, Halt) as error:
        return str(error)
    return "none"


def tree(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def main(directory: Path) -> None:
    record = RunRecord(directory / "run")
    seen: dict[str, Any] = {}
    record.append_metrics({"step": 1})
    record_trajectories(record, 1, [make_group(0)], np.ones((1, 4)))
    partial = record.begin_checkpoint(1)
    save_file({"weights": np.ones(1000)}, partial / "weights.safetensors")
    record.finish_checkpoint(1, {"version": 1}, keep=1)
    seen["before"] = tree(record.run_dir)

    fill(directory, ROOM_BYTES)
    partial = record.begin_checkpoint(2)
    try:
        save_file({"weights": np.ones(100_000)}, partial / "weights.safetensors")
    except (SafetensorError, OSError) as error:  # as the learner meets it
        seen["learner"] = repr(error)
    record.drop_checkpoint(2)

    partial = record.begin_checkpoint(2)
    save_file({"weights": np.ones(1000)}, partial / "weights.safetensors")
    fill(directory, 0)
    seen["checkpoint"] = failure(
        lambda: record.finish_checkpoint(2, {"version": 2, "ledger": "x" * 9000}, keep=1)
    )
    fill(directory, 0)
    groups = [make_group(number, samples=64) for number in range(64)]
    saver = Saver(parse_config({"model": "m"}), record, Writer(groups), [], Metrics(), newest=None)  # type: ignore[arg-type]
    seen["trajectories"] = failure(lambda: asyncio.run(saver.write_trajectories(2)))
    fill(directory, 0)
    seen["metrics"] = failure(lambda: record.append_metrics({"step": 2, "text": "x" * 20_000}))
    fill(directory, 0)
    seen["small file"] = failure(lambda: write_atomically(record.run_dir / "run.json", "x" * 20_000))
    seen["after"] = tree(record.run_dir)
    checkpoint = usable_checkpoint(record.run_dir, print)
    seen["used"] = str(checkpoint) if checkpoint and find_damage(checkpoint) is None else None
    (directory / "filling").unlink()
    again = RunRecord(record.run_dir)
    again.rewind(1)
    again.append_metrics({"step": 2})
    seen["metrics lines"] = (record.run_dir / "metrics.jsonl").read_text()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
