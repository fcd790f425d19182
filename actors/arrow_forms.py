"""The Arrow forms of groups of samples, of verdicts, and of both: what goes between processes and into files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from actors.types import Demonstration, Judgement, SampleGroup, ScoredGroup, joined

SAMPLE_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("problem_id", pa.string()),
        ("workers", pa.list_(pa.string())),
        ("seed", pa.int64()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("versions", pa.list_(pa.list_(pa.int32()))),
        ("texts", pa.list_(pa.string())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)
"""One row is one group, or a piece of one."""

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
    [
        ("group", pa.int64()),
        ("batches", pa.list_(pa.int32())),
        ("rows", pa.list_(pa.int32())),
        *_VERDICT_FIELDS,
    ]
)
"""One row is the verdicts on one group, whose pieces are, in their order, in these rows of these batches of samples."""

Place = tuple[int, int]
"""Which batch of several, and which row of it: where a piece of a group is."""


def samples_to_batch(groups: Sequence[SampleGroup]) -> pa.RecordBatch:
    """Groups as one Arrow record batch, a row per group."""
    return pa.RecordBatch.from_arrays(_sample_columns(groups), schema=SAMPLE_SCHEMA)


def scored_to_batch(groups: Sequence[ScoredGroup]) -> pa.RecordBatch:
    """Scored groups as one Arrow record batch, a row per group."""
    columns = [*_sample_columns([group.samples for group in groups]), *_verdict_columns(groups)]
    return pa.RecordBatch.from_arrays(columns, schema=SCORED_SCHEMA)


def judgements_to_batch(
    judgements: Sequence[Judgement], groups: Sequence[int], places: Sequence[Sequence[Place]]
) -> pa.RecordBatch:
    """Verdicts without samples as one Arrow record batch, with the number of each group and the places of its pieces."""
    offsets = _offsets([len(of_group) for of_group in places])
    pairs = [place for of_group in places for place in of_group]
    columns = [
        pa.array(groups, pa.int64()),
        *(
            pa.ListArray.from_arrays(offsets, pa.array([pair[part] for pair in pairs], pa.int32()))
            for part in (0, 1)
        ),
        *_verdict_columns(judgements),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=JUDGEMENT_SCHEMA)


def scored_from_judgements(
    judgements: pa.RecordBatch, batches: Sequence[pa.RecordBatch]
) -> list[ScoredGroup]:
    """Verdicts beside the samples they are on, in the order of `judgements`; arrays of undivided groups are views, and
    read-only.
    """
    scored = []
    for number in range(judgements.num_rows):
        places = zip(judgements["batches"][number].as_py(), judgements["rows"][number].as_py(), strict=True)
        samples = joined([samples_of_row(batches[batch], row) for batch, row in places])
        assert samples.group == judgements["group"][number].as_py()
        scored.append(ScoredGroup(samples=samples, **_verdicts_of_row(judgements, number)))
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
        workers=_workers(batch, row),
        seed=batch["seed"][row].as_py(),
        prompt_token_ids=batch["prompt_token_ids"][row].values.to_numpy(),
        offsets=starts - starts[0],
        token_ids=token_lists.flatten().to_numpy(),
        logprobs=batch["logprobs"][row].values.flatten().to_numpy(),
        versions=batch["versions"][row].values.flatten().to_numpy(),
        texts=tuple(batch["texts"][row].as_py()),
        finish_reasons=tuple(batch["finish_reasons"][row].as_py()),
    )


def _workers(batch: pa.RecordBatch, row: int) -> tuple[str, ...]:
    if "worker" in batch.schema.names:  # a file from before groups were divided
        return (batch["worker"][row].as_py(),) * len(batch["texts"][row])
    return tuple(batch["workers"][row].as_py())


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
        per_sample([worker for group in groups for worker in group.workers]),
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
