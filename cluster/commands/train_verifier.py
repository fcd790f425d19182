"""`bonfire train-verifier`: samples with rewards from runs and evaluations -> a verifier, and what it is worth.

OUT/model/          a transformers classifier with its tokenizer; bonfire_verifier.json: how its input is made
OUT/report.json     settings, data, training, every number with its interval
OUT/report.png      Best-of-k against chance and oracle, reliability, losses

OUT appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config.parse import load_config
from cluster.evaluation import verifier_report
from cluster.evaluation.store import SETTINGS_FILE, read_problems, read_settings, sample_files
from cluster.evaluation.verifier_report import Quality
from cluster.run_directory.commit import git_commit
from cluster.terminal.console import View, duration
from cluster.terminal.interrupts import Interrupted, interrupts
from learner.verifier.config import VerifierTrainingConfig
from learner.verifier.data import LabelledProblem, Split, collect, label, split
from learner.verifier.model import Verifier, encode, load_verifier, score
from learner.verifier.training import Training, VerifierProgress, train
from verifiers.models.reward_model import TRAINING_RECORD
from verifiers.problems.loading import load_problems

MODEL = "model"
FORMAT = 1
MIN_MIXED_PROBLEMS = 20
"""Held-out problems with both labels below which an interval over problems means little."""


class NotUsefulError(RuntimeError):
    """The verifier was trained and written, and is not better than chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A directory of samples: files with a row per group, the prompts of their problems, the models they are of."""

    directory: Path
    files: tuple[Path, ...]
    prompts: dict[str, str]
    """By problem id."""
    models: frozenset[str]


def train_verifier(
    sources: Sequence[Path], out: Path | None, model: str | None, config: VerifierTrainingConfig
) -> None:
    """Train, test, write, print. Raises NotUsefulError at the end when the verifier is no better than chance."""
    out = out or Path("runs") / f"verifier-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists():
        raise ValueError(f"--out {out} exists: name a new directory, or remove it")
    opened = [open_source(source) for source in sources]
    base = model or model_of(opened)
    with View(f"bonfire train-verifier · {out}", ["samples", "training", "test"]) as view:
        view.start("samples", "reading")
        problems = read_samples(opened, config.label_threshold)
        check_labels(problems)
        parts = split(
            problems, validation_share=config.validation_share, test_share=config.test_share, seed=config.seed
        )
        ks = check_test(parts, config.ks)
        verifier = load_verifier(base, config, parts.train)
        view.finish("samples", describe(problems, parts))
        training = _train_stage(verifier, parts, config, view)
        view.start("test", f"{sum(problem.num_samples for problem in parts.test):,} samples")
        scores = score(verifier, parts.test, config.micro_batch_tokens)
        quality = verifier_report.measure(parts.test, scores, ks, seed=config.seed)
        facts = {
            "verdict": quality.verdict,
            "base": base,
            "sources": [str(source.directory) for source in opened],
            "git_commit": git_commit(),
            "settings": config.model_dump(mode="json"),
            "data": {name: _counts(getattr(parts, name)) for name in ("train", "validation", "test")},
            "training": asdict(training),
            "quality": asdict(quality),
        }
        write(out, verifier, quality, training, facts)
        view.finish("test", f"best step {training.best_step} of {config.steps}")
    verifier_report.show(quality, view.console)
    for what, path in [
        ("verifier", out / MODEL),
        ("report", out / "report.json"),
        ("picture", out / "report.png"),
    ]:
        view.console.print(f"{what:>12}  {path}", soft_wrap=True, markup=False)
    if quality.faults:
        raise NotUsefulError(f"{quality.verdict}; it is in {out / MODEL} all the same")
    view.console.print(f"\n{quality.verdict}", soft_wrap=True, markup=False, style="bold")


def open_source(directory: Path) -> Source:
    """Find what a run or an evaluation left. Raises ValueError for a directory of neither, or without samples."""
    if (directory / SETTINGS_FILE).is_file():
        files = tuple(sample_files(directory).values())
        models = frozenset(entry["path"] for entry in read_settings(directory)["models"].values())
        problems = read_problems(directory)
    elif (directory / "trajectories").is_dir() and (directory / "config.toml").is_file():
        files = tuple(sorted((directory / "trajectories").glob("*.parquet")))
        config = load_config(directory / "config.toml")
        models = frozenset({config.model})
        problems = load_problems(config.problems, "train")
    else:
        raise ValueError(
            f"SOURCE {directory} holds neither a run (config.toml, trajectories/) nor an evaluation "
            f"({SETTINGS_FILE}, samples/): name a directory of `bonfire train` or `bonfire eval`"
        )
    if not files:
        raise ValueError(f"SOURCE {directory} holds no samples yet: let it get on, or name another")
    return Source(
        directory=directory,
        files=files,
        prompts={problem.id: problem.prompt for problem in problems},
        models=models,
    )


def model_of(sources: Sequence[Source]) -> str:
    """The one model that all samples come from. Raises ValueError when there are several."""
    models = sorted(frozenset().union(*(source.models for source in sources)))
    if len(models) != 1:
        raise ValueError(
            f"the samples come from {len(models)} models ({', '.join(models)}): choose one with --model"
        )
    return models[0]


def read_samples(sources: Sequence[Source], threshold: float | None) -> list[LabelledProblem]:
    """Every sample of every source with its label, by prompt."""
    return collect(sample for source in sources for sample in _samples(source, threshold))


def check_labels(problems: Sequence[LabelledProblem]) -> None:
    """Raises ValueError when there is nothing to learn: all samples are correct, or all wrong."""
    num_samples, num_correct = _num_samples(problems), _num_correct(problems)
    if num_correct in (0, num_samples):
        raise ValueError(
            f"all {num_samples:,} samples are {'correct' if num_correct else 'wrong'}: a verifier needs both; "
            "name other sources, or another label_threshold"
        )


def check_test(parts: Split, ks: Sequence[int]) -> tuple[int, ...]:
    """Values of k that every held-out problem has samples for. Raises ValueError for too little to test on."""
    num_mixed = sum(problem.is_mixed for problem in parts.test)
    if num_mixed < MIN_MIXED_PROBLEMS:
        raise ValueError(
            f"only {num_mixed} of the {len(parts.test)} held-out problems have correct and wrong samples, and "
            f"an interval needs {MIN_MIXED_PROBLEMS}: name more sources, or raise test_share"
        )
    fewest = min(problem.num_samples for problem in parts.test)
    usable = tuple(k for k in ks if k <= fewest)
    if not usable or usable[-1] < 2:
        raise ValueError(
            f"ks = {list(ks)} holds no k from 2 to {fewest}, the fewest samples of a held-out problem: "
            "add one, or name sources with more samples per problem"
        )
    return usable


def describe(problems: Sequence[LabelledProblem], parts: Split) -> str:
    num_samples = _num_samples(problems)
    distinct = sum(len(problem.completions) for problem in problems)
    return (
        f"{num_samples:,} ({distinct:,} distinct) of {len(problems):,} problems, "
        f"{_num_correct(problems) / num_samples:.1%} correct; problems: {len(parts.train):,} to train on, "
        f"{len(parts.validation):,} to validate, {len(parts.test):,} held out"
    )


def write(out: Path, verifier: Verifier, quality: Quality, training: Training, facts: dict[str, Any]) -> None:
    """Checkpoint, report and picture, under a temporary name until all is there."""
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        verifier.save(partial / MODEL)
        stamp = {
            "format": FORMAT,
            "template": verifier.template,
            "max_length": verifier.max_length,
            "loss": facts["settings"]["loss"],
            "base": facts["base"],
            "sources": facts["sources"],
            "data": facts["data"],
            "verdict": facts["verdict"],
        }
        (partial / MODEL / TRAINING_RECORD).write_text(json.dumps(stamp, indent=1))
        (partial / "report.json").write_text(json.dumps(facts, indent=1, allow_nan=False))
        verifier_report.plot(quality, training, partial / "report.png")
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _train_stage(verifier: Verifier, parts: Split, config: VerifierTrainingConfig, view: View) -> Training:
    started = time.monotonic()

    def on_step(step: int, validated: VerifierProgress | None) -> None:
        if interrupted:
            raise Interrupted(f"stopped at step {step} of {config.steps}; nothing was written")
        left_s = (time.monotonic() - started) / step * (config.steps - step)
        text = f"step {step}/{config.steps}, {duration(left_s)} left"
        if validated is not None:
            text += f"   loss {validated.training_loss:.4f}, validation {validated.validation_loss:.4f}"
        view.update("training", step / config.steps, text)

    with interrupts() as interrupted:
        view.start("training", f"{verifier.model.num_parameters():,} parameters on {verifier.model.device}")
        training = train(
            verifier,
            encode(verifier, parts.train),
            encode(verifier, parts.validation),
            config,
            on_step=on_step,
        )
    best = min(one.validation_loss for one in training.history)
    view.finish("training", f"lowest validation loss {best:.4f} at step {training.best_step}")
    return training


def _samples(source: Source, threshold: float | None) -> Iterator[tuple[str, str, bool]]:
    """(prompt, completion, is correct) of every sample."""
    for path in source.files:
        try:
            table = pq.read_table(path, columns=["problem_id", "texts", "rewards"])
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{path} cannot be read ({str(error).splitlines()[0].rstrip('.')}): remove it, or name other sources"
            ) from None
        for group in table.to_pylist():
            prompt = source.prompts.get(group["problem_id"])
            if prompt is None:
                raise ValueError(
                    f"{path} has samples of problem {group['problem_id']!r}, which the problems of "
                    f"{source.directory} no longer hold: restore them as they were"
                )
            labels = label(np.array(group["rewards"]), threshold)
            for text, is_correct in zip(group["texts"], labels.tolist(), strict=True):
                yield prompt, text, is_correct


def _counts(problems: Sequence[LabelledProblem]) -> dict[str, int]:
    return {
        "problems": len(problems),
        "samples": _num_samples(problems),
        "distinct": sum(len(problem.completions) for problem in problems),
        "correct": _num_correct(problems),
    }


def _num_samples(problems: Sequence[LabelledProblem]) -> int:
    return sum(problem.num_samples for problem in problems)


def _num_correct(problems: Sequence[LabelledProblem]) -> int:
    return sum(int(problem.correct_C.sum()) for problem in problems)
