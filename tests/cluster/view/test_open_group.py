"""One group read whole: folding, picking, tokens."""

from __future__ import annotations

import math

import pytest

from cluster.view.open_group import find_row, open_group, sample_tokens
from tests.shared.viewed_runs import a_group, write_viewed_run


def path_of(run_dir, step=1):
    return run_dir / "trajectories" / f"step-{step:06d}.parquet"


def opened(tmp_path, group):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(7, [0.0]), group]})
    return open_group(path_of(run_dir), 1)


def test_samples_of_one_text_and_verdict_are_one_with_the_sum_of_their_weights(tmp_path):
    group = opened(tmp_path, a_group(3, [1.0, 0.0, 1.0, 0.0], texts=["a", "b", "a", "c"]))
    assert [(one.text, one.indices, one.weight) for one in group.samples] == [
        ("a", (0, 2), 1.0), ("b", (1,), -0.5), ("c", (3,), -0.5),
    ]  # fmt: skip
    assert group.num_samples == 4 and group.group == 3


def test_equal_texts_with_other_verdicts_stay_apart(tmp_path):
    group = opened(tmp_path, a_group(3, [1.0, 0.0], texts=["a", "a"], statuses=["ok", "timeout"]))
    assert [one.status for one in group.samples] == ["ok", "timeout"]


def test_the_picked_has_the_highest_score_whatever_its_reward_and_ties_are_counted(tmp_path):
    group = opened(tmp_path, a_group(3, [1.0, 0.0, 0.0], scores=[0.1, 0.9, 0.9], texts=["a", "b", "c"]))
    assert [(one.text, one.is_picked) for one in group.samples] == [("b", True), ("c", True), ("a", False)]
    assert group.num_picked == 2 and not group.score_is_reward


def test_minus_infinity_is_a_score(tmp_path):
    group = opened(tmp_path, a_group(3, [1.0, 0.0], scores=[-math.inf, 0.0], texts=["a", "b"]))
    assert [one.text for one in group.samples] == ["b", "a"] and group.samples[1].score == -math.inf


def test_lengths_log_probs_and_versions_are_each_samples_own(tmp_path):
    group = opened(tmp_path, a_group(3, [1.0, 0.0], lengths=[3, 1], version=4, logprob=-0.25))
    assert [(one.tokens, one.logprob, one.oldest, one.newest) for one in group.samples] == [
        (3, -0.75, 4, 4), (1, -0.25, 4, 4),
    ]  # fmt: skip


def test_tokens_are_those_of_the_sample(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(3, [1.0, 0.0], lengths=[3, 2], version=4)]})
    tokens = sample_tokens(path_of(run_dir), 0, 1)
    assert (tokens.ids, tokens.logprobs, tokens.versions) == ((0, 1), (-0.5, -0.5), (4, 4))


def test_what_is_not_there_is_said(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(3, [1.0, 0.0])]})
    with pytest.raises(LookupError, match="has no row 5"):
        open_group(path_of(run_dir), 5)
    with pytest.raises(LookupError, match="is not there"):
        open_group(path_of(run_dir, step=9), 0)
    with pytest.raises(LookupError, match="has no sample 2"):
        sample_tokens(path_of(run_dir), 0, 2)
    with pytest.raises(LookupError, match="has no group 4"):
        find_row(path_of(run_dir), 4)
    assert find_row(path_of(run_dir), 3) == 0


def test_a_row_far_down_a_file_is_found(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(i, [1.0, 0.0]) for i in range(30)]})
    assert [open_group(path_of(run_dir), row).group for row in (0, 7, 8, 29)] == [0, 7, 8, 29]
