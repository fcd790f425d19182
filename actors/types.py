"""What flows from the rollout workers on: leases, groups of samples, their facts, verdicts, scored groups, Arrow forms.

Shapes: `n` samples of one prompt, `P` tokens of the prompt, `T` tokens of all n completions laid
end to end. A group is columnar because thousands of short samples a second pass through one
controller: one numpy array per field, not one object per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

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
    num_samples: int | None = None
    """None: the engine's own, `rollout.samples_per_prompt`."""
    cache_salt: str = ""
    """KV of a prompt is shared among leases of the same salt alone."""


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

    @property
    def newest_version(self) -> int:
        return int(self.versions.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What a run goes by of a group, where its tokens and texts are elsewhere."""

    group: int
    problem_id: str
    worker: str
    num_samples: int
    num_tokens: int
    """Of all completions."""
    oldest_version: int
    newest_version: int
    finish_reasons: frozenset[str]
    """Those that occur."""
    has_one_text: bool
    """All its samples are alike."""

    @classmethod
    def of(cls, group: SampleGroup) -> GroupFacts:
        return cls(
            group=group.group,
            problem_id=group.problem_id,
            worker=group.worker,
            num_samples=group.num_samples,
            num_tokens=len(group.token_ids),
            oldest_version=group.oldest_version,
            newest_version=group.newest_version,
            finish_reasons=frozenset(group.finish_reasons),
            has_one_text=len(set(group.texts)) == 1,
        )


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
class Judgement:
    """The verdicts on a group's n samples, in their order."""

    scores: np.ndarray  # float64 [n], selects; -inf allowed
    rewards: np.ndarray  # float64 [n], the truth; finite
    statuses: tuple[str, ...]  # n
    answers: tuple[str | None, ...]  # n, equal texts are equal answers; None where there is none
    latencies_s: np.ndarray  # float32 [n]
    demonstration: Demonstration | None = None
    """Never one of the samples: it was not drawn from the policy. Only imitation objectives ask for it."""

    def __post_init__(self) -> None:
        n = len(self.scores)
        assert len(self.rewards) == len(self.latencies_s) == len(self.statuses) == len(self.answers) == n
        if not np.all(np.isfinite(self.rewards)) or np.any(np.isnan(self.scores)):
            raise ValueError("a group has a candidate without a verdict")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup(Judgement):
    """A group with its verdicts, ready to be trained on."""

    samples: SampleGroup

    def __post_init__(self) -> None:
        Judgement.__post_init__(
            self
        )  # without arguments super() does not find a class that slots have made anew
        assert len(self.scores) == self.samples.num_samples

    @classmethod
    def of(cls, samples: SampleGroup, judgement: Judgement) -> ScoredGroup:
        return cls(
            samples=samples, **{field.name: getattr(judgement, field.name) for field in fields(judgement)}
        )


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

_VERDICT_FIELDS = (
    ("scores", pa.list_(pa.float64())),
    ("rewards", pa.list_(pa.float64())),
    ("statuses", pa.list_(pa.string())),
    ("answers", pa.list_(pa.string())),
    ("latencies_s", pa.list_(pa.float32())),
    ("demonstration_token_ids", pa.list_(pa.int32())),
    ("demonstration_score", pa.float64()),
)
SCORED_SCHEMA = pa.schema([*SAMPLE_SCHEMA, *_VERDICT_FIELDS])

JUDGEMENT_SCHEMA = pa.schema(
    [("group", pa.int64()), ("batch", pa.int32()), ("row", pa.int32()), *_VERDICT_FIELDS]
)
"""One row is the verdicts on one group, whose samples are in that row of that batch of samples."""


def samples_to_batch(groups: Sequence[SampleGroup]) -> pa.RecordBatch:
    """Groups as one Arrow record batch, a row per group."""
    return pa.RecordBatch.from_arrays(_sample_columns(groups), schema=SAMPLE_SCHEMA)


def scored_to_batch(groups: Sequence[ScoredGroup]) -> pa.RecordBatch:
    """Scored groups as one Arrow record batch, a row per group."""
    columns = [*_sample_columns([group.samples for group in groups]), *_verdict_columns(groups)]
    return pa.RecordBatch.from_arrays(columns, schema=SCORED_SCHEMA)


def judgements_to_batch(
    judgements: Sequence[Judgement], places: Sequence[tuple[int, int, int]]
) -> pa.RecordBatch:
    """Verdicts without samples as one Arrow record batch; `places`: the group of each, and which row of which batch of
    samples has it.
    """
    groups, batches, rows = zip(*places, strict=True) if places else ((), (), ())
    columns = [
        pa.array(groups, pa.int64()),
        pa.array(batches, pa.int32()),
        pa.array(rows, pa.int32()),
        *_verdict_columns(judgements),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=JUDGEMENT_SCHEMA)


def scored_from_judgements(
    judgements: pa.RecordBatch, batches: Sequence[pa.RecordBatch]
) -> list[ScoredGroup]:
    """Verdicts beside the samples they are on, in the order of `judgements`; arrays are views, and read-only."""
    scored = []
    for place in range(judgements.num_rows):
        batch, row = judgements["batch"][place].as_py(), judgements["row"][place].as_py()
        samples = samples_of_row(batches[batch], row)
        assert samples.group == judgements["group"][place].as_py()
        scored.append(ScoredGroup(samples=samples, **_verdicts_of_row(judgements, place)))
    return scored


def samples_from_batch(batch: pa.RecordBatch) -> list[SampleGroup]:
    """The inverse of `samples_to_batch`; arrays are views of the batch and read-only."""
    return [samples_of_row(batch, row) for row in range(batch.num_rows)]


def samples_of_row(batch: pa.RecordBatch, row: int) -> SampleGroup:
    """One group of a batch; arrays are views of it and read-only."""
    token_lists = batch["token_ids"][row].values
    starts = token_lists.offsets.to_numpy()
    return SampleGroup(
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


def scored_from_batch(batch: pa.RecordBatch) -> list[ScoredGroup]:
    """The inverse of `scored_to_batch`; arrays are views of the batch and read-only."""
    return [
        ScoredGroup(samples=samples, **_verdicts_of_row(batch, row))
        for row, samples in enumerate(samples_from_batch(batch))
    ]


def _verdicts_of_row(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    return {
        "scores": batch["scores"][row].values.to_numpy(),
        "rewards": batch["rewards"][row].values.to_numpy(),
        "statuses": tuple(batch["statuses"][row].as_py()),
        "answers": tuple(batch["answers"][row].as_py()),
        "latencies_s": batch["latencies_s"][row].values.to_numpy(),
        "demonstration": _demonstration(batch, row),
    }


def _demonstration(batch: pa.RecordBatch, row: int) -> Demonstration | None:
    if not batch["demonstration_token_ids"][row].is_valid:
        return None
    return Demonstration(
        token_ids=batch["demonstration_token_ids"][row].values.to_numpy(),
        score=batch["demonstration_score"][row].as_py(),
    )


def _verdict_columns(judgements: Sequence[Judgement]) -> list[pa.Array]:
    offsets = _offsets([len(one.scores) for one in judgements])
    demonstrations = [one.demonstration for one in judgements]

    def per_sample(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    return [
        per_sample(_concatenate([one.scores for one in judgements], np.float64)),
        per_sample(_concatenate([one.rewards for one in judgements], np.float64)),
        per_sample(pa.array([status for one in judgements for status in one.statuses], pa.string())),
        per_sample(pa.array([answer for one in judgements for answer in one.answers], pa.string())),
        per_sample(_concatenate([one.latencies_s for one in judgements], np.float32)),
        pa.array([one and one.token_ids for one in demonstrations], pa.list_(pa.int32())),
        pa.array([one and one.score for one in demonstrations], pa.float64()),
    ]


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
