"""Whose tokens the parity check looks at: a share of what training computes, every worker and version in turn.

`training` plays the steps of a run: what is compared of each, at which cost.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from learner.step.batch import collect
from learner.step.parity import ParityTurns, candidates_of, compare, nothing_compared, of_one_version
from tests.shared.tiny_model import demonstrate, make_group


@cache
def samples_of(number, lengths):
    return make_group(number, lengths=lengths).samples


def batch_of(step, *, workers, staleness, num_groups=8, lengths=(2, 9)):
    """Samples of several workers, from 0 to `staleness` versions old; the same tokens come again after 40 steps."""
    groups = []
    for g in range(num_groups):
        samples = samples_of(num_groups * (step % 40) + g, lengths)
        version = max(0, step - (g // workers) % (staleness + 1))
        groups.append(
            replace(
                samples,
                group=num_groups * step + g,
                workers=(f"rollout-{g % workers}",) * samples.num_samples,
                versions=np.full_like(samples.versions, version),
            )
        )
    return collect(groups)


def everything(sequences):
    return np.ones(sequences.num_samples, bool)


def training(turns, *, steps, share, num_trained=4, workers=3, staleness=2, first=0, **settings):
    """(positions computed for parity, positions trained, names of workers looked at, version's age) of each step."""
    played = []
    for step in range(first, steps):
        sequences = batch_of(step, workers=workers, staleness=staleness, **settings)
        trained = np.arange(num_trained)
        positions = float(sequences.num_positions_S[trained].sum())
        candidates = candidates_of(
            sequences, range(max(0, step - 8), step + 1), {step: trained}, everything(sequences)
        )
        version, ids = turns.choose(candidates, sequences, share * positions, step=step, version=step)
        assert set(ids) <= set(candidates[version].tolist()) and np.all(np.diff(ids) > 0)
        names = [sequences.worker_names[worker] for worker in sequences.workers[ids]]
        turns.seen.update(dict.fromkeys(names, step))
        played.append((float(sequences.num_positions_S[ids].sum()), positions, names, step - version))
    return played


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("num_trained", [2, 16])
def test_parity_costs_its_share_of_what_is_trained_and_at_most_one_sequence_more(share, num_trained):
    played = training(ParityTurns(), steps=200, share=share, num_trained=num_trained)
    computed = np.cumsum([positions for positions, *_ in played])
    allowed = share * np.cumsum([positions for _, positions, *_ in played])
    longest = 5 + 9 - 1
    assert np.all(computed <= allowed + longest)
    assert computed[-1] >= allowed[-1] - share * played[-1][1]


def test_nothing_is_compared_with_a_share_of_zero_or_where_nothing_was_trained():
    assert all(not names for _, _, names, _ in training(ParityTurns(), steps=20, share=0.0))
    assert all(not names for _, _, names, _ in training(ParityTurns(), steps=20, share=1.0, num_trained=0))


def test_every_worker_and_every_version_has_its_turn_however_small_the_share():
    played = [
        (names, age)
        for _, _, names, age in training(ParityTurns(), steps=2000, share=0.01, workers=4, num_groups=12)
        if names
    ]
    order = [name for names, _ in played for name in names]
    assert len(played) == len(order) > 40  # one sequence in many steps
    for begin in range(0, len(order) - 4, 4):
        assert len(set(order[begin : begin + 4])) == 4  # each of the four before any comes again
    counts = Counter(age for _, age in played)
    assert set(counts) == {0, 1, 2} and min(counts.values()) >= 0.5 * max(counts.values())


def test_a_step_computes_under_the_weights_of_one_version():
    sequences = batch_of(5, workers=2, staleness=3)
    candidates = candidates_of(sequences, range(6), {}, everything(sequences))
    assert sum(len(ids) > 0 for ids in candidates.values()) == 4
    version, ids = ParityTurns().choose(candidates, sequences, 1e9, step=5, version=5)
    assert ids.tolist() == candidates[version].tolist()


def test_a_worker_that_was_compared_at_no_cost_waits_for_the_others():
    sequences = batch_of(0, workers=3, staleness=0)
    candidates = candidates_of(sequences, [0], {}, everything(sequences))
    turns = ParityTurns(seen={"rollout-0": 7, "rollout-2": 3})
    chosen = []
    for step in range(8, 14):
        _, (sequence,) = turns.choose(candidates, sequences, turns.debt + 1.0, step=step, version=0)
        name = sequences.worker_names[sequences.workers[sequence]]
        turns.seen[name] = step
        chosen.append(name)
    assert chosen == ["rollout-1", "rollout-2", "rollout-0"] * 2


def test_a_long_sequence_is_taken_as_often_as_a_short_one_and_paid_for_later():
    """Were it taken only where the budget covers it, it would hardly ever be."""
    short, long = make_group(0, samples=8, lengths=(1, 1)), make_group(1, samples=8, lengths=(60, 60))
    sequences = collect([short.samples, long.samples])
    turns, counts = ParityTurns(), Counter()
    for step in range(2000):
        candidates = candidates_of(sequences, [0], {}, everything(sequences))
        _, ids = turns.choose(candidates, sequences, 2.0, step=step, version=0)
        counts.update((ids >= 8).tolist())
    assert counts[True] + counts[False] == pytest.approx(2000 * 2.0 / ((5 + 64) / 2), rel=0.1)
    assert counts[True] == pytest.approx(counts[False], rel=0.25)


def test_the_choice_does_not_depend_on_what_samples_say():
    sequences = batch_of(3, workers=2, staleness=1)
    other = replace(
        sequences,
        token_ids=sequences.token_ids[::-1].copy(),
        logprobs=sequences.logprobs[::-1].copy(),
    )
    chosen = []
    for one in (sequences, other):
        candidates = candidates_of(one, range(4), {}, everything(one))
        chosen.append(ParityTurns().choose(candidates, one, 40.0, step=3, version=3))
    assert chosen[0][0] == chosen[1][0] and chosen[0][1].tolist() == chosen[1][1].tolist()


def test_turns_go_on_from_a_checkpoint_as_if_there_had_been_none():
    straight, stopped = ParityTurns(), ParityTurns()
    expected = training(straight, steps=60, share=0.03)
    before = training(stopped, steps=30, share=0.03)
    resumed = ParityTurns.from_json(json.loads(json.dumps(stopped.to_json())))
    assert before + training(resumed, steps=60, share=0.03, first=30) == expected
    assert resumed == straight


def test_what_is_skipped_and_what_is_left_out_are_no_candidates():
    groups = [make_group(number, version=number % 2) for number in range(4)]
    sequences = collect([group.samples for group in groups])
    kept_M = np.arange(16) != 13
    candidates = candidates_of(sequences, [0, 1, 2], {1: np.arange(5, 16)}, kept_M)
    assert {version: ids.tolist() for version, ids in candidates.items()} == {
        0: [0, 1, 2, 3, 8, 9, 10, 11], 1: [4], 2: [],
    }  # fmt: skip


def test_a_sequence_of_several_versions_is_a_candidate_of_each_and_not_of_one_version():
    group = make_group(0, lengths=(4, 4)).samples
    sequences = collect([replace(group, versions=np.array([0, 0, 1, 2] + 12 * [1], np.int32))])
    candidates = candidates_of(sequences, [0, 1, 2], {}, everything(sequences))
    assert [ids.tolist() for ids in candidates.values()] == [[0], [0, 1, 2, 3], [0]]
    assert of_one_version(sequences).tolist() == [False, True, True, True]


def test_demonstrations_are_never_candidates():
    groups = [demonstrate(make_group(number, samples=6, version=number)) for number in range(4)]
    samples = [group.samples for group in groups]
    with_demonstrations = collect(samples, [group.demonstration for group in groups])
    ours, theirs = (
        candidates_of(sequences, range(4), {}, everything(sequences))
        for sequences in (with_demonstrations, collect(samples))
    )
    assert {v: ids.tolist() for v, ids in ours.items()} == {v: ids.tolist() for v, ids in theirs.items()}
    assert of_one_version(with_demonstrations).tolist() == [True] * 24


def test_sums_of_no_tokens_are_of_the_same_type_as_those_of_some():
    """Ranks exchange them: one of another dtype would be read as nonsense."""
    none, some = nothing_compared(3), compare(np.array([0.1]), np.array([2]), 3)
    for name in ("num_tokens_W", "difference_sums_W", "kl_sums_W", "maxima_W"):
        assert getattr(none, name).dtype == getattr(some, name).dtype, name
        assert getattr(none, name).tolist() == [0, 0, 0]
