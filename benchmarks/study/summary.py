"""A study's numbers: arms against the base model, with intervals over problems and seeds.

Where the base was made more than once, with other bits, a policy is compared with the one that it was made of, and arms with
each other on the bases that both were made of.

Shapes: `S` seeds of an arm, `P` test problems, `G` clusters of problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.study.design import Outline, Policy

Part = tuple[float, int]
"""Of a variance: how much, with how many degrees of freedom."""


def estimate(
    values_SP: np.ndarray, clusters_P: np.ndarray | None = None, bases_S: Sequence[str] = ()
) -> dict[str, Any]:
    """Mean over seeds and problems with a 95 % interval, and each seed's mean.

    Problems and seeds are crossed samples of all problems and all seeds. Their means' variances over their
    numbers add up to at least the variance of the whole mean (what depends on both is counted twice); the
    interval is Student's, with the degrees of freedom of Welch and Satterthwaite: wide where five seeds
    differ, normal where only problems do. A single seed's interval is over problems only.

    Problems of one cluster (`clusters_P`: equal entries) depend on each other, and clusters take their place; so do seeds
    of one base (`bases_S`), where there are several bases.
    """
    seeds_S = values_SP.mean(axis=1)
    parts = [_over_problems(values_SP.mean(axis=0), clusters_P), *_over_seeds(seeds_S, bases_S)]
    return {
        **_around(float(values_SP.mean()), parts),
        "seeds": [float(seed) for seed in seeds_S],
    }


def difference(
    values_SP: np.ndarray, against_SP: np.ndarray, clusters_P: np.ndarray | None = None
) -> dict[str, Any]:
    """Mean of one arm minus that of another with a 95 % interval over problems and over both arms' seeds.

    Both arms answer the same problems, so a problem counts with its difference of the two arms' means over
    seeds. Their seeds are independent samples (the numbers of seeds may differ), so each arm's seeds add a
    part of their own: a seed of one arm is not paired with the other's of the same number. The parts add up
    as in `estimate`; an arm with a single seed adds none.
    """
    parts = [
        _over_problems(values_SP.mean(axis=0) - against_SP.mean(axis=0), clusters_P),
        *_over_seeds(values_SP.mean(axis=1)),
        *_over_seeds(against_SP.mean(axis=1)),
    ]
    return _around(float(values_SP.mean() - against_SP.mean()), parts)


def _over_seeds(means_S: np.ndarray, bases_S: Sequence[str] = ()) -> list[Part]:
    """Variance of their mean, by bases where there are several; nothing for a single seed."""
    if len(means_S) < 2:
        return []
    return [_over_problems(means_S, np.array(bases_S) if len(set(bases_S)) > 1 else None)]


def _over_problems(means_P: np.ndarray, clusters_P: np.ndarray | None) -> Part:
    """Variance of their mean: of G clusters with sums s_g of what their problems differ from it, G/(G-1) sum s_g^2 / P^2."""
    if clusters_P is None:
        clusters_P = np.arange(len(means_P))
    _, cluster_of = np.unique(clusters_P, return_inverse=True)
    sums_G = np.bincount(cluster_of, weights=means_P - means_P.mean())
    degrees = len(sums_G) - 1
    if degrees < 1:
        return 0.0, 1
    return float((sums_G**2).sum()) * len(sums_G) / degrees / len(means_P) ** 2, degrees


def _around(mean: float, parts: Sequence[Part]) -> dict[str, Any]:
    """A 95 % interval whose variance is that of the parts, added up (Welch-Satterthwaite)."""
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(student.ppf(0.975, freedom)) * math.sqrt(variance)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarise(
    outline: Outline, policies: Sequence[Policy], tuning: Sequence[Policy], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that tables and figures show, as plain numbers.

    Raises ValueError where the base model, with which all are compared, was not measured.
    """
    bases = {policy.base: policy for policy in policies if policy.arm == "base"}
    used = {policy.base for policy in policies if policy.arm != "base"} or bases.keys()
    if not bases or not used <= bases.keys():
        failure = next((text for name, text in failures.items() if name.startswith("base-test")), "no result")
        raise ValueError(f"the base model was not measured ({failure}): run the study again")
    bases = {name: policy for name, policy in bases.items() if name in used}
    base = next(iter(bases.values()))
    rows = [_row(outline, "base", "base", list(bases.values()), bases)]
    for name, arm in outline.arms.items():
        of_arm = sorted((p for p in policies if p.arm == name), key=lambda policy: policy.seed)
        if of_arm:
            rows.append(_row(outline, name, arm.label, of_arm, bases))
    return {
        "commits": sorted({policy.git_commit for policy in (*policies, *tuning)}),
        "test_problems": len(base.correct_P),
        "samples_per_problem": base.num_samples,
        "arms": rows,
        "comparisons": _comparisons(outline, policies, bases),
        "tuning": [_tuning_row(outline, policy) for policy in tuning],
        "failures": dict(failures),
        "bases": sorted(bases),
    }


