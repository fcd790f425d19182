"""Packing changes the cost of a step and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.model import logprobs as learner_model
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.step.batch import collect, micro_batches
from learner.step.layout import NONE
from tests.shared.tiny_model import (
    build_model,
    completions,
    demonstrate,
    make_group,
    slow_logprobs,
)


def groups_of_many_lengths():
    return [
        make_group(number, samples=6, prompt_length=3 + 4 * number, lengths=(1, 12)).samples
        for number in range(4)
    ]


def all_sequences(groups):
    return np.arange(sum(group.num_samples for group in groups))


def by_sequence(batches, values):
    """sequence id -> values of its tokens, in order."""
    found = {}
    for batch, values_T in zip(batches, values, strict=True):
        for sequence in batch.sequence_ids.unique().tolist():
            assert sequence not in found
            found[sequence] = values_T[batch.sequence_ids == sequence]
    return found


@pytest.mark.parametrize("packing", ["shared", "packed", "rows"])
@pytest.mark.parametrize("max_tokens", [24, 100, 4096])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_packed_logprobs_equal_those_of_one_sequence_at_a_time(policy, max_tokens, temperature, packing):
    groups = groups_of_many_lengths()
    batches = list(micro_batches(collect(groups), all_sequences(groups), max_tokens, packing))
    with torch.no_grad():
        packed = by_sequence(batches, [token_logprobs(policy, batch, temperature) for batch in batches])
        expected = [
            slow_logprobs(policy, group.prompt_token_ids, completion, temperature)
            for group in groups
            for completion in completions(group)
        ]
    assert sorted(packed) == list(range(24))
    for sequence, logprobs_T in enumerate(expected):
        torch.testing.assert_close(packed[sequence], logprobs_T, rtol=0, atol=1e-5)


def test_targets_behaviour_and_versions_stay_with_their_token():
    groups = [
        replace(
            group,
            logprobs=-np.arange(len(group.token_ids), dtype=np.float32) - 1000 * group.group,
            versions=np.arange(len(group.token_ids), dtype=np.int32) + 1000 * group.group,
        )
        for group in groups_of_many_lengths()
    ]
    batches = list(micro_batches(collect(groups), all_sequences(groups), 64))
    for name, field in (
        ("target_ids", "token_ids"),
        ("behaviour_logprobs", "logprobs"),
        ("versions", "versions"),
    ):
        found = by_sequence(batches, [getattr(batch, name) for batch in batches])
        for group in groups:
            for i in range(6):
                expected = getattr(group, field)[group.offsets[i] : group.offsets[i + 1]]
                assert found[group.group * 6 + i].tolist() == expected.tolist()


@pytest.mark.parametrize("max_tokens", [24, 100, 4096])
def test_demonstrations_stand_behind_all_samples_and_leave_them_as_they_were(policy, max_tokens):
    groups = [
        demonstrate(make_group(number, samples=6, prompt_length=3 + 4 * number), length=2 + 3 * number)
        for number in range(4)
    ]
    samples = [group.samples for group in groups]
    sequences = collect(samples, [group.demonstration for group in groups])
    assert sequences.num_samples == 24 and sequences.demonstrations.tolist() == [24, 25, 26, 27]
    batches = list(micro_batches(sequences, np.arange(28), max_tokens))
    targets = by_sequence(batches, [batch.target_ids for batch in batches])
    with torch.no_grad():
        logprobs = by_sequence(batches, [token_logprobs(policy, batch, 0.7) for batch in batches])
    for number, group in enumerate(groups):
        demonstration = torch.from_numpy(group.demonstration.token_ids).long()
        assert targets[24 + number].tolist() == demonstration.tolist()
        for sequence, completion in (
            *enumerate(completions(group.samples), start=6 * number),
            (24 + number, demonstration),
        ):
            expected = slow_logprobs(policy, group.samples.prompt_token_ids, completion, 0.7)
            torch.testing.assert_close(logprobs[sequence], expected, rtol=0, atol=1e-5)


def test_only_sampled_tokens_have_a_behaviour_and_they_come_first():
    groups = [demonstrate(make_group(number, samples=6)) for number in range(4)]
    sequences = collect([group.samples for group in groups], [group.demonstration for group in groups])
    for batch in micro_batches(sequences, np.arange(28), 64):
        is_sampled = batch.sequence_ids < 24
        assert len(batch.behaviour_logprobs) == len(batch.versions) == int(is_sampled.sum())
        assert is_sampled[: batch.num_sampled_tokens].all()
        for sequence in batch.sequence_ids[is_sampled].unique().tolist():
            samples, i = groups[sequence // 6].samples, sequence % 6
            ours = batch.behaviour_logprobs[batch.sequence_ids[: batch.num_sampled_tokens] == sequence]
            assert ours.tolist() == samples.logprobs[samples.offsets[i] : samples.offsets[i + 1]].tolist()


@pytest.mark.parametrize("packing", ["shared", "packed", "rows"])
@pytest.mark.parametrize("max_tokens", [24, 100, 4096])
def test_the_tokens_on_the_way_to_a_target_are_its_sequence(max_tokens, packing):
    """By the layout alone: what the position that predicts a token sees, in order of position, is all before it."""
    groups = groups_of_many_lengths()
    every = [(group, completion) for group in groups for completion in completions(group)]
    seen = 0
    for batch in micro_batches(collect(groups), all_sequences(groups), max_tokens, packing):
        sees = seen_by(batch.layout)
        ids, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
        counts: dict[int, int] = {}
        for place, sequence in zip(batch.hidden_positions.tolist(), batch.sequence_ids.tolist(), strict=True):
            group, completion = every[sequence]
            whole = [*group.prompt_token_ids.tolist(), *completion.tolist()]
            length = len(group.prompt_token_ids) + counts.get(sequence, 0)
            counts[sequence] = counts.get(sequence, 0) + 1
            assert ids[sees[place]].tolist() == whole[:length]
            assert positions[sees[place]].tolist() == list(range(length))
            seen += 1
    assert seen == sum(len(completion) for _, completion in every)


def seen_by(layout):
    """position -> the positions it sees, as the layout's docstring says, those of its prefix first."""
    sees = {}
    for start, length, prefix in zip(layout.starts_G, layout.lengths_G, layout.prefixes_G, strict=True):
        before = (
            []
            if prefix == NONE
            else range(layout.starts_G[prefix], layout.starts_G[prefix] + layout.lengths_G[prefix])
        )
        for position in range(start, start + length):
            assert position not in sees
            sees[position] = [*before, *range(start, position + 1)]
    return sees


