"""The tables of docs/study-real.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.study.figures import Panel
from benchmarks.study.real_arms import ARMS, OUTLINE
from benchmarks.study.report import (
    Rows,
    by_seed,
    comparison_table,
    fold,
    interval,
    list_failures,
    markdown,
    name_commits,
    number,
    rate,
    tuning_table,
)

NOT_MEASURED = "not measured yet"
PANELS: tuple[Panel, ...] = tuple(
    (metric, title, ("base", *ARMS))
    for metric, title in (
        ("pass", "pass@k"),
        ("bon", "Best-of-k by a learned verifier"),
        ("majority", "majority@k"),
    )
)
CLAIMS = (
    ("standard RL raises pass@1", "rloo", "pass@1", +1),
    ("... and lowers pass@32", "rloo", "pass@32", -1),
    ("Best-of-N training raises pass@N (N = 8)", "bon8", "pass@8", +1),
    ("... and pass@k for a larger k", "bon8", "pass@32", +1),
)
"""What is expected: in words, the arm and the measure in which it would show here, and the sign of its change."""
FEWEST_SEEDS = 3
"""For a verdict, and for bold: with one an interval is over problems only, with two it has one degree of freedom."""


def real_tables(results: Mapping[str, Any]) -> dict[str, Rows]:
    """By name; an arm that lacks has a row that says so."""
    return {
        "signs": _signs(results),
        "main": _table(results, ("pass@1", "pass@8", "pass@32"), ("pass@1", "pass@8", "pass@32")),
        "verifier": _table(
            results, ("pass@1", "bon@8", "bon@32", "above_chance@8"), ("bon@8", "above_chance@8", "bon@32")
        ),
        "majority": _table(results, ("pass@1", "majority@8", "majority@32"), ("majority@8", "majority@32")),
        "strategy": _strategy_table(results),
        "comparisons": comparison_table(results, ARMS, fewest_seeds=FEWEST_SEEDS),
        "tuning": tuning_table(results, ARMS, "majority@8", "base"),
    }


def real_blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of the document, by name, as Markdown."""
    return {
        **{name: markdown(rows) for name, rows in real_tables(results).items()},
        "pictures": _pictures(results),
        "failures": list_failures(results),
        "missing": _missing(results),
        "commits": _origins(results),
    }


def nothing_measured() -> dict[str, Any]:
    """The results of a study that has not begun."""
    nothing: dict[str, Any] = {name: [] for name in ("arms", "comparisons", "tuning", "commits", "bases")}
    return {**nothing, "failures": {}}