def _comparisons(
    outline: Outline, policies: Sequence[Policy], bases: Mapping[str, Policy]
) -> list[dict[str, Any]]:
    """Of the design's comparisons those whose arms were both measured."""
    rows = []
    for metric, k, name, other in outline.comparisons:
        of_both = [[p for p in policies if p.arm == arm] for arm in (name, other)]
        shared = sorted(set.intersection(*({p.base for p in of_arm} for of_arm in of_both)))
        ours, others = ([p for p in of_arm if p.base in shared] for of_arm in of_both)
        if shared:
            about = {"metric": f"{metric}@{k}", "name": name, "against": other}
            seeds = {"num_seeds": len(ours), "num_seeds_against": len(others), "num_bases": len(shared)}
            found = _difference_within_bases(ours, others, shared, metric, k)
            rows.append({**about, **seeds, **found})
    return rows


def _difference_within_bases(
    ours: Sequence[Policy], others: Sequence[Policy], bases: Sequence[str], metric: str, k: int
) -> dict[str, Any]:
    """Between two arms, of policies that were made of the same bases.

    Of several bases each is one independent sample of what base and seeds together do: its difference is of the means
    over its seeds.
    """
    clusters_P = ours[0].clusters_P
    if len(bases) == 1:
        return difference(_values(ours, metric, k), _values(others, metric, k), clusters_P)
    of_base_BP = [
        np.subtract(
            *(
                _values([p for p in of_arm if p.base == base], metric, k).mean(axis=0)
                for of_arm in (ours, others)
            )
        )
        for base in bases
    ]
    found = estimate(np.stack(of_base_BP), clusters_P)
    return {bound: found[bound] for bound in ("mean", "low", "high")}


def _values(policies: Sequence[Policy], metric: str, k: int) -> np.ndarray:
    """float64 [S, P]."""
    return np.stack([policy.values(metric, k) for policy in policies])


def _changes(policies: Sequence[Policy], bases: Mapping[str, Policy], metric: str, k: int) -> np.ndarray:
    """float64 [S, P], from the base that each was made of."""
    return _values(policies, metric, k) - _values([bases[policy.base] for policy in policies], metric, k)


def _row(
    outline: Outline, name: str, label: str, policies: Sequence[Policy], bases: Mapping[str, Policy]
) -> dict[str, Any]:
    clusters_P, bases_S = policies[0].clusters_P, [policy.base for policy in policies]
    values: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for metric, k in outline.metrics:
        values_SP = _values(policies, metric, k)
        values[f"{metric}@{k}"] = estimate(values_SP, clusters_P, bases_S)
        if name != "base":
            changes[f"{metric}@{k}"] = estimate(_changes(policies, bases, metric, k), clusters_P, bases_S)
    described = [policy.described() for policy in policies]
    return {
        "name": name,
        "label": label,
        "learning_rate": policies[0].learning_rate,
        "num_seeds": len(policies),
        "num_bases": len(set(bases_S)),
        "values": values,
        "changes": changes,
        **{fact: _mean([facts[fact] for facts in described]) for fact in described[0]},
    }


def _mean(values: Sequence[float]) -> float | None:
    """None where a policy has no value: JSON has no NaN."""
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


def _tuning_row(outline: Outline, policy: Policy) -> dict[str, Any]:
    metric, k = outline.arms[policy.arm].tuned_on
    return {
        "name": policy.arm,
        "learning_rate": policy.learning_rate,
        "tuned_on": f"{metric}@{k}",
        "base": policy.base,
        "value": float(policy.values(metric, k).mean()),
        **{
            f"{name}@{k}": float(policy.values(name, k).mean())
            for name, k in outline.metrics
            if k in (1, 8, 32)
        },
    }
