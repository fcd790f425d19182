"""Groups of samples -> packed tensors.

Many sequences share a row; a boolean mask keeps them apart. The packing changes the cost and never
the result.

Shapes: `M` samples of a step, group by group; `S` sequences: the samples and, behind them, the
demonstrations if there are any, one of each group; `X` tokens with prompts, `T` completion tokens,
`U` those of them that were sampled, `R` rows of `L` positions. A demonstration was not sampled: it
has no behaviour log-prob, no version and no worker, and no array has a place for one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from heapq import heapreplace

import numpy as np
import torch

from actors.types import Demonstration, SampleGroup

MIN_ROW_LENGTH = 128
"""Short sequences share rows of this length: long enough to waste little, short enough for cheap attention."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequences:
    """Everything a step may learn from, columnar. Sequence `s` is a prompt followed by its completion."""

    token_ids: np.ndarray  # int64 [X]
    starts: np.ndarray  # int64 [S], into token_ids
    prompt_lengths: np.ndarray  # int64 [S]
    completion_lengths: np.ndarray  # int64 [S]
    completion_starts: np.ndarray  # int64 [M], into logprobs and versions
    logprobs: np.ndarray  # float32 [U]
    versions: np.ndarray  # int64 [U]
    workers: np.ndarray  # int64 [M], into worker_names
    worker_names: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        return len(self.workers)

    @property
    def num_positions_S(self) -> np.ndarray:
        """int64 [S]: positions of a forward pass; a sequence's last token is a target only and takes none."""
        return self.prompt_lengths + self.completion_lengths - 1

    @property
    def demonstrations(self) -> np.ndarray:
        """int64: the sequences that are demonstrations, in order of their groups."""
        return np.arange(self.num_samples, len(self.starts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedBatch:
    """One micro-batch. Segment 0 is padding; `hidden_positions` index the flattened [R * L].

    Of the T completion tokens the first U were sampled, the others are demonstrations'.
    """

    input_ids: torch.Tensor  # int64 [R, L]
    position_ids: torch.Tensor  # int64 [R, L], restart with each sequence
    segment_ids: torch.Tensor  # int32 [R, L]
    hidden_positions: torch.Tensor  # int64 [T], where the token is predicted
    target_ids: torch.Tensor  # int64 [T]
    sequence_ids: torch.Tensor  # int64 [T], b * N + i of a sample, B * N + b of a demonstration
    behaviour_logprobs: torch.Tensor  # float32 [U]
    versions: torch.Tensor  # int64 [U]

    @property
    def num_sampled_tokens(self) -> int:
        return len(self.behaviour_logprobs)

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def collect(groups: Sequence[SampleGroup], demonstrations: Sequence[Demonstration] = ()) -> Sequences:
    """Lay all samples end to end, each behind its prompt, then the groups' demonstrations: one each, or none."""
    for group in groups:
        if len(group.prompt_token_ids) == 0:
            raise ValueError(f"group {group.group} has an empty prompt: nothing predicts its first token")
    assert len(demonstrations) in (0, len(groups))
    num_samples = [group.num_samples for group in groups]
    rows = np.arange(len(groups))
    groups_S = np.concatenate([np.repeat(rows, num_samples), rows[: len(demonstrations)]])
    group_prompt_lengths = np.array([len(group.prompt_token_ids) for group in groups], np.int64)
    prompt_lengths = group_prompt_lengths[groups_S]
    prompt_starts = _exclusive_cumsum(group_prompt_lengths)[groups_S]
    completion_lengths = np.concatenate(
        [*(np.diff(group.offsets) for group in groups), [len(d.token_ids) for d in demonstrations]]
    ).astype(np.int64)
    starts = _exclusive_cumsum(prompt_lengths + completion_lengths)

    token_ids = np.empty(int(prompt_lengths.sum() + completion_lengths.sum()), np.int64)
    prompts = np.concatenate([group.prompt_token_ids for group in groups])
    token_ids[_ranges(starts, prompt_lengths)] = prompts[_ranges(prompt_starts, prompt_lengths)]
    token_ids[_ranges(starts + prompt_lengths, completion_lengths)] = np.concatenate(
        [*(group.token_ids for group in groups), *(d.token_ids for d in demonstrations)]
    )
    worker_names, workers = np.unique([group.worker for group in groups], return_inverse=True)
    return Sequences(
        token_ids=token_ids,
        starts=starts,
        prompt_lengths=prompt_lengths,
        completion_lengths=completion_lengths,
        completion_starts=_exclusive_cumsum(completion_lengths[: sum(num_samples)]),
        logprobs=np.concatenate([group.logprobs for group in groups]).astype(np.float32, copy=False),
        versions=np.concatenate([group.versions for group in groups]).astype(np.int64),
        workers=np.repeat(workers.astype(np.int64), num_samples),
        worker_names=tuple(str(name) for name in worker_names),
    )


def micro_batches(sequences: Sequences, chosen: np.ndarray, max_tokens: int) -> Iterator[PackedBatch]:
    """Pack the chosen sequences, longest first, into batches of at most `max_tokens` positions.

    A sequence longer than `max_tokens` gets a batch of its own.
    """
    lengths = sequences.num_positions_S[chosen]
    order = np.argsort(-lengths, kind="stable")
    remaining = list(zip(chosen[order].tolist(), lengths[order].tolist(), strict=True))
    while remaining:
        longest = remaining[0][1]
        row_length = max(longest, min(MIN_ROW_LENGTH, max_tokens))
        placed, remaining = _place(remaining, row_length, max(1, max_tokens // row_length))
        yield _pack(sequences, np.array(placed, np.int64), row_length)


def divide(lengths_S: np.ndarray, num_shares: int) -> list[np.ndarray]:
    """Sequences of the given lengths in shares of about equal sums; each share's numbers, ascending.

    Longest first, each to the share that has least so far: the largest sum is at most 4/3 of the least
    possible (Graham, 1969, SIAM J. Appl. Math. 17). The same lengths give the same shares in every process.
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    sums = [(0, share) for share in range(num_shares)]
    for sequence in np.argsort(-lengths_S, kind="stable").tolist():
        total, share = sums[0]
        shares[share].append(sequence)
        heapreplace(sums, (total + int(lengths_S[sequence]), share))
    return [np.sort(np.array(share, np.int64)) for share in shares]


def empty_batch() -> PackedBatch:
    """One position of padding and no completion token: a pass whose loss and gradients are zero."""
    none = torch.zeros(0, dtype=torch.int64)
    return PackedBatch(
        input_ids=torch.zeros((1, 1), dtype=torch.int64),
        position_ids=torch.zeros((1, 1), dtype=torch.int64),
        segment_ids=torch.zeros((1, 1), dtype=torch.int32),
        hidden_positions=none,
        target_ids=none,
        sequence_ids=none,
        behaviour_logprobs=torch.zeros(0),
        versions=none,
    )


def _place(
    sequences: list[tuple[int, int]], row_length: int, num_rows: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Best fit: (sequence, row, column) of those that found a place, and the rest."""
    free = [(row_length, -row) for row in range(num_rows - 1, -1, -1)]
    placed, rest = [], []
    for sequence, length in sequences:
        slot = bisect_left(free, (length, -num_rows))
        if slot == len(free):
            rest.append((sequence, length))
            continue
        space, negative_row = free.pop(slot)
        placed.append((sequence, -negative_row, row_length - space))
        insort(free, (space - length, negative_row))
    return placed, rest


def _pack(sequences: Sequences, placed: np.ndarray, row_length: int) -> PackedBatch:
    placed = placed[np.argsort(placed[:, 0] >= sequences.num_samples, kind="stable")]  # samples first
    chosen, rows, columns = placed.T
    _, rows = np.unique(rows, return_inverse=True)  # rows left empty take no compute
    prompt_lengths = sequences.prompt_lengths[chosen]
    completion_lengths = sequences.completion_lengths[chosen]
    lengths = prompt_lengths + completion_lengths - 1
    destinations = rows * row_length + columns
    positions = _ranges(destinations, lengths)

    shape = (int(rows.max()) + 1, row_length)
    input_ids = np.zeros(shape, np.int64)
    position_ids = np.zeros(shape, np.int64)
    segment_ids = np.zeros(shape, np.int32)
    input_ids.flat[positions] = sequences.token_ids[_ranges(sequences.starts[chosen], lengths)]
    position_ids.flat[positions] = _ranges(np.zeros_like(lengths), lengths)
    segment_ids.flat[positions] = np.repeat(np.arange(1, len(chosen) + 1), lengths)

    targets = _ranges(sequences.starts[chosen] + prompt_lengths, completion_lengths)
    sampled = chosen[chosen < sequences.num_samples]
    tokens = _ranges(sequences.completion_starts[sampled], completion_lengths[: len(sampled)])
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(segment_ids),
        hidden_positions=torch.from_numpy(_ranges(destinations + prompt_lengths - 1, completion_lengths)),
        target_ids=torch.from_numpy(sequences.token_ids[targets]),
        sequence_ids=torch.from_numpy(np.repeat(chosen, completion_lengths)),
        behaviour_logprobs=torch.from_numpy(sequences.logprobs[tokens]),
        versions=torch.from_numpy(sequences.versions[tokens]),
    )


def _exclusive_cumsum(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """arange(start, start + length) of every pair, end to end."""
    return np.arange(lengths.sum()) + np.repeat(starts - _exclusive_cumsum(lengths), lengths)
