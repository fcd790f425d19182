"""How long the pages of `bonfire view` take on runs of 10,000 steps and of many gigabytes.

.venv/bin/python -m benchmarks.view > benchmarks/results/view.json     # needs 11 GB in --directory, removed at the end

Each page is asked for over HTTP of the command itself, in a process of its own: first with nothing in the cache, the
first page at once, everything else after the run is read; then again after a restart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import tomli_w

from actors.types import SampleGroup, ScoredGroup
from cluster.run_directory.record import RunRecord
from learner.trajectories import write_trajectories

COMMAND = [sys.executable, "-c", "from cluster.commands.cli import main; main()", "view"]
WORDS = (
    "so the sum of two primes is even and then we add three to get a number that divides it " * 4
).split()
REPEATS = 5
FILTERS = {
    "newest first": "",
    "solved by some, by |weight|": "kind=some&sort=weight",
    "a range of rewards, by staleness": "reward_min=0.2&reward_max=0.6&sort=staleness",
    "part of a problem's id, by length": "problem=p17&sort=longest",
    "late steps, not the best picked, by regret": "step_min={half}&kind=disagree&sort=regret",
}

FACTS = [
    "reward",
    "score",
    "bon",
    "pass_at_n",
    "staleness_mean",
    "staleness_max",
    "completion_tokens",
    "tokens",
    "sequences",
    "unfinished",
    "wrong_format",
    "grad_norm",
    "clipped",
    "learning_rate",
    "num_groups",
    "num_samples",
    "positions",
    "prompt_sharing",
    "loss",
    "trained_tokens",
    "trained_sequences",
    "ratio_mean",
    "ratio_truncated_fraction",
    "kl",
    "kl_reference",
    "rounding_kl",
    "staleness_kl",
    "staleness_ratio",
    "parity_tokens",
    "parity_mean",
    "parity_kl",
    "parity_max",
    "parity_positions",
    "forward_s",
    "backward_s",
    "parity_s",
    "optimizer_s",
    "stepped_at_s",
    "publish_s",
    "step_s",
    "clipped_fraction",
    "wait_s",
    "verify_s",
    "ahead_s",
    "learn_s",
    "sync_s",
    "steps_without_learning",
    "tokens_per_s",
    "sequences_per_s",
    "group_p50_s",
    "group_p95_s",
]
"""Of a line of metrics.jsonl."""


def make_group(
    number: int, version: int, num_samples: int, num_tokens: int, rng: np.random.Generator
) -> ScoredGroup:
    """A group whose score agrees with its 0/1 reward most of the time."""
    lengths = rng.integers(max(1, num_tokens // 2), num_tokens * 3 // 2 + 1, num_samples)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    total = int(offsets[-1])
    rewards = (rng.random(num_samples) < rng.random() ** 2).astype(np.float64)
    texts = tuple(" ".join(rng.choice(WORDS, length)) for length in lengths)
    samples = SampleGroup(
        group=number,
        problem_id=f"p{number % 5000}",
        workers=(f"rollout-{number % 4}",) * num_samples,
        seed=number * num_samples,
        prompt_token_ids=rng.integers(0, 30000, 200).astype(np.int32),
        offsets=offsets,
        token_ids=rng.integers(0, 30000, total).astype(np.int32),
        logprobs=-rng.exponential(0.4, total).astype(np.float32),
        versions=np.full(total, version, np.int32),
        texts=texts,
        finish_reasons=("stop",) * num_samples,
    )
    return ScoredGroup(
        samples=samples,
        scores=rewards * 0.3 + rng.random(num_samples),
        rewards=rewards,
        statuses=("ok",) * num_samples,
        answers=tuple(str(number) for number in rng.integers(0, 12, num_samples)),
        latencies_s=np.full(num_samples, 0.01, np.float32),
    )


def make_run(
    run_dir: Path, steps: int, groups: int, samples: int, tokens: int, *, num_different: int
) -> dict[str, Any]:
    """A run directory of so many steps. Of `num_different` files of trajectories the others are copies."""
    record = RunRecord(run_dir)
    rng = np.random.default_rng(0)
    for step in range(1, steps + 1):
        path = record.trajectories_dir / f"step-{step:06d}.parquet"
        if step <= num_different:
            batch = [
                make_group((step - 1) * groups + i, step - 1, samples, tokens, rng) for i in range(groups)
            ]
            weights_BN = rng.normal(size=(groups, samples))
            write_trajectories(record.begin_trajectories(step), step, batch, weights_BN)
            record.finish_trajectories(step)
        else:
            shutil.copyfile(
                record.trajectories_dir / f"step-{(step - 1) % num_different + 1:06d}.parquet", path
            )
    with (run_dir / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            noise = rng.normal(size=len(FACTS))
            one = {name: 0.5 + 0.05 * noise[i] for i, name in enumerate(FACTS)}
            file.write(json.dumps({**one, "step": step, "version": step, "time": 1.7e9 + step}) + "\n")
    about = {"name": run_dir.name, "pid": 0, "local": True, "stage": "ended", "started": 1.7e9}
    (run_dir / "run.json").write_text(json.dumps(about))
    settings = {"model": "none", "objective": {"name": "bon", "num_select": 8}, "train": {"steps": steps}}
    (run_dir / "config.toml").write_text(tomli_w.dumps(settings))
    size_bytes = sum(path.stat().st_size for path in record.trajectories_dir.iterdir())
    return {
        "steps": steps,
        "groups": steps * groups,
        "samples": steps * groups * samples,
        "gigabytes": size_bytes / 1e9,
    }


class Viewed:
    """The command, started on one run; a context manager."""

    def __init__(self, run_dir: Path, cache: Path) -> None:
        self._run_dir = run_dir
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}

    def __enter__(self) -> Self:
        began_s = time.perf_counter()
        self._process = subprocess.Popen(
            [*COMMAND, str(self._run_dir), "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().split()[0].rstrip("/")
        self.up_s = time.perf_counter() - began_s
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def get(self, path: str) -> tuple[float, bytes]:
        """Seconds to the last byte, and the body."""
        began_s = time.perf_counter()
        with urllib.request.urlopen(self.address + path, timeout=300) as answer:
            body = answer.read()
        return time.perf_counter() - began_s, body

    def wait_until_read(self) -> float:
        """Seconds from the call until every file of trajectories is in."""
        began_s = time.perf_counter()
        while True:
            _, body = self.get(f"/api/state?run={self._run_dir.name}")
            [state] = json.loads(body)["runs"].values()
            if state["read"] >= state["files"] > 0:
                return time.perf_counter() - began_s
            time.sleep(0.2)

    def resident_gigabytes(self) -> float:
        return psutil.Process(self._process.pid).memory_info().rss / 1e9


def measure(run_dir: Path, cache: Path, steps: int, last_row: int) -> dict[str, Any]:
    """Seconds of everything that a user waits for."""
    name, half = run_dir.name, max(1, steps // 2)
    found: dict[str, Any] = {}
    with Viewed(run_dir, cache) as viewed:
        found["command until it listens"] = viewed.up_s
        found["first page, nothing read yet"] = viewed.get(f"/run/{name}")[0]
        found["its curves, nothing read yet"] = viewed.get(f"/api/curves?run={name}")[0]
        found["filter while it reads"] = viewed.get(f"/run/{name}/groups?kind=some")[0]
        found["until every step is read"] = viewed.wait_until_read()
        pages = {
            "runs": "/",
            "run": f"/run/{name}",
            "curves": f"/api/curves?run={name}",
            "curves, a part": f"/api/curves?run={name}&from=100&to=400",
            **{
                f"groups: {label}": f"/run/{name}/groups?{query.format(half=half)}"
                for label, query in FILTERS.items()
            },
            "a group, the last of its file": f"/run/{name}/group/{half}/{last_row}",
            "its tokens": f"/run/{name}/group/{half}/{last_row}/tokens?sample=1",
            "problems": f"/run/{name}/problems",
            "a problem": f"/run/{name}/problem?id=p17",
            "verifier": f"/run/{name}/verifier",
        }
        for label, path in pages.items():
            times = [viewed.get(path)[0] for _ in range(REPEATS)]
            found[label] = {"median": round(statistics.median(times), 4), "largest": round(max(times), 4)}
        found["resident gigabytes"] = viewed.resident_gigabytes()
        time.sleep(2)
    with Viewed(run_dir, cache) as viewed:
        found["after a restart: first page"] = viewed.get(f"/run/{name}")[0]
        found["after a restart: filter"] = viewed.get(f"/run/{name}/groups?kind=some")[0]
        found["after a restart: until every step is read"] = viewed.wait_until_read()
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the runs are made [default: a temporary one]")
    parser.add_argument("--steps", type=int, default=10_000, help="of the run of small files")
    parser.add_argument("--large-steps", type=int, default=700, help="of the run of large files, 14 MB each")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="view-", dir=options.directory))
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average_1min_before": os.getloadavg()[0],
        "command": "python -m benchmarks.view",
        "note": "seconds, but for what says otherwise; files were just written, so they may be in the page cache; pages: 5 calls",
    }
    try:
        for name, shape in {
            "10,000 steps": (options.steps, 8, 16, 20, 400),
            "many gigabytes": (options.large_steps, 64, 32, 1000, 4),
        }.items():
            steps, groups, samples, tokens, num_different = shape
            run_dir = directory / name.replace(" ", "-").replace(",", "")
            made = make_run(run_dir, steps, groups, samples, tokens, num_different=num_different)
            result[name] = {"made": made, **measure(run_dir, directory / "cache", steps, groups - 1)}
    finally:
        shutil.rmtree(directory)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
