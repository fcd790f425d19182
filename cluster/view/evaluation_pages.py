"""The pages of an evaluation, alone or of a run: its tables, its problems, two models' answers beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.view.evaluations import MAX_PROBLEMS, Evaluation
from cluster.view.frame import base, of_run
from cluster.view.library import Run
from cluster.view.report_tables import report_tables
from cluster.view.templating import render


def evaluation_page(evaluation: Evaluation, query: Mapping[str, str], run: Run | None) -> str:
    """Tables, curves and pictures of an evaluation, and its problems."""
    report = evaluation.report
    labels = list(evaluation.cells)
    chosen = [
        query.get("a") or (labels[0] if labels else ""),
        query.get("b") or (labels[-1] if labels else ""),
    ]
    if not set(chosen) <= {*labels, ""}:
        raise ValueError(f"a = {chosen[0]!r}, b = {chosen[1]!r}: the finished cells are {', '.join(labels)}")
    cells = list(dict.fromkeys(label for label in chosen if label))
    rows = evaluation.rows(cells)
    order = query.get("order", "gain")
    keys: dict[str, Any] = {
        "gain": lambda row: -(row.difference or 0.0),
        "loss": lambda row: row.difference or 0.0,
        "index": lambda row: row.index,
    }
    if order not in keys:
        raise ValueError(f"order = {order!r} is none of {', '.join(keys)}")
    rows.sort(key=keys[order])
    return render(
        "evaluation.html",
        {
            **(of_run(run, "evaluation") if run is not None else base("runs")),
            "evaluation": evaluation,
            "tables": report_tables(report) if report else [],
            "identity": evaluation.settings["identity"],
            "labels": labels,
            "chosen": chosen,
            "cells": cells,
            "order": order,
            "problems": rows[:MAX_PROBLEMS],
            "num_problems": len(rows),
        },
    )


def answers_page(evaluation: Evaluation, index: int, query: Mapping[str, str], run: Run | None) -> str:
    """Two models' answers to one problem beside each other. Raises LookupError where there is no such problem."""
    labels = list(evaluation.cells)
    if not labels:
        raise LookupError(f"{evaluation.directory} has no finished samples yet")
    chosen = [query.get("a") or labels[0], query.get("b") or labels[-1]]
    problems = {problem["index"]: problem for problem in evaluation.problems}
    if index not in problems:
        raise LookupError(f"{evaluation.directory} has no problem {index}")
    problem = problems[index]
    return render(
        "answers.html",
        {
            **(of_run(run, "evaluation") if run is not None else base("runs")),
            "evaluation": evaluation,
            "problem": problem,
            "truth": run.test_truths.of(problem["id"]) if run is not None else None,
            "labels": labels,
            "chosen": chosen,
            "sides": [(label, evaluation.open_problem(index, label)) for label in dict.fromkeys(chosen)],
            "before": index - 1 if index - 1 in problems else None,
            "after": index + 1 if index + 1 in problems else None,
        },
    )


def held_out(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The last cell's pass@k at the largest k, with its difference from the first."""
    if not report or not report["cells"] or not report.get("ks"):
        return None
    cell, k = report["cells"][-1], report["ks"][-1]
    difference = (cell.get("difference") or {}).get("pass_at_k", {}).get(str(k))
    return {"k": k, "value": cell.get("pass_at_k", {}).get(str(k)), "difference": difference}


def about(evaluation: Evaluation) -> dict[str, Any]:
    """A row of the first page, for an evaluation of its own."""
    try:
        models = ", ".join(evaluation.settings["models"])
    except ValueError as error:
        models = str(error)
    return {"evaluation": evaluation, "models": models, "held_out": held_out(evaluation.report)}
