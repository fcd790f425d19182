"""A study's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.study.design import KS

COLORS = {
    "base": "#7f7f7f",
    "rloo": "#d95f02",
    "bon16": "#1b9e77",
    "bon8": "#66a61e",
    "bon_rlb": "#7570b3",
    "bon_rlbp": "#a6761d",
    "rft": "#e6ab02",
    "sft": "#a6cee3",
    "bon_sft": "#1f78b4",
    "nines_rloo": "#e7298a",
    "nines_bon16": "#17becf",
    "majority": "#7570b3",
    "schedule": "#e7298a",
    "votes": "#a6761d",
    "rloo_slow": "#fdae6b",
}

Panel = tuple[str, str, tuple[str, ...]]
"""A metric, a title, and the arms whose curves are drawn."""
MINIATURE: tuple[Panel, ...] = (
    ("pass", "pass@k, exact verifier", ("base", "rloo", "bon8", "bon16")),
    ("bon", "Best-of-k, casting out nines", ("base", "rloo", "bon16", "nines_rloo", "nines_bon16")),
)


def draw(
    results: Mapping[str, Any], directory: Path, name: str = "study", panels: Sequence[Panel] = MINIATURE
) -> list[Path]:
    """NAME-curves.png and NAME-changes.png; returns their paths."""
    paths = [directory / f"{name}-curves.png", directory / f"{name}-changes.png"]
    _curves(results, panels).savefig(paths[0], dpi=110)
    _changes(results).savefig(paths[1], dpi=110)
    return paths


def _curves(results: Mapping[str, Any], panels: Sequence[Panel]) -> Figure:
    """A metric over k for some arms, with bands; a panel each."""
    arms = {row["name"]: row for row in results["arms"]}
    figure = Figure(figsize=(5.5 * len(panels), 4.4), layout="constrained")
    for axes, (metric, title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            if name not in arms:
                continue
            curve = [arms[name]["values"][f"{metric}@{k}"] for k in KS]
            axes.plot(
                KS, [e["mean"] for e in curve], marker="o", color=COLORS[name], label=arms[name]["label"]
            )
            axes.fill_between(
                KS, [e["low"] for e in curve], [e["high"] for e in curve], color=COLORS[name], alpha=0.12
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(KS, [str(k) for k in KS])
        axes.set(title=title, xlabel="k samples", ylim=(0, None))
        axes.legend(frameon=False, loc="lower right")
        _tidy(axes)
    return figure


def _changes(results: Mapping[str, Any]) -> Figure:
    """Change from the base model of pass@1 and pass@32, arm by arm; dots are seeds."""
    rows = [row for row in results["arms"] if row["name"] != "base"][::-1]
    figure = Figure(figsize=(11, 1.0 + 0.42 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, metric in ((left, "pass@1"), (right, "pass@32")):
        for height, row in enumerate(rows):
            change, color = row["changes"][metric], COLORS[row["name"]]
            axes.plot([change["low"], change["high"]], [height] * 2, color=color, linewidth=3, alpha=0.5)
            axes.plot(change["seeds"], [height] * len(change["seeds"]), "o", color=color, markersize=3)
            axes.plot(change["mean"], height, "D", color=color, markersize=7)
        axes.axvline(0, color="#555555", linewidth=1)
        axes.set(title=f"change of {metric} from the base model")
        _tidy(axes)
    left.set_yticks(range(len(rows)), [row["label"] for row in rows])
    left.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    return figure


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
