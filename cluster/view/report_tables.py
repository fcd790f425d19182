"""The tables of an evaluation's report.json, as headings and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.view.evaluations import shown_metrics, title_of

FACTS = {
    "tokens": "mean tokens",
    "finished": "share finished",
    "unjudged": "not judged",
    "distinct_answers": "different answers",
    "distinct_texts": "different texts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`rows`: a label and the other cells."""

    title: str
    first: str
    """Heading of the labels."""
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """All that the report has: curves, by difficulty, best temperatures, the law of co-scaling, the samples."""
    tables = [
        _curve_table(report, metric, temperature)
        for metric in shown_metrics(report)
        for temperature in _temperatures(report)
        if any(metric in cell for cell in _cells_at(report, temperature))
    ]
    tables += _difficulty_tables(report)
    tables += _best_tables(report)
    fitted = [cell for cell in report["cells"] if "a" in (cell.get("co_scaling") or {})]
    if fitted:
        rows = tuple(
            (_label(cell), tuple(estimate_text(cell["co_scaling"][name]) for name in "ab")) for cell in fitted
        )
        tables.append(
            Table(title="co-scaling: pass@k = exp(a k^b)", first="cell", heads=("a", "b"), rows=rows)
        )
    names = [name for name in FACTS if any(name in cell["facts"] for cell in report["cells"])]
    rows = tuple(
        (
            _label(cell),
            tuple(f"{cell['facts'][name]['mean']:.3g}" if name in cell["facts"] else "" for name in names),
        )
        for cell in report["cells"]
    )
    heads = tuple(FACTS[name] for name in names)
    return [*tables, Table(title="the samples of a problem", first="cell", heads=heads, rows=rows)]


def _curve_table(report: Mapping[str, Any], metric: str, temperature: float) -> Table:
    """A row per k: each model's estimate, and its paired difference from the first."""
    cells = [
        {**cell, "difference": cell["difference"] if metric in (cell.get("difference") or {}) else None}
        for cell in _cells_at(report, temperature)
        if metric in cell
    ]
    return Table(
        title=f"held-out {title_of(report, metric)}, 95 % intervals{_at_temperature(report, temperature)}",
        first="k",
        heads=_heads(cells),
        rows=tuple((str(k), _pairs(cells, metric, k)) for k in report["ks"]),
    )


def _difficulty_tables(report: Mapping[str, Any]) -> list[Table]:
    """The metric that selects at the largest k, a row per difficulty."""
    metrics, k = shown_metrics(report), report["ks"][-1]
    metric = "best_of_k" if "best_of_k" in metrics else "pass_at_k"
    tables = []
    for temperature in _temperatures(report):
        cells = _cells_at(report, temperature)
        levels = list(dict.fromkeys(level for cell in cells for level in cell.get("by_difficulty") or {}))
        if not levels:
            continue
        rows = []
        for level in levels:
            parts = [cell["by_difficulty"].get(level, {}) for cell in cells]
            num = next((part["problems"] for part in parts if part), 0)
            shaped = [
                {**part, "difference": part.get("difference") if cell.get("difference") else None}
                for cell, part in zip(cells, parts, strict=True)
            ]
            rows.append((f"{level or 'none'} ({num})", _pairs(shaped, metric, k)))
        title = f"held-out {title_of(report, metric)} at k = {k} by difficulty{_at_temperature(report, temperature)}"
        tables.append(Table(title=title, first="problems", heads=_heads(cells), rows=tuple(rows)))
    return tables


def _best_tables(report: Mapping[str, Any]) -> list[Table]:
    """The best temperature of each model and metric, and how often resampled problems agree; none of a single one."""
    best = (report.get("best_temperature") or {}).get("", {})
    tables = []
    for metric in shown_metrics(report):
        if not any(metric in by_metric for by_metric in best.values()):
            continue
        rows = []
        for model, by_metric in best.items():
            found = [by_metric.get(metric, {}).get(str(k)) for k in report["ks"]]
            texts = [
                f"{one['temperature']:g} ({100 * one['certainty']:.0f} %)" if one else "" for one in found
            ]
            rows.append((model, tuple(texts)))
        title = f"best temperature for {title_of(report, metric)}, and how often resampled problems agree"
        heads = tuple(f"k = {k}" for k in report["ks"])
        tables.append(Table(title=title, first="model", heads=heads, rows=tuple(rows)))
    return tables


def _pairs(cells: Sequence[Mapping[str, Any]], metric: str, k: int) -> tuple[str, ...]:
    values = []
    for cell in cells:
        values.append(estimate_text(cell.get(metric, {}).get(str(k))))
        if cell.get("difference"):
            values.append(estimate_text(cell["difference"].get(metric, {}).get(str(k)), "+"))
    return tuple(values)


def _heads(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    pairs = [[cell["model"], "difference"] if cell.get("difference") else [cell["model"]] for cell in cells]
    return tuple(head for pair in pairs for head in pair)


def _temperatures(report: Mapping[str, Any]) -> list[float]:
    return sorted({cell["temperature"] for cell in report["cells"]})


def _cells_at(report: Mapping[str, Any], temperature: float) -> list[Mapping[str, Any]]:
    return [cell for cell in report["cells"] if cell["temperature"] == temperature]


def _at_temperature(report: Mapping[str, Any], temperature: float) -> str:
    return f", temperature {temperature:g}" if len(_temperatures(report)) > 1 else ""


def _label(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']}@{cell['temperature']:g}"


def estimate_text(estimate: Mapping[str, float | None] | None, sign: str = "") -> str:
    """.584 [.540, .620]"""
    if not estimate or estimate.get("mean") is None:
        return ""
    ends = [estimate.get(end) for end in ("low", "high")]
    text = number(estimate["mean"], sign)
    known = [number(end, sign) for end in ends if end is not None]
    return f"{text} [{', '.join(known)}]" if len(known) == 2 else text


def number(value: float | None, sign: str = "") -> str:
    """Three digits after the point and none before it: .584, +.103; two from 1 on: 1.00, -2.13."""
    if value is None or not math.isfinite(value):
        return ""
    rounded = round(value, 3) + 0.0  # no minus zero
    return f"{rounded:{sign}.2f}" if abs(rounded) >= 1 else f"{rounded:{sign}.3f}".replace("0.", ".", 1)
