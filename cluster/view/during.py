"""What a run's evaluations while it trains found, as curves over its steps and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.run_directory.held_out import read_held_out
from cluster.view.library import Run
from cluster.view.report_tables import Table, estimate_text

SAME = 1e-9


def during_curves(run: Run, first: int | None, last: int | None) -> list[dict[str, Any]]:
    """For charts: estimates, and their differences from the base; of evaluations between two steps, inclusive."""
    rows = [
        row
        for row in read_held_out(run.directory)
        if (first is None or row["step"] >= first) and (last is None or row["step"] <= last)
    ]
    names = shown_names(rows)
    charts = []
    for what, title, help_text in (
        (
            "estimates",
            "Held out",
            "Means over the same held-out problems each time, by evaluations while it trains.",
        ),
        (
            "differences",
            "Held out, less the base",
            "Differences from the policy that the run began with, paired by problem.",
        ),
    ):
        there = [row for row in rows if row.get(what)]
        lines = [
            {
                "label": name,
                **{end: [_at(row[what], name, end) for row in there] for end in ("mean", "low", "high")},
            }
            for name in names
        ]
        if there:
            charts.append(
                {"title": title, "help": help_text, "x": [row["step"] for row in there], "lines": lines}
            )
    return charts


def during_table(run: Run) -> Table | None:
    """A row per evaluation; None without one."""
    rows = read_held_out(run.directory)
    if not rows:
        return None
    names = shown_names(rows)
    return Table(
        title="evaluations while it trains, 95 % intervals; difference: from the base, paired by problem",
        first="step",
        heads=(*(head for name in names for head in (name, "difference")), "versions", "problems", "seconds"),
        rows=tuple((str(row["step"]), _cells(row, names)) for row in rows),
    )


def shown_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sample and the largest k; of selection and majority the largest, where they are something else than pass@k."""
    found: dict[str, set[int]] = {}
    for row in rows:
        for name in row["estimates"]:
            metric, _, k = name.partition("@")
            if k.isdecimal():
                found.setdefault(metric, set()).add(int(k))
    passes = sorted(found.get("pass", ()))
    names = list(dict.fromkeys(f"pass@{k}" for k in (passes[:1] + passes[-1:])))
    for metric in ("best_of", "majority"):
        k = max(found.get(metric, ()), default=0)
        if k and any(_differ(row["estimates"], f"{metric}@{k}", f"pass@{k}") for row in rows):
            names.append(f"{metric}@{k}")
    return names


def _differ(estimates: Mapping[str, Any], name: str, other: str) -> bool:
    if name not in estimates or other not in estimates:
        return name in estimates
    return abs(estimates[name]["mean"] - estimates[other]["mean"]) > SAME


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    oldest, newest = row.get("oldest_version"), row.get("newest_version")
    cells = [
        text
        for name in names
        for text in (
            estimate_text(row["estimates"].get(name)),
            estimate_text(row.get("differences", {}).get(name), "+"),
        )
    ]
    versions = f"{newest}" if oldest == newest else f"{oldest} to {newest}"
    return (*cells, versions, str(row.get("num_problems", "")), f"{row.get('seconds', 0.0):.0f}")


def _at(estimates: Mapping[str, Any], name: str, end: str) -> float | None:
    value = estimates.get(name, {}).get(end)
    return None if value is None else float(f"{value:.5g}")
