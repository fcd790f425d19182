"""Groups of samples -> micro-batches.

Sequences of the same group share one copy of their prompt, all lie end to end in one row, and a
`Layout` says who sees whom. What shares a row or a prompt changes the cost and never the result.

Shapes: `M` samples of a step, group by group; `S` sequences: the samples and, behind them, the
demonstrations if there are any, one of each group; `X` tokens with prompts, `T` completion tokens,
`U` those of them that were sampled, `R` rows of `L` positions. A demonstration was not sampled: it
has no behaviour log-prob, no version and no worker, and no array has a place for one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace

import numpy as np
import torch

from actors.types import Demonstration, SampleGroup
from learner.step.layout import NONE, Layout
from learner.types import Packing


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
    groups: np.ndarray  # int64 [S], the group's place in the step
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
    """One micro-batch. `hidden_positions` index the flattened [R * L].

    Of the T completion tokens the first U were sampled, the others are demonstrations'.
    """

    input_ids: torch.Tensor  # int64 [R, L]
    position_ids: torch.Tensor  # int64 [R, L], counted in each sequence from its prompt's first token
    layout: Layout
    hidden_positions: torch.Tensor  # int64 [T], where the token is predicted
    target_ids: torch.Tensor  # int64 [T]
    sequence_ids: torch.Tensor  # int64 [T], b * N + i of a sample, B * N + b of a demonstration
    behaviour_logprobs: torch.Tensor  # float32 [U]
    versions: torch.Tensor  # int64 [U]

    @property
    def num_sampled_tokens(self) -> int:
        return len(self.behaviour_logprobs)

    def to(self, device: torch.device) -> PackedBatch:
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            hidden_positions=self.hidden_positions.to(device),
            target_ids=self.target_ids.to(device),
            sequence_ids=self.sequence_ids.to(device),
            behaviour_logprobs=self.behaviour_logprobs.to(device),
            versions=self.versions.to(device),
        )


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
    names = [worker for group in groups for worker in group.workers]
    worker_names, workers = np.unique(names, return_inverse=True)
    return Sequences(
        token_ids=token_ids,
        starts=starts,
        prompt_lengths=prompt_lengths,
        completion_lengths=completion_lengths,
        completion_starts=_exclusive_cumsum(completion_lengths[: sum(num_samples)]),
        groups=groups_S,
        logprobs=np.concatenate([group.logprobs for group in groups]).astype(np.float32, copy=False),
        versions=np.concatenate([group.versions for group in groups]).astype(np.int64),
        workers=workers.astype(np.int64),
        worker_names=tuple(str(name) for name in worker_names),
    )


def bundles(
    sequences: Sequences, chosen: np.ndarray, max_tokens: int, packing: Packing = "shared"
) -> list[np.ndarray]:
    """The chosen sequences in parts that stay together: those of a group that share its prompt, or single ones.

    A group of more than `max_tokens` positions is cut into several parts; a single sequence never is.
    """
    if packing != "shared":
        return [np.array([sequence]) for sequence in chosen.tolist()]
    parts: list[list[int]] = []
    order = chosen[np.argsort(sequences.groups[chosen], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(sequences.groups[order])) + 1):
        room = -1
        for sequence, own in zip(
            group.tolist(), (sequences.completion_lengths[group] - 1).tolist(), strict=True
        ):
            if own > room:
                parts.append([])
                room = max_tokens - int(sequences.prompt_lengths[sequence])
            room -= own
            parts[-1].append(sequence)
    return [np.array(part) for part in parts]


def num_positions(sequences: Sequences, bundle: np.ndarray) -> int:
    """Positions of a forward pass over sequences with one prompt, which is computed once."""
    return int(sequences.prompt_lengths[bundle[0]] + (sequences.completion_lengths[bundle] - 1).sum())


def micro_batches(
    sequences: Sequences, chosen: np.ndarray, max_tokens: int, packing: Packing = "shared"
) -> Iterator[PackedBatch]:
    """The chosen sequences in batches of at most `max_tokens` positions; a longer sequence has one of its own."""
    yield from pack_bundles(sequences, bundles(sequences, chosen, max_tokens, packing), max_tokens, packing)


def pack_bundles(
    sequences: Sequences, parts: Sequence[np.ndarray], max_tokens: int, packing: Packing
) -> Iterator[PackedBatch]:
    """Longest first, each to the fullest batch that has room; with "rows" all rows of a batch are about equal."""
    lengths = np.array([num_positions(sequences, part) for part in parts], np.int64)
    order = np.argsort(-lengths, kind="stable").tolist()
    if packing == "rows":
        while order:
            num_rows = max(1, max_tokens // int(lengths[order[0]]))
            yield _pack_rows(sequences, np.concatenate([parts[part] for part in order[:num_rows]]))
            order = order[num_rows:]
        return
    batches: list[list[np.ndarray]] = []
    free: list[tuple[int, int]] = []  # positions left, and minus the batch's number: of equals the first
    for part in order:
        length = int(lengths[part])
        place = bisect_left(free, (length, -len(batches)))
        if place == len(free):
            batches.append([])
            space, negative = max(length, max_tokens), 1 - len(batches)
        else:
            space, negative = free.pop(place)
        batches[-negative].append(parts[part])
        insort(free, (space - length, negative))
    for batch in batches:
        yield _pack_line(sequences, batch)


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
    """One position and no completion token: a pass whose loss and gradients are zero."""
    none = torch.zeros(0, dtype=torch.int64)
    return PackedBatch(
        input_ids=torch.zeros((1, 1), dtype=torch.int64),
        position_ids=torch.zeros((1, 1), dtype=torch.int64),
        layout=Layout.of_rows(1, 1),
        hidden_positions=none,
        target_ids=none,
        sequence_ids=none,
        behaviour_logprobs=torch.zeros(0),
        versions=none,
    )


def _pack_line(sequences: Sequences, parts: list[np.ndarray]) -> PackedBatch:
    """One row: each part's prompt, and behind it the part's completions without their last tokens.

    A part of one sequence is one segment; in others the completions are segments that continue the prompt.
    """
    chosen = np.concatenate(parts)
    sizes = np.array([len(part) for part in parts])
    part_of = np.repeat(np.arange(len(parts)), sizes)
    prompt_lengths = sequences.prompt_lengths[chosen]
    own_lengths = sequences.completion_lengths[chosen] - 1
    is_leader = np.concatenate([[True], np.diff(part_of) > 0])
    lengths = own_lengths + np.where(is_leader, prompt_lengths, 0)  # what each sequence adds to the row
    starts = _exclusive_cumsum(lengths)
    prompt_starts = starts[is_leader][part_of]
    own_starts = starts + np.where(is_leader, prompt_lengths, 0)
    skipped = np.where(is_leader, 0, prompt_lengths)  # tokens of a sequence that the row has already
    tokens = _ranges(sequences.starts[chosen] + skipped, lengths)

    is_alone = (sizes == 1)[part_of]
    has_own = ~is_alone & (own_lengths > 0)
    heads = np.flatnonzero(is_leader)
    segments = np.concatenate([prompt_starts[heads], own_starts[has_own]])
    head_lengths = prompt_lengths[heads] + np.where(is_alone[heads], own_lengths[heads], 0)
    prefixes = np.concatenate([np.full(len(heads), NONE), part_of[has_own]])
    order = np.argsort(segments, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    layout = Layout(
        starts_G=segments[order],
        lengths_G=np.concatenate([head_lengths, own_lengths[has_own]])[order],
        prefixes_G=np.where(prefixes == NONE, NONE, places[prefixes])[order],
        num_positions=int(lengths.sum()),
    )
    return _batch(
        sequences,
        chosen,
        input_ids=sequences.token_ids[tokens][None],
        position_ids=_ranges(skipped, lengths)[None],
        layout=layout,
        first_targets=prompt_starts + prompt_lengths - 1,
        later_targets=own_starts,
    )


def _pack_rows(sequences: Sequences, chosen: np.ndarray) -> PackedBatch:
    lengths = sequences.num_positions_S[chosen]
    row_length = int(lengths.max())
    starts = np.arange(len(chosen)) * row_length
    places = _ranges(starts, lengths)
    input_ids = np.zeros((len(chosen), row_length), np.int64)
    input_ids.flat[places] = sequences.token_ids[_ranges(sequences.starts[chosen], lengths)]
    position_ids = np.broadcast_to(np.arange(row_length), input_ids.shape).copy()
    layout = Layout(
        starts_G=starts,
        lengths_G=lengths,
        prefixes_G=np.full(len(chosen), NONE),
        num_positions=input_ids.size,
    )
    own_starts = starts + sequences.prompt_lengths[chosen]
    return _batch(
        sequences,
        chosen,
        input_ids=input_ids,
        position_ids=position_ids,
        layout=layout,
        first_targets=own_starts - 1,
        later_targets=own_starts,
    )


def _batch(
    sequences: Sequences,
    chosen: np.ndarray,
    *,
    input_ids: np.ndarray,
    position_ids: np.ndarray,
    layout: Layout,
    first_targets: np.ndarray,
    later_targets: np.ndarray,
) -> PackedBatch:
    """`first_targets`: where each sequence's first completion token is predicted; the others are from `later_targets` on."""
    order = np.argsort(chosen >= sequences.num_samples, kind="stable")  # samples first
    chosen, first_targets, later_targets = chosen[order], first_targets[order], later_targets[order]
    lengths = sequences.completion_lengths[chosen]
    hidden_positions = _ranges(later_targets - 1, lengths)
    hidden_positions[_exclusive_cumsum(lengths)] = first_targets
    targets = _ranges(sequences.starts[chosen] + sequences.prompt_lengths[chosen], lengths)
    sampled = chosen[chosen < sequences.num_samples]
    tokens = _ranges(sequences.completion_starts[sampled], lengths[: len(sampled)])
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        layout=layout,
        hidden_positions=torch.from_numpy(hidden_positions),
        target_ids=torch.from_numpy(sequences.token_ids[targets]),
        sequence_ids=torch.from_numpy(np.repeat(chosen, lengths)),
        behaviour_logprobs=torch.from_numpy(sequences.logprobs[tokens]),
        versions=torch.from_numpy(sequences.versions[tokens]),
    )


def _exclusive_cumsum(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """arange(start, start + length) of every pair, end to end."""
    return np.arange(lengths.sum()) + np.repeat(starts - _exclusive_cumsum(lengths), lengths)
