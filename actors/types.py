"""What flows from the rollout workers on: leases, groups of samples, scored groups, their Arrow form.

Shapes: `n` samples of one prompt, `P` tokens of the prompt, `T` tokens of all n completions laid
end to end. A group is columnar because thousands of short samples a second pass through one
controller: one numpy array per field, not one object per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Permission to sample one group. `group` is its place in the run's order and its identity."""

    group: int
    problem_id: str
    prompt_token_ids: tuple[int, ...]
    seed: int
    """Sample i of the group is drawn with seed + i: strides between groups are at least n."""
    temperature: float | None = None
    """None: the engine's own, `rollout.temperature`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleGroup:
    """Exactly n samples of one prompt, whole or not at all (leaving one out biases Best-of-N)."""

    group: int
    problem_id: str
    worker: str
    seed: int
    prompt_token_ids: np.ndarray  # int32 [P]
    offsets: np.ndarray  # int32 [n + 1]: completion i is token_ids[offsets[i]:offsets[i + 1]]
    token_ids: np.ndarray  # int32 [T], stop token included
    logprobs: np.ndarray  # float32 [T], of the distribution sampled from (temperature applied)
    versions: np.ndarray  # int32 [T], policy version each token was sampled under
    texts: tuple[str, ...]  # n
    finish_reasons: tuple[str, ...]  # n, each in FINISH_REASONS

    def __post_init__(self) -> None:
        n, num_tokens = len(self.texts), len(self.token_ids)
        assert len(self.finish_reasons) == n and len(self.offsets) == n + 1
        assert self.offsets[0] == 0 and self.offsets[-1] == num_tokens
        assert len(self.logprobs) == num_tokens and len(self.versions) == num_tokens
        if np.any(np.diff(self.offsets) < 1):
            raise ValueError(f"group {self.group} of {self.worker} has a sample without tokens")
        if not np.all(self.logprobs <= 1e-3):
            raise ValueError(
                f"group {self.group} of {self.worker} has a behaviour log-probability that is NaN or > 0"
            )
        if np.any(self.versions < 0):
            raise ValueError(f"group {self.group} of {self.worker} has a token of unknown policy version")
        if not set(self.finish_reasons) <= set(FINISH_REASONS):
            raise ValueError(
                f"group {self.group} of {self.worker} has finish reasons {set(self.finish_reasons)}, "
                f"not all in {FINISH_REASONS}"
            )

    @property
    def num_samples(self) -> int:
        return len(self.texts)

    @property
    def oldest_version(self) -> int:
        return int(self.versions.min())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstration:
    """An expert's completion of a group's prompt, judged as the samples are."""

    token_ids: np.ndarray  # int32 [D], stop token included
    score: float  # not NaN

    def __post_init__(self) -> None:
        if len(self.token_ids) == 0:
            raise ValueError("a demonstration has no tokens")
        if np.isnan(self.score):
            raise ValueError("a demonstration has no verdict")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup:
    """A group with its verdicts, ready to be trained on."""

    samples: SampleGroup
    scores: np.ndarray  # float64 [n], selects; -inf allowed
    rewards: np.ndarray  # float64 [n], the truth; finite
    statuses: tuple[str, ...]  # n
    answers: tuple[str | None, ...]  # n, equal texts are equal answers; None where there is none
    latencies_s: np.ndarray  # float32 [n]
    demonstration: Demonstration | None = None
    """Never one of the samples: it was not drawn from the policy. Only imitation objectives ask for it."""

    def __post_init__(self) -> None:
        n = self.samples.num_samples
        assert len(self.scores) == len(self.rewards) == len(self.latencies_s) == n
        assert len(self.statuses) == len(self.answers) == n
        if not np.all(np.isfinite(self.rewards)) or np.any(np.isnan(self.scores)):
            raise ValueError(f"group {self.samples.group} has a candidate without a verdict")


SAMPLE_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("problem_id", pa.string()),
        ("worker", pa.string()),
        ("seed", pa.int64()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("versions", pa.list_(pa.list_(pa.int32()))),
        ("texts", pa.list_(pa.string())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)
"""One row is one group."""

SCORED_SCHEMA = pa.schema(
    [
        *SAMPLE_SCHEMA,
        ("scores", pa.list_(pa.float64())),
        ("rewards", pa.list_(pa.float64())),
        ("statuses", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
        ("latencies_s", pa.list_(pa.float32())),
        ("demonstration_token_ids", pa.list_(pa.int32())),
        ("demonstration_score", pa.float64()),
    ]
)


def samples_to_batch(groups: Sequence[SampleGroup]) -> pa.RecordBatch:
    """Groups as one Arrow record batch, a row per group."""
    return pa.RecordBatch.from_arrays(_sample_columns(groups), schema=SAMPLE_SCHEMA)


def scored_to_batch(groups: Sequence[ScoredGroup]) -> pa.RecordBatch:
    """Scored groups as one Arrow record batch, a row per group."""
    offsets = _offsets([group.samples.num_samples for group in groups])
    demonstrations = [group.demonstration for group in groups]
    columns = [
        *_sample_columns([group.samples for group in groups]),
        pa.ListArray.from_arrays(offsets, _concatenate([group.scores for group in groups], np.float64)),
        pa.ListArray.from_arrays(offsets, _concatenate([group.rewards for group in groups], np.float64)),
        pa.ListArray.from_arrays(
            offsets, pa.array([s for group in groups for s in group.statuses], pa.string())
        ),
        pa.ListArray.from_arrays(
            offsets, pa.array([a for group in groups for a in group.answers], pa.string())
        ),
        pa.ListArray.from_arrays(offsets, _concatenate([group.latencies_s for group in groups], np.float32)),
        pa.array([d and d.token_ids for d in demonstrations], pa.list_(pa.int32())),
        pa.array([d and d.score for d in demonstrations], pa.float64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCORED_SCHEMA)


def samples_from_batch(batch: pa.RecordBatch) -> list[SampleGroup]:
    """The inverse of `samples_to_batch`; arrays are views of the batch and read-only."""
    groups = []
    for row in range(batch.num_rows):
        token_lists = batch["token_ids"][row].values
        starts = token_lists.offsets.to_numpy()
        groups.append(
            SampleGroup(
                group=batch["group"][row].as_py(),
                problem_id=batch["problem_id"][row].as_py(),
                worker=batch["worker"][row].as_py(),
                seed=batch["seed"][row].as_py(),
                prompt_token_ids=batch["prompt_token_ids"][row].values.to_numpy(),
                offsets=starts - starts[0],
                token_ids=token_lists.flatten().to_numpy(),
                logprobs=batch["logprobs"][row].values.flatten().to_numpy(),
                versions=batch["versions"][row].values.flatten().to_numpy(),
                texts=tuple(batch["texts"][row].as_py()),
                finish_reasons=tuple(batch["finish_reasons"][row].as_py()),
            )
        )
    return groups


def scored_from_batch(batch: pa.RecordBatch) -> list[ScoredGroup]:
    """The inverse of `scored_to_batch`; arrays are views of the batch and read-only."""
    return [
        ScoredGroup(
            samples=samples,
            scores=batch["scores"][row].values.to_numpy(),
            rewards=batch["rewards"][row].values.to_numpy(),
            statuses=tuple(batch["statuses"][row].as_py()),
            answers=tuple(batch["answers"][row].as_py()),
            latencies_s=batch["latencies_s"][row].values.to_numpy(),
            demonstration=_demonstration(batch, row),
        )
        for row, samples in enumerate(samples_from_batch(batch))
    ]


def _demonstration(batch: pa.RecordBatch, row: int) -> Demonstration | None:
    if not batch["demonstration_token_ids"][row].is_valid:
        return None
    return Demonstration(
        token_ids=batch["demonstration_token_ids"][row].values.to_numpy(),
        score=batch["demonstration_score"][row].as_py(),
    )


def _sample_columns(groups: Sequence[SampleGroup]) -> list[pa.Array]:
    sample_offsets = _offsets([group.num_samples for group in groups])
    token_offsets = _offsets([length for group in groups for length in np.diff(group.offsets)])

    def per_token(arrays: list[np.ndarray], dtype: type) -> pa.Array:
        inner = pa.ListArray.from_arrays(token_offsets, _concatenate(arrays, dtype))
        return pa.ListArray.from_arrays(sample_offsets, inner)

    def per_sample(values: list[str]) -> pa.Array:
        return pa.ListArray.from_arrays(sample_offsets, pa.array(values, pa.string()))

    return [
        pa.array([group.group for group in groups], pa.int64()),
        pa.array([group.problem_id for group in groups], pa.string()),
        pa.array([group.worker for group in groups], pa.string()),
        pa.array([group.seed for group in groups], pa.int64()),
        pa.ListArray.from_arrays(
            _offsets([len(group.prompt_token_ids) for group in groups]),
            _concatenate([group.prompt_token_ids for group in groups], np.int32),
        ),
        per_token([group.token_ids for group in groups], np.int32),
        per_token([group.logprobs for group in groups], np.float32),
        per_token([group.versions for group in groups], np.int32),
        per_sample([text for group in groups for text in group.texts]),
        per_sample([reason for group in groups for reason in group.finish_reasons]),
    ]


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32), pa.int32())


def _concatenate(arrays: Sequence[np.ndarray], dtype: type) -> pa.Array:
    return pa.array(np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False))
