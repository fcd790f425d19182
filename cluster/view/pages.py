"""What each page shows: from a library and the query of its address to the HTML."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.run_directory.held_out import read_held_out
from cluster.view.during import during_table
from cluster.view.evaluation_pages import about, held_out
from cluster.view.evaluations import MAX_PROBLEMS
from cluster.view.frame import base, of_run
from cluster.view.held_out_problems import held_out_problems
from cluster.view.library import Library, Run
from cluster.view.open_group import OpenGroup, open_group, sample_tokens
from cluster.view.report_tables import report_tables
from cluster.view.selection import (
    KINDS,
    PAGE_ROWS,
    SORTABLE,
    Selection,
    group_rows,
    pass_at_k,
    problem_rows,
    wilson,
)
from cluster.view.templating import render, token_class
from cluster.view.verifier import verifier_facts

SHOWN_AT_FIRST = 4
"""Runs whose curves the first page shows when none is chosen."""
MAX_SHOWN = 8
PROBLEM_SORTS = {
    "problem_id": "problem",
    "asked": "times asked",
    "last_pass": "newest pass@N",
    "change": "change of pass@N",
    "last_reward": "newest mean reward",
}


def overview(library: Library, chosen: list[str]) -> str:
    """All runs and evaluations, and the curves of some runs side by side."""
    known = [name for name in chosen if name in library.runs]
    if not known:
        known = [name for name, run in library.runs.items() if run.newest][:SHOWN_AT_FIRST]
    rows = [_run_row(run, shown=name in known) for name, run in library.runs.items()]
    evaluations = [one for name, one in library.evaluations.items() if not name.endswith(".evaluation")]
    return render(
        "overview.html",
        {
            **base("runs"),
            "rows": rows,
            "shown": known[:MAX_SHOWN],
            "evaluations": [about(one) for one in evaluations],
        },
    )


def run_page(run: Run) -> str:
    """Curves, held-out results and events of one run."""
    run.metrics.refresh()
    evaluation = run.evaluation
    report = evaluation.report if evaluation is not None else None
    return render(
        "run.html",
        {
            **of_run(run, "curves"),
            "row": _run_row(run, shown=True),
            "events": run.events[::-1],
            "tables": report_tables(report) if report else [],
            "during": during_table(run),
            "unfinished": evaluation.unfinished if evaluation is not None else [],
            "settings": _flat(run.settings),
        },
    )


def groups_page(run: Run, query: Mapping[str, str]) -> str:
    """Groups that pass the filters of the query, in its order. Raises ValueError for a wrong query."""
    selection = Selection.from_query(query)
    snapshot = run.groups.snapshot()
    rows = selection.rows(snapshot)
    start = selection.page * PAGE_ROWS
    return render(
        "groups.html",
        {
            **of_run(run, "groups"),
            "groups": group_rows(snapshot, rows[start : start + PAGE_ROWS]),
            "first": start,
            "num_found": len(rows),
            "num_groups": snapshot.num_groups,
            "snapshot": snapshot,
            "selection": selection,
            "query": selection.describe(),
            "sortable": SORTABLE,
            "kinds": KINDS,
            "page_rows": PAGE_ROWS,
        },
    )


def group_page(run: Run, step: int, row: int, query: Mapping[str, str]) -> str:
    """One group with its samples. Raises LookupError where there is none."""
    group = open_group(run.groups.path_of(step), row)
    selection = Selection.from_query(query)
    snapshot = run.groups.snapshot()
    rows = selection.rows(snapshot)
    columns = snapshot.columns
    here = np.flatnonzero((columns["step"][rows] == step) & (columns["row"][rows] == row))
    place = int(here[0]) if len(here) else None

    def neighbour(at: int) -> tuple[int, int] | None:
        if place is None or not 0 <= at < len(rows):
            return None
        return int(columns["step"][rows[at]]), int(columns["row"][rows[at]])

    run.metrics.refresh()
    facts = run.metrics.columns()
    found = np.flatnonzero(facts.get("step", np.empty(0)) == step)
    parity = {
        name: float(facts[name][found[0]])
        for name in ("parity_mean", "parity_max")
        if len(found) and name in facts
    }
    return render(
        "group.html",
        {
            **of_run(run, "groups"),
            **_shown_group(run, group),
            "step": step,
            "row": row,
            "place": place,
            "num_found": len(rows),
            "before": neighbour(place - 1) if place else None,
            "after": neighbour(place + 1) if place is not None else None,
            "query": selection.describe(),
            "parity": parity,
        },
    )


def tokens_part(run: Run, step: int, row: int, sample: int) -> str:
    """The tokens of one sample, to be put into a group's page. Raises LookupError where there is none."""
    tokens = sample_tokens(run.groups.path_of(step), row, sample)
    pieces = run.token_texts.pieces(tokens.ids)
    oldest = min(tokens.versions)
    shown = [
        {
            "text": piece if piece else "",
            "id": token,
            "logprob": logprob,
            "version": version,
            "color": token_class(logprob),
            "age": f"v{min(5, version - oldest)}",
        }
        for piece, token, logprob, version in zip(
            pieces or [f"{token} " for token in tokens.ids],
            tokens.ids,
            tokens.logprobs,
            tokens.versions,
            strict=True,
        )
    ]
    return render("tokens.html", {"tokens": shown, "reason": None if pieces else run.token_texts.reason})


