"""Which groups a page shows, in which order; and what groups say together: of a problem, of a step, of the verifier.

Shapes: `G` groups of a snapshot, `B` groups of one step, `S` steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np

from cluster.view.group_facts import WORKERS_BETWEEN
from cluster.view.group_index import Snapshot

SORTABLE = {
    "step": "step",
    "reward": "mean reward",
    "best": "best reward",
    "score": "mean score",
    "regret": "best minus picked",
    "agreement": "agreement of score and reward",
    "weight": "sum of |weight|",
    "distinct": "share of different answers",
    "tokens": "mean tokens",
    "longest": "longest sample",
    "unfinished": "share cut off",
    "staleness": "staleness",
    "not_ok": "not judged ok",
}
"""Facts that groups are sorted and filtered by, in words."""
KINDS = {
    "": "all",
    "none": "solved by no sample",
    "some": "solved by some",
    "all": "solved by all",
    "disagree": "a better one than the picked",
    "weightless": "no weight",
    "cut": "some cut off",
    "status": "some not judged ok",
}
PAGE_ROWS = 50
NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Filters and order of a list of groups, as the address of the page says."""

    kind: str = ""
    problem: str = ""
    """Part of a problem's id."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By fact of SORTABLE: smallest and largest value, inclusive."""
    sort: str = "step"
    descending: bool = True
    page: int = 0

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Raises ValueError that names a value which is no number, or an unknown word."""
        ranges = {}
        for fact in SORTABLE:
            low, high = (_number(query, f"{fact}_{end}", sign) for end, sign in (("min", -1), ("max", 1)))
            if math.isfinite(low) or math.isfinite(high):
                ranges[fact] = (low, high)
        sort, kind = query.get("sort") or "step", query.get("kind", "")
        for name, value, known in (("sort", sort, SORTABLE), ("kind", kind, KINDS)):
            if value not in known:
                raise ValueError(f"{name} = {value!r} is none of {', '.join(known)}")
        page = query.get("page", "0")
        if not page.isascii() or not page.isdecimal() or len(page) > 9:
            raise ValueError(f"page = {page!r} is no page number: count from 0")
        return cls(
            kind=kind,
            problem=query.get("problem", ""),
            ranges=ranges,
            sort=sort,
            descending=query.get("order", "desc") != "asc",
            page=int(page),
        )

    def rows(self, snapshot: Snapshot) -> np.ndarray:
        """Indices into the snapshot of all groups that pass, in order; NaN comes last."""
        columns = snapshot.columns
        keep_G = _kind_mask(self.kind, columns)
        for fact, (low, high) in self.ranges.items():
            keep_G &= (columns[fact] >= low) & (columns[fact] <= high)
        if self.problem:
            names = snapshot.names["problem_id"]
            codes = [code for code, name in enumerate(names) if self.problem in name]
            keep_G &= np.isin(columns["problem_id"], codes)
        kept = np.flatnonzero(keep_G)
        key = columns[self.sort][kept].astype(np.float64)
        return kept[np.lexsort((kept, np.where(np.isnan(key), np.inf, -key if self.descending else key)))]

    def describe(self) -> dict[str, str]:
        """The query that leads to the same list, without its page."""
        query = {"kind": self.kind, "problem": self.problem, "sort": self.sort}
        query["order"] = "desc" if self.descending else "asc"
        for fact, (low, high) in self.ranges.items():
            query |= {
                f"{fact}_{end}": f"{v:g}" for end, v in (("min", low), ("max", high)) if math.isfinite(v)
            }
        return {name: value for name, value in query.items() if value}


def group_rows(snapshot: Snapshot, indices: np.ndarray) -> list[dict[str, Any]]:
    """Facts of some groups, as plain values with the problem's id."""
    columns = {name: column[indices].tolist() for name, column in snapshot.columns.items()}
    for name, known in snapshot.names.items():
        columns[name] = [known[code] for code in columns[name]]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def problem_rows(snapshot: Snapshot, num_select: int) -> list[dict[str, Any]]:
    """Every problem: how often asked, its first and its last mean reward and pass@N, and their change."""
    columns = snapshot.columns
    if snapshot.num_groups == 0:
        return []
    order = np.lexsort((columns["step"], columns["problem_id"]))
    codes = columns["problem_id"][order]
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    ends = np.concatenate([starts[1:], [len(codes)]]) - 1
    pass_G = pass_at_k(columns["samples"], columns["correct"], num_select)
    first, last = order[starts], order[ends]
    found = {
        "problem_id": [snapshot.names["problem_id"][code] for code in codes[starts].tolist()],
        "asked": (ends - starts + 1).tolist(),
        "first_step": columns["step"][first].tolist(),
        "last_step": columns["step"][last].tolist(),
        "first_reward": columns["reward"][first].tolist(),
        "last_reward": columns["reward"][last].tolist(),
        "first_pass": pass_G[first].tolist(),
        "last_pass": pass_G[last].tolist(),
        "change": (pass_G[last] - pass_G[first]).tolist(),
    }
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def pass_at_k(num_G: np.ndarray, correct_G: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """[G] unbiased 1 - C(n - c, k) / C(n, k), k one or [G]; at n where a group is smaller than k."""
    wrong_G, k_G = num_G - correct_G, np.minimum(k, num_G)
    missed_G = np.ones(len(num_G))
    for i in range(int(k_G.max(initial=0))):
        factor_G = np.maximum(wrong_G - i, 0) / np.maximum(num_G - i, 1)
        missed_G = np.where(i < k_G, missed_G * factor_G, missed_G)
    return 1 - missed_G


def wilson(correct_G: np.ndarray, num_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[G] ends of the 95 % interval of the chance that one sample is right, from c of n."""
    share_G, z2 = correct_G / num_G, NORMAL_95**2
    middle_G = (share_G + z2 / (2 * num_G)) / (1 + z2 / num_G)
    half_G = NORMAL_95 * np.sqrt(share_G * (1 - share_G) / num_G + z2 / (4 * num_G**2)) / (1 + z2 / num_G)
    low_G = np.where(correct_G == 0, 0.0, middle_G - half_G)
    return low_G, np.where(correct_G == num_G, 1.0, middle_G + half_G)


def by_step(
    snapshot: Snapshot, num_select: int | np.ndarray
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """[S] steps, and of facts their mean over a step's groups with its standard error: (mean, error), [S] each.

    `num_select`: N of pass@N, or [G] that of each group.
    """
    columns = snapshot.columns
    if snapshot.num_groups == 0:
        return np.empty(0, np.int64), {}
    starts = np.flatnonzero(np.concatenate([[True], np.diff(columns["step"]) != 0]))
    found = {}
    facts = {name: columns[name] for name in ("reward", "distinct", "agreement", "regret", "weight")}
    facts["pass_at_n"] = pass_at_k(columns["samples"], columns["correct"], num_select)
    for name, value_G in facts.items():
        found[name] = _mean_and_error(value_G.astype(np.float64), starts)
    return columns["step"][starts].astype(np.int64), found


def workers_by_step(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """[S] steps, and how many different workers sampled the groups of each."""
    columns = snapshot.columns
    if snapshot.num_groups == 0:
        return np.empty(0, np.int64), np.empty(0)
    names = [text.split(WORKERS_BETWEEN) for text in snapshot.names["worker"]]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(chain.from_iterable(names)))}
    width = len(names)
    found = np.unique(columns["step"].astype(np.int64) * width + columns["worker"])
    steps, codes = np.divmod(found, width)
    numbers = [[number_of[name] for name in of_code] for of_code in names]
    steps = np.repeat(steps, np.array([len(of_code) for of_code in numbers])[codes])
    workers = np.concatenate([numbers[code] for code in codes.tolist()])
    pairs = np.unique(steps * len(number_of) + workers)
    steps, counts = np.unique(pairs // len(number_of), return_counts=True)
    return steps, counts.astype(np.float64)


def has_truth_values(snapshot: Snapshot) -> bool:
    """Whether all rewards are 0 or 1, so that pass@N is the share of groups with a right one among N."""
    columns = snapshot.columns
    return bool(np.allclose(columns["reward"] * columns["samples"], columns["correct"], rtol=0, atol=1e-9))


def _mean_and_error(value_G: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = np.isfinite(value_G)
    count = np.add.reduceat(there.astype(np.int64), starts)
    filled = np.where(there, value_G, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(filled, starts) / count
        centred = np.where(there, value_G - np.repeat(mean, np.diff([*starts, len(value_G)])), 0.0)
        error = np.sqrt(np.add.reduceat(centred**2, starts) / (count - 1) / count)
    return mean, error


def _kind_mask(kind: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    correct, samples = columns["correct"], columns["samples"]
    masks = {
        "none": lambda: correct == 0,
        "some": lambda: (correct > 0) & (correct < samples),
        "all": lambda: correct == samples,
        "disagree": lambda: columns["regret"] > 1e-12,
        "weightless": lambda: columns["weight"] == 0,
        "cut": lambda: columns["unfinished"] > 0,
        "status": lambda: columns["not_ok"] > 0,
    }
    return masks[kind]() if kind else np.ones(len(correct), bool)


def _number(query: Mapping[str, str], name: str, sign: int) -> float:
    text = query.get(name, "").strip()
    if not text:
        return sign * math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name} = {text!r} is no number")
    return value
