"""The report on the screen: models side by side where they fit, below each other where they do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.estimates.intervals import Estimate
from cluster.evaluation.statistics import (
    METRICS_THAT_MAY_FALL,
    CellSummary,
    ClassSummary,
    CoScalingFit,
    Summary,
)
from cluster.evaluation.titles import TITLES, shown, title

FACTS = {
    "tokens": "mean tokens",
    "finished": "share finished",
    "unjudged": "not judged",
    "distinct_answers": "distinct answers",
    "distinct_texts": "distinct texts",
}
NAME_COLUMNS = {"cell", "model", "problems"}
"""Headings of columns whose texts may be of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table of models: its labels, and each model's estimate and difference."""

    section: str
    """The temperature."""
    label: str
    values: Mapping[str, tuple[Estimate | None, Estimate | None]]


def sections(summary: Summary, num_samples: int, *, width: int) -> Iterator[tuple[str, Table | None]]:
    """Titles and tables of a report; no table where something is not available."""
    metrics = shown_metrics(summary)
    for metric in metrics:
        yield (
            f"held-out {title_of(summary, metric)} with 95 % intervals",
            curve_table(summary, metric, width=width),
        )
    if "majority_at_k" not in metrics:
        yield "majority@k is not available: the verifier names no answers", None
    selected = "best_of_k" if "best_of_k" in metrics else "pass_at_k"
    if len(summary.classes) > 1:
        yield (
            f"{title_of(summary, selected)} at k = {summary.ks[-1]} by difficulty",
            difficulty_table(summary, selected, width=width),
        )
    for metric in metrics:
        if not any(metric in of_model for of_model in summary.overall.best.values()):
            continue
        title = f"best temperature for {title_of(summary, metric)}, and how often resampled problems agree"
        yield title, best_table(summary, metric, width=width)
    falling = [metric for metric in metrics if metric in METRICS_THAT_MAY_FALL]
    if falling and summary.overall.best_pairs:
        yield (
            "best k with its temperature, and how often resampled problems agree",
            best_pair_table(summary, falling),
        )
    yield f"the {num_samples} samples of a problem", facts_table(summary.overall)
    if laws := [law for law in summary.co_scaling.values() if isinstance(law, CoScalingFit)]:
        lacking = any(math.isnan(law.a.low) for law in laws)
        why = "; no interval: too few problems are solved" if lacking else ""
        yield f"co-scaling: pass@k = exp(a k^b), fitted at k = 1 to n{why}", law_table(summary)
    reasons = {cell.label: law for cell, law in summary.co_scaling.items() if isinstance(law, str)}
    for reason in dict.fromkeys(reasons.values()):
        labels = ", ".join(label for label in reasons if reasons[label] == reason)
        yield f"no co-scaling law, {reason}: {labels}", None


def shown_metrics(summary: Summary) -> list[str]:
    """Metrics that some cell has and that say something of their own."""
    return shown(
        {metric for cell in summary.overall.cells for metric in cell.curves},
        selection_is_perfect=summary.selection_is_perfect,
        is_binary=summary.is_binary,
    )


def title_of(summary: Summary, metric: str) -> str:
    """Of a metric that is shown."""
    base = summary.overall.cells[0].cell.model
    return title(metric, selection_is_perfect=summary.selection_is_perfect, base=base)


def curve_table(summary: Summary, metric: str, *, width: int) -> Table:
    """A row per temperature and k: the mean of each model that has one, and its paired difference from the first."""
    rows = [
        Row(section=label, label=str(k), values=_values(cells, metric, k))
        for label, of_all in _by_temperature(summary.overall).items()
        if (cells := [cell for cell in of_all if metric in cell.curves])
        for k in summary.ks
        if any(k in cell.curves[metric] for cell in cells)
    ]
    return _model_table("k", rows, width)


def difficulty_table(summary: Summary, metric: str, *, width: int) -> Table:
    """The same at the largest k, a row per temperature and difficulty."""
    rows = [
        Row(section=label, label=f"{one.difficulty or 'none'} ({one.num_problems})", values=values)
        for label in _by_temperature(summary.overall)
        for one in summary.classes[1:]
        for values in [_values(_by_temperature(one)[label], metric, summary.ks[-1])]
    ]
    return _model_table("problems", rows, width)


def best_table(summary: Summary, metric: str, *, width: int) -> Table:
    """The best temperature for each model and k, with the share of resamples in which it is best.

    For each difficulty too, if `width` holds that.
    """
    for classes in (summary.classes, summary.classes[:1]):
        headings = ["all" if one.difficulty is None else one.difficulty or "none" for one in classes]
        table = _table("model", "k", *headings)
        for model in summary.overall.best:
            for k in summary.ks:
                found = [one.best[model].get(metric, {}).get(k) for one in classes]
                cells = [
                    f"{best.temperature:g} ({100 * best.certainty:.0f} %)" if best else "" for best in found
                ]
                table.add_row(escape(model) if k == summary.ks[0] else "", str(k), *cells)
            table.add_section()
        if _fits(table, width):
            break
    return table


