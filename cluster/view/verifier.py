"""How far the score, which picks, agrees with the reward, which is wanted: in numbers, over the steps and by score.

Shapes: `F` files of trajectories, `S` samples of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.view.group_index import Snapshot
from cluster.view.library import Run
from cluster.view.selection import NORMAL_95

NUM_FILES = 20
"""Newest steps whose samples the table by score is made of."""
NUM_BINS = 10


def verifier_facts(run: Run, snapshot: Snapshot) -> dict[str, Any]:
    """Of all groups so far, with 95 % intervals over groups; and a table by score of the newest samples."""
    columns = snapshot.columns
    return {
        "reward_verifier": run.setting("verifier", "reward", ""),
        "score_verifier": run.setting("verifier", "score") or run.setting("verifier", "reward", ""),
        "is_one": bool(snapshot.num_groups) and bool(np.all(columns["differing"] == 0)),
        "picked": _interval(columns["picked"]),
        "best": _interval(columns["best"]),
        "reward": _interval(columns["reward"]),
        "regret": _interval(columns["regret"]),
        "agreement": _interval(columns["agreement"]),
        "bins": score_bins(run, snapshot),
        "num_files": NUM_FILES,
    }


def score_bins(run: Run, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Samples of the newest steps by score, from low to high: how many, and their mean reward."""
    steps = np.unique(snapshot.columns["step"])[-NUM_FILES:].tolist()
    scores, rewards = [], []
    for step in steps:
        try:
            with pq.ParquetFile(run.groups.path_of(step)) as file:
                table = file.read(columns=["scores", "rewards"])
        except (pa.ArrowException, OSError):
            continue  # the index says which files are damaged
        scores.append(pc.list_flatten(table["scores"]).to_numpy())
        rewards.append(pc.list_flatten(table["rewards"]).to_numpy())
    if not scores:
        return []
    score_S, reward_S = np.concatenate(scores), np.concatenate(rewards)
    finite = np.isfinite(score_S)
    bins = []
    if not finite.all():
        bins.append(_bin("-inf: never picked", reward_S[~finite]))
    score_S, reward_S = score_S[finite], reward_S[finite]
    values = np.unique(score_S)
    if len(values) <= NUM_BINS:
        return bins + [_bin(f"{value:.4g}", reward_S[score_S == value]) for value in values]
    edges = np.unique(np.quantile(score_S, np.linspace(0, 1, NUM_BINS + 1)))
    place = np.clip(np.searchsorted(edges, score_S, side="right") - 1, 0, len(edges) - 2)
    return bins + [
        _bin(f"{edges[i]:.3g} to {edges[i + 1]:.3g}", reward_S[place == i]) for i in range(len(edges) - 1)
    ]


def _bin(label: str, reward_S: np.ndarray) -> dict[str, Any]:
    return {"label": label, "num": len(reward_S), "reward": float(reward_S.mean())}


def _interval(values: np.ndarray) -> dict[str, float] | None:
    known = values[np.isfinite(values)].astype(np.float64)
    if len(known) == 0:
        return None
    mean = float(known.mean())
    half = NORMAL_95 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else float("nan")
    return {"mean": mean, "low": mean - half, "high": mean + half}
