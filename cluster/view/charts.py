"""Which charts a run has, and their numbers: from metrics.jsonl, with intervals from the trained groups.

Shapes: `S` steps of metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.view.during import during_curves
from cluster.view.evaluations import held_out_curves
from cluster.view.group_index import Snapshot
from cluster.view.library import Run
from cluster.view.metrics_log import MAX_POINTS, thin
from cluster.view.selection import NORMAL_95, by_step, has_truth_values, workers_by_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`series`: facts with their labels. Of several runs side by side the first one alone is drawn."""

    title: str
    series: tuple[tuple[str, str], ...]
    help: str
    logarithmic: bool = False
    from_zero: bool = True
    marks_events: bool = False


CHARTS = (
    Chart(
        title="Best-of-N reward",
        series=(
            ("bon", "Best-of-N"),
            ("pass_at_n", "pass@N"),
            ("majority_at_n", "majority@N"),
            ("reward", "one sample"),
        ),
        help="Unbiased estimates on each step's training batch, so of other problems every step.",
    ),
    Chart(
        title="Win rate against the base",
        series=(("bon_win_rate", "Best-of-N"), ("win_rate", "one sample")),
        help="How often a sample of the step's batch, or the best of N, has a higher score than one of the base model on the "
        "same problem, ties by half. Only of runs with objective.score_transform.",
    ),
    Chart(
        title="Reward of one sample",
        series=(("reward", "mean reward"),),
        help="Mean over all samples of the step's batch.",
    ),
    Chart(
        title="Different answers",
        series=(("distinct", "share"),),
        help="Different answers (texts, where the verifier names no answers) over samples, mean over groups.",
    ),
    Chart(
        title="Agreement of score and reward",
        series=(("agreement", "share of pairs"),),
        help="Share of pairs of samples with different rewards that the scores order as the rewards do; one half is chance.",
    ),
    Chart(
        title="Staleness",
        series=(("staleness_mean", "mean"), ("staleness_max", "largest")),
        help="Policy versions between a group's oldest token and the update that trained on it.",
    ),
    Chart(
        title="Throughput",
        series=(("tokens_per_s", "tokens/s"),),
        help="Tokens sampled a second, over each step.",
    ),
    Chart(
        title="Seconds of a step by stage",
        series=(
            ("step_s", "whole step"),
            ("wait_s", "learner waits for groups"),
            ("verify_s", "of that for verdicts"),
            ("ahead_s", "training on parts"),
            ("learn_s", "rest of the batch, update"),
            ("sync_s", "weights to the engines"),
        ),
        help="What the learner does with the time of a step; sending weights runs beside the next step.",
        logarithmic=True,
        from_zero=False,
    ),
    Chart(
        title="From lease to verdicts",
        series=(("group_p50_s", "median group"), ("group_p95_s", "95th percentile")),
        help="Seconds from the lease of a group to its last verdict.",
    ),
    Chart(
        title="Workers that sampled the step",
        series=(("workers", "rollout workers"),),
        help="Different rollout workers in the groups of the step; marks are events of the controller's log.",
        marks_events=True,
    ),
    Chart(
        title="Completion length",
        series=(("completion_tokens", "mean tokens"),),
        help="Mean tokens of a sample.",
    ),
    Chart(
        title="Cut off, wrong format",
        series=(("unfinished", "cut off at max_tokens"), ("wrong_format", "wrong format")),
        help="Shares of the samples.",
    ),
    Chart(
        title="Gradient norm",
        series=(("grad_norm", "before clipping"),),
        help="Global norm of the gradient.",
    ),
    Chart(
        title="Engine and learner",
        series=(("parity_max", "largest difference"), ("parity_mean", "mean difference")),
        help="|log-prob| difference of sampler and learner at equal weights, in nats, of the tokens compared in the step.",
        logarithmic=True,
        from_zero=False,
    ),
    Chart(
        title="KL to the sampling policy",
        series=(("kl", "per trained token"),),
        help="From behaviour to learner policy, in nats.",
        from_zero=False,
    ),
    Chart(
        title="Learning rate",
        series=(("learning_rate", "step size"),),
        help="Step size in use.",
    ),
)
SAME = 1e-9
SHARES = ("distinct", "agreement")
"""What only the groups know; of all, so between 0 and 1."""


