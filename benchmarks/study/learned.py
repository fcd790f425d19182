"""BoN-RL-V with a verifier that was learned: sample, train the verifier, train the policy, evaluate Best-of-k.

The task is countdown in steps (`5 - 2 = 3 3 * 7 = 21 ...`), where a candidate shows what there is to verify.
Every stage is a `bonfire` command whose result stays on disk; the same call goes on where it was.

Shapes: `S` seeds, `P` test problems, `n` samples of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.types import ScoredGroup
from benchmarks.study import archive
from benchmarks.study.commands import Commands, RunFailed
from benchmarks.study.report import Rows, interval, markdown, number
from benchmarks.study.summary import difference, estimate
from cluster.commands.train import SETTINGS_FILE
from cluster.config.parse import load_config
from cluster.evaluation.store import read_samples, sample_files
from cluster.run_directory.commit import git_commit
from cluster.run_directory.record import CHECKPOINT, finished_checkpoints, write_atomically
from cluster.terminal.console import View
from cluster.terminal.interrupts import Interrupted, interrupts
from learner.objectives.estimators import bon_value
from verifiers.countdown import puzzles
from verifiers.countdown.steps import spell_out

CONFIG = Path(__file__).with_name("learned.toml")
KS = (1, 2, 4, 8, 16, 32)
SAMPLES_PER_TEST_PROBLEM = 128
NUM_PROBLEMS = {"train": 1000, "verifier": 6000, "test": 400}
SEEDS = {"train": 11, "verifier": 12, "test": 11}
SAMPLES_PER_VERIFIER_PROBLEM = 16
VERIFIER_SETTINGS = {
    "loss": "pairwise",
    "steps": 400,
    "validate_every": 50,
    "problems_per_step": 64,
    "samples_per_problem": 8,
    "learning_rate": 1e-3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedArm:
    """One row of the table: what it changes in learned.toml; `uses_verifier`: the learned one is in its training."""

    label: str
    uses_verifier: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


BON = {"objective.name": "bon", "objective.num_select": 16}
ARMS = {
    "rloo": LearnedArm(label="standard RL (RLOO)", settings={"objective.name": "rloo"}),
    "bon16": LearnedArm(label="bon, N = 16, the truth selects", settings=BON),
    "learned_rloo": LearnedArm(
        label="standard RL, learned verifier as reward",
        uses_verifier=True,
        settings={"objective.name": "rloo", "verifier.reward": "reward_model"},
    ),
    "learned_bon16": LearnedArm(
        label="bon, N = 16, learned verifier selects, true reward (BoN-RL-V)",
        uses_verifier=True,
        settings={**BON, "verifier.score": "reward_model"},
    ),
}
COMPARISONS = (
    ("bon", "learned_bon16", "rloo"),
    ("bon", "learned_bon16", "learned_rloo"),
    ("bon", "learned_bon16", "bon16"),
    ("pass", "learned_bon16", "rloo"),
)
"""Metric at k = 32, and the two arms whose difference is shown."""


def identity() -> dict[str, Any]:
    """What makes results of one directory comparable."""
    return {
        "learned_toml_sha256": archive.fingerprint(CONFIG),
        "arms": {name: dict(arm.settings) for name, arm in ARMS.items()},
        "verifier": VERIFIER_SETTINGS,
        "samples": [SAMPLES_PER_TEST_PROBLEM, SAMPLES_PER_VERIFIER_PROBLEM],
        "problems": NUM_PROBLEMS,
        "seeds": SEEDS,
    }


class LearnedStudy:
    """Where the study lies on disk, and how its parts are made: each method does nothing that is done."""

    def __init__(self, directory: Path) -> None:
        """Raises ValueError where the directory is another study's."""
        self.directory = directory
        self._commands = Commands(directory / "logs")
        for part in ("problems", "results"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        archive.claim(directory, identity())

    def stop(self) -> None:
        """Ask the running command to end in order; no further one starts."""
        self._commands.stop()

    @property
    def is_stopping(self) -> bool:
        return self._commands.is_stopping

    def write_problems(self) -> None:
        """Test problems use numbers that no training sees; those of the verifier are not the policy's."""
        seen: set[str] = set()
        for split, num in NUM_PROBLEMS.items():
            problems = puzzles.generate_problems(num, SEEDS[split], held_out=split == "test", spell=spell_out)
            rows = [
                {
                    "id": problem.id,
                    "prompt": problem.prompt,
                    "difficulty": problem.difficulty,
                    **problem.truth,
                }
                for problem in problems
                if problem.id not in seen
            ]
            seen |= {str(row["id"]) for row in rows}
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_atomically(self.directory / "problems" / f"{split}.jsonl", text)

    def make_base(self) -> None:
        self._commands.run("base", "sft", str(CONFIG), *self._settings())

    def train_verifier(self) -> dict[str, Any]:
        """The verifier's report, after sampling what it learns from. Raises RunFailed for one that is of no use."""
        report = self.directory / "verifier" / "report.json"
        if not report.exists():
            samples = self.directory / "evaluations" / "verifier-samples"
            self._evaluate(
                "verifier-samples", self._base, samples, "verifier", SAMPLES_PER_VERIFIER_PROBLEM, {}
            )
            shutil.rmtree(self.directory / "verifier", ignore_errors=True)
            flags = [
                part for name, value in VERIFIER_SETTINGS.items() for part in ("--set", f"{name}={value}")
            ]
            arguments = [
                str(samples),
                "--model",
                str(self._base),
                "--out",
                str(self.directory / "verifier"),
                *flags,
            ]
            self._commands.run("verifier", "train-verifier", *arguments)
        return dict(json.loads(report.read_text()))

    def policy(self, name: str, seed: int) -> dict[str, Any]:
        """Per-problem values of an arm's policy, or of the base model ("base")."""
        job = f"{name}-seed{seed}"
        path = self.directory / "results" / f"{job}.json"
        if not path.exists():
            model = self._base if name == "base" else self._train(ARMS[name], job, seed)
            out = self.directory / "evaluations" / job
            selects = {"verifier.score": "reward_model", **self._verifier}
            self._evaluate(job, model, out, "test", SAMPLES_PER_TEST_PROBLEM, selects)
            (samples,) = sample_files(out).values()
            about = {"arm": name, "seed": seed, "git_commit": git_commit() or "unknown"}
            write_atomically(path, json.dumps({**about, **measure(read_samples(samples))}))
        return dict(json.loads(path.read_text()))

    @property
    def _base(self) -> Path:
        return self.directory / "base"

    @property
    def _verifier(self) -> dict[str, object]:
        return {"verifier.reward_model.model": self.directory / "verifier" / "model"}

    def _train(self, arm: LearnedArm, job: str, seed: int) -> Path:
        run_dir = self.directory / "runs" / job
        trained = run_dir / "checkpoints" / CHECKPOINT.format(load_config(CONFIG, []).train.steps)
        if trained in finished_checkpoints(run_dir):
            return trained / "model"
        if (run_dir / SETTINGS_FILE).exists():
            self._commands.run(job, "train", "--resume", str(run_dir))
        else:
            settings = {
                **arm.settings,
                **(self._verifier if arm.uses_verifier else {}),
                "train.seed": seed,
                "run_dir": run_dir,
            }
            self._commands.run(job, "train", str(CONFIG), *self._settings(settings))
        return trained / "model"

    def _evaluate(
        self,
        job: str,
        model: Path,
        out: Path,
        split: str,
        num_samples: int,
        settings: Mapping[str, object],
    ) -> None:
        settings = {
            "problems.test_path": self.directory / "problems" / f"{split}.jsonl",
            "evaluation.samples_per_problem": num_samples,
            "evaluation.ks": [k for k in KS if k <= num_samples],
            **settings,
        }
        flags = [part for setting in self._settings(settings) for part in ("--set", setting)]
        self._commands.run(job, "eval", str(CONFIG), f"policy={model}", "--out", str(out), *flags)

    def _settings(self, settings: Mapping[str, object] | None = None) -> list[str]:
        paths = {"model": self._base, "problems.train_path": self.directory / "problems" / "train.jsonl"}
        return [f"{name}={value}" for name, value in {**paths, **(settings or {})}.items()]


def measure(groups: Sequence[ScoredGroup]) -> dict[str, list[float]]:
    """Unbiased pass@k and Best-of-k by the learned verifier of each problem, for every k."""
    scores_Pn = torch.from_numpy(np.stack([group.scores for group in groups]))
    rewards_Pn = torch.from_numpy(np.stack([group.rewards for group in groups]))
    return {
        **{f"pass@{k}": bon_value(rewards_Pn, rewards_Pn, k).tolist() for k in KS},
        **{f"bon@{k}": bon_value(scores_Pn, rewards_Pn, k).tolist() for k in KS},
    }


def run_learned(directory: Path, *, num_seeds: int) -> dict[str, Any]:
    """All of it, then its results as plain numbers. Raises Interrupted in order, RunFailed without a verifier."""
    study = LearnedStudy(directory)
    stages = ["problems", "base model", "verifier", "policies"]
    with (
        View(f"bonfire study, learned verifier · {directory}", stages) as view,
        interrupts() as interrupted,
        ThreadPoolExecutor(1) as pool,
    ):
        working = pool.submit(_run, study, num_seeds, view)
        while not wait([working], timeout=1.0).done:
            if interrupted:
                study.stop()
        try:
            return working.result()
        except RunFailed as error:
            if interrupted:
                raise Interrupted("stopped in order; the same command goes on") from error
            raise


def _run(study: LearnedStudy, num_seeds: int, view: View) -> dict[str, Any]:
    study.write_problems()
    view.finish("problems", f"{NUM_PROBLEMS['train']} to train on, {NUM_PROBLEMS['test']} to test on")
    view.start("base model")
    study.make_base()
    view.finish("base model", str(study.directory / "base"))
    view.start("verifier", "sampling and training")
    verifier = study.train_verifier()
    view.finish("verifier", verifier["verdict"])
    view.start("policies")
    policies: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    jobs = [("base", 0), *((name, seed) for seed in range(num_seeds) for name in ARMS)]
    for num_done, (name, seed) in enumerate(jobs):
        now = f"{num_done}/{len(jobs)}   now {name}, seed {seed}"
        view.update("policies", num_done / len(jobs), now, list(failures.values())[-1:])
        try:
            policies.append(study.policy(name, seed))
        except RunFailed as error:
            if study.is_stopping:
                raise
            failures[f"{name}-seed{seed}"] = str(error)
    view.finish("policies", f"{len(policies)} policies" + (f", {len(failures)} FAILED" if failures else ""))
    return summarise(policies, verifier, failures)


def summarise(
    policies: Sequence[Mapping[str, Any]], verifier: Mapping[str, Any], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Arms against the base model, and against each other, with 95 % intervals over problems and seeds."""
    base = next((policy for policy in policies if policy["arm"] == "base"), None)
    if base is None:
        failure = failures.get("base-seed0", "no result")
        raise ValueError(f"the base model was not measured ({failure}): run the study again")
    rows = []
    for name in ("base", *ARMS):
        of_arm = [policy for policy in policies if policy["arm"] == name]
        if not of_arm:
            continue
        metrics = [f"{metric}@{k}" for metric in ("pass", "bon") for k in KS]
        rows.append(
            {
                "name": name,
                "label": ARMS[name].label if name in ARMS else "base",
                "num_seeds": len(of_arm),
                "values": {metric: estimate(_values(of_arm, metric)) for metric in metrics},
                "changes": {}
                if name == "base"
                else {
                    metric: estimate(_values(of_arm, metric) - np.array(base[metric])) for metric in metrics
                },
            }
        )
    comparisons = []
    for metric, name, other in COMPARISONS:
        ours, others = ([p for p in policies if p["arm"] == arm] for arm in (name, other))
        if ours and others:
            change = difference(_values(ours, f"{metric}@32"), _values(others, f"{metric}@32"))
            comparisons.append({"metric": f"{metric}@32", "name": name, "against": other, **change})
    return {
        "commits": sorted({policy["git_commit"] for policy in policies}),
        "verifier": {name: verifier[name] for name in ("verdict", "settings", "data", "quality")},
        "arms": rows,
        "comparisons": comparisons,
        "failures": dict(failures),
    }


def _values(policies: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
    """float64 [S, P]."""
    return np.array([policy[metric] for policy in policies])


def learned_tables(results: Mapping[str, Any]) -> dict[str, Rows]:
    """The tables of docs/study.md."""
    metrics = ("pass@1", "bon@8", "bon@32", "pass@32")
    arms = [["arm", "seeds", "pass@1", "Bo8", "Bo32", "pass@32", "change of Bo32", "change of pass@32"]]
    for row in results["arms"]:
        cells = [row["label"], str(row["num_seeds"])]
        cells += [number(row["values"][metric]["mean"]) for metric in metrics]
        arms.append([*cells, *(interval(row["changes"].get(metric)) for metric in ("bon@32", "pass@32"))])
    comparisons = [["measure", "arm", "against", "change"]]
    for row in results["comparisons"]:
        labels = [ARMS[row[name]].label for name in ("name", "against")]
        comparisons.append([row["metric"].replace("bon@", "Bo"), *labels, interval(row)])
    return {"learned": arms, "learned-comparisons": comparisons}


def learned_blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of docs/study.md, by name, as Markdown."""
    failures = [f"- {name}: {message}" for name, message in results["failures"].items()]
    about = [f"`bonfire train-verifier` says: {results['verifier']['verdict']}.", *failures]
    return {
        **{name: markdown(rows) for name, rows in learned_tables(results).items()},
        "learned-verifier": "\n".join(about),
    }
