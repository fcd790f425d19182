"""Run directories as `bonfire view` reads them, written by the code that writes a run's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel

from actors.types import SampleGroup, ScoredGroup
from cluster.evaluation.identity import problems_identity
from cluster.evaluation.store import Cell, EvalStore
from cluster.run_directory.held_out import HeldOutRecord
from cluster.run_directory.record import RunRecord
from tests.shared.judgements import judged
from tests.shared.run_directories import record_trajectories
from verifiers.types import Problem

SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "objective": {"name": "bon", "num_select": 2},
    "rollout": {"samples_per_prompt": 4},
    "train": {"steps": 3},
    "verifier": {"reward": "countdown"},
    "problems": {"source": "countdown", "num_train": 4},
}


def a_group(
    number: int,
    rewards: Sequence[float],
    *,
    scores: Sequence[float] | None = None,
    texts: Sequence[str] | None = None,
    problem_id: str = "",
    lengths: Sequence[int] | None = None,
    version: int = 0,
    logprob: float = -0.5,
    statuses: Sequence[str] | None = None,
    finish_reasons: Sequence[str] | None = None,
    answers: Sequence[str | None] | None = None,
    workers: Sequence[str] = ("rollout-0",),
) -> ScoredGroup:
    """One sample per reward; unless given, scores are rewards, and every sample has two tokens and a text of its own.

    `workers` take turns.
    """
    n = len(rewards)
    lengths = lengths or [2] * n
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    samples = SampleGroup(
        group=number,
        problem_id=problem_id or f"p{number}",
        workers=tuple(itertools.islice(itertools.cycle(workers), n)),
        seed=number * n,
        prompt_token_ids=np.array([0, 1], np.int32),
        offsets=offsets,
        token_ids=(np.arange(offsets[-1]) % 3).astype(np.int32),
        logprobs=np.full(offsets[-1], logprob, np.float32),
        versions=np.full(offsets[-1], version, np.int32),
        texts=tuple(texts or [f"text {i}" for i in range(n)]),
        finish_reasons=tuple(finish_reasons or ["stop"] * n),
    )
    return ScoredGroup(
        samples=samples,
        scores=np.array(scores if scores is not None else rewards, np.float64),
        rewards=np.array(rewards, np.float64),
        statuses=tuple(statuses or ["ok"] * n),
        answers=tuple(answers if answers is not None else [None] * n),
        latencies_s=np.zeros(n, np.float32),
    )


def facts(step: int, **others: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": step,
        "version": step,
        "time": 1000.0 + step,
        "reward": 0.5,
        "bon": 0.6,
        "pass_at_n": 0.6,
        **others,
    }


def write_viewed_run(
    run_dir: Path,
    groups_by_step: Mapping[int, Sequence[ScoredGroup]],
    *,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """metrics.jsonl, trajectories with weights score - mean, run.json and config.toml."""
    record = RunRecord(run_dir)
    for step, groups in groups_by_step.items():
        weights = [np.nan_to_num(group.scores, neginf=0.0) for group in groups]
        centred = [scores - scores.mean() for scores in weights]  # groups may be of different sizes here
        record_trajectories(record, step, groups, centred)  # type: ignore[arg-type]
        record.append_metrics(facts(step))
    run_file = {
        "name": run_dir.name,
        "pid": 0,
        "local": True,
        "stage": "ended",
        "started": 1000.0,
        **(about or {}),
    }
    (run_dir / "run.json").write_text(json.dumps(run_file))
    (run_dir / "config.toml").write_text(tomli_w.dumps(SETTINGS))
    return run_dir


def write_held_out(
    run_dir: Path, rewards_by_step: Mapping[int, Sequence[Sequence[float]]], ids: Sequence[str] = ()
) -> None:
    """Evaluations while it trains: the rewards of each problem's samples, two or more. Problems are h0, h1, ... unless
    `ids` are given.
    """
    from cluster.estimates.held_out import (
        differences_of,
        estimates_of,
        values_of,
    )  # need torch, which reading does not

    record = HeldOutRecord(run_dir, step=0)
    base = None
    for step, rewards in rewards_by_step.items():
        judgements = {index: judged(one) for index, one in enumerate(rewards)}
        values = values_of(judgements, [1, 2])
        differences = differences_of(values, base, seed=0) if base else {}
        found = {"estimates": estimates_of(values, seed=0), "differences": differences}
        base = base or values
        row = {
            "step": step, "ended_step": step + 1, "oldest_version": step, "newest_version": step + 1, "time": 0.0,
            "seconds": 2.0, "num_problems": len(rewards),
            **{what: {name: asdict(one) for name, one in by_name.items()} for what, by_name in found.items()},
        }  # fmt: skip
        record.add(
            row, {index: (ids[index] if ids else f"h{index}", one) for index, one in judgements.items()}
        )


def write_tokenizer(run_dir: Path, words: Sequence[str]) -> None:
    """A checkpoint of step 1 that holds a tokenizer of these words, and nothing else."""
    place = run_dir / "checkpoints" / "step-000001" / "model"
    place.mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(place / "tokenizer.json"))


def write_evaluation(
    directory: Path, problems: Sequence[Problem], samples: Mapping[str, Sequence[ScoredGroup]]
) -> Path:
    """A finished evaluation at temperature 1: `samples` by model, a group for each problem; with its report."""
    from cluster.evaluation.report import make_report  # needs torch, which reading does not

    with EvalStore(directory, {"problems": problems_identity(problems)}, problems) as store:
        for model, groups in samples.items():
            store.add_model(model, f"/models/{model}", model)
            cell = Cell(model=model, temperature=1.0)
            for index, group in enumerate(groups):
                store.put(cell, index, group)
            store.finish(cell)
    difficulties = [problem.difficulty for problem in problems]
    make_report(
        directory,
        models=list(samples),
        difficulties=difficulties,
        ks=[1, 2],
        seed=0,
        on_progress=lambda _: None,
    ).write({})
    return directory
