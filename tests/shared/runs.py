"""`bonfire train` in processes of their own, that tests kill: a project, its runs, what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import tomli_w

from tests.shared.left_behind import checkpoint_at

BONFIRE = [sys.executable, "-c", "from cluster.commands.cli import main; main()"]
PATIENCE_S = 600.0
"""For what takes seconds on an idle machine."""
STEPS, GROUPS, NUM_PROBLEMS = 16, 4, 10
SCORE = """
import time

def slow(problem, completion):
    time.sleep(0.003)  # a step must last long enough to be killed in
    return sum(map(ord, completion)) % 97 / 97
"""


def make_project(path: Path, model: Path, **sections: dict[str, Any]) -> Path:
    """A directory with a config, tiny.toml, and its verifier; sections replace settings of the same name."""
    path.mkdir()
    (path / "resume_verifier.py").write_text(SCORE)
    settings: dict[str, Any] = {
        "model": str(model),
        "run_dir": "run",
        "problems": {"num_train": NUM_PROBLEMS},
        "verifier": {"reward": "resume_verifier:slow"},
        "rollout": {
            "samples_per_prompt": 8,
            "max_tokens": 8,
            "max_model_len": 64,
            "max_num_seqs": 64,
            "kv_cache_mib": 16,
            "startup_timeout_s": PATIENCE_S,
            "heartbeat_timeout_s": 120.0,
            "suspect_after_s": 120.0,  # a machine under load is not to take the bits of a step to another engine
        },
        "objective": {"num_select": 4},
        "learner": {"learning_rate": 1e-3, "warmup_steps": 1},
        "train": {"steps": STEPS, "groups_per_step": GROUPS, "max_staleness": 0, "checkpoint_every": 3},
        "metrics": {"port": 0},
    }
    merged = {
        name: {**settings[name], **sections.get(name, {})}
        if isinstance(settings[name], dict)
        else settings[name]
        for name in settings
    }
    extra = {name: value for name, value in sections.items() if name not in settings}
    (path / "tiny.toml").write_text(tomli_w.dumps({**merged, **extra}))
    return path


def environment() -> dict[str, str]:
    """Of a user's shell: without what pytest's own Ray and engine have set."""
    ours = ("RAY_", "VLLM_", "LD_PRELOAD", "BONFIRE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "OMP_NUM_THREADS": "1"}


@contextmanager
def started(project: Path, *arguments: object, wrap: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """`bonfire ARGUMENTS` in the project; whatever is left of its processes at the end is killed."""
    process = subprocess.Popen(
        [*wrap, *BONFIRE, *map(str, arguments)],
        cwd=project, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        kill_tree(process)


def finished(project: Path, *arguments: object, wrap: Sequence[str] = ()) -> tuple[int, str, str]:
    """Exit code, output and errors of `bonfire ARGUMENTS`."""
    with started(project, *arguments, wrap=wrap) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all below it at once; returns when none is left."""
    if process.poll() is not None:
        return
    root = psutil.Process(process.pid)
    root.suspend()
    family = [root, *root.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate(timeout=PATIENCE_S)
    _, left = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not left


def actor_process(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The one actor of that class below a run's process."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline()[:1] and child.cmdline()[0].startswith(f"ray::{name}"):
                found.append(child)
    [one] = found
    return one


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The condition's first true value; fails when the process ends before."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if process.poll() is not None:
            raise AssertionError(f"the run ended before the condition was met: {process.communicate()}")
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return value


def check_exactly_once(run_dir: Path, steps: int = STEPS) -> None:
    """The groups on disk are the ledger's, each once, each problem once an epoch, each step's metrics once."""
    rows = [
        row
        for path in sorted((run_dir / "trajectories").iterdir())
        for row in pq.read_table(path, columns=["group", "problem_id", "step"]).to_pylist()
    ]
    assert Counter(row["group"] for row in rows) == Counter(range(steps * GROUPS))
    epochs = Counter((row["group"] // NUM_PROBLEMS, row["problem_id"]) for row in rows)
    assert set(epochs.values()) == {1}
    state = json.loads((checkpoint_at(run_dir, steps) / "run_state.json").read_text())
    assert state["ledger"]["trained_below"] == steps * GROUPS and state["ledger"]["trained_above"] == []
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))


def one_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("bonfire: "), stderr
    return lines[0]
