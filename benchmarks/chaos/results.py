"""What a chaos run has shown, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.campaign import Strike
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.invariant import Account
from benchmarks.demo_run import machine


def summarise(strikes: Sequence[Strike]) -> dict[str, dict[str, Any]]:
    """Each fault that struck: how often, and seconds until it was noticed and overcome."""
    rows = {}
    for name in FAULTS:
        those = [strike for strike in strikes if strike.name == name]
        if not those:
            continue
        noticed_s = [strike.noticed_s - strike.struck_s for strike in those if strike.noticed_s]
        recovered_s = [strike.took_s for strike in those]
        rows[name] = {
            "count": len(those),
            "noticed_median_s": statistics.median(noticed_s) if noticed_s else None,
            "noticed_longest_s": max(noticed_s, default=None),
            "recovered_median_s": statistics.median(recovered_s),
            "recovered_longest_s": max(recovered_s),
            "bound_s": those[0].bound_s,
            "not_recovered": sum(not strike.recovered_s for strike in those),
        }
    return rows


def result(
    strikes: Sequence[Strike],
    account: Account,
    *,
    wanted: int,
    seed: int,
    seconds: float,
    left_out: Mapping[str, str],
    resumes: int,
    clusters: int,
    exit_code: int | None,
    leaked: Sequence[str],
    left: Sequence[str],
) -> dict[str, Any]:
    """All that is known; `failures` says in lines what must not be."""
    faults = summarise(strikes)
    groups = {
        "trained": account.num_trained,
        "lost": len(account.lost),
        "duplicated": len(account.duplicated),
        "misplaced": len(account.misplaced),
    }
    failures = [
        *(
            f"groups {name}: {numbers[:10]}"
            for name, numbers in asdict(account).items()
            if name in groups and numbers and name != "trained"
        ),
        *(
            f"{name}: not recovered within {row['bound_s']:g} s"
            for name, row in faults.items()
            if row["not_recovered"] or row["recovered_longest_s"] > row["bound_s"]
        ),
        *([f"only {len(strikes)} of {wanted} faults struck in the time"] if len(strikes) < wanted else []),
        *([f"the run ended with exit code {exit_code}, not 0 or 130"] if exit_code not in (0, 130) else []),
        *(f"the run left a process: {process}" for process in leaked),
        *(f"a process could not be ended: {process}" for process in left),
    ]
    return {
        "machine": machine(),
        "seed": seed,
        "seconds": seconds,
        "num_faults": len(strikes),
        "steps": account.num_steps,
        "groups": groups,
        "resumed_after_its_end": resumes,
        "clusters_made_again": clusters,
        "faults": faults,
        "left_out": dict(left_out),
        "failures": failures,
    }


def show(shown: Mapping[str, Any], console: Console) -> None:
    """The table, and under it what must hold."""
    table = Table(box=None, pad_edge=False)
    table.add_column("fault")
    for column in ("count", "noticed, median s", "recovered, median s", "longest s", "bound s"):
        table.add_column(column, justify="right")
    for name, row in shown["faults"].items():
        noticed_s = row["noticed_median_s"]
        table.add_row(
            name,
            str(row["count"]),
            "" if noticed_s is None else f"{noticed_s:.1f}",
            f"{row['recovered_median_s']:.1f}",
            f"{row['recovered_longest_s']:.1f}",
            f"{row['bound_s']:g}",
        )
    console.print(table)
    for name, why in shown["left_out"].items():
        console.print(f"left out: {name} ({why})", soft_wrap=True, markup=False)
    groups = shown["groups"]
    console.print(
        f"{shown['num_faults']} faults in {shown['seconds'] / 60:.1f} min, {shown['steps']:,} steps, "
        f"{groups['trained']:,} groups trained: {groups['lost']} lost, {groups['duplicated']} duplicated",
        soft_wrap=True,
    )
    for failure in shown["failures"]:
        console.print(f"FAILED: {failure}", style="red", soft_wrap=True, markup=False)
