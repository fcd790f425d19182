"""The report of an evaluation: numbers as JSON and Parquet, a table on the screen, pictures.

report.json       every mean with its interval           results.parquet    a row per problem and cell
pass_at_k.*       pass@k against k, the law beside it    selection.*        Best-of-k, majority@k against k
temperature.*     k against temperature; each picture as .png and .svg, if there is something to show
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from cluster.evaluation import plots, tables
from cluster.evaluation.metrics import CellResults, cell_results
from cluster.evaluation.statistics import CoScalingFit, Summary, summarise
from cluster.evaluation.store import SETTINGS_FILE, Cell, read_samples, sample_files, unfinished_labels
from cluster.run_directory.record import write_atomically, write_table_atomically

REPORT_FILE = "report.json"
RESULTS_FILE = "results.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All finished cells of an evaluation: models in their order, temperatures ascending."""

    summary: Summary
    results: tuple[CellResults, ...]
    difficulties: tuple[str, ...]
    """Of each problem."""
    unfinished: tuple[str, ...]
    """Labels of cells that were begun and are left out."""
    directory: Path

    def write(self, about: Mapping[str, Any]) -> None:
        """report.json, results.parquet and the pictures, into the evaluation's directory."""
        write_atomically(self.directory / REPORT_FILE, to_json(self.summary, about))
        write_results(self.results, self.difficulties, self.directory / RESULTS_FILE)
        plots.plot_all(self.summary, self.directory)

    def write_run(self, run_dir: Path, *, temperature: float) -> None:
        """report.json and report.png in a run's directory: its training beside what it led to."""
        write_atomically(run_dir / REPORT_FILE, (self.directory / REPORT_FILE).read_text())
        metrics = run_dir / "metrics.jsonl"
        steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        plots.plot_run(self.summary, steps, run_dir / "report.png", temperature=temperature)

    def show(self, console: Console) -> None:
        """Print the tables."""
        for title, table in tables.sections(self.summary, self.results[0].num_samples, width=console.width):
            console.print(f"\n{title}", markup=False, style="italic")
            if table is not None:
                console.print(table)
        if self.unfinished:
            console.print(f"not finished, and left out: {', '.join(self.unfinished)}", markup=False)
        console.print()


def make_report(
    directory: Path,
    *,
    models: Sequence[str],
    difficulties: Sequence[str],
    ks: Sequence[int],
    seed: int,
    on_progress: Callable[[str], None],
) -> Report:
    """Read all finished cells of an evaluation and compute its numbers. `difficulties`: one per problem."""
    files = sample_files(directory)
    strangers = [str(path) for cell, path in files.items() if cell.model not in models]
    if strangers:
        raise ValueError(
            f"{strangers[0]} is of no model in {SETTINGS_FILE}: remove it, or name its model again"
        )
    cells = sorted(files, key=lambda cell: (models.index(cell.model), cell.temperature))
    results: dict[Cell, CellResults] = {}
    for cell in cells:
        on_progress(f"statistics of {cell.label}")
        base = results.get(Cell(model=cells[0].model, temperature=cell.temperature))
        results[cell] = cell_results(cell, read_samples(files[cell]), sorted(set(ks)), base)
    on_progress("intervals")
    return Report(
        summary=summarise([*results.values()], difficulties, seed=seed),
        results=tuple(results.values()),
        difficulties=tuple(difficulties),
        unfinished=tuple(unfinished_labels(directory)),
        directory=directory,
    )


def to_json(summary: Summary, about: Mapping[str, Any]) -> str:
    """The report as JSON text; a number that JSON cannot hold becomes null."""
    report = {
        **about,
        "ks": summary.ks,
        "best_of_k_is_pass_at_k": summary.selection_is_perfect,
        "win_rate_is_of_pass_at_k": summary.is_binary,
        "cells": [
            {
                "model": cell.cell.model,
                "temperature": cell.cell.temperature,
                **cell.curves,
                "difference": cell.differences,
                "facts": cell.facts,
                "co_scaling": _law(summary.co_scaling[cell.cell]),
                "by_difficulty": {
                    one.difficulty: {
                        "problems": one.num_problems,
                        **one.cells[i].curves,
                        "difference": one.cells[i].differences,
                    }
                    for one in summary.classes[1:]
                },
            }
            for i, cell in enumerate(summary.overall.cells)
        ],
        "best_temperature": {one.difficulty or "": one.best for one in summary.classes if one.best},
        "best_pair": {one.difficulty or "": one.best_pairs for one in summary.classes if one.best_pairs},
    }
    return json.dumps(_plain(report), indent=1, allow_nan=False)


def write_results(results: Sequence[CellResults], difficulties: Sequence[str], path: Path) -> None:
    """A row per problem and cell: counts, every metric at every k, length and diversity of the samples."""
    tables = []
    for result in results:
        num_problems = len(result.problem_ids)
        columns: dict[str, Any] = {
            "problem_id": list(result.problem_ids),
            "difficulty": list(difficulties),
            "model": [result.cell.model] * num_problems,
            "temperature": [result.cell.temperature] * num_problems,
            "num_samples": [result.num_samples] * num_problems,
            "num_correct": result.num_correct_P,
        }
        for metric, values_PK in result.values.items():
            stem = metric.removesuffix("_k")
            columns |= {f"{stem}_{k}": values_PK[:, i] for i, k in enumerate(result.ks)}
        tables.append(pa.table({**columns, **result.facts}))
    write_table_atomically(path, pa.concat_tables(tables, promote_options="default"))


def _law(law: CoScalingFit | str) -> Any:
    return {"not_fitted": law} if isinstance(law, str) else law


def _plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts with text keys, NaN as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
