"""Whether the study on a real model has something to learn: the published model and the base.

Some training problems, eight samples of each, before anything is trained on them: pass@1 should lie between .05 and .4,
and answers should end before rollout.max_tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actors.types import ScoredGroup
from benchmarks.study.commands import Commands, in_order
from benchmarks.study.design import as_flags
from benchmarks.study.real import CONFIG, RealStudy
from benchmarks.study.report import Rows, number
from cluster.estimates.per_problem import per_problem
from cluster.evaluation.store import read_samples, sample_files
from cluster.run_directory.record import write_atomically

NUM_PROBLEMS, NUM_SAMPLES = 48, 8
TEMPERATURES = (0.6, 1.0)


def run_pilot(directory: Path, design: RealStudy, tell: Callable[[str], None]) -> Rows:
    """A table; what was sampled is not sampled again. Raises RunFailed, and Interrupted in order."""
    commands = Commands(directory / "logs")
    return in_order(commands, lambda: _pilot(directory, design, commands, tell))


def _pilot(directory: Path, design: RealStudy, commands: Commands, tell: Callable[[str], None]) -> Rows:
    (directory / "problems").mkdir(parents=True, exist_ok=True)
    design.write_problems(directory)
    rows = (directory / "problems" / "train.jsonl").read_text().splitlines(keepends=True)
    path = directory / "problems" / "pilot.jsonl"
    write_atomically(path, "".join(rows[:: max(1, len(rows) // NUM_PROBLEMS)][:NUM_PROBLEMS]))
    design.warm_up(directory, commands, tell)
    table = [["model", "T", "pass@1", "pass@8", "majority@8"]]
    table[0] += ["tokens", "95 %", "cut off", "tokens/s with start"]
    for name, model in (("published", design.sources.model), ("base", directory / "base")):
        evaluation = directory / "evaluations" / f"pilot-{name}"
        settings = design.settings(directory) | {
            "problems.test_path": path,
            "evaluation.samples_per_problem": NUM_SAMPLES,
            "evaluation.ks": [1, NUM_SAMPLES],
            "evaluation.temperatures": list(TEMPERATURES),
        }
        arguments = [f"{name}={model}", "--out", str(evaluation), *as_flags(settings)]
        tell(f"sampling of {name}")
        started = time.monotonic()
        is_there = len(sample_files(evaluation)) == len(TEMPERATURES)
        commands.run(f"pilot-{name}", "eval", str(CONFIG), *arguments)
        took_s = time.monotonic() - started
        cells = {cell: read_samples(file) for cell, file in sample_files(evaluation).items()}
        total = sum(len(group.samples.token_ids) for groups in cells.values() for group in groups)
        pace = "" if is_there else f"{total / took_s:.0f}"
        for cell, groups in cells.items():
            table.append([name, f"{cell.temperature:g}", *_described(groups), pace])
    return table


def _described(groups: list[ScoredGroup]) -> list[str]:
    values = per_problem(groups, [1, NUM_SAMPLES])
    lengths = np.concatenate([np.diff(group.samples.offsets) for group in groups])
    cut = np.mean([reason == "length" for group in groups for reason in group.samples.finish_reasons])
    votes = values.get("majority_at_k")
    majority = "none votes" if votes is None else number(float(votes[:, 1].mean()))
    passed = [number(float(value)) for value in values["pass_at_k"].mean(axis=0)]
    return [
        *passed,
        majority,
        f"{lengths.mean():.1f}",
        f"{np.quantile(lengths, 0.95):.0f}",
        number(float(cut)),
    ]
