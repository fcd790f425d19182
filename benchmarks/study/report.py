"""The miniature's tables, and what all studies' tables are made with."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from benchmarks.study.arms import ARMS
from benchmarks.study.design import Arm

Rows = list[list[str]]
"""A table: its header, then its rows."""


def tables(results: Mapping[str, Any]) -> dict[str, Rows]:
    """The tables of docs/study.md, by name."""
    return {
        "main": _main_table(results),
        "verifier": _verifier_table(results),
        "comparisons": comparison_table(results, ARMS),
        "tuning": tuning_table(results, ARMS),
        "strategy": _strategy_table(results),
    }


def blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of docs/study.md, by name, as Markdown."""
    return {
        **{name: markdown(rows) for name, rows in tables(results).items()},
        "failures": list_failures(results),
        "missing": _missing(results),
        "commits": fold(name_commits(results)),
    }


def list_failures(results: Mapping[str, Any]) -> str:
    failures = [f"- {name}: {message}" for name, message in results["failures"].items()]
    return "\n".join(failures) or "No run failed."


def name_commits(results: Mapping[str, Any]) -> str:
    """Short, but with `+dirty` where the code was not what the commit holds."""
    parts = [commit.partition("+") for commit in results["commits"]]
    commits = ", ".join(f"`{commit[:9]}{plus}{dirty}`" for commit, plus, dirty in parts)
    return f"Made and measured by the code at {commits}."


def fold(text: str) -> str:
    """A paragraph, in lines as long as those of the documents may be."""
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def _missing(results: Mapping[str, Any]) -> str:
    measured = {row["name"] for row in results["arms"]}
    missing = [f"`{name}`" for name in ARMS if name not in measured]
    return f"**Not measured yet**: {', '.join(missing)}." if missing else "All arms are measured."


def markdown(rows: Rows) -> str:
    header, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *body])


def fill(document: str, parts: Mapping[str, str]) -> str:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`. Raises ValueError for a missing mark."""
    for name, text in parts.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = document.partition(opening)
        _, found_too, after = rest.partition(closing)
        if not (found and found_too):
            raise ValueError(
                f"the document lacks {opening} ... {closing}: add both marks on lines of their own"
            )
        document = f"{before}{opening}\n{text}\n{closing}{after}"
    return document


def _main_table(results: Mapping[str, Any]) -> Rows:
    header = ["arm", "lr", "seeds", "pass@1", "pass@8", "pass@32"]
    rows = [[*header, "change of pass@1", "change of pass@32", "by seed (pass@32)"]]
    for row in results["arms"]:
        if row["name"].startswith("nines"):
            continue
        values, changes = row["values"], row["changes"]
        cells = [row["label"], rate(row), str(row["num_seeds"])]
        cells += [number(values[f"pass@{k}"]["mean"]) for k in (1, 8, 32)]
        cells += [interval(changes.get(f"pass@{k}")) for k in (1, 32)]
        rows.append([*cells, by_seed(changes.get("pass@32"))])
    return rows


def _verifier_table(results: Mapping[str, Any]) -> Rows:
    shown = ("base", "rloo", "bon16", "nines_rloo", "nines_bon16")
    rows = [["arm", "lr", "seeds", "pass@1", "Bo8", "Bo32", "pass@32", "change of Bo32", "by seed (Bo32)"]]
    for row in (row for name in shown for row in results["arms"] if row["name"] == name):
        values, change = row["values"], row["changes"].get("bon@32")
        cells = [row["label"], rate(row), str(row["num_seeds"])]
        cells += [number(values[name]["mean"]) for name in ("pass@1", "bon@8", "bon@32", "pass@32")]
        rows.append([*cells, interval(change), by_seed(change)])
    return rows


def comparison_table(results: Mapping[str, Any], arms: Mapping[str, Arm], *, fewest_seeds: int = 1) -> Rows:
    """Bold from so many seeds of both arms on, and bases where there are several."""
    rows = [["measure", "arm", "against", "seeds", "change"]]
    # A study.json from before the comparisons has none.
    for row in results.get("comparisons", ()):
        labels = [arms[row[name]].label for name in ("name", "against")]
        numbers = row["num_seeds"], row["num_seeds_against"]
        may_be_bold = min(numbers) >= fewest_seeds and not 1 < row.get("num_bases", 1) < fewest_seeds
        shown = interval(row, may_be_bold=may_be_bold)
        rows.append([row["metric"].replace("bon@", "Bo"), *labels, "{}, {}".format(*numbers), shown])
    return rows


def tuning_table(results: Mapping[str, Any], arms: Mapping[str, Arm], *others: str) -> Rows:
    """With `others` beside pass@k, by their names in the results."""
    shown_too = ("pass@1", "pass@8", "pass@32", *others)
    rows = [["arm", "chosen on", "lr", "value", *shown_too]]
    rates = {row["name"]: row["learning_rate"] for row in results["arms"]}
    order = list(arms)
    for row in sorted(results["tuning"], key=lambda row: (order.index(row["name"]), row["learning_rate"])):
        shown = f"{row['learning_rate']:.0e}"
        if rates.get(row["name"]) == row["learning_rate"]:
            grid = arms[row["name"]].learning_rates
            is_edge = len(grid) > 2 and row["learning_rate"] in (min(grid), max(grid))
            shown = f"**{shown}**" + (" (edge of the grid)" if is_edge else "")
        cells = [arms[row["name"]].label, row["tuned_on"], shown]
        values = (row[name] for name in ("value", *shown_too))
        rows.append([*cells, *(value if isinstance(value, str) else number(value) for value in values)])
    return rows


def _strategy_table(results: Mapping[str, Any]) -> Rows:
    header = ["arm", "distinct answers", "distinct strategies", "entropy, nats"]
    rows = [[*header, "most likely of 16 is wrong", "pass@32"]]
    for row in results["arms"]:
        cells = [row["label"], f"{row['distinct_answers']:.1f}", f"{row['distinct_strategies']:.1f}"]
        missed = row["missed_by_likeliest"]
        cells += [f"{row['entropy']:.2f}", "" if missed is None else number(missed)]
        rows.append([*cells, number(row["values"]["pass@32"]["mean"])])
    return rows


def rate(row: Mapping[str, Any]) -> str:
    return f"{row['learning_rate']:.0e}" if row["name"] != "base" else ""


def by_seed(change: Mapping[str, Any] | None) -> str:
    return " ".join(number(mean, "+") for mean in change["seeds"]) if change else ""


def number(value: float, sign: str = "") -> str:
    """Three decimals without the leading zero: .584, +.103."""
    return f"{round(value, 3) + 0.0:{sign}.3f}".replace("0.", ".", 1)


def interval(estimate: Mapping[str, Any] | None, *, may_be_bold: bool = True) -> str:
    """Mean and interval of a change; bold where the interval leaves 0 out."""
    if estimate is None:
        return ""
    text = (
        f"{number(estimate['mean'], '+')} [{number(estimate['low'], '+')}, {number(estimate['high'], '+')}]"
    )
    leaves_out_0 = estimate["low"] > 0 or estimate["high"] < 0
    return f"**{text}**" if may_be_bold and leaves_out_0 else text
