"""Runs the study: arms x learning rates on a tuning split, then arms x seeds on a test split.

Every policy is made by `bonfire train` and measured by `bonfire eval`, each in a process of its own,
so any of them can be repeated by hand from its log's first line. What is done is not done again:
interrupt it, or let it crash, and start it again. An arm that fails is reported as failed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.arms import ARMS, LEARNING_RATES, NINES_SELECTS, Arm
from benchmarks.study.commands import Commands, RunFailed
from benchmarks.study.measure import KS, Policy, measure, read_policy, write_policy
from cluster.evaluation.store import read_samples, sample_files
from cluster.run_directory.commit import git_commit
from cluster.run_directory.record import finished_checkpoints, write_atomically
from cluster.terminal.console import View, duration
from cluster.terminal.interrupts import Interrupted, interrupts
from verifiers.countdown import puzzles

CONFIG = Path(__file__).with_name("study.toml")
STEPS = 100
PROBLEM_SEED = 11
NUM_TRAIN, NUM_TUNING, NUM_TEST = 1000, 400, 400
TUNING_SEED = 100
"""Seed of the tuning runs; the reported seeds count from 0."""
SAMPLES = {"tuning": 64, "test": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One policy to be trained and measured. `arm` None is the base model, which is not trained."""

    arm: Arm | None
    learning_rate: float
    seed: int
    split: str

    @property
    def name(self) -> str:
        if self.arm is None:
            return f"base-{self.split}"
        return f"{self.arm.name}-{self.split}-lr{self.learning_rate:g}-seed{self.seed}"


