"""One file of trajectories reduced to a few numbers per group: what groups are filtered and sorted by.

Columns are read where they lie, token ids and log-probs never, texts only where the verifier names no answers.

Shapes: `B` groups of the file, `S` samples of all of them, laid end to end, `T` tokens of all samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

NUMBERS: dict[str, type] = {
    "step": np.int32,
    "row": np.int32,
    "group": np.int64,
    "samples": np.int32,
    "correct": np.int32,
    "reward": np.float64,
    "best": np.float64,
    "score": np.float64,
    "picked": np.float64,
    "regret": np.float64,
    "agreement": np.float64,
    "differing": np.float64,
    "weight": np.float64,
    "distinct": np.float64,
    "tokens": np.float64,
    "longest": np.int32,
    "unfinished": np.float64,
    "not_ok": np.int32,
    "staleness": np.int32,
}
"""Facts of a group.

`samples` n, `correct` those with reward 1, `reward` mean, `best` highest reward, `score` mean of the finite ones,
`picked` reward of the sample with the highest score, ties averaged, `regret` best - picked, `agreement` share of pairs of
different rewards that the scores order as the rewards do, equal scores for half (NaN without such a pair), `differing`
share of samples whose score is not their reward, `weight` sum of |weight|, `distinct` different answers (texts where there
are no answers) over n, `tokens` mean length, `longest` length, `unfinished` share cut off at max_tokens, `not_ok` samples
whose status is not ok, `staleness` versions between the oldest token and the update.
"""
TEXTS = ("problem_id", "worker")
"""`worker`: the names of all that sampled some of the group, with WORKERS_BETWEEN."""
WORKERS_BETWEEN = ", "
_WANTED = (
    "group",
    *TEXTS,
    "workers",
    "scores",
    "rewards",
    "weights",
    "versions",
    "finish_reasons",
    "statuses",
    "answers",
)


class Unreadable(ValueError):
    """A file of trajectories is damaged or lacks a column; one line that names it."""


def read_facts(path: Path, step: int) -> dict[str, Any]:
    """Facts of every group of one file, in the file's order: each of NUMBERS as an array [B], TEXTS as lists of B.

    Raises Unreadable.
    """
    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            table = file.read(columns=[name for name in _WANTED if name in there], use_threads=False)
            table = table.combine_chunks()
            answers = _flat(table, "answers") if "answers" in there else None
            if answers is None or answers.null_count == len(answers):
                texts = file.read(columns=["texts"], use_threads=False).combine_chunks()
                answers = _flat(texts, "texts")
        return _facts(table, answers, step)
    except (pa.ArrowException, OSError, KeyError, ValueError, IndexError) as error:
        raise Unreadable(
            f"{path} cannot be read ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from None


def _facts(table: pa.Table, answers: pa.Array, step: int) -> dict[str, Any]:
    num_groups = table.num_rows
    if num_groups == 0:
        return {**{name: np.empty(0, kind) for name, kind in NUMBERS.items()}, **{name: [] for name in TEXTS}}
    starts_B = _starts(table["rewards"])
    group_S = np.repeat(np.arange(num_groups), np.diff([*starts_B, len(_flat(table, "rewards"))]))
    num_B = np.bincount(group_S, minlength=num_groups)
    rewards_S, scores_S = (
        _flat(table, name).to_numpy(zero_copy_only=False) for name in ("rewards", "scores")
    )

    def mean(values_S: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values_S.astype(np.float64), starts_B) / num_B

    finite_S = np.isfinite(scores_S)
    num_finite_B = np.add.reduceat(finite_S.astype(np.int64), starts_B)
    with np.errstate(invalid="ignore", divide="ignore"):
        score_B = np.add.reduceat(np.where(finite_S, scores_S, 0.0), starts_B) / num_finite_B
    top_S = scores_S == np.maximum.reduceat(scores_S, starts_B)[group_S]
    picked_B = np.add.reduceat(np.where(top_S, rewards_S, 0.0), starts_B) / np.add.reduceat(
        top_S.astype(np.int64), starts_B
    )
    best_B = np.maximum.reduceat(rewards_S, starts_B)
    differing_B = mean(scores_S != rewards_S)
    lengths_S, oldest_B = _lengths_and_oldest(table)
    if "weights" in table.column_names:
        weight_B = np.add.reduceat(np.abs(_flat(table, "weights").to_numpy(zero_copy_only=False)), starts_B)
    else:
        weight_B = np.full(num_groups, np.nan)
    return {
        "step": np.full(num_groups, step, np.int32),
        "row": np.arange(num_groups, dtype=np.int32),
        "group": table["group"].to_numpy().astype(np.int64),
        "samples": num_B.astype(np.int32),
        "correct": np.add.reduceat((rewards_S == 1).astype(np.int32), starts_B).astype(np.int32),
        "reward": mean(rewards_S),
        "best": best_B,
        "score": score_B,
        "picked": picked_B,
        "regret": best_B - picked_B,
        "agreement": np.array(
            [
                _agreement(scores_S[start : start + n], rewards_S[start : start + n], same=share == 0)
                for start, n, share in zip(starts_B, num_B, differing_B, strict=True)
            ]
        ),
        "differing": differing_B,
        "weight": weight_B,
        "distinct": _num_distinct(answers, group_S, num_groups) / num_B,
        "tokens": mean(lengths_S),
        "longest": np.maximum.reduceat(lengths_S, starts_B).astype(np.int32),
        "unfinished": mean(_is(table, "finish_reasons", "length")),
        "not_ok": np.add.reduceat((~_is(table, "statuses", "ok")).astype(np.int32), starts_B).astype(
            np.int32
        ),
        "staleness": (step - 1 - oldest_B).astype(np.int32),
        "problem_id": table["problem_id"].to_pylist(),
        "worker": _worker_names(table),
    }


def _worker_names(table: pa.Table) -> list[str]:
    """[B]; a run from before groups were divided names one worker a group."""
    if "worker" in table.column_names:
        return table["worker"].to_pylist()
    encoded = _flat(table, "workers").dictionary_encode()
    names, code_S = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    return [
        WORKERS_BETWEEN.join(names[code] for code in dict.fromkeys(codes.tolist()))
        for codes in np.split(code_S, _starts(table["workers"])[1:])
    ]


def _flat(table: pa.Table, name: str) -> pa.Array:
    flat = pc.list_flatten(table[name])
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _starts(lists: pa.ChunkedArray) -> np.ndarray:
    """[B] where each group's samples begin; a group has at least one."""
    lengths = pc.list_value_length(lists).to_numpy()
    if not np.all(lengths > 0):
        raise ValueError("a group without samples")
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _lengths_and_oldest(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """[S] tokens of each sample and [B] the oldest version of each group's tokens."""
    samples = _flat(table, "versions")
    lengths_S = pc.list_value_length(samples).to_numpy(zero_copy_only=False)
    versions_T = pc.list_flatten(samples).to_numpy(zero_copy_only=False)
    tokens_B = np.add.reduceat(lengths_S.astype(np.int64), _starts(table["versions"]))
    starts_B = np.concatenate([[0], np.cumsum(tokens_B)[:-1]])
    return lengths_S, np.minimum.reduceat(versions_T, starts_B)


def _is(table: pa.Table, name: str, value: str) -> np.ndarray:
    return pc.equal(_flat(table, name), value).to_numpy(zero_copy_only=False).astype(bool)


def _num_distinct(texts: pa.Array, group_S: np.ndarray, num_groups: int) -> np.ndarray:
    """[B] different texts of each group; null, no answer, counts as one more."""
    codes = (
        pc.fill_null(texts.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    pairs = np.unique(group_S * (codes.max() + 2) + codes + 1)
    return np.bincount(pairs // (codes.max() + 2), minlength=num_groups)


def _agreement(scores: np.ndarray, rewards: np.ndarray, *, same: bool) -> float:
    if rewards.min() == rewards.max():
        return np.nan
    if same:
        return 1.0
    order_NN = np.sign(rewards[:, None] - rewards[None, :])
    with np.errstate(invalid="ignore"):  # -inf minus -inf: equal scores
        judged_NN = np.sign(np.nan_to_num(scores[:, None] - scores[None, :], nan=0.0))
    return float((1 + (order_NN * judged_NN)[order_NN != 0].mean()) / 2)
