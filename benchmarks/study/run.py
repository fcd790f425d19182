"""Runs a study: arms x learning rates on a tuning split, then arms x seeds on a test split.

Every policy is made by `bonfire train` and measured by `bonfire eval`, each in a process of its own,
so any of them can be repeated by hand from its log's first line. What is done is not done again:
interrupt it, or let it crash, and start it again. An arm that fails is reported as failed.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.study import archive
from benchmarks.study.commands import Commands, RunFailed, in_order, threads
from benchmarks.study.design import KS, Arm, Design, Policy, as_flags, as_overrides, write_policy
from benchmarks.study.outcome import Outcome, choose_learning_rates
from cluster.run_directory.commit import git_commit
from cluster.run_directory.record import finished_checkpoints, write_atomically
from cluster.terminal.console import View, duration

TUNING_SEED = 100
"""Seed of the tuning runs; the reported seeds count from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One policy to be trained and measured. `arm` None is the base model, which is not trained; `base` tells which."""

    arm: Arm | None
    learning_rate: float
    seed: int
    split: str
    base: str = ""

    @property
    def name(self) -> str:
        if self.arm is None:
            return "-".join(filter(None, ("base", self.split, self.base)))
        return f"{self.arm.name}-{self.split}-lr{self.learning_rate:g}-seed{self.seed}"


BASE = Job(arm=None, learning_rate=0.0, seed=0, split="test")


class Study:
    """Where a study lies on disk, and how its parts are run."""

    def __init__(self, directory: Path, design: Design, *, kept_in: Path | None = None) -> None:
        """`kept_in`: an archive that gets every result, and from which another directory goes on."""
        self.directory = directory
        self.design = design
        self.commands = Commands(directory / "logs")
        self._kept_in = kept_in
        self._on_base_here: set[str] = set()
        """Jobs whose results count only if they are of the base that is here."""
        self._written: set[str] = set()
        """Results that are newer than the archive's."""
        self._writing = threading.Lock()
        for part in ("problems", "results"):
            (directory / part).mkdir(parents=True, exist_ok=True)

    @property
    def base(self) -> Path:
        return self.directory / "base"

    def claim(self) -> None:
        """Write down which study this directory holds, so that none is taken for the results of another.

        A result's name says neither how long its policy was trained nor on which problems. A directory that
        does not say yet is taken as this study's. Takes over what the archive holds. Raises ValueError where
        directory or archive is another study's.
        """
        ours = self.design.identity()
        archive.claim(self.directory, ours)
        if self._kept_in and self._kept_in.exists():
            held = archive.about(self._kept_in).get("identity", {})
            archive.check_identity(ours, held, self._kept_in, "--archive")
            archive.unpack(self._kept_in, self.directory / "results")

    def keep(self, failures: Mapping[str, str]) -> None:
        """Put all results into the archive, if there is one, beside those that other directories have put there meanwhile.

        `failures` by job; paths are left out of them. A failure stays in the archive until its job has a result.
        """
        if self._kept_in is None:
            return
        results = self.directory / "results"
        with archive.alone(self._kept_in), self._writing:
            self._keep(self._kept_in, results, failures)

    def _keep(self, kept_in: Path, results: Path, failures: Mapping[str, str]) -> None:
        earlier: Mapping[str, str] = {}
        if kept_in.exists():
            earlier = archive.about(kept_in)["failures"]
            archive.unpack(kept_in, results, but_not=self._written)
        said = {name: text.replace(str(self.directory), "DIR") for name, text in failures.items()}
        failed = {
            name: text
            for name, text in {**earlier, **said}.items()
            if not (results / f"{name}.json").exists()
        }
        about = {"identity": self.design.identity(), "failures": failed}
        archive.pack(results, kept_in, about)
        self._written.clear()

    def result(self, job: Job) -> Policy | None:
        path = self.directory / "results" / f"{job.name}.json"
        policy = self.design.outline.read_policy(path) if path.exists() else None
        if policy is None or job.name not in self._on_base_here:
            return policy
        return policy if policy.base == self.design.base_here(self.directory) else None

    def try_on_one_base(self, tuning: Sequence[Job]) -> None:
        """Of an arm whose rates were not all tried, or on different bases, those of another base than is here are tried anew:
        bases may differ by more than rates.
        """
        by_arm: dict[str, list[Job]] = {}
        for job in tuning:
            assert job.arm is not None
            by_arm.setdefault(job.arm.name, []).append(job)
        for jobs in by_arm.values():
            bases = {policy.base if (policy := self.result(job)) else None for job in jobs}
            if None in bases or len(bases) > 1:
                self._on_base_here |= {job.name for job in jobs}

    def bases(self, *, here: bool) -> list[Job]:
        """Those that were measured; `here`: and the one that is here, which may have been made anew, with other bits."""
        names = [path.stem for path in (self.directory / "results").glob(f"{BASE.name}*.json")]
        found = {name.removeprefix(BASE.name).removeprefix("-") for name in names}
        if here:
            found.add(self.design.base_here(self.directory))
        return [replace(BASE, base=one) for one in sorted(found)]

    def standing(self, job: Job) -> str:
        """The job's name, and how far its training is."""
        metrics = self.directory / "runs" / job.name / "metrics.jsonl"
        if not metrics.exists():
            return job.name
        with metrics.open("rb") as file:
            step = sum(1 for _ in file)
        return f"{job.name}, " + (
            f"step {step}/{self.design.steps}" if step < self.design.steps else "trained"
        )

    def run(self, job: Job) -> Policy:
        """Train and measure, or take up where an earlier call was cut off."""
        done = self.result(job)
        if done:
            return done
        model = self.base
        if job.arm is not None:
            run_dir = self.directory / "runs" / job.name
            self._train(job, run_dir)
            trained = self._trained(run_dir)
            if trained is None:
                raise RunFailed(
                    f"{job.name} was stopped before step {self.design.steps}: the same command goes on from its checkpoint"
                )
            model = trained / "model"
        evaluation = self.directory / "evaluations" / job.name
        settings = self.design.settings(self.directory) | {
            "problems.test_path": self.directory / "problems" / f"{job.split}.jsonl",
            "evaluation.samples_per_problem": self.design.samples[job.split],
            "evaluation.ks": list(KS),
            **self.design.evaluation_settings(self.directory, job.split),
        }
        arguments = [f"policy={model}", "--out", str(evaluation), *as_flags(settings)]
        self.commands.run(job.name, "eval", str(self.design.config), *arguments)
        about = {
            "arm": job.arm.name if job.arm else "base",
            "learning_rate": job.learning_rate,
            "seed": job.seed,
            "split": job.split,
            "git_commit": git_commit(beside="benchmarks/results") or "unknown",
        }
        policy = self.design.measure(self.directory, evaluation, about)
        path = self.directory / "results" / f"{job.name}.json"
        with self._writing:
            write_policy(policy, path)
            self._written.add(path.name)
        if not self.design.keeps_checkpoints:
            shutil.rmtree(self.directory / "runs" / job.name / "checkpoints", ignore_errors=True)
        return policy

    def _trained(self, run_dir: Path) -> Path | None:
        """The checkpoint of the last step, if the training has come so far."""
        last = f"step-{self.design.steps:06d}"
        return next((path for path in finished_checkpoints(run_dir) if path.name == last), None)

    def _train(self, job: Job, run_dir: Path) -> None:
        assert job.arm is not None
        origin = run_dir.with_name(f"{run_dir.name}.base")
        here = self.design.base_here(self.directory)
        if run_dir.exists() and origin.exists() and origin.read_text() != here:
            shutil.rmtree(run_dir)  # the base was made anew meanwhile
            shutil.rmtree(self.directory / "evaluations" / job.name, ignore_errors=True)
        if (run_dir / "config.toml").exists():
            if self._trained(run_dir) is None:
                self.commands.run(job.name, "train", "--resume", str(run_dir))
            return
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(origin, here)
        settings = self.design.settings(self.directory) | {
            **job.arm.settings,
            "learner.learning_rate": job.learning_rate,
            "train.seed": job.seed,
            "train.steps": self.design.steps,
            "run_dir": run_dir,
        }
        self.commands.run(job.name, "train", str(self.design.config), *as_overrides(settings))


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
    known = study.design.outline.arms
    for name in arms:
        if learning_rates is not None and name not in learning_rates:
            raise ValueError(
                f"arm {name!r} has no published learning rate: run it without --quick, which tunes it first, "
                f"or take of {', '.join(rated for rated in learning_rates if rated in known)}"
            )
    study.claim()
    stages = ["problems", "base model", *([] if learning_rates else ["tuning"]), "arms"]
    failures: dict[str, str] = {}
    tuning: list[Policy] = []
    with View(f"bonfire study · {study.directory}", stages) as view:
        view.finish("problems", study.design.write_problems(study.directory))
        is_made = False

        def make_base_for(jobs: Sequence[Job]) -> None:
            nonlocal is_made
            if not is_made and any(study.result(job) is None for job in jobs):
                _make_base(study, view)
                is_made = True

        if learning_rates is None:
            jobs = [
                Job(arm=known[name], learning_rate=rate, seed=TUNING_SEED, split="tuning")
                for name in dict.fromkeys(known[name].tuned_as for name in arms)
                for rate in known[name].learning_rates
            ]
            study.try_on_one_base(jobs)
            make_base_for(jobs)
            tuning = _run_all(study, jobs, num_jobs, view, "tuning", failures)
            chosen = choose_learning_rates(tuning, known)
            learning_rates = {
                name: chosen[known[name].tuned_as] for name in arms if known[name].tuned_as in chosen
            }
        jobs = [
            Job(arm=known[name], learning_rate=learning_rates[name], seed=seed, split="test")
            for seed in range(num_seeds)
            for name in arms
            if name in learning_rates
        ]
        make_base_for(jobs)
        bases = study.bases(here=any(study.result(job) is None for job in jobs))
        if not bases:
            make_base_for([BASE])
            bases = study.bases(here=True)
        policies = _run_all(study, [*bases, *jobs], num_jobs, view, "arms", failures)
        # Another directory may have put its base into the archive meanwhile, and policies of it.
        others = (study.result(base) for base in study.bases(here=False) if base not in bases)
        policies += [policy for policy in others if policy]
    return Outcome(policies=policies, tuning=tuning, failures=failures)


