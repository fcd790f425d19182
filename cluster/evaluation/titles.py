"""Which metrics of an evaluation are shown, and what they are called: in its report, and on pages made of report.json."""

from __future__ import annotations

from collections.abc import Collection

TITLES = {
    "pass_at_k": "pass@k",
    "best_of_k": "Best-of-k",
    "majority_at_k": "majority@k",
    "win_rate_at_k": "win rate of Best-of-k against one sample of",
}


def shown(metrics: Collection[str], *, selection_is_perfect: bool, is_binary: bool) -> list[str]:
    """Those of the metrics, but for a Best-of-k that is pass@k and a win rate that says no more than that."""
    hidden = {"best_of_k"} if selection_is_perfect else set()
    hidden |= {"win_rate_at_k"} if is_binary else set()
    return [metric for metric in TITLES if metric in metrics and metric not in hidden]


def title(metric: str, *, selection_is_perfect: bool, base: str) -> str:
    """pass@k, or what it is besides; `base`: the model that is to be beaten."""
    if metric == "pass_at_k" and selection_is_perfect:
        return "pass@k = Best-of-k"
    if metric == "win_rate_at_k":
        return f"{TITLES[metric]} {base}"
    return TITLES[metric]