def test_a_micro_batch_stays_within_its_token_budget():
    groups = groups_of_many_lengths()
    for packing in ("shared", "packed", "rows"):
        for max_tokens in (40, 130, 300, 1000):
            for batch in micro_batches(collect(groups), all_sequences(groups), max_tokens, packing):
                assert batch.input_ids.numel() <= max_tokens


def test_a_sequence_longer_than_the_budget_gets_a_batch_of_its_own():
    groups = [
        make_group(0, samples=2, lengths=(70, 70)).samples,
        make_group(1, samples=2, lengths=(3, 3)).samples,
    ]
    batches = list(micro_batches(collect(groups), all_sequences(groups), 32))
    assert [batch.sequence_ids.unique().tolist() for batch in batches] == [[0], [1], [2, 3]]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(1, 74), (1, 74), (1, 9)]


def test_the_prompt_of_a_group_is_computed_once():
    groups = [make_group(number, samples=4, prompt_length=30, lengths=(5, 5)).samples for number in range(2)]
    sizes = {
        packing: sum(b.input_ids.numel() for b in micro_batches(collect(groups), np.arange(8), 4096, packing))
        for packing in ("shared", "packed", "rows")
    }
    assert sizes == {"shared": 2 * (30 + 4 * 4), "packed": 8 * 34, "rows": 8 * 34}


