"""What each tracker costs a step: CPU, memory and disk of the process beside the run, and what the run itself pays.

    .venv/bin/python -m benchmarks.tracking > benchmarks/results/tracking.json

The tracker's own process follows a run directory that grows by a step every `--every` seconds: 56 facts, 32 groups of
32 samples of 40 tokens with texts, written by the run's own code; tables as by default, four groups every ten steps. By
tracker: CPU seconds of the process and its children until the first step is told (imports, the run's beginning) and for
each step after it; the most memory they held; the seconds from the last step's line to the tracker, at most; seconds
that the end of the run waits; bytes on disk a step. `run_s`: seconds that writing a step takes the run
itself, without a tracker and beside one. W&B is offline, Trackio local, MLflow's store is files unless
MLFLOW_TRACKING_URI says where a server is. About two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import tomli_w

from actors.types import ScoredGroup
from benchmarks.demo_run import machine
from benchmarks.random_samples import judged_by, random_samples
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.config.tracking import TrackerName
from cluster.run_directory.record import SETTINGS_FILE, RunRecord, write_atomically
from cluster.tracking.process import following
from cluster.tracking.state import STATE_FILE
from learner.trajectories import write_trajectories
from verifiers.types import Problem

GROUPS, SAMPLES, TOKENS, FACTS = 32, 32, 40, 56
PATIENCE_S = 120.0


class Usage(threading.Thread):
    """CPU seconds and resident bytes of the trackers' processes, the children of this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._cpu_s: dict[int, float] = {}
        self.most_bytes = 0
        self._is_over = threading.Event()

    @property
    def cpu_s(self) -> float:
        self.look()
        return sum(self._cpu_s.values())

    def look(self) -> None:
        resident = 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
                resident += process.memory_info().rss
        self.most_bytes = max(self.most_bytes, resident)

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            self.look()

    def end(self) -> None:
        self._is_over.set()
        self.join()


def make_groups(step: int) -> list[ScoredGroup]:
    rng = np.random.default_rng(step)
    groups = []
    for number in range(step * GROUPS, (step + 1) * GROUPS):
        samples = random_samples(number, samples=SAMPLES, prompt=20, completion=TOKENS, vocabulary=40)
        samples = replace(samples, texts=tuple(f"{i} + " * TOKENS for i in range(SAMPLES)))
        rewards = rng.integers(0, 2, SAMPLES).astype(float)
        groups.append(ScoredGroup.of(samples, judged_by(rewards)))
    return groups


def write_step(record: RunRecord, step: int) -> float:
    """Seconds that it took."""
    groups, weights_BN = make_groups(step), np.random.default_rng(step).normal(size=(GROUPS, SAMPLES))
    facts = {f"fact_{number}": step + number / FACTS for number in range(FACTS)}
    started = time.perf_counter()
    record.append_metrics({"step": step, "version": step, "time": time.time(), **facts})
    write_trajectories(record.begin_trajectories(step), step, groups, weights_BN)
    record.finish_trajectories(step)
    return time.perf_counter() - started


def told_step(run_dir: Path, name: str) -> int:
    with suppress(FileNotFoundError):
        return json.loads((run_dir / STATE_FILE).read_text()).get(name, {}).get("mark", {}).get("step", 0)
    return 0


def wait_until_told(run_dir: Path, name: str, step: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while told_step(run_dir, name) < step:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{name} has not taken step {step}: see {run_dir / 'tracking.log'}")
        time.sleep(0.05)


def size_bytes(directory: Path) -> int:
    return sum(
        path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink()
    )


def measure(name: TrackerName | None, directory: Path, *, num_steps: int, every_s: float) -> dict[str, Any]:
    run_dir = directory / "run"
    record = RunRecord(run_dir)
    tracking: dict[str, Any] = {"to": [name] if name else []}
    config: RunConfig = parse_config({"model": "m", "tracking": tracking})
    write_atomically(
        run_dir / SETTINGS_FILE, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    )
    problems = [Problem(id=str(number), prompt="a prompt") for number in range((num_steps + 2) * GROUPS)]
    usage = Usage()
    usage.start()
    with following(
        config.tracking, run_dir, problems, resumed_from=0, note=lambda line: print(line, file=sys.stderr)
    ):
        write_step(record, 1)
        if name:
            wait_until_told(run_dir, name, 1)
        began_cpu_s, began_bytes = usage.cpu_s, size_bytes(directory)
        run_s = []
        for step in range(2, num_steps + 2):
            began_s = time.monotonic()
            run_s.append(write_step(record, step))
            time.sleep(max(0.0, began_s + every_s - time.monotonic()))
        last_s = time.monotonic()
        if name:
            wait_until_told(run_dir, name, num_steps + 1)
        lag_s = time.monotonic() - last_s + every_s
        cpu_s = usage.cpu_s
        ended_s = time.monotonic()
    end_s = time.monotonic() - ended_s
    usage.end()
    own = size_bytes(directory / "run" / "trajectories") + (run_dir / "metrics.jsonl").stat().st_size
    found: dict[str, Any] = {"tracker": name, "steps": num_steps, "run_s": round(statistics.median(run_s), 4)}
    if name:
        found |= {
            "begin_cpu_s": round(began_cpu_s, 2),
            "step_cpu_s": round((cpu_s - began_cpu_s) / num_steps, 4),
            "most_mib": round(usage.most_bytes / 2**20),
            "told_after_s": round(lag_s, 2),
            "end_s": round(end_s, 2),
            "disk_bytes_a_step": round(
                (size_bytes(directory) - began_bytes - own * num_steps / (num_steps + 1)) / num_steps
            ),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=float, default=0.2, help="seconds from a step to the next")
    arguments = parser.parse_args()
    rows = []
    for name in (None, *get_args(TrackerName)):
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            os.environ |= {"WANDB_MODE": "offline", "TRACKIO_DIR": str(directory / "trackio")}
            if os.environ.get("MLFLOW_TRACKING_URI", "file:").startswith("file:"):
                os.environ |= {
                    "MLFLOW_TRACKING_URI": f"file:{directory}/mlruns",
                    "MLFLOW_ALLOW_FILE_STORE": "true",
                }
            rows.append(measure(name, directory, num_steps=arguments.steps, every_s=arguments.every))
        print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "every_s": arguments.every, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
