"""What a learned verifier is worth on held-out problems: numbers, a verdict, a screen, JSON, a picture.

Shapes: `P` problems, `N` samples of one of them, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cluster.estimates.intervals import Estimate
from cluster.evaluation.plots import COLORS, DOTS_PER_INCH, PANEL_INCHES, STYLE
from cluster.evaluation.statistics import Curve
from cluster.evaluation.tables import estimate_text, number
from learner.objectives.statistics import bootstrap_interval
from learner.verifier.data import LabelledProblem
from learner.verifier.statistics import Calibration, auc_by_problem, auc_interval, best_of_k, calibration
from learner.verifier.training import Training

SELECTORS = {"chance": COLORS[0], "verifier": COLORS[1], "oracle": COLORS[2]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A verifier on held-out problems; every interval is a 95 % bootstrap over problems."""

    num_problems: int
    num_mixed_problems: int
    num_samples: int
    num_refused: int
    """Samples longer than the verifier reads."""
    auc: Estimate
    """Over all samples: it also rewards knowing which problems are hard, which is of no use in choosing."""
    auc_within_problems: Estimate
    """Mean over the mixed problems of each one's own AUC."""
    curves: dict[str, Curve]
    """Accuracy by k of what chance, verifier and oracle choose from k samples."""
    gain: Curve
    """Of the verifier over chance, paired by problem."""
    calibration: Calibration

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the verifier is not called useful; empty for one that is."""
        k = max(self.gain)
        gain, within = self.gain[k], self.auc_within_problems
        faults = []
        if not gain.low > 0:
            faults.append(f"Best-of-{k} less chance is {_text(gain, '+')}, which is not above 0")
        if not within.low > 0.5:
            faults.append(f"AUC within a problem is {_text(within)}, which is not above .500")
        return tuple(faults)

    @property
    def verdict(self) -> str:
        if self.faults:
            return f"not useful: {'; '.join(self.faults)}"
        k = max(self.gain)
        return (
            f"USEFUL: Best-of-{k} {number(self.curves['verifier'][k].mean)} against chance "
            f"{number(self.curves['chance'][k].mean)} and oracle {number(self.curves['oracle'][k].mean)}, "
            f"gain {_text(self.gain[k], '+')}"
        )


def measure(
    problems: Sequence[LabelledProblem], scores: Sequence[np.ndarray], ks: Sequence[int], *, seed: int
) -> Quality:
    """`scores`: of each problem, of each of its distinct completions. Every problem has max(ks) samples or more."""
    scores_by_problem = [
        problem.per_sample(scores_C) for problem, scores_C in zip(problems, scores, strict=True)
    ]
    labels_by_problem = [problem.labels_N for problem in problems]
    scores_M, labels_M = np.concatenate(scores_by_problem), np.concatenate(labels_by_problem)
    values = best_of_k(scores_by_problem, labels_by_problem, ks)
    within_P = auc_by_problem(scores_by_problem, labels_by_problem)
    mean, low, high = auc_interval(scores_by_problem, labels_by_problem, seed=seed)
    return Quality(
        num_problems=len(problems),
        num_mixed_problems=sum(problem.is_mixed for problem in problems),
        num_samples=len(scores_M),
        num_refused=int(np.isneginf(scores_M).sum()),
        auc=Estimate(mean=mean, low=low, high=high),
        auc_within_problems=_estimates(within_P[~np.isnan(within_P)][:, None], seed)[0],
        curves={
            name: dict(zip(ks, _estimates(value_PK, seed), strict=True)) for name, value_PK in values.items()
        },
        gain=dict(zip(ks, _estimates(values["verifier"] - values["chance"], seed), strict=True)),
        calibration=calibration(torch.from_numpy(scores_M).sigmoid().numpy(), labels_M),
    )


def show(quality: Quality, console: Console) -> None:
    """Print the tables."""
    console.print("\nheld-out accuracy of the answer chosen from k, with 95 % intervals", style="italic")
    table = Table(box=SIMPLE)
    for heading in ("k", "verifier", "oracle (pass@k)", "verifier - chance"):
        table.add_column(heading, no_wrap=True, style="bold" if " - " in heading else "")
    for k, gain in quality.gain.items():
        chosen = (estimate_text(quality.curves[name][k]) for name in ("verifier", "oracle"))
        table.add_row(str(k), *chosen, estimate_text(gain, "+"))
    console.print(table)
    reliable = quality.calibration
    for name, text in [
        ("chance", f"{_text(quality.curves['chance'][max(quality.gain)])} at every k, which is pass@1"),
        ("AUC", f"{_text(quality.auc)} over all samples"),
        (
            "",
            f"{_text(quality.auc_within_problems)} within a problem, of {quality.num_mixed_problems} with both labels",
        ),
        (
            "calibration",
            f"expected error {number(reliable.expected_error)}, Brier score {number(reliable.brier)}, "
            + f"of the base rate {number(reliable.brier_of_base_rate)}",
        ),
        (
            "held out",
            f"{quality.num_problems:,} problems, {quality.num_samples:,} samples, {quality.num_refused:,} refused",
        ),
    ]:
        console.print(f"{name:>12}  {text}", markup=False, soft_wrap=True)


def plot(quality: Quality, training: Training, path: Path) -> None:
    """Left: what is chosen from k. Middle: the reliability diagram. Right: the losses."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3 * PANEL_INCHES[0], PANEL_INCHES[1]))
        chosen, reliability, losses = figure.subplots(1, 3)
        _plot_curves(chosen, quality)
        _plot_reliability(reliability, quality.calibration)
        steps = [one.step for one in training.history]
        losses.plot(steps, [one.training_loss for one in training.history], color=COLORS[0], label="training")
        losses.plot(
            steps, [one.validation_loss for one in training.history], color=COLORS[1], label="validation"
        )
        losses.axvline(
            training.best_step, color="#333333", linewidth=0.8, linestyle=(0, (5, 3)), label="chosen step"
        )
        losses.set(title="loss, nats", xlabel="step")
        losses.legend()
        figure.savefig(path, dpi=DOTS_PER_INCH)


