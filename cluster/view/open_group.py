"""One group read whole from where it lies: its samples as a page shows them, and the tokens of one.

Shapes: `n` samples, `T` tokens of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.view.group_facts import WORKERS_BETWEEN, Unreadable

ROWS_PER_READ = 8
PER_TOKEN = ("token_ids", "logprobs", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """One sample, or several with the same text and verdict."""

    indices: tuple[int, ...]
    """Their places in the group, counted from 0."""
    text: str
    answer: str | None
    score: float
    reward: float
    weights: tuple[float, ...]
    """Of each of `indices`; empty in a file without weights."""
    status: str
    finish_reason: str
    tokens: int
    logprob: float
    """Of the whole text, in nats, as the engine sampled it; of the first where there are several."""
    oldest: int
    newest: int
    """Policy versions of its tokens."""
    latency_s: float
    is_picked: bool

    @property
    def weight(self) -> float:
        """What all of them weigh together."""
        return sum(self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGroup:
    """A group with its samples: the picked first, then by score, reward and weight, all descending."""

    group: int
    problem_id: str
    worker: str
    """Names of all that sampled some of it."""
    seed: int
    prompt_token_ids: tuple[int, ...]
    num_samples: int
    samples: tuple[ShownSample, ...]
    num_picked: int
    """Samples that share the highest score; Best-of-n takes the mean of their rewards."""
    demonstration_score: float | None

    @property
    def score_is_reward(self) -> bool:
        return all(sample.score == sample.reward for sample in self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTokens:
    """The tokens of one sample, [T] each."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]


def open_group(path: Path, row: int) -> OpenGroup:
    """The group in that row of a file. Raises Unreadable, and LookupError where the file has no such row."""
    found = _read_row(path, row)
    plain = {name: found[name][0].as_py() for name in found.schema.names if name not in PER_TOKEN}
    per_token = _per_token(found)
    num, scores, weights = len(plain["texts"]), plain["scores"], plain.get("weights")
    top = max(scores)
    folded: dict[tuple[Any, ...], list[int]] = {}
    for i in range(num):
        key = tuple(plain[name][i] for name in ("texts", "scores", "rewards", "statuses", "finish_reasons"))
        folded.setdefault(key, []).append(i)
    samples = [
        ShownSample(
            indices=tuple(indices),
            text=plain["texts"][i],
            answer=plain["answers"][i] if plain.get("answers") else None,
            score=scores[i],
            reward=plain["rewards"][i],
            weights=tuple(weights[j] for j in indices) if weights is not None else (),
            status=plain["statuses"][i],
            finish_reason=plain["finish_reasons"][i],
            is_picked=scores[i] == top,
            **{name: values[i].item() for name, values in per_token.items()},
        )
        for i, indices in ((indices[0], indices) for indices in folded.values())
    ]
    samples.sort(key=lambda one: (one.is_picked, one.score, one.reward, one.weight), reverse=True)
    return OpenGroup(
        group=plain["group"],
        problem_id=plain["problem_id"],
        worker=plain["worker"]
        if "worker" in plain
        else WORKERS_BETWEEN.join(dict.fromkeys(plain["workers"])),
        seed=plain["seed"],
        prompt_token_ids=tuple(plain["prompt_token_ids"]),
        num_samples=num,
        samples=tuple(samples),
        num_picked=sum(score == top for score in scores),
        demonstration_score=plain.get("demonstration_score"),
    )


def sample_tokens(path: Path, row: int, sample: int) -> SampleTokens:
    """The tokens of one sample. Raises Unreadable, and LookupError where there is no such row or sample."""
    found = _read_row(path, row, PER_TOKEN)
    if not 0 <= sample < len(found["token_ids"][0]):
        raise LookupError(f"{path}, row {row}, has no sample {sample}")
    ids, logprobs, versions = (tuple(found[name][0].values[sample].as_py()) for name in PER_TOKEN)
    return SampleTokens(ids=ids, logprobs=logprobs, versions=versions)


def find_row(path: Path, group: int) -> int:
    """The row of the group of that number. Raises Unreadable, and LookupError where there is none."""
    try:
        with pq.ParquetFile(path) as file:
            numbers = file.read(columns=["group"]).column("group").to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Unreadable(f"{path} cannot be read ({error})") from None
    if group not in numbers:
        raise LookupError(f"{path} has no group {group}")
    return numbers.index(group)


def _read_row(path: Path, row: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """One row. Of a large file what stands before the row is read too, what stands behind it is not."""
    try:
        with pq.ParquetFile(path) as file:
            wanted = None if columns is None else list(columns)
            first = 0
            for i in range(file.metadata.num_row_groups):
                num_rows = file.metadata.row_group(i).num_rows
                if first <= row < first + num_rows:
                    for batch in file.iter_batches(batch_size=ROWS_PER_READ, row_groups=[i], columns=wanted):
                        if row < first + batch.num_rows:
                            return batch.slice(row - first, 1)
                        first += batch.num_rows
                first += num_rows
    except FileNotFoundError:
        raise LookupError(f"{path} is not there: a resume may do that step again") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Unreadable(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    raise LookupError(f"{path} has no row {row}")


def _per_token(found: pa.RecordBatch) -> dict[str, np.ndarray]:
    """[n] each: tokens, logprob, oldest and newest version of every sample, and the verifier's seconds."""
    lengths = pc.list_value_length(found["token_ids"][0].values).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    logprobs, versions = (
        found[name][0].values.flatten().to_numpy(zero_copy_only=False) for name in ("logprobs", "versions")
    )
    return {
        "tokens": lengths,
        "logprob": np.add.reduceat(logprobs.astype(np.float64), starts),
        "oldest": np.minimum.reduceat(versions, starts),
        "newest": np.maximum.reduceat(versions, starts),
        "latency_s": found["latencies_s"][0].values.to_numpy(zero_copy_only=False),
    }