def curves_of(
    run: Run, first: int | None, last: int | None, *, max_points: int = MAX_POINTS, wait_s: float = 0.6
) -> dict[str, Any]:
    """One run's series between two steps, inclusive, as plain JSON values; with what they are made of."""
    run.metrics.refresh()
    columns = dict(run.metrics.columns())
    snapshot = run.groups.snapshot(wait_s)
    steps_S = columns.get("step", np.empty(0))
    num_select_S = columns.get("num_select", np.full(len(steps_S), np.nan))
    num_select_S = np.nan_to_num(num_select_S, nan=run.num_select)
    columns, intervals = with_groups(columns, steps_S, snapshot, num_select_S)
    keep = np.ones(len(steps_S), bool)
    keep &= (steps_S >= first) if first is not None else True
    keep &= (steps_S <= last) if last is not None else True
    wanted = {name for chart in CHARTS for name, _ in chart.series}
    curves = thin(
        steps_S[keep],
        {
            name: values[keep]
            for name, values in columns.items()
            if name in wanted and np.isfinite(values).any()
        },
        {name: (low[keep], high[keep]) for name, (low, high) in intervals.items()},
        max_points=max_points,
    )
    evaluation = run.evaluation
    report = evaluation.report if evaluation is not None else None
    return {
        "name": run.name,
        "num_select": run.num_select if len(set(num_select_S.tolist())) <= 1 else "N",
        "state": run.state,
        "num_steps": len(steps_S),
        "groups_read": snapshot.num_read,
        "groups_files": snapshot.num_files,
        "events": [
            {"step": event.step, "kind": event.kind, "text": event.text}
            for event in run.events
            if event.kind != "checkpoint" and event.step is not None
        ],
        "held_out": held_out_curves(report) if report else None,
        "during": during_curves(run, first, last),
        **curves.plain(),
    }


def with_groups(
    columns: dict[str, np.ndarray], steps_S: np.ndarray, snapshot: Snapshot, num_select_S: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The columns with those that only the groups know, and 95 % intervals of the means over a step's problems.

    An interval of pass@N is there where rewards are 0 or 1, and of Best-of-N where that is pass@N. A step is a draw of
    problems: mean ± 1.96 standard errors over its groups.
    """
    num_select_G: int | np.ndarray = 1
    if len(steps_S):
        nearest_G = np.searchsorted(steps_S, snapshot.columns["step"]).clip(max=len(steps_S) - 1)
        num_select_G = num_select_S[nearest_G]
    steps, facts = by_step(snapshot, num_select_G)
    place = np.searchsorted(steps, steps_S) if len(steps) else np.zeros(len(steps_S), np.int64)
    there = (
        (place < len(steps)) & (steps[np.minimum(place, max(0, len(steps) - 1))] == steps_S)
        if len(steps)
        else None
    )

    def at_steps(values: np.ndarray) -> np.ndarray:
        found = np.full(len(steps_S), np.nan)
        if there is not None:
            found[there] = values[place[there]]
        return found

    intervals: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (mean, error) in facts.items():
        mean_S, half_S = at_steps(mean), NORMAL_95 * at_steps(error)
        low, high = mean_S - half_S, mean_S + half_S
        if name in SHARES or (name in ("reward", "pass_at_n") and has_truth_values(snapshot)):
            low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
        if name in SHARES:
            columns = {**columns, name: mean_S}
        intervals[name] = (low, high)
    if not has_truth_values(snapshot):
        intervals.pop("pass_at_n", None)
    if {"bon", "pass_at_n"} <= columns.keys() and "pass_at_n" in intervals and _are_same(columns):
        intervals["bon"] = intervals["pass_at_n"]
        columns.pop("pass_at_n")
    if np.all(snapshot.columns["differing"] == 0):
        columns.pop("agreement", None)
    steps, counts = workers_by_step(snapshot)
    if len(steps):
        columns = {**columns, "workers": at_steps(counts)}
    return columns, intervals


def _are_same(columns: dict[str, np.ndarray]) -> bool:
    """Whether the verifier picks the best in every batch, so that Best-of-N is pass@N."""
    return bool(np.nanmax(np.abs(columns["bon"] - columns["pass_at_n"]), initial=0.0) < SAME)


def chart_list() -> list[dict[str, Any]]:
    """CHARTS as plain JSON values."""
    return [
        {
            "title": chart.title,
            "series": [list(one) for one in chart.series],
            "help": chart.help,
            "log": chart.logarithmic,
            "zero": chart.from_zero,
            "events": chart.marks_events,
        }
        for chart in CHARTS
    ]


def payload(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a page's charts are drawn from."""
    return {"charts": chart_list(), "runs": list(runs)}
