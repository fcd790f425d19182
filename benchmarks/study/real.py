"""The comparison on a real model: SmolLM2-135M, which has learned to write equations, on SVAMP (docs/study-real.md).

What is made, beside what `run.Study` makes: the base, by `bonfire sft`; and samples of it on the training problems, which
say on what problems to train, and from which a verifier is learned. The base is too large to keep. It is made anew where it
is missing, and every result says of which base it is. Samples are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from benchmarks.study import archive
from benchmarks.study.commands import Commands
from benchmarks.study.design import Design, as_flags, as_overrides
from benchmarks.study.equation_verifier import PENALTY, EquationVerifier
from benchmarks.study.exercises import (
    Exercise,
    Part,
    as_rows,
    deal,
    read_svamp,
    renumbered,
    repeated,
    split,
)
from benchmarks.study.real_arms import ARMS, OUTLINE, RATES
from benchmarks.study.real_measure import RealPolicy, measure
from cluster.evaluation.store import read_samples, sample_files
from cluster.run_directory.record import write_atomically

CONFIG = Path(__file__).with_name("real.toml")
SEED = 0
"""Of the splits."""
RENUMBERED = "renumbered.jsonl"
"""Variations of those training problems of which the base has right and wrong samples: from others there is little to
learn, and what comes twice is learned by heart.
"""
WARM_UP = {
    "sft.epochs": 1,
    "sft.batch_size": 32,
    "sft.learning_rate": 1e-4,
    "sft.checkpoint_every": 10,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything; SVAMP has 98 stories."""

    steps: int
    base: Part
    """Stories that the base learns to write equations from; no other split has any of them."""
    turns: int
    """How often it learns from each of their problems."""
    test: int
    """Problems of the other stories, as the next; the rest of them is to train on."""
    tuning: int
    variations: int
    """Of a training problem, with other numbers."""
    rates: int
    """Learning rates that are tried."""
    samples: int
    """Of a tuning or test problem."""
    base_samples: int
    """Of a training problem: those solved at times are trained on, and the verifier learns from all."""


FULL = Sizes(
    steps=40,
    base=Part(stories=16, of_each=None),
    turns=2,
    test=200,
    tuning=80,
    variations=10,
    rates=len(RATES),
    samples=32,
    base_samples=16,
)
REHEARSAL = replace(
    FULL,
    steps=1,
    base=Part(stories=2, of_each=8),
    test=8,
    tuning=4,
    rates=1,
    base_samples=4,
)
"""Every part once, in minutes; its numbers mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the study is made of; none of it is in the repository."""

    model: Path
    """SmolLM2-135M-Instruct, a transformers directory (`make real-model`)."""
    svamp: Path
    """SVAMP's 1,000 problems, as JSON lines."""