def best_pair_table(summary: Summary, metrics: Sequence[str]) -> Table:
    """The best k and temperature for each model and difficulty, with the share of resamples in which they are."""
    table = _table("model", "problems", *(TITLES[metric] for metric in metrics))
    for model in summary.overall.best_pairs:
        for one in summary.classes:
            level = "all" if one.difficulty is None else one.difficulty or "none"
            found = [one.best_pairs[model].get(metric) for metric in metrics]
            cells = [
                f"{best.k} at T {best.temperature:g} ({100 * best.certainty:.0f} %)" if best else ""
                for best in found
            ]
            name = model if one is summary.overall else ""
            table.add_row(escape(name), escape(f"{level} ({one.num_problems})"), *cells)
        table.add_section()
    return table


def facts_table(overall: ClassSummary) -> Table:
    """Length and diversity of each cell's samples."""
    there = {name for cell in overall.cells for name in cell.facts}
    unwanted = {"distinct_texts"} if "distinct_answers" in there else set()
    names = [name for name in FACTS if name in there - unwanted]
    table = _table("cell", *(FACTS[name] for name in names))
    for cell in overall.cells:
        values = [f"{cell.facts[name].mean:.3g}" if name in cell.facts else "" for name in names]
        table.add_row(escape(cell.cell.label), *values)
    return table


def law_table(summary: Summary) -> Table:
    """The law of co-scaling of each cell that has one."""
    table = _table("cell", "a", "b", "largest error")
    for cell, law in summary.co_scaling.items():
        if isinstance(law, CoScalingFit):
            numbers = (estimate_text(law.a), estimate_text(law.b), number(law.largest_error))
            table.add_row(escape(cell.label), *numbers)
    return table


def estimate_text(estimate: Estimate | None, sign: str = "") -> str:
    """.584 [.540, .620]; an interval that resampling too few problems cannot give is not made up."""
    if estimate is None:
        return ""
    mean, low, high = (number(value, sign) for value in (estimate.mean, estimate.low, estimate.high))
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{mean} (no interval)"
    return escape(f"{mean} [{low}, {high}]")


def number(value: float, sign: str = "") -> str:
    """Three digits after the point and none before it: .584, +.103; two from 1 on: 1.00, -2.13."""
    rounded = round(value, 3) + 0.0  # no minus zero
    return f"{rounded:{sign}.2f}" if abs(rounded) >= 1 else f"{rounded:{sign}.3f}".replace("0.", ".", 1)


def _by_temperature(one: ClassSummary) -> dict[str, list[CellSummary]]:
    temperatures = sorted({cell.cell.temperature for cell in one.cells})
    return {
        f"{temperature:g}": [cell for cell in one.cells if cell.cell.temperature == temperature]
        for temperature in temperatures
    }


def _values(
    cells: Sequence[CellSummary], metric: str, k: int
) -> dict[str, tuple[Estimate | None, Estimate | None]]:
    return {
        cell.cell.model: (
            cell.curves.get(metric, {}).get(k),
            (cell.differences or {}).get(metric, {}).get(k),
        )
        for cell in cells
    }


def _model_table(heading: str, rows: Sequence[Row], width: int) -> Table:
    """Models beside each other if `width` holds them, else below each other."""
    models = list(dict.fromkeys(model for row in rows for model in row.values))
    compared = [model for model in models if any(row.values[model][1] for row in rows if model in row.values)]
    columns = [(model, kind) for model in models for kind in (0, 1) if kind == 0 or model in compared]
    first = 0 if len({row.section for row in rows}) > 1 else 1  # a single temperature needs no column
    headings = ("T", heading)[first:]
    beside = _table(*headings, *("difference" if kind else model for model, kind in columns))
    below = _table(*headings, "model", "mean", "difference from first")
    section = rows[0].section
    for number_of_row, row in enumerate(rows):
        is_new = row.section != section or number_of_row == 0
        if row.section != section:
            beside.add_section()
            below.add_section()
            section = row.section
        labels = (section if is_new else "", row.label)[first:]
        pairs = [(row.values.get(model, (None, None))[kind], "+" * kind) for model, kind in columns]
        beside.add_row(*map(escape, labels), *(estimate_text(value, sign) for value, sign in pairs))
        for model, (value, difference) in row.values.items():
            below.add_row(
                *map(escape, (*labels, model)), estimate_text(value), estimate_text(difference, "+")
            )
            labels = ("",) * len(labels)
    return beside if _fits(beside, width) else below


def _table(*headings: str) -> Table:
    """Where the screen is too narrow names go on in the next line; numbers are never cut."""
    table = Table(box=SIMPLE)
    for heading in headings:
        table.add_column(
            escape(heading),
            no_wrap=heading not in NAME_COLUMNS,
            overflow="fold",
            style="bold" if heading.startswith("difference") else "",
        )
    return table


def _fits(table: Table, width: int) -> bool:
    return Console(width=10_000).measure(table).maximum <= width