def _make_base(study: Study, view: View) -> None:
    view.start("base model")

    def tell(text: str) -> None:
        view.update("base model", None, text)

    made = in_order(study.commands, lambda: study.design.make_base(study.directory, study.commands, tell))
    view.finish("base model", made)


def _run_all(
    study: Study, jobs: Sequence[Job], num_jobs: int, view: View, stage: str, failures: dict[str, str]
) -> list[Policy]:
    policies = {job.name: policy for job in jobs if (policy := study.result(job))}
    missing = [job for job in jobs if job.name not in policies]
    num_earlier, num_failed_earlier = len(policies), len(failures)
    view.start(stage, f"{num_earlier}/{len(jobs)} done earlier")
    started = time.monotonic()
    with threads(study.commands, num_jobs) as (pool, heed_interrupts):
        running: dict[Future[Policy], Job] = {pool.submit(study.run, job): job for job in missing}
        while running:
            finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            heed_interrupts()
            for future in finished:
                job = running.pop(future)
                try:
                    policies[job.name] = future.result()
                except RunFailed as error:
                    failures[job.name] = str(error)
            if finished:
                study.keep(failures)
            num_done = len(policies) - num_earlier + len(failures) - num_failed_earlier
            left = ""
            if num_done:
                rate = (time.monotonic() - started) / num_done
                left = f", about {duration(rate * len(running))} left"
            now = "; ".join(map(study.standing, list(running.values())[:num_jobs]))
            text = f"{len(policies)}/{len(jobs)} policies{left}   now {now}"
            view.update(stage, len(policies) / len(jobs), text, list(failures.values())[-1:])
    num_failed = len(failures) - num_failed_earlier
    view.finish(stage, f"{len(policies)} policies" + (f", {num_failed} FAILED" if num_failed else ""))
    return [policies[job.name] for job in jobs if job.name in policies]
