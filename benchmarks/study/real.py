"""The comparison on a real model: SmolLM2-135M, which has learned to calculate, on SVAMP (docs/study-real.md).

What is made, beside what `run.Study` makes: the base, by `bonfire sft`; samples of it on the training problems; and from
these a verifier, by `bonfire train-verifier`, once, to see what it is worth. The base is too large to keep. It is made
anew where it is missing, and every result says of which base it is. Samples and the verifier's worth are kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.study import archive
from benchmarks.study.commands import Commands, RunFailed
from benchmarks.study.design import Design, as_flags, as_overrides
from benchmarks.study.exercises import (
    Exercise,
    Part,
    as_rows,
    deal,
    make_drills,
    read_svamp,
    renumbered,
    repeated,
    split,
)
from benchmarks.study.real_arms import ARMS, OUTLINE, RATES
from benchmarks.study.real_measure import RealPolicy, measure
from cluster.evaluation.store import PROBLEMS_FILE, SETTINGS_FILE, Cell, read_samples, sample_files
from cluster.run_directory.record import write_atomically, write_table_atomically

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
VERIFIER = {
    "loss": "pairwise",
    "test_share": 0.3,
    "problems_per_step": 12,
    "samples_per_problem": 4,
    "learning_rate": 3e-5,
    "warmup_steps": 5,
    "validate_every": 10,
    "micro_batch_tokens": 4096,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything; SVAMP has 98 stories."""

    steps: int
    drills: int
    """Bare calculations for the base to learn from."""
    turns: int
    """How often it learns from each problem of its split, once from a drill."""
    base: Part
    """Stories that it learns the form of an answer from; no other split has any of them."""
    test: int
    """Problems of the other stories, as the next; the rest of them is to train on."""
    tuning: int
    variations: int
    """Of a training problem, with other numbers."""
    rates: int
    """Learning rates that are tried."""
    samples: int
    """Of a tuning or test problem."""
    verifier_samples: int
    """Of a training problem: those solved at times are trained on, and the verifier learns from all."""
    verifier_steps: int


FULL = Sizes(
    steps=40,
    drills=2400,
    turns=2,
    base=Part(stories=16, of_each=None),
    test=240,
    tuning=80,
    variations=10,
    rates=len(RATES),
    samples=32,
    verifier_samples=16,
    verifier_steps=30,
)
REHEARSAL = replace(
    FULL,
    steps=1,
    drills=64,
    base=Part(stories=2, of_each=2),
    test=8,
    tuning=4,
    rates=1,
    verifier_samples=4,
    verifier_steps=1,
)
"""Every part once, in minutes; its numbers mean nothing."""


