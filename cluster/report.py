"""The result of a run: a table on the screen, a JSON file, a picture.

Shapes: `P` problems, `n` samples of each, `K` values of k.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from cluster.record import write_atomically
from learner.estimators import bon_value, bootstrap_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """pass@k of one model, and its paired difference from the first model of the report."""

    name: str
    pass_at_k: dict[int, Estimate]
    difference: dict[int, Estimate] | None


def summarise(rewards: Mapping[str, np.ndarray], ks: Sequence[int], *, seed: int) -> list[ModelReport]:
    """Unbiased pass@k of each model from rewards [P, n], intervals by bootstrap over the problems.

    The first model is the reference: differences from it are paired by problem.
    """
    reports: list[ModelReport] = []
    reference_PK: torch.Tensor | None = None
    for name, rewards_Pn in rewards.items():
        values = torch.from_numpy(rewards_Pn)
        values_PK = torch.stack([bon_value(values, values, k) for k in ks], dim=1)
        difference = None
        if reference_PK is None:
            reference_PK = values_PK
        else:
            difference = _estimates(values_PK - reference_PK, ks, seed)
        reports.append(
            ModelReport(name=name, pass_at_k=_estimates(values_PK, ks, seed), difference=difference)
        )
    return reports


def _estimates(values_PK: torch.Tensor, ks: Sequence[int], seed: int) -> dict[int, Estimate]:
    low, high = bootstrap_interval(values_PK, seed=seed)
    means = values_PK.mean(dim=0)
    return {
        k: Estimate(mean=float(means[i]), low=float(low[i]), high=float(high[i])) for i, k in enumerate(ks)
    }


def to_json(reports: Sequence[ModelReport], about: Mapping[str, Any]) -> str:
    """The report as JSON text."""

    def plain(estimates: dict[int, Estimate] | None) -> dict[str, dict[str, float]] | None:
        if estimates is None:
            return None
        return {str(k): {"mean": e.mean, "low": e.low, "high": e.high} for k, e in estimates.items()}

    models = [
        {"name": r.name, "pass_at_k": plain(r.pass_at_k), "difference": plain(r.difference)} for r in reports
    ]
    return json.dumps({**about, "models": models}, indent=1)


def table(reports: Sequence[ModelReport]) -> Table:
    """A row per k: each model's pass@k, and its paired difference from the first, with intervals."""
    result = Table(title="held-out pass@k with 95 % intervals", title_justify="left", box=SIMPLE)
    result.add_column("k", justify="right")
    for report in reports:
        result.add_column(report.name, no_wrap=True)
        if report.difference is not None:
            result.add_column("difference", no_wrap=True, style="bold")
    for k in reports[0].pass_at_k:
        cells = []
        for report in reports:
            cells.append(_cell(report.pass_at_k[k]))
            if report.difference is not None:
                cells.append(_cell(report.difference[k], "+"))
        result.add_row(str(k), *cells)
    return result


def _cell(estimate: Estimate, sign: str = "") -> str:
    low, high = _number(estimate.low, sign), _number(estimate.high, sign)
    return escape(f"{_number(estimate.mean, sign)} [{low}, {high}]")


def _number(value: float, sign: str = "") -> str:
    """Three decimals without the leading zero: .584, +.103."""
    return f"{round(value, 3) + 0.0:{sign}.3f}".replace("0.", ".", 1)


def write(
    reports: Sequence[ModelReport], run_dir: Path, *, num_select: int, about: Mapping[str, Any]
) -> Path:
    """report.json and report.png in the run directory; returns the picture's path."""
    write_atomically(run_dir / "report.json", to_json(reports, about))
    metrics = run_dir / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    path = run_dir / "report.png"
    plot(reports, steps, path, num_select=num_select)
    return path


def plot(
    reports: Sequence[ModelReport], steps: Sequence[Mapping[str, Any]], path: Path, *, num_select: int
) -> None:
    """Left: reward and pass@N of the training batches. Right: held-out pass@k with intervals."""
    from matplotlib.figure import Figure

    colors = ["#7f7f7f", "#d95f02", "#1b9e77", "#7570b3", "#e7298a"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    training, held_out = figure.subplots(1, 2)
    if steps:
        x = [step["step"] for step in steps]
        series = [("pass_at_n", f"pass@{num_select}", colors[1]), ("reward", "reward (pass@1)", colors[0])]
        for fact, label, color in series:
            y = np.array([step[fact] for step in steps])
            training.plot(x, y, color=color, alpha=0.25, linewidth=1)
            training.plot(x, _smooth(y), color=color, label=label, linewidth=2)
        training.legend(frameon=False)
    training.set(title="training batches", xlabel="step", ylim=(0, 1))
    for report, color in zip(reports, colors, strict=False):
        ks = list(report.pass_at_k)
        held_out.plot(
            ks, [e.mean for e in report.pass_at_k.values()], color=color, marker="o", label=report.name
        )
        held_out.fill_between(
            ks,
            [e.low for e in report.pass_at_k.values()],
            [e.high for e in report.pass_at_k.values()],
            color=color,
            alpha=0.15,
        )
    held_out.set_xscale("log", base=2)
    held_out.set_xticks(ks, [str(k) for k in ks])
    held_out.set(title="held-out pass@k, 95 % intervals", xlabel="k samples", ylim=(0, 1))
    held_out.legend(frameon=False)
    for axes in (training, held_out):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _smooth(values: np.ndarray, window: int = 10) -> np.ndarray:
    """Trailing mean over up to `window` values."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