class RealStudy(Design):
    """The arms of `real_arms` on SVAMP."""

    config = CONFIG
    keeps_checkpoints = False  # of 1.6 GB each

    def __init__(self, sources: Sources, *, sizes: Sizes = FULL, kept_samples: Path | None = None) -> None:
        """`kept_samples`: where the base's samples of the training problems are kept, the same for every directory."""
        arms = {
            name: replace(arm, learning_rates=arm.learning_rates[: sizes.rates]) for name, arm in ARMS.items()
        }
        self.outline = replace(OUTLINE, arms=arms)
        self.steps = sizes.steps
        self.samples = {"tuning": sizes.samples, "test": sizes.samples}
        self.sources, self._sizes, self._kept_samples = sources, sizes, kept_samples
        self._learned: EquationVerifier | None = None
        # Without instructions for it a CPU multiplies bfloat16 five times slower than float32.
        self.dtype = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"

    @cached_property
    def _exercises(self) -> list[Exercise]:
        return read_svamp(self.sources.svamp)

    def identity(self) -> dict[str, Any]:
        sources = self.sources
        return {
            "real_toml_sha256": archive.fingerprint(CONFIG),
            "svamp_sha256": archive.fingerprint(sources.svamp),
            "model_sha256": archive.fingerprint(sources.model / "model.safetensors"),
            "arms": {name: dict(arm.settings) for name, arm in ARMS.items()},
            "warm_up": WARM_UP,
            "verifier_penalty": PENALTY,
            "split_seed": SEED,
            "sizes": asdict(self._sizes),
        }

    def write_problems(self, directory: Path) -> str:
        """Beside the three splits of SVAMP `warm-up.jsonl`, what the base learns from: stories of its own."""
        parts = {"base": self._sizes.base, "others": Part(stories=None, of_each=None)}
        stories = split(self._exercises, parts, seed=SEED)
        sizes = {"test": self._sizes.test, "tuning": self._sizes.tuning}
        splits = {"base": stories["base"], **deal(stories["others"], sizes, rest="train", seed=SEED)}
        warm_up = repeated(splits["base"], self._sizes.turns)
        for name in ("test", "tuning", "train"):
            write_atomically(directory / "problems" / f"{name}.jsonl", as_rows(splits[name]))
        write_atomically(directory / "problems" / "warm-up.jsonl", as_rows(warm_up))
        counts = {
            name: f"{len(exercises)} of {len({one.story for one in exercises})} stories"
            for name, exercises in splits.items()
        }
        return (
            f"{counts['train']} to train on, {counts['tuning']} to tune on, {counts['test']} to test on, "
            f"{counts['base']} for the base"
        )

    def make_base(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> str:
        self.warm_up(directory, commands, tell)
        samples = self._samples_of_base(directory, commands, tell)
        solved = solved_at_times(samples)
        exercises = [one for one in self._exercises if one.id in solved]
        variations = renumbered(exercises, self._sizes.variations, seed=SEED)
        write_atomically(directory / "problems" / RENUMBERED, as_rows(variations))
        return f"{directory / 'base'}; {len(solved)} training problems are solved at times"

    def warm_up(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> None:
        """The base: the model after some demonstrations."""
        tell(f"fine-tuning {self.sources.model.name} on the base's problems")
        settings = self.settings(directory) | {
            "problems.train_path": directory / "problems" / "warm-up.jsonl",
            "sft.base_model": self.sources.model,
            **WARM_UP,
        }
        commands.run("base", "sft", str(CONFIG), *as_overrides(settings))

    def base_here(self, directory: Path) -> str:
        weights = directory / "base" / "model.safetensors"
        return archive.fingerprint(weights) if weights.exists() else ""

    def settings(self, directory: Path) -> dict[str, object]:
        return {
            "model": directory / "base",
            "problems.train_path": directory / "problems" / RENUMBERED,
            "learner.dtype": self.dtype,
            "rollout.dtype": self.dtype,
        }

    def measure(self, directory: Path, evaluation: Path, about: Mapping[str, Any]) -> RealPolicy:
        (samples,) = sample_files(evaluation).values()
        rows = (directory / "problems" / f"{about['split']}.jsonl").read_text().splitlines()
        problems = [json.loads(row) for row in rows]
        return measure(
            read_samples(samples),
            [problem["prompt"] for problem in problems],
            [problem["story"] for problem in problems],
            verifier=self._verifier(directory),
            base=self.base_here(directory),
            **about,
        )

    def _samples_of_base(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> Path:
        """Of the training problems, as they were kept; drawn first where nothing was.

        Raises ValueError where what was kept is another study's.
        """
        problems, kept = directory / "problems" / "train.jsonl", self._kept(directory)
        if not kept.exists():
            tell("sampling the training problems")
            evaluation = directory / "evaluations" / "base-samples"
            settings = self.settings(directory) | {
                "problems.train_path": problems,
                "problems.test_path": problems,
                "evaluation.samples_per_problem": self._sizes.base_samples,
                "evaluation.ks": [1, self._sizes.base_samples],
            }
            arguments = [f"base={directory / 'base'}", "--out", str(evaluation), *as_flags(settings)]
            commands.run("base-samples", "eval", str(CONFIG), *arguments)
            (drawn,) = sample_files(evaluation).values()
            table = pq.read_table(drawn, columns=["problem_id", "texts", "rewards"])
            archive.write(table, kept, {"identity": self.identity()})
        archive.check_identity(self.identity(), archive.about(kept).get("identity", {}), kept, "--archive")
        return kept

    def _verifier(self, directory: Path) -> EquationVerifier:
        """Learned from the base's samples of the training problems. Raises ValueError where there are none."""
        if self._learned is None:
            kept = self._kept(directory)
            if not kept.exists():
                raise ValueError(f"{kept} is missing: what is selected by is learned from it")
            samples = pq.read_table(kept).to_pydict()
            prompts = {one.id: one.question for one in self._exercises}
            questions = [prompts[problem] for problem in samples["problem_id"]]
            self._learned = EquationVerifier(questions, samples["texts"], samples["rewards"])
        return self._learned

    def _kept(self, directory: Path) -> Path:
        return self._kept_samples or directory / "base-samples.parquet"


def solved_at_times(samples: Path) -> frozenset[str]:
    """Ids of the problems that have right samples and wrong ones. Raises ValueError where there is none."""
    table = pq.read_table(samples, columns=["problem_id", "rewards"]).to_pydict()
    rewards = zip(table["problem_id"], table["rewards"], strict=True)
    solved = frozenset(problem for problem, own in rewards if min(own) <= 0 < max(own))
    if not solved:
        raise ValueError(
            f"{samples}: of no training problem the base has right and wrong samples: fine-tune it longer"
        )
    return solved
