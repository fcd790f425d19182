"""A run on the session's Ray cluster with nothing replaced, as its driver sees it, and what it leaves on disk."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayTaskError

from actors.tokens import encode_prompts, load_tokenizer
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.run.asked import Asked, choose
from cluster.run.controller import Controller
from cluster.run.preflight import check_demonstrations
from cluster.run.recovery import Origin
from verifiers.problems.loading import load_problems

GROUPS, SAMPLES, STEPS = 4, 8, 12
ANSWER_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 240.0
"""Patience with a machine under load: nothing is measured by it."""
REWARDS = """
import time
from verifiers.types import Verdict

def slow(problem, completion):
    time.sleep(0.003)  # a step must last long enough to be interrupted
    reward = sum(map(ord, completion)) % 97 / 97
    return Verdict(score=reward, reward=reward, answer=completion[:3] or None)

def broken(problem, completion):
    raise KeyError("no such column")

def picky(problem, completion):
    if problem.truth["target"] == 90:
        raise KeyError("unreadable truth")
    return slow(problem, completion)

def zero(problem, completion):
    return 0.0
"""


def run_config(model: Path, verifier: str, /, **sections: dict[str, Any]) -> RunConfig:
    """A small synchronous run; sections replace its settings."""
    settings: dict[str, dict[str, Any]] = {
        "problems": {"num_train": 10},
        "verifier": {"reward": verifier, "timeout_s": 30.0},  # a machine under load is no fault
        "rollout": {
            "samples_per_prompt": SAMPLES,
            "max_tokens": 8,
            "max_model_len": 64,
            "max_num_seqs": 64,
            "kv_cache_mib": 16,
            "suspect_after_s": 60.0,
        },
        "objective": {"num_select": 4},
        "learner": {"learning_rate": 1e-3, "warmup_steps": 1},
        "train": {
            "steps": STEPS,
            "groups_per_step": GROUPS,
            "max_staleness": 0,
            "checkpoint_every": 1,
            "keep_checkpoints": 100,
        },
        "metrics": {"port": 0},
    }
    merged = {name: {**settings.get(name, {}), **sections.get(name, {})} for name in settings | sections}
    return parse_config({"model": str(model), **merged})


def asked_of(config: RunConfig, tokenizer: Any) -> Asked:
    """What a run of these settings is evaluated on while it trains."""
    if not config.evaluates_during:
        return Asked()
    held_out = load_problems(config.problems, "test")
    return choose(config, held_out, encode_prompts(tokenizer, held_out))


class LiveRun:
    """A run on the shared cluster, as its driver sees it."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller
        self._run = controller.run.remote()

    def facts(self) -> dict[str, Any]:
        return ray.get(self._controller.facts.remote(), timeout=ANSWER_TIMEOUT_S)

    def wait_for(
        self, condition: Callable[[dict[str, Any]], Any], timeout_s: float = RUN_TIMEOUT_S
    ) -> dict[str, Any]:
        """The first facts that meet the condition; fails when the run ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition(facts := self.facts()):
            if ray.wait([self._run], timeout=0.05)[0]:
                raise AssertionError(f"the run ended before the condition was met: {ray.get(self._run)}")
            assert time.monotonic() < deadline, facts
        return facts

    def scale(self, **sizes: int) -> dict[str, int]:
        return ray.get(self._controller.scale.remote(**sizes), timeout=ANSWER_TIMEOUT_S)

    def stop(self) -> None:
        ray.get(self._controller.stop.remote(), timeout=ANSWER_TIMEOUT_S)

    def finish(self) -> dict[str, Any]:
        """The last facts; or raises what the driver shows to the user."""
        try:
            return ray.get(self._run, timeout=RUN_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from None


def wait(look: Callable[[], dict[str, Any]], condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first of what is seen that meets the condition."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not condition(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def worker_processes() -> list[psutil.Process]:
    """Of all runs on the cluster: actors, also stopped ones, and verifiers' own processes."""
    ours = ("ray::Controller", "ray::RolloutWorker", "ray::LearnerWorker", "ray::VerifierWorker")
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if command.startswith(ours) or "verifiers.process.child" in command:
                found.append(process)
    return found


@contextmanager
def started(
    config: RunConfig,
    run_dir: Path,
    *,
    checkpoint: Path | None = None,
    unjudged: Sequence[Mapping[str, Any]] = (),
    controller: Any = Controller,
) -> Iterator[LiveRun]:
    """A run, of which some problems may be set aside from the first; afterwards no process of it is left."""
    problems = load_problems(config.problems, "train")
    tokenizer = load_tokenizer(config.model)
    prompts = encode_prompts(tokenizer, problems)
    demonstrations = check_demonstrations(config, problems, tokenizer)
    origin = Origin(checkpoint=checkpoint, unjudged=unjudged)
    asked = asked_of(config, tokenizer)
    actor = controller.remote(config, str(run_dir), problems, prompts, demonstrations, asked, origin)
    try:
        yield LiveRun(actor)
    finally:
        processes = worker_processes()
        ray.kill(actor)
    _, left = psutil.wait_procs([*processes, *worker_processes()], timeout=ANSWER_TIMEOUT_S)
    assert not left


def trajectories(run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """Rows of each step."""
    files = sorted((run_dir / "trajectories").iterdir())
    assert all(file.suffix == ".parquet" for file in files)
    return {int(file.stem.removeprefix("step-")): pq.read_table(file).to_pylist() for file in files}


def staleness(run_dir: Path) -> list[int]:
    """Versions between the oldest token of a group and the learner that trained it, for every group."""
    return [
        step - 1 - min(version for sample in row["versions"] for version in sample)
        for step, rows in trajectories(run_dir).items()
        for row in rows
    ]


def trained_groups(run_dir: Path) -> list[int]:
    return [row["group"] for rows in trajectories(run_dir).values() for row in rows]


def assert_same_checkpoint(ours: Path, theirs: Path) -> None:
    """Parameters, optimizer and ledger, bit for bit."""
    for name in ("model/model.safetensors", "optimizer.safetensors", "learner.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def assert_different_checkpoint(ours: Path, theirs: Path) -> None:
    name = "model/model.safetensors"
    assert (ours / name).read_bytes() != (theirs / name).read_bytes()


def serving(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [worker for worker in facts["rollout_workers"] if worker["serving"]]


def silent_ones(facts: dict[str, Any]) -> list[str]:
    return [worker["name"] for worker in facts["rollout_workers"] if worker["silent"]]


def both_sample(facts: dict[str, Any]) -> bool:
    """And nobody else is there."""
    have_sampled = [worker.get("num_tokens", 0) > 0 for worker in serving(facts)]
    return have_sampled == [True, True] and len(facts["rollout_workers"]) == 2


def scrape(facts: dict[str, Any]) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{facts['metrics_port']}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