def _plot_curves(axes: Axes, quality: Quality) -> None:
    ks = list(quality.gain)
    for name, color in SELECTORS.items():
        curve = quality.curves[name].values()
        axes.plot(ks, [one.mean for one in curve], color=color, marker="o", markersize=4.5, label=name)
        axes.fill_between(
            ks, [one.low for one in curve], [one.high for one in curve], color=color, alpha=0.12, linewidth=0
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(title="held-out accuracy of the answer chosen", xlabel="k samples")
    axes.legend(loc="upper left")


def _plot_reliability(axes: Axes, reliable: Calibration) -> None:
    axes.plot([0, 1], [0, 1], color="#333333", linewidth=0.8, linestyle=(0, (5, 3)))
    axes.plot(
        reliable.mean_probabilities, reliable.shares_correct, color=COLORS[1], marker="o", markersize=4.5
    )
    axes.set(
        title=f"calibration, expected error {number(reliable.expected_error)}",
        xlabel="sigmoid(logit), bins of equal size",
        ylabel="share correct",
        xlim=(0, 1),
        ylim=(0, 1),
    )


def _estimates(values_PK: np.ndarray, seed: int) -> list[Estimate]:
    low_K, high_K = bootstrap_interval(torch.from_numpy(values_PK), seed=seed)
    return [
        Estimate(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(values_PK.mean(axis=0), low_K, high_K, strict=True)
    ]


def _text(estimate: Estimate, sign: str = "") -> str:
    low, high = number(estimate.low, sign), number(estimate.high, sign)
    return f"{number(estimate.mean, sign)} [{low}, {high}]"
