"""`bonfire report`: a run's curves, tables, best and worst groups as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cluster.run_directory.record import write_atomically
from cluster.view.charts import curves_of, payload
from cluster.view.during import during_table
from cluster.view.group_facts import Unreadable
from cluster.view.group_index import Snapshot
from cluster.view.library import Run, is_run
from cluster.view.open_group import open_group
from cluster.view.report_tables import report_tables
from cluster.view.selection import Selection
from cluster.view.templating import STATIC, render
from cluster.view.verifier import verifier_facts

NEWEST_SHARE = 0.2
"""Of the steps: the best and worst groups are chosen among those of the policy as it ended."""
NUM_GROUPS = 5
NUM_TEXTS = 6
MAX_POINTS = 400


def write_report(run_dir: Path, path: Path) -> Path:
    """Raises ValueError where there is no run, and WriteFailed."""
    if not is_run(run_dir):
        raise ValueError(f"{run_dir} holds no run: there is neither run.json nor metrics.jsonl in it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--out {path}: there is no directory {path.absolute().parent}; make it first")
    write_atomically(path, report_html(Run(run_dir, run_dir.absolute().name, None)))
    return path


def report_html(run: Run) -> str:
    """The file's text. Its policy allows the one script and the styles in it, and no request at all."""
    snapshot = run.groups.read_all()
    data = payload([curves_of(run, None, None, max_points=MAX_POINTS, wait_s=30.0)])
    style = (STATIC / "uPlot.min.css").read_text() + (STATIC / "view.css").read_text()
    script = (STATIC / "uPlot.iife.min.js").read_text() + "\n" + (STATIC / "view.js").read_text()
    assert "</script" not in script.lower() and "</style" not in style.lower()
    evaluation = run.evaluation
    report = evaluation.report if evaluation is not None else None
    newest = run.newest
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return render(
        "report.html",
        {
            "tab": "",
            "run": None,
            "name": run.name,
            "policy": policy,
            "style": Markup(style),
            "script": Markup(script),
            "payload": data,
            "state": run.state,
            "about": run.about,
            "newest": newest,
            "total": run.setting("train", "steps"),
            "model": Path(str(run.settings.get("model", ""))).name,
            "objective": run.setting("objective", "name", ""),
            "num_select_text": run.num_select_text,
            "written": time.time(),
            "tables": report_tables(report) if report else [],
            "during": during_table(run),
            "verifier": verifier_facts(run, snapshot) if snapshot.num_groups else None,
            "choices": _choices(run, snapshot),
            "damaged": snapshot.damaged,
            "num_texts": NUM_TEXTS,
        },
    )


def _choices(run: Run, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Titles and opened groups."""
    if snapshot.num_groups == 0:
        return []
    steps = np.unique(snapshot.columns["step"])
    first = int(steps[-max(1, int(len(steps) * NEWEST_SHARE))])
    among = f"of steps {first} to {int(steps[-1])}"
    ranges = {"step": (float(first), float("inf"))}
    wanted = [
        (f"Highest mean reward {among}", Selection(sort="reward", ranges=ranges)),
        (f"Lowest mean reward {among}", Selection(sort="reward", descending=False, ranges=ranges)),
        (
            f"A better sample was not picked, {among}",
            Selection(kind="disagree", sort="regret", ranges=ranges),
        ),
    ]
    found = []
    for title, selection in wanted:
        rows = selection.rows(snapshot)[:NUM_GROUPS]
        groups = []
        for index in rows.tolist():
            step, row = (int(snapshot.columns[name][index]) for name in ("step", "row"))
            try:
                group = open_group(run.groups.path_of(step), row)
            except (LookupError, Unreadable):
                continue
            truth = run.truths.of(group.problem_id)
            prompt = run.token_texts.text(group.prompt_token_ids)
            groups.append({"step": step, "group": group, "truth": truth, "prompt": prompt})
        if groups:
            found.append({"title": title, "groups": groups})
    return found


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
