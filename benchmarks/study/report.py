"""The study's numbers: arms against the base model, with intervals over problems and seeds.

Shapes: `S` seeds of an arm, `P` test problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.study.arms import ARMS, LEARNING_RATES
from benchmarks.study.measure import KS, Policy

STRATEGY = ("distinct_answers", "distinct_strategies", "entropy", "missed_by_likeliest")
"""What of a policy's samples is shown as a mean over seeds."""
COMPARISONS = (
    ("bon", 32, "nines_bon16", "rloo"),
    ("bon", 32, "nines_bon16", "nines_rloo"),
    ("bon", 32, "nines_bon16", "bon16"),
    ("pass", 32, "bon16", "rloo"),
    ("pass", 32, "bon_rlb", "bon16"),
    ("pass", 32, "bon_rlbp", "bon16"),
    ("pass", 32, "bon_sft", "sft"),
    ("pass", 16, "bon_sft", "sft"),
)
"""Metric, k, and the two arms whose difference is shown."""


def estimate(values_SP: np.ndarray) -> dict[str, Any]:
    """Mean over seeds and problems with a 95 % interval, and each seed's mean.

    Problems and seeds are crossed samples of all problems and all seeds. Their means' variances over their
    numbers add up to at least the variance of the whole mean (what depends on both is counted twice); the
    interval is Student's, with the degrees of freedom of Welch and Satterthwaite: wide where five seeds
    differ, normal where only problems do. A single seed's interval is over problems only.
    """
    seeds_S = values_SP.mean(axis=1)
    return {
        **_around(float(values_SP.mean()), [values_SP.mean(axis=0), seeds_S]),
        "seeds": [float(seed) for seed in seeds_S],
    }


def difference(values_SP: np.ndarray, against_SP: np.ndarray) -> dict[str, Any]:
    """Mean of one arm minus that of another with a 95 % interval over problems and over both arms' seeds.

    Both arms answer the same problems, so a problem counts with its difference of the two arms' means over
    seeds. Their seeds are independent samples (the numbers of seeds may differ), so each arm's seeds add a
    part of their own: a seed of one arm is not paired with the other's of the same number. The parts add up
    as in `estimate`; an arm with a single seed adds none.
    """
    parts = [
        values_SP.mean(axis=0) - against_SP.mean(axis=0),
        values_SP.mean(axis=1),
        against_SP.mean(axis=1),
    ]
    return _around(float(values_SP.mean() - against_SP.mean()), parts)


