"""The paper in miniature: countdown, with a base model made from scratch (docs/study.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.arms import ARMS, NINES_SELECTS
from benchmarks.study.commands import Commands
from benchmarks.study.design import KS, Design, Outline, as_overrides
from benchmarks.study.measure import CountdownPolicy, measure
from cluster.evaluation.store import read_samples, sample_files
from cluster.run_directory.record import write_atomically
from verifiers.countdown import puzzles

CONFIG = Path(__file__).with_name("study.toml")
STEPS = 100
PROBLEM_SEED = 11
NUM_TRAIN, NUM_TUNING, NUM_TEST = 1000, 400, 400


OUTLINE = Outline(
    name="study",
    arms=ARMS,
    policy=CountdownPolicy,
    metrics=tuple((metric, k) for metric in ("pass", "bon") for k in KS),
    comparisons=(
        ("bon", 32, "nines_bon16", "rloo"),
        ("bon", 32, "nines_bon16", "nines_rloo"),
        ("bon", 32, "nines_bon16", "bon16"),
        ("pass", 32, "bon16", "rloo"),
        ("pass", 32, "bon_rlb", "bon16"),
        ("pass", 32, "bon_rlbp", "bon16"),
        ("pass", 32, "bon_sft", "sft"),
        ("pass", 16, "bon_sft", "sft"),
    ),
)


class Miniature(Design):
    """Ten arms on puzzles of four numbers."""

    outline = OUTLINE
    config = CONFIG

    def __init__(self, *, steps: int = STEPS) -> None:
        self.steps = steps
        self.samples = {"tuning": 64, "test": 128}

    def identity(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "arms": {name: dict(arm.settings) for name, arm in ARMS.items()},
            "samples": self.samples,
            "study_toml_sha256": hashlib.sha256(CONFIG.read_bytes()).hexdigest(),
            "problem_seed": PROBLEM_SEED,
            "num_train": NUM_TRAIN,
            "num_tuning": NUM_TUNING,
            "num_test": NUM_TEST,
        }

    def write_problems(self, directory: Path) -> str:
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
            write_atomically(directory / "problems" / f"{split}.jsonl", text)
        return f"{NUM_TRAIN} to train on, {NUM_TUNING} to tune on, {NUM_TEST} to test on"

    def make_base(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> str:
        del tell  # it takes a minute
        commands.run("base", "sft", str(CONFIG), *as_overrides(self.settings(directory)))
        return str(directory / "base")

    def settings(self, directory: Path) -> dict[str, object]:
        return {"model": directory / "base", "problems.train_path": directory / "problems" / "train.jsonl"}

    def evaluation_settings(self, directory: Path, split: str) -> dict[str, object]:
        return {"verifier.reward": NINES_SELECTS}

    def measure(self, directory: Path, evaluation: Path, about: Mapping[str, Any]) -> CountdownPolicy:
        (samples,) = sample_files(evaluation).values()
        return measure(read_samples(samples), **about)