def problems_page(run: Run, query: Mapping[str, str]) -> str:
    """All problems that were asked. Raises ValueError for an unknown sort."""
    snapshot = run.groups.snapshot()
    rows = problem_rows(snapshot, run.num_select)
    wanted, sort = query.get("problem", ""), query.get("sort") or "change"
    if sort not in PROBLEM_SORTS:
        raise ValueError(f"sort = {sort!r} is none of {', '.join(PROBLEM_SORTS)}")
    descending = query.get("order", "desc") != "asc"
    rows = [row for row in rows if wanted in row["problem_id"]]
    rows.sort(key=lambda row: row[sort], reverse=descending)
    return render(
        "problems.html",
        {
            **of_run(run, "problems"),
            "problems": rows[:MAX_PROBLEMS],
            "num_found": len(rows),
            "snapshot": snapshot,
            "sorts": PROBLEM_SORTS,
            "sort": sort,
            "descending": descending,
            "wanted": wanted,
            "held_out": [one for one in held_out_problems(run.directory) if wanted in one.problem_id][
                :MAX_PROBLEMS
            ],
        },
    )


def problem_page(run: Run, problem_id: str) -> str:
    """One problem over the steps. Raises LookupError where it was never asked."""
    snapshot = run.groups.snapshot()
    columns = snapshot.columns
    names = snapshot.names["problem_id"]
    rows = (
        np.flatnonzero(columns["problem_id"] == names.index(problem_id))
        if problem_id in names
        else np.empty(0, int)
    )
    if len(rows) == 0:
        raise LookupError(f"{run.name} has no group of problem {problem_id!r} on disk")
    samples, correct = columns["samples"][rows], columns["correct"][rows]
    low, high = wilson(correct, samples)
    ks = sorted({1, min(run.num_select, int(samples.min()))})
    chart = {
        "x": columns["step"][rows].tolist(),
        "ks": [
            {
                "k": k,
                "mean": pass_at_k(samples, correct, k).tolist(),
                "low": (1 - (1 - low) ** k).tolist(),
                "high": (1 - (1 - high) ** k).tolist(),
            }
            for k in ks
        ],
    }
    return render(
        "problem.html",
        {
            **of_run(run, "problems"),
            "problem_id": problem_id,
            "groups": group_rows(snapshot, rows)[::-1],
            "truth": run.truths.of(problem_id),
            "chart": chart,
            "query": {},
        },
    )


def held_out_page(run: Run, problem_id: str) -> str:
    """One held-out problem over the evaluations while it trains. Raises LookupError where none has it."""
    found = [one for one in held_out_problems(run.directory) if one.problem_id == problem_id]
    if not found:
        raise LookupError(f"{run.name} was not evaluated on {problem_id!r} while it trained")
    problem = found[0]
    columns = (
        problem.steps_E,
        problem.num_correct_E,
        problem.num_samples_E,
        problem.reward_E,
        problem.pass_E,
    )
    return render(
        "held_out.html",
        {
            **of_run(run, "problems"),
            "problem": problem,
            "truth": run.test_truths.of(problem_id),
            "rows": list(zip(*(column.tolist() for column in columns), strict=True)),
        },
    )


def verifier_page(run: Run) -> str:
    """Where score and reward disagree."""
    snapshot = run.groups.snapshot()
    selection = Selection(kind="disagree", sort="regret")
    rows = selection.rows(snapshot)
    return render(
        "verifier.html",
        {
            **of_run(run, "verifier"),
            "facts": verifier_facts(run, snapshot),
            "groups": group_rows(snapshot, rows[:PAGE_ROWS]),
            "num_found": len(rows),
            "snapshot": snapshot,
            "query": selection.describe(),
        },
    )


def fault_page(status: int, message: str) -> str:
    """What is shown in place of a page, with one line that says why."""
    return render("fault.html", {**base(""), "status": status, "message": message})


def live_state(run: Run) -> dict[str, Any]:
    """What changes while a run goes on; pages ask for it and draw anew when it differs."""
    run.metrics.refresh()
    snapshot = run.groups.snapshot(wait_s=0.05)
    return {
        "state": run.state,
        "steps": run.metrics.num_steps,
        "read": snapshot.num_read,
        "files": snapshot.num_files,
        "evaluations": len(read_held_out(run.directory)),
        "evaluated": run.evaluation is not None and run.evaluation.report is not None,
    }


def _shown_group(run: Run, group: OpenGroup) -> dict[str, Any]:
    prompt = run.token_texts.text(group.prompt_token_ids)
    return {
        "group": group,
        "prompt": prompt,
        "prompt_reason": None if prompt is not None else run.token_texts.reason,
        "truth": run.truths.of(group.problem_id),
    }


def _run_row(run: Run, *, shown: bool) -> dict[str, Any]:
    newest, about = run.newest, run.about
    started, ended = about.get("started"), newest.get("time")
    if run.is_running:
        ended = time.time()
    evaluation = run.evaluation
    return {
        "run": run,
        "shown": shown,
        "state": run.state,
        "stage": about.get("stage", ""),
        "steps": newest.get("step", 0),
        "total": run.setting("train", "steps"),
        "model": run.settings.get("model", ""),
        "objective": run.setting("objective", "name", ""),
        "num_select_text": run.num_select_text,
        "samples": run.setting("rollout", "samples_per_prompt"),
        "newest": newest,
        "started": started if isinstance(started, int | float) else None,
        "took_s": ended - started
        if isinstance(started, int | float) and isinstance(ended, int | float)
        else None,
        "held_out": held_out(evaluation.report if evaluation is not None else None),
    }


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Dotted names and values."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", repr(value) if not isinstance(value, str) else value))
    return found