def test_a_group_larger_than_the_budget_is_cut_with_its_prompt_in_each_part():
    group = make_group(0, samples=4, prompt_length=30, lengths=(5, 5)).samples
    batches = list(micro_batches(collect([group]), np.arange(4), 40))
    assert [batch.sequence_ids.unique().tolist() for batch in batches] == [[0, 1], [2, 3]]
    assert [batch.input_ids.numel() for batch in batches] == [38, 38]


def test_only_the_chosen_sequences_are_packed():
    groups = groups_of_many_lengths()
    batches = list(micro_batches(collect(groups), np.array([3, 17]), 4096))
    assert [batch.sequence_ids.unique().tolist() for batch in batches] == [[3, 17]]


def test_rows_of_about_the_same_length_share_a_batch():
    groups = [make_group(number, samples=32, lengths=(5, 14)).samples for number in range(8)]
    sequences = collect(groups)
    batches = list(micro_batches(sequences, all_sequences(groups), 1024, "rows"))
    computed = sum(batch.input_ids.numel() for batch in batches)
    assert sequences.num_positions_S.sum() / computed > 0.9


def test_an_empty_prompt_is_refused():
    group = replace(make_group(7).samples, prompt_token_ids=np.empty(0, np.int32))
    with pytest.raises(ValueError, match="group 7 has an empty prompt"):
        collect([group])


def test_the_head_in_chunks_gives_the_same_logprobs_and_gradients(policy, monkeypatch):
    groups = groups_of_many_lengths()
    (batch,) = micro_batches(collect(groups), all_sequences(groups), 4096)
    outcomes = []
    for max_logits in (2**26, 7 * 23):
        monkeypatch.setattr(learner_model, "MAX_LOGITS", max_logits)
        policy.zero_grad()
        logprobs_T = token_logprobs(policy, batch, 0.8)
        (logprobs_T * torch.linspace(-1, 1, len(logprobs_T))).sum().backward()
        outcomes.append((logprobs_T.detach(), *[parameter.grad.clone() for parameter in policy.parameters()]))
    for whole, chunked in zip(*outcomes, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-5)


def test_recomputing_gives_the_same_bits(policy):
    groups = groups_of_many_lengths()
    (batch,) = micro_batches(collect(groups), all_sequences(groups), 4096)
    outcomes = []
    for recompute in (False, True):
        policy.zero_grad()
        logprobs_T = token_logprobs(policy, batch, 0.8, recompute=recompute)
        (logprobs_T * torch.linspace(-1, 1, len(logprobs_T))).sum().backward()
        outcomes.append((logprobs_T.detach(), *[parameter.grad.clone() for parameter in policy.parameters()]))
    assert all(torch.equal(kept, recomputed) for kept, recomputed in zip(*outcomes, strict=True))


def test_recomputing_keeps_nothing_inside_a_block_and_no_logits(policy, monkeypatch):
    monkeypatch.setattr(learner_model, "MAX_LOGITS", 8 * 23)
    groups = groups_of_many_lengths()
    (batch,) = micro_batches(collect(groups), all_sequences(groups), 4096)
    widths = {}
    for recompute in (False, True):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor) or tensor, lambda tensor: tensor
        ):
            token_logprobs(policy, batch, 1.0, recompute=recompute)
        weights = {parameter.data_ptr() for parameter in policy.parameters()}
        widths[recompute] = {
            t.shape[-1] for t in kept if t.data_ptr() not in weights and t.is_floating_point()
        }
    intermediate, vocabulary = 48, 23
    assert {intermediate, vocabulary} <= widths[False]
    assert not {intermediate, vocabulary} & widths[True]


def test_a_missing_model_is_named_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"no/such/model.*name an existing directory"):
        load_model("no/such/model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no config\.json"):
        load_model(str(tmp_path / "empty"))


def test_a_truncated_model_is_named(tmp_path):
    build_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(str(tmp_path))
