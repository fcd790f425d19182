"""What an evaluation left on disk: its report, its problems, and any problem's samples under each model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.evaluation.store import (
    PROBLEMS_FILE,
    SETTINGS_FILE,
    Cell,
    read_settings,
    sample_files,
    unfinished_labels,
)
from cluster.evaluation.titles import shown, title
from cluster.view.group_facts import Unreadable
from cluster.view.open_group import OpenGroup, find_row, open_group

REPORT_FILE = "report.json"
RESULTS_FILE = "results.parquet"
PICTURES = ("pass_at_k.svg", "selection.svg", "temperature.svg")
MAX_PROBLEMS = 200


def is_evaluation(directory: Path) -> bool:
    """Whether there is one, finished or not."""
    return (directory / SETTINGS_FILE).is_file() and (directory / "samples").is_dir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A problem with the rewards of each cell: share of right samples, or None where it has none."""

    index: int
    problem_id: str
    difficulty: str
    shares: tuple[float | None, ...]
    difference: float | None
    """Of the last cell from the first."""


class Evaluation:
    """One evaluation's directory, which may still be written."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name

    @property
    def settings(self) -> dict[str, Any]:
        """Raises ValueError where they are damaged."""
        return read_settings(self.directory)

    @property
    def report(self) -> dict[str, Any] | None:
        """report.json; None before the evaluation is finished."""
        try:
            report = json.loads((self.directory / REPORT_FILE).read_text())
            return report if isinstance(report.get("cells"), list) else None
        except (OSError, ValueError, AttributeError):
            return None

    @property
    def cells(self) -> dict[str, Path]:
        """Files of samples by label, models in their order."""
        order = list(self.settings["models"])
        files = sample_files(self.directory)

        def place(cell: Cell) -> tuple[int, float]:
            return (order.index(cell.model) if cell.model in order else len(order), cell.temperature)

        return {cell.label: files[cell] for cell in sorted(files, key=place)}

    @property
    def unfinished(self) -> list[str]:
        """Labels of cells that are being sampled, or were left."""
        return unfinished_labels(self.directory)

    @property
    def pictures(self) -> list[str]:
        """Names of the report's pictures that there are."""
        return [name for name in PICTURES if (self.directory / name).is_file()]

    @cached_property
    def problems(self) -> list[dict[str, Any]]:
        """index, id, prompt and difficulty of each. Raises Unreadable."""
        return _read(self.directory / PROBLEMS_FILE).to_pylist()

    def rows(self, cells: Sequence[str]) -> list[Row]:
        """Every problem with the share of right samples of each of `cells`."""
        shares = [self._shares(label) for label in cells]
        rows = []
        for problem in self.problems:
            found = tuple(share.get(problem["id"]) for share in shares)
            known = [one for one in (found[0], found[-1]) if one is not None] if found else []
            rows.append(
                Row(
                    index=problem["index"],
                    problem_id=problem["id"],
                    difficulty=problem["difficulty"] or "",
                    shares=found,
                    difference=known[1] - known[0] if len(known) == 2 and len(found) > 1 else None,
                )
            )
        return rows

    def open_problem(self, index: int, label: str) -> OpenGroup:
        """One problem's samples of one cell. Raises LookupError, Unreadable."""
        path = self.cells.get(label)
        if path is None:
            raise LookupError(f"{self.directory} has no finished samples of {label!r}")
        return open_group(path, find_row(path, index))

    def _shares(self, label: str) -> dict[str, float]:
        cell = Cell.from_label(label)
        path = self.directory / RESULTS_FILE
        if not path.is_file():
            return {}
        table = _read(path, ["problem_id", "model", "temperature", "num_samples", "num_correct"])
        model = np.array(table["model"].to_pylist()) == cell.model
        keep = model & (table["temperature"].to_numpy() == cell.temperature)
        shares = table["num_correct"].to_numpy() / table["num_samples"].to_numpy()
        ids = table["problem_id"].to_pylist()
        return {ids[i]: float(shares[i]) for i in np.flatnonzero(keep)}


def shown_metrics(report: Mapping[str, Any]) -> list[str]:
    """Metrics that some cell has and that say something of their own."""
    return shown(
        {name for cell in report["cells"] for name in cell},
        selection_is_perfect=bool(report.get("best_of_k_is_pass_at_k")),
        is_binary=bool(report.get("win_rate_is_of_pass_at_k")),
    )


def title_of(report: Mapping[str, Any], metric: str) -> str:
    """Of a metric that is shown."""
    is_perfect = bool(report.get("best_of_k_is_pass_at_k"))
    return title(metric, selection_is_perfect=is_perfect, base=report["cells"][0]["model"])


def held_out_curves(report: Mapping[str, Any]) -> dict[str, Any]:
    """For a chart: ks, and of each metric every cell's mean, low and high, and its place among all cells."""
    found: dict[str, Any] = {"ks": report["ks"], "metrics": []}
    for metric in shown_metrics(report):
        cells = []
        for place, cell in enumerate(report["cells"]):
            if metric in cell:
                ends = {
                    end: [_at(cell[metric], k, end) for k in report["ks"]] for end in ("mean", "low", "high")
                }
                cells.append(
                    {
                        "label": f"{cell['model']}@{cell['temperature']:g}",
                        "model": cell["model"],
                        "place": place,
                        **ends,
                    }
                )
        found["metrics"].append({"name": metric, "title": title_of(report, metric), "cells": cells})
    return found


def _at(curve: Mapping[str, Mapping[str, float]], k: int, end: str) -> float | None:
    return curve.get(str(k), {}).get(end)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