class Study:
    """Where the study lies on disk, and how its parts are run."""

    def __init__(self, directory: Path, *, steps: int) -> None:
        self.directory = directory
        self._steps = steps
        self._commands = Commands(directory / "logs")
        for part in ("problems", "results"):
            (directory / part).mkdir(parents=True, exist_ok=True)

    @property
    def base(self) -> Path:
        return self.directory / "base"

    def claim(self) -> None:
        """Write down which study this directory holds, so that none is taken for the results of another.

        A result's name says neither how long its policy was trained nor on which problems. A directory that
        does not say yet is taken as this study's. Raises ValueError where it says that it is another's.
        """
        path = self.directory / "identity.json"
        ours = {
            "steps": self._steps,
            "study_toml_sha256": hashlib.sha256(CONFIG.read_bytes()).hexdigest(),
            "problem_seed": PROBLEM_SEED,
            "num_train": NUM_TRAIN,
            "num_tuning": NUM_TUNING,
            "num_test": NUM_TEST,
        }
        theirs = json.loads(path.read_text()) if path.exists() else ours
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.directory} holds a study with {name} = {theirs.get(name)}, and this one has {name} = "
                    f"{value}: give another directory with --out, or go on with what that one was begun with"
                )
        write_atomically(path, json.dumps(ours, indent=1) + "\n")

    def write_problems(self) -> None:
        """Three files that share no problem; tuning and test use numbers that training never sees."""
        train = puzzles.generate_problems(NUM_TRAIN, PROBLEM_SEED, held_out=False)
        held_out = puzzles.generate_problems(NUM_TUNING + NUM_TEST, PROBLEM_SEED, held_out=True)
        splits = {"train": train, "tuning": held_out[:NUM_TUNING], "test": held_out[NUM_TUNING:]}
        for split, problems in splits.items():
            rows = [
                {
                    "id": problem.id,
                    "prompt": problem.prompt,
                    "difficulty": problem.difficulty,
                    "demonstration": problem.demonstration,
                    **problem.truth,
                }
                for problem in problems
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_atomically(self.directory / "problems" / f"{split}.jsonl", text)

    def make_base(self) -> None:
        self._commands.run("base", "sft", str(CONFIG), *self._settings())

    def result(self, job: Job) -> Policy | None:
        path = self.directory / "results" / f"{job.name}.json"
        return read_policy(path) if path.exists() else None

    def run(self, job: Job) -> Policy:
        """Train and measure, or take up where an earlier call was cut off."""
        done = self.result(job)
        if done:
            return done
        model = self.base
        if job.arm is not None:
            run_dir = self.directory / "runs" / job.name
            self._train(job, run_dir)
            model = finished_checkpoints(run_dir)[-1] / "model"
        evaluation = self.directory / "evaluations" / job.name
        settings = self._settings(
            {
                "problems.test_path": self.directory / "problems" / f"{job.split}.jsonl",
                "verifier.reward": NINES_SELECTS,
                "evaluation.samples_per_problem": SAMPLES[job.split],
                "evaluation.ks": list(KS),
            }
        )
        flags = [part for setting in settings for part in ("--set", setting)]
        self._commands.run(job.name, "eval", str(CONFIG), f"policy={model}", "--out", str(evaluation), *flags)
        (samples,) = sample_files(evaluation).values()
        policy = measure(
            read_samples(samples),
            arm=job.arm.name if job.arm else "base",
            learning_rate=job.learning_rate,
            seed=job.seed,
            split=job.split,
            git_commit=git_commit() or "unknown",
        )
        write_policy(policy, self.directory / "results" / f"{job.name}.json")
        return policy

    def stop(self) -> None:
        """Ask every running command to end in order; no further one starts."""
        self._commands.stop()

    def _train(self, job: Job, run_dir: Path) -> None:
        assert job.arm is not None
        if (run_dir / "config.toml").exists():
            if not any(path.name == f"step-{self._steps:06d}" for path in finished_checkpoints(run_dir)):
                self._commands.run(job.name, "train", "--resume", str(run_dir))
            return
        settings = self._settings(
            {
                **job.arm.settings,
                "learner.learning_rate": job.learning_rate,
                "train.seed": job.seed,
                "train.steps": self._steps,
                "train.checkpoint_every": self._steps,
                "run_dir": run_dir,
            }
        )
        self._commands.run(job.name, "train", str(CONFIG), *settings)

    def _settings(self, settings: Mapping[str, object] | None = None) -> list[str]:
        """Overrides of study.toml: where this study's files are, and the given ones."""
        paths = {"model": self.base, "problems.train_path": self.directory / "problems" / "train.jsonl"}
        return [f"{name}={value}" for name, value in {**paths, **(settings or {})}.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study found, failures included."""

    policies: list[Policy]
    tuning: list[Policy]
    failures: dict[str, str]
    """Job name -> message."""


def run_study(
    study: Study,
    arms: Sequence[str],
    *,
    num_seeds: int,
    num_jobs: int,
    learning_rates: Mapping[str, float] | None,
) -> Outcome:
    """All of it. `learning_rates` by arm skips the tuning.

    Raises ValueError for an arm that `learning_rates` lacks, and for a directory that holds another study.
    """
    for name in arms:
        if learning_rates is not None and name not in learning_rates:
            raise ValueError(
                f"arm {name!r} has no published learning rate: run it without --quick, which tunes it first, "
                f"or take of {', '.join(rated for rated in learning_rates if rated in ARMS)}"
            )
    study.claim()
    stages = ["problems", "base model", *([] if learning_rates else ["tuning"]), "arms"]
    failures: dict[str, str] = {}
    tuning: list[Policy] = []
    with View(f"bonfire study · {study.directory}", stages) as view:
        study.write_problems()
        view.finish("problems", f"{NUM_TRAIN} to train on, {NUM_TUNING} to tune on, {NUM_TEST} to test on")
        view.start("base model")
        study.make_base()
        view.finish("base model", str(study.base))
        if learning_rates is None:
            jobs = [
                Job(arm=ARMS[name], learning_rate=rate, seed=TUNING_SEED, split="tuning")
                for name in arms
                for rate in LEARNING_RATES
            ]
            tuning = _run_all(study, jobs, num_jobs, view, "tuning", failures)
            learning_rates = choose_learning_rates(tuning)
        jobs = [Job(arm=None, learning_rate=0.0, seed=0, split="test")]
        jobs += [
            Job(arm=ARMS[name], learning_rate=learning_rates[name], seed=seed, split="test")
            for seed in range(num_seeds)
            for name in arms
            if name in learning_rates
        ]
        policies = _run_all(study, jobs, num_jobs, view, "arms", failures)
    return Outcome(policies=policies, tuning=tuning, failures=failures)


def read_outcome(directory: Path) -> Outcome:
    """What the study in `directory` found, from its result files; failures as `run` last reported them.

    Of each tuned arm only the learning rate that its tuning chose, as `run` does.
    """
    everything = [read_policy(path) for path in sorted((directory / "results").glob("*.json"))]
    tuning = [policy for policy in everything if policy.split == "tuning"]
    chosen = choose_learning_rates(tuning)
    policies = [
        policy
        for policy in everything
        if policy.split == "test" and policy.learning_rate == chosen.get(policy.arm, policy.learning_rate)
    ]
    failures = json.loads((directory / "study.json").read_text())["failures"]
    return Outcome(policies=policies, tuning=tuning, failures=failures)


def choose_learning_rates(tuning: Sequence[Policy]) -> dict[str, float]:
    """By arm, the rate that is best on the arm's own estimand."""
    best: dict[str, tuple[float, float]] = {}
    for policy in tuning:
        metric, k = ARMS[policy.arm].tuned_on
        value = float(policy.values(metric, k).mean())
        best[policy.arm] = max(best.get(policy.arm, (-1.0, 0.0)), (value, policy.learning_rate))
    return {arm: rate for arm, (_, rate) in best.items()}


def _run_all(
    study: Study, jobs: Sequence[Job], num_jobs: int, view: View, stage: str, failures: dict[str, str]
) -> list[Policy]:
    policies = {job.name: policy for job in jobs if (policy := study.result(job))}
    missing = [job for job in jobs if job.name not in policies]
    num_earlier, num_failed_earlier = len(policies), len(failures)
    view.start(stage, f"{num_earlier}/{len(jobs)} done earlier")
    started = time.monotonic()
    with interrupts() as interrupted, ThreadPoolExecutor(num_jobs) as pool:
        running: dict[Future[Policy], Job] = {pool.submit(study.run, job): job for job in missing}
        try:
            while running:
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                if interrupted:
                    raise Interrupted("stopped in order; the same command goes on")
                for future in finished:
                    job = running.pop(future)
                    try:
                        policies[job.name] = future.result()
                    except RunFailed as error:
                        failures[job.name] = str(error)
                num_done = len(policies) - num_earlier + len(failures) - num_failed_earlier
                left = ""
                if num_done:
                    rate = (time.monotonic() - started) / num_done
                    left = f", about {duration(rate * len(running))} left"
                now = ", ".join(job.name for job in list(running.values())[:num_jobs])
                text = f"{len(policies)}/{len(jobs)} policies{left}   now {now}"
                view.update(stage, len(policies) / len(jobs), text, list(failures.values())[-1:])
        except BaseException:
            study.stop()
            pool.shutdown(cancel_futures=True)
            raise
    num_failed = len(failures) - num_failed_earlier
    view.finish(stage, f"{len(policies)} policies" + (f", {num_failed} FAILED" if num_failed else ""))
    return [policies[job.name] for job in jobs if job.name in policies]