def _rows(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Label and results of the base and of every arm."""
    rows = {row["name"]: row for row in results["arms"]}
    labels = {"base": "base", **{name: arm.label for name, arm in ARMS.items()}}
    return [(label, rows.get(name)) for name, label in labels.items()]


def _short(metric: str) -> str:
    return metric.replace("above_chance@", "pass@1 to Bo").replace("bon@", "Bo")


def _change(row: Mapping[str, Any], metric: str) -> str:
    return interval(row["changes"].get(metric), may_be_bold=_has_enough(row))


def _has_enough(row: Mapping[str, Any]) -> bool:
    """Seeds for a verdict, and bases, which are the independent samples where there are several."""
    return row["num_seeds"] >= FEWEST_SEEDS and not 1 < row["num_bases"] < FEWEST_SEEDS


def _table(results: Mapping[str, Any], values: Sequence[str], changes: Sequence[str]) -> Rows:
    """Means of `values`, then `changes` from the base, the last one by seed too."""
    header = ["arm", "lr", "seeds", *map(_short, values), *(f"change of {_short(name)}" for name in changes)]
    rows = [[*header, f"by seed ({_short(changes[-1])})"]]
    for label, row in _rows(results):
        if row is None:
            rows.append([label, "", "0", NOT_MEASURED, *[""] * (len(rows[0]) - 4)])
            continue
        cells = [label, rate(row), str(row["num_seeds"])]
        cells += [number(row["values"][name]["mean"]) for name in values]
        cells += [_change(row, name) for name in changes]
        rows.append([*cells, by_seed(row["changes"].get(changes[-1]))])
    return rows


def _signs(results: Mapping[str, Any]) -> Rows:
    rows = [["expected", "measured here as", "seeds", "change from the base", "sign"]]
    by_name = {row["name"]: row for row in results["arms"]}
    for claim, arm, metric, sign in CLAIMS:
        measured = f"{_short(metric)} of {ARMS[arm].label}"
        if arm not in by_name:
            rows.append([claim, measured, "0", "", NOT_MEASURED])
            continue
        row = by_name[arm]
        change = row["changes"][metric]
        if not _has_enough(row):
            verdict = f"no verdict from fewer than {FEWEST_SEEDS} seeds, or bases"
        elif change["low"] <= 0 <= change["high"]:
            verdict = "not shown: the interval holds 0"
        else:
            verdict = "as expected" if change["mean"] * sign > 0 else "the opposite"
            verdict += ", of one base" if row["num_bases"] == 1 else ""
        rows.append([claim, measured, str(row["num_seeds"]), _change(row, metric), verdict])
    return rows


def _strategy_table(results: Mapping[str, Any]) -> Rows:
    header = ["arm", "distinct strategies", "distinct answers", "two samples: other strategy", "change"]
    header += ["two of one strategy: other answer", "change", "two right samples: other strategy"]
    rows = [[*header, "with an invented number", "entropy, nats", "tokens", "cut off"]]
    for label, row in _rows(results):
        if row is None:
            rows.append([label, NOT_MEASURED, *[""] * (len(rows[0]) - 2)])
            continue
        cells = [label, f"{row['distinct_strategies']:.1f}", f"{row['distinct_answers']:.1f}"]
        for metric in ("strategies@2", "slips@2"):
            cells += [number(row["values"][metric]["mean"]), _change(row, metric)]
        cells.append("" if row["right_strategies"] is None else number(row["right_strategies"]))
        cells += [number(row["invented"]), f"{row['entropy']:.2f}", f"{row['tokens']:.1f}"]
        rows.append([*cells, number(row["cut_off"])])
    return rows


def _missing(results: Mapping[str, Any]) -> str:
    """Arms without a seed, and those with too few for a verdict; or else those that have more than the others."""
    num_seeds = {row["name"]: row["num_seeds"] for row in results["arms"] if row["name"] in ("base", *ARMS)}
    lacking = [f"`{name}`" for name in ("base", *ARMS) if name not in num_seeds]
    num_seeds.pop("base", None)
    lacking += [
        f"`{name}` ({num} of {FEWEST_SEEDS} seeds)" for name, num in num_seeds.items() if num < FEWEST_SEEDS
    ]
    if lacking:
        return fold(f"**Not measured yet**: {', '.join(lacking)}.")
    least = min(num_seeds.values())
    more = [f"`{name}` with {num}" for name, num in num_seeds.items() if num > least]
    return fold(f"All arms are measured, with {least} seeds each{''.join(', ' + one for one in more)}.")


def has_curves(results: Mapping[str, Any]) -> bool:
    """Whether there is an arm to be seen beside the base."""
    return len(results["arms"]) > 1


def _pictures(results: Mapping[str, Any]) -> str:
    """As `figures.draw` names them."""
    if not has_curves(results):
        return "No curves yet."
    links = {"curves": "pass@k, Best-of-k, majority@k", "changes": "changes by arm"}
    return "\n".join(f"![{text}]({OUTLINE.name}-{kind}.png)" for kind, text in links.items())


def _origins(results: Mapping[str, Any]) -> str:
    """Which code and which bases the numbers are of."""
    if not results["commits"]:
        return "Made by no code yet."
    bases = results["bases"]
    several = (
        f" **{len(bases)} different bases** ({', '.join(f'`{one}`' for one in bases)}): made anew, and not the same bits; "
        "a change is from the base that a policy was made of, arms are compared on the bases that both were made of, and seeds "
        "of one base count as one."
    )
    return fold(name_commits(results) + (several if len(bases) > 1 else ""))