def _around(mean: float, samples: Sequence[np.ndarray]) -> dict[str, Any]:
    """A 95 % interval whose variance is that of the samples' means, added up (Welch-Satterthwaite)."""
    parts = [(sample.var(ddof=1) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(student.ppf(0.975, freedom)) * math.sqrt(variance)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarise(
    policies: Sequence[Policy], tuning: Sequence[Policy], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that the tables and figures show, as plain numbers.

    Raises ValueError where the base model, with which all are compared, was not measured.
    """
    base = next((policy for policy in policies if policy.arm == "base"), None)
    if base is None:
        raise ValueError(
            f"the base model was not measured ({failures.get('base-test', 'no result')}): run the study again"
        )
    rows = [_row("base", "base", [base], base)]
    for name, arm in ARMS.items():
        of_arm = sorted((p for p in policies if p.arm == name), key=lambda policy: policy.seed)
        if of_arm:
            rows.append(_row(name, arm.label, of_arm, base))
    return {
        "commits": sorted({policy.git_commit for policy in (*policies, *tuning)}),
        "test_problems": len(base.correct_P),
        "samples_per_problem": base.num_samples,
        "arms": rows,
        "comparisons": _comparisons(policies),
        "tuning": [_tuning_row(policy) for policy in tuning],
        "failures": dict(failures),
    }


def _comparisons(policies: Sequence[Policy]) -> list[dict[str, Any]]:
    """Of the `COMPARISONS` those whose arms were both measured."""
    rows = []
    for metric, k, name, other in COMPARISONS:
        ours, others = ([p for p in policies if p.arm == arm] for arm in (name, other))
        if ours and others:
            about = {"metric": f"{metric}@{k}", "name": name, "against": other}
            seeds = {"num_seeds": len(ours), "num_seeds_against": len(others)}
            change = difference(_values(ours, metric, k), _values(others, metric, k))
            rows.append({**about, **seeds, **change})
    return rows


def _values(policies: Sequence[Policy], metric: str, k: int) -> np.ndarray:
    """float64 [S, P]."""
    return np.stack([policy.values(metric, k) for policy in policies])


def _row(name: str, label: str, policies: Sequence[Policy], base: Policy) -> dict[str, Any]:
    values: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for metric in ("pass", "bon"):
        for k in KS:
            values_SP = _values(policies, metric, k)
            values[f"{metric}@{k}"] = estimate(values_SP)
            if name != "base":
                changes[f"{metric}@{k}"] = estimate(values_SP - base.values(metric, k))
    return {
        "name": name,
        "label": label,
        "learning_rate": policies[0].learning_rate,
        "num_seeds": len(policies),
        "values": values,
        "changes": changes,
        **{name: _mean([getattr(policy, name) for policy in policies]) for name in STRATEGY},
    }


def _mean(values: Sequence[float]) -> float | None:
    """None where a policy has no value: JSON has no NaN."""
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


def _tuning_row(policy: Policy) -> dict[str, Any]:
    metric, k = ARMS[policy.arm].tuned_on
    return {
        "name": policy.arm,
        "learning_rate": policy.learning_rate,
        "tuned_on": f"{metric}@{k}",
        "value": float(policy.values(metric, k).mean()),
        **{f"pass@{k}": float(policy.values("pass", k).mean()) for k in (1, 8, 32)},
    }


Rows = list[list[str]]
"""A table: its header, then its rows."""


def tables(results: Mapping[str, Any]) -> dict[str, Rows]:
    """The tables of docs/study.md, by name."""
    return {
        "main": _main_table(results),
        "verifier": _verifier_table(results),
        "comparisons": _comparison_table(results),
        "tuning": _tuning_table(results),
        "strategy": _strategy_table(results),
    }


def blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of docs/study.md, by name, as Markdown."""
    failures = [f"- {name}: {message}" for name, message in results["failures"].items()]
    return {
        **{name: markdown(rows) for name, rows in tables(results).items()},
        "failures": "\n".join(failures) or "No run failed.",
        "missing": _missing(results),
        "commits": f"Made and measured by the code at {_commits(results)}.",
    }


def _commits(results: Mapping[str, Any]) -> str:
    """Short, but with `+dirty` where the code was not what the commit holds."""
    parts = [commit.partition("+") for commit in results["commits"]]
    return ", ".join(f"`{commit[:9]}{plus}{dirty}`" for commit, plus, dirty in parts)


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
        cells = [row["label"], _rate(row), str(row["num_seeds"])]
        cells += [number(values[f"pass@{k}"]["mean"]) for k in (1, 8, 32)]
        cells += [interval(changes.get(f"pass@{k}")) for k in (1, 32)]
        rows.append([*cells, _by_seed(changes.get("pass@32"))])
    return rows


def _verifier_table(results: Mapping[str, Any]) -> Rows:
    shown = ("base", "rloo", "bon16", "nines_rloo", "nines_bon16")
    rows = [["arm", "lr", "seeds", "pass@1", "Bo8", "Bo32", "pass@32", "change of Bo32", "by seed (Bo32)"]]
    for row in (row for name in shown for row in results["arms"] if row["name"] == name):
        values, change = row["values"], row["changes"].get("bon@32")
        cells = [row["label"], _rate(row), str(row["num_seeds"])]
        cells += [number(values[name]["mean"]) for name in ("pass@1", "bon@8", "bon@32", "pass@32")]
        rows.append([*cells, interval(change), _by_seed(change)])
    return rows


def _comparison_table(results: Mapping[str, Any]) -> Rows:
    rows = [["measure", "arm", "against", "seeds", "change"]]
    # A study.json from before the comparisons has none.
    for row in results.get("comparisons", ()):
        labels = [ARMS[row[name]].label for name in ("name", "against")]
        seeds = f"{row['num_seeds']}, {row['num_seeds_against']}"
        rows.append([row["metric"].replace("bon@", "Bo"), *labels, seeds, interval(row)])
    return rows


def _tuning_table(results: Mapping[str, Any]) -> Rows:
    rows = [["arm", "chosen on", "lr", "value", "pass@1", "pass@8", "pass@32"]]
    rates = {row["name"]: row["learning_rate"] for row in results["arms"]}
    order = list(ARMS)
    for row in sorted(results["tuning"], key=lambda row: (order.index(row["name"]), row["learning_rate"])):
        rate = f"{row['learning_rate']:.0e}"
        if rates.get(row["name"]) == row["learning_rate"]:
            is_edge = row["learning_rate"] in (min(LEARNING_RATES), max(LEARNING_RATES))
            rate = f"**{rate}**" + (" (edge of the grid)" if is_edge else "")
        cells = [ARMS[row["name"]].label, row["tuned_on"], rate]
        rows.append([*cells, *(number(row[name]) for name in ("value", "pass@1", "pass@8", "pass@32"))])
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


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['learning_rate']:.0e}" if row["name"] != "base" else ""


def _by_seed(change: Mapping[str, Any] | None) -> str:
    return " ".join(number(mean, "+") for mean in change["seeds"]) if change else ""


def number(value: float, sign: str = "") -> str:
    """Three decimals without the leading zero: .584, +.103."""
    return f"{round(value, 3) + 0.0:{sign}.3f}".replace("0.", ".", 1)


def interval(estimate: Mapping[str, Any] | None) -> str:
    """Mean and interval of a change; bold where the interval leaves 0 out."""
    if estimate is None:
        return ""
    text = (
        f"{number(estimate['mean'], '+')} [{number(estimate['low'], '+')}, {number(estimate['high'], '+')}]"
    )
    return f"**{text}**" if estimate["low"] > 0 or estimate["high"] < 0 else text