@cache
def fingerprint(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the study is made of; none of it is in the repository."""

    model: Path
    """SmolLM2-135M-Instruct, a transformers directory (`make real-model`)."""
    svamp: Path
    """SVAMP's 1,000 problems, as JSON lines."""


class RealStudy(Design):
    """Five arms on SVAMP."""

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

    @cached_property
    def _exercises(self) -> list[Exercise]:
        return read_svamp(self.sources.svamp)

    def identity(self) -> dict[str, Any]:
        sources = self.sources
        return {
            "real_toml_sha256": fingerprint(CONFIG),
            "svamp_sha256": fingerprint(sources.svamp),
            "model_sha256": fingerprint(sources.model / "model.safetensors"),
            "arms": {name: dict(arm.settings) for name, arm in ARMS.items()},
            "warm_up": WARM_UP,
            "verifier": VERIFIER,
            "split_seed": SEED,
            "sizes": asdict(self._sizes),
        }

    def write_problems(self, directory: Path) -> str:
        """Beside the three splits of SVAMP `warm-up.jsonl`, what the base learns from: stories of its own, and drills."""
        parts = {"base": self._sizes.base, "others": Part(stories=None, of_each=None)}
        stories = split(self._exercises, parts, seed=SEED)
        sizes = {"test": self._sizes.test, "tuning": self._sizes.tuning}
        splits = {"base": stories["base"], **deal(stories["others"], sizes, rest="train", seed=SEED)}
        warm_up = repeated(splits["base"], self._sizes.turns) + make_drills(self._sizes.drills, seed=SEED)
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
        if not self.notes(directory):
            tell("training the verifier")
            self._train_verifier(directory, commands, samples)
        return f"{directory / 'base'}; verifier: {self.notes(directory)['verifier']['verdict']}"

    def warm_up(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> None:
        """The base: the model after some problems and some drills."""
        tell(f"fine-tuning {self.sources.model.name} on the base's problems and drills")
        settings = self.settings(directory) | {
            "problems.train_path": directory / "problems" / "warm-up.jsonl",
            "sft.base_model": self.sources.model,
            **WARM_UP,
        }
        commands.run("base", "sft", str(CONFIG), *as_overrides(settings))

    def base_here(self, directory: Path) -> str:
        weights = directory / "base" / "model.safetensors"
        return fingerprint(weights) if weights.exists() else ""

    def settings(self, directory: Path) -> dict[str, object]:
        return {"model": directory / "base", "problems.train_path": directory / "problems" / RENUMBERED}

    def notes(self, directory: Path) -> dict[str, Any]:
        """What the verifier is worth."""
        kept = self._kept(directory)
        facts = archive.about(kept).get("verifier") if kept.exists() else None
        return {"verifier": facts} if facts else {}

    def measure(self, directory: Path, evaluation: Path, about: Mapping[str, Any]) -> RealPolicy:
        (samples,) = sample_files(evaluation).values()
        rows = (directory / "problems" / f"{about['split']}.jsonl").read_text().splitlines()
        problems = [json.loads(row) for row in rows]
        return measure(
            read_samples(samples),
            [problem["prompt"] for problem in problems],
            [problem["story"] for problem in problems],
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
            evaluation = directory / "evaluations" / "verifier-samples"
            settings = self.settings(directory) | {
                "problems.train_path": problems,
                "problems.test_path": problems,
                "evaluation.samples_per_problem": self._sizes.verifier_samples,
                "evaluation.ks": [1, self._sizes.verifier_samples],
            }
            arguments = [f"base={directory / 'base'}", "--out", str(evaluation), *as_flags(settings)]
            commands.run("verifier-samples", "eval", str(CONFIG), *arguments)
            (drawn,) = sample_files(evaluation).values()
            table = pq.read_table(drawn, columns=["problem_id", "texts", "rewards"])
            archive.write(table, kept, {"identity": self.identity()})
        archive.check_identity(self.identity(), archive.about(kept).get("identity", {}), kept, "--archive")
        return kept

    def _train_verifier(self, directory: Path, commands: Commands, samples: Path) -> None:
        report = directory / "verifier" / "report.json"
        if not report.exists():
            shutil.rmtree(report.parent, ignore_errors=True)
            paths = ["--model", str(directory / "base"), "--out", str(report.parent)]
            flags = as_flags({**VERIFIER, "steps": self._sizes.verifier_steps})
            source = str(write_source(directory, samples))
            try:
                commands.run("verifier", "train-verifier", source, *paths, *flags)
            except RunFailed:
                if not report.exists():  # else it is there and of little use, which is a result
                    raise
        facts = json.loads(report.read_text())
        verifier = {name: facts[name] for name in ("verdict", "data", "quality")}
        about = {"identity": self.identity(), "verifier": verifier}
        archive.write(pq.read_table(samples), samples, about)

    def _kept(self, directory: Path) -> Path:
        return self._kept_samples or directory / "verifier-samples.parquet"


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


def write_source(directory: Path, samples: Path) -> Path:
    """A source for `bonfire train-verifier`, as `bonfire eval` lays it out, with as much as is read of it."""
    source = directory / "verifier-samples"
    rows = [json.loads(row) for row in (directory / "problems" / "train.jsonl").read_text().splitlines()]
    names = {"index": range(len(rows)), "difficulty": [""] * len(rows)}
    columns = {name: [row[name] for row in rows] for name in ("id", "prompt")}
    (source / "samples").mkdir(parents=True, exist_ok=True)
    write_table_atomically(source / PROBLEMS_FILE, pa.table({**names, **columns}))
    models = {"base": {"path": str(directory / "base")}}
    write_atomically(source / SETTINGS_FILE, json.dumps({"identity": {}, "models": models}))
    shutil.copyfile(samples, source / "samples" / f"{Cell(model='base', temperature=1.0).label}.parquet")
    return source
