"""One step of the learner against slow transcriptions, and what it reports about staleness and parity."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.weights.manifest import views
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import collect, micro_batches
from learner.step.loss import MAX_LOG_RATIO, micro_batch_loss
from tests.shared.learners import make_learner, write_base_scores
from tests.shared.tiny_model import (
    VOCABULARY_SIZE,
    demonstrate,
    make_group,
    model_path,
    reference_model,
    score,
    shift_behaviour,
    slow_imitation_loss,
    slow_logprobs,
    slow_loss,
)


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    """A copy of what the learner has published last."""
    return {name: view.clone() for name, view in views(learner.manifest, learner.published.buckets)}


def assert_same_weights(ours, theirs, tolerance=0.0):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name].double(), theirs[name].double(), rtol=0, atol=tolerance)


def truncated(max_ratio):
    """The truncated ratios of docs/off-policy.md, token by token."""

    def term(weight, logprobs, behaviour):
        ratios = (logprobs.detach() - behaviour).exp().tolist()
        return sum(weight * min(ratio, max_ratio) * logprobs[t] for t, ratio in enumerate(ratios))

    return term


def test_a_step_is_the_slow_transcription_in_float64():
    rng = np.random.default_rng(1)
    groups = [
        shift_behaviour(group, -0.8 * rng.random(len(group.samples.logprobs)))
        for group in (make_group(number, prompt_length=3 + number, temperature=0.7) for number in range(3))
    ]
    learner = make_learner(
        temperature=0.7,
        max_importance_ratio=1.5,
        micro_batch_tokens=64,
        learning_rate=0.01,
        eps=1e-3,
        weight_decay=0.1,
        max_grad_norm=0.5,
        warmup_steps=4,
    )
    model = reference_model()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1)
    for step in range(2):
        result = learner.train_step(groups)
        loss = slow_loss(model, groups, result.weights_BN, 0.7, truncated(1.5))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1) / 4
        optimizer.step()
        assert result.facts["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert result.facts["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert result.facts["learning_rate"] == pytest.approx(0.01 * (step + 1) / 4)
        assert norm > 0.5
        assert result.version == learner.version == step + 1
    assert_same_weights(weights_of(learner), dict(model.named_parameters()), tolerance=2e-6)


def test_the_score_at_the_sampling_temperature_has_mean_zero():
    """Sum over every one-token completion of pi_T(y) grad log pi_T(y) = 0, and only with the same T twice."""
    policy = load_model(model_path())
    prompt = make_group(0).samples.prompt_token_ids
    everything = torch.arange(VOCABULARY_SIZE, dtype=torch.int64)
    with torch.no_grad():
        probabilities = (
            torch.stack([slow_logprobs(policy, prompt, y[None], 0.6) for y in everything]).exp().flatten()
        )
    samples = make_group(0, samples=VOCABULARY_SIZE, lengths=(1, 1)).samples
    group = replace(samples, prompt_token_ids=prompt, token_ids=everything.int().numpy())

    def gradient_norm(temperature):
        (batch,) = micro_batches(collect([group]), np.arange(VOCABULARY_SIZE), 4096)
        policy.zero_grad()
        logprobs_T = token_logprobs(policy, batch, temperature)
        (probabilities[batch.sequence_ids] * logprobs_T).sum().backward()
        return math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in policy.parameters()))

    assert gradient_norm(0.6) < 1e-5
    assert gradient_norm(1.0) > 0.1


def test_with_base_scores_a_sample_is_weighed_by_its_rank_among_those_of_its_problem(tmp_path):
    path = tmp_path / "base_scores.parquet"
    groups = [make_group(number) for number in range(3)]
    base = {
        "problem-2": groups[2].scores[:3],
        "problem-0": np.array([0.5, 0.6, 0.7]),
        "problem-1": np.full(3, 9.0),
    }
    write_base_scores(path, base)
    objective = ObjectiveConfig(name="rloo", score_transform="rank_vs_base", base_samples=3)
    learner = make_learner(objective=objective, base_scores=path)
    learner.begin_step([groups[2]], 3)
    result = learner.train_step([groups[1], groups[0]])
    ranks = np.array(
        [
            [((score > of_base) + (score == of_base) / 2).mean() for score in group.scores]
            for group in groups
            for of_base in [base[group.samples.problem_id]]
        ]
    )
    others = (ranks.sum(axis=1, keepdims=True) - ranks) / 3
    np.testing.assert_allclose(result.weights_BN, (ranks - others) / 4, rtol=0, atol=1e-15)
    assert result.weights_BN.any(axis=1).tolist() == [True, False, True]
    assert result.facts["win_rate"] == pytest.approx(ranks.mean())
    assert result.facts["reward"] == pytest.approx(np.mean([group.rewards for group in groups]))
    with pytest.raises(ValueError, match="problem 'problem-3' has no base scores"):
        learner.train_step([make_group(3)])


@pytest.mark.parametrize("micro_batch_tokens", [16, 48, 200])
def test_micro_batches_of_any_size_give_the_same_step(micro_batch_tokens):
    groups = [make_group(number) for number in range(4)]
    whole, parts = make_learner(), make_learner(micro_batch_tokens=micro_batch_tokens)
    expected, result = whole.train_step(groups), parts.train_step(groups)
    for name in ("loss", "grad_norm", "ratio_mean", "trained_tokens", "trained_sequences"):
        assert result.facts[name] == pytest.approx(expected.facts[name], rel=1e-4, abs=1e-6)
    assert_same_weights(weights_of(parts), weights_of(whole), tolerance=2e-6)


def test_the_order_of_arrival_does_not_matter():
    groups = [make_group(number) for number in range(4)]
    one, two = make_learner(), make_learner()
    results = one.train_step(groups), two.train_step(groups[::-1])
    assert results[0].groups_B.tolist() == results[1].groups_B.tolist() == [0, 1, 2, 3]
    assert np.array_equal(results[0].weights_BN, results[1].weights_BN)
    assert results[0].fingerprint == results[1].fingerprint
    assert_same_weights(weights_of(one), weights_of(two))


def differing_facts(one, other):
    """Names of those that are not about time and differ by more than rounding."""
    return {
        name
        for name, value in one.facts.items()
        if not name.endswith("_s") and value != pytest.approx(other.facts[name], rel=1e-4, abs=1e-6)
    }


@pytest.mark.parametrize("objective", ["bon", "max_at_k", "bon_sft"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.3])
def test_a_step_begun_in_parts_is_the_step_of_all_its_groups(objective, kl_coefficient):
    settings = {
        "objective": ObjectiveConfig(name=objective, num_select=2),
        "kl_coefficient": kl_coefficient,
        "parity_share": 0.5,
    }
    whole, parts = make_learner(**settings), make_learner(**settings)
    for step in range(2):
        groups = [
            demonstrate(make_group(10 * step + number, worker=f"rollout-{number % 4}"))
            for number in (5, 2, 8, 1, 4, 7)
        ]
        expected = whole.train_step(groups)
        parts.begin_step(groups[:2], 6)
        parts.begin_step(groups[2:3], 6)
        result = parts.train_step(groups[3:])
        assert differing_facts(expected, result) <= {"positions", "prompt_sharing"}
        assert result.groups_B.tolist() == [10 * step + number for number in (1, 2, 4, 5, 7, 8)]
        assert np.array_equal(result.weights_BN, expected.weights_BN)
        assert result.parity_by_worker.keys() == expected.parity_by_worker.keys()
        for name, parity in expected.parity_by_worker.items():
            assert result.parity_by_worker[name].num_tokens == parity.num_tokens
    assert_same_weights(weights_of(parts), weights_of(whole), tolerance=2e-6)


def test_equal_parts_in_equal_order_give_the_same_bits():
    groups = [make_group(number) for number in range(4)]
    fingerprints = []
    for order in ([0, 1], [1, 0]):
        learner = make_learner()
        learner.begin_step([groups[number] for number in order], 4)
        fingerprints.append(learner.train_step(groups[2:]).fingerprint)
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("reward", [np.nan, 1e300, 1e30])
def test_a_part_that_is_not_finite_leaves_nothing_to_the_next_step(reward):
    groups = [make_group(number) for number in range(3)]
    broken = make_group(7, rewards=np.array([1e30, 0, 0, 0]))
    object.__setattr__(broken, "rewards", np.array([reward, 0, 0, 0]))
    fresh, learner = make_learner(), make_learner()
    with pytest.raises((ArithmeticError, ValueError)):
        learner.begin_step([groups[0]], 3)
        learner.begin_step([broken], 3)
        learner.train_step([groups[1]])
    assert learner.version == 0
    assert learner.train_step(groups).fingerprint == fresh.train_step(groups).fingerprint


def test_parts_of_different_steps_are_refused():
    learner = make_learner()
    learner.begin_step([make_group(0)], 3)
    with pytest.raises(ValueError, match="3 groups of 4 samples, 2 groups of 4 samples"):
        learner.train_step([make_group(1)])
    assert learner.version == 0


def test_groups_without_a_signal_leave_a_fresh_learner_where_it_was():
    learner = make_learner()
    before = weights_of(learner)
    result = learner.train_step([make_group(number, rewards=np.ones(4)) for number in range(2)])
    assert result.version == 1 and result.facts["grad_norm"] == 0 and result.facts["trained_tokens"] == 0
    assert_same_weights(weights_of(learner), before)


def test_a_group_without_a_signal_still_counts_in_the_denominator():
    signal, none = make_group(0), make_group(1, rewards=np.zeros(4))
    alone, together = make_learner().train_step([signal]), make_learner().train_step([signal, none])
    assert together.facts["loss"] == pytest.approx(alone.facts["loss"] / 2, rel=1e-6)
    assert together.facts["grad_norm"] == pytest.approx(alone.facts["grad_norm"] / 2, rel=1e-5)


def test_leaving_out_sequences_of_weight_zero_is_exact():
    policy = load_model(model_path())
    groups = [make_group(number).samples for number in range(2)]
    weights_M = torch.tensor([0.0, 0.3, 0.0, -0.2, 0.0, 0.0, 0.5, 0.0])
    gradients = []
    for chosen in (np.arange(8), np.array([1, 3, 6])):
        policy.zero_grad()
        for batch in micro_batches(collect(groups), chosen, 4096):
            logprobs_T = token_logprobs(policy, batch, 1.0)
            micro_batch_loss(logprobs_T, batch, weights_M, 2, LearnerConfig())[0].backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    for everything, nonzero in zip(*gradients, strict=True):
        torch.testing.assert_close(everything, nonzero, rtol=1e-5, atol=1e-6)


def test_large_ratios_are_truncated_and_counted():
    group = make_group(0, rewards=np.array([1.0, 0.0, 0.0, 0.0]))
    on_policy = make_learner().train_step([group])
    rare = make_learner().train_step([shift_behaviour(group, -math.log(5.0))])
    assert on_policy.facts["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert on_policy.facts["ratio_truncated_fraction"] == 0
    assert on_policy.facts["kl"] == pytest.approx(0, abs=1e-6)
    assert rare.facts["ratio_mean"] == pytest.approx(5, rel=1e-4)
    assert rare.facts["ratio_truncated_fraction"] == 1
    assert rare.facts["grad_norm"] == pytest.approx(2 * on_policy.facts["grad_norm"], rel=1e-4)


def test_staleness_is_reported_in_numbers_of_a_slow_transcription():
    rng = np.random.default_rng(0)
    changes = [0.3 * rng.standard_normal(len(make_group(g).samples.logprobs)) - 0.4 for g in range(2)]
    groups = [shift_behaviour(make_group(g), change) for g, change in enumerate(changes)]
    objective = ObjectiveConfig(name="bon", num_select=3, baseline="none")
    learner = make_learner(objective=objective, parity_share=0)
    learner.version = 5  # all samples are of an older one
    facts = learner.train_step(groups).facts
    log_ratios = -np.concatenate(changes)
    assert facts["trained_tokens"] == len(log_ratios) and facts["trained_sequences"] == 8
    assert facts["ratio_mean"] == pytest.approx(np.exp(log_ratios).mean(), rel=1e-5)
    assert facts["kl"] == pytest.approx((np.exp(log_ratios) - 1 - log_ratios).mean(), rel=1e-4)
    assert facts["ratio_truncated_fraction"] == pytest.approx((np.exp(log_ratios) > 2).mean())
    k3 = np.exp(log_ratios) - 1 - log_ratios
    assert facts["staleness_kl"] == pytest.approx(k3.sum() / 8, rel=1e-4)
    expected = 2 * math.erf(math.sqrt(k3.sum() / 8) / 2)  # two others are selected from
    assert facts["staleness_ratio"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "num_others"),
    [
        (ObjectiveConfig(name="rloo"), 0),
        (ObjectiveConfig(name="bon", num_select=2), 1),
        (ObjectiveConfig(name="max_at_k", num_select=4), 3),
    ],
)
def test_staleness_counts_the_other_samples_of_a_selection(objective, num_others):
    group = shift_behaviour(make_group(0, lengths=(1, 1)), -0.1)
    learner = make_learner(objective=objective, parity_share=0)
    learner.version = 1
    facts = learner.train_step([group]).facts
    expected = num_others * math.erf(math.sqrt(math.exp(0.1) - 1 - 0.1) / 2)
    assert facts["staleness_ratio"] == pytest.approx(expected, rel=1e-3)


ALL_TRAINED = ObjectiveConfig(name="rloo")
"""Gives every sample a weight, so that all tokens of the newest version are compared at no cost."""
EVERYTHING = 1e6
"""A `parity_share` with which every sample of the version in turn is compared."""


def test_an_engine_with_other_logprobs_is_named():
    groups = [make_group(0, worker="rollout-0"), make_group(1, worker="rollout-1")]
    error = np.zeros(len(groups[1].samples.logprobs))
    error[-1] = -0.25
    one_trained = np.array([1.0, 0.0, 0.0, 0.0])
    for rewards in (np.arange(4.0), one_trained):  # all trained on, and most compared only
        objective = ObjectiveConfig(name="bon", num_select=2, baseline="none")
        result = make_learner(objective=objective, parity_share=EVERYTHING).train_step(
            [score(group.samples, rewards) for group in (groups[0], shift_behaviour(groups[1], error))]
        )
        num_tokens = sum(len(group.samples.token_ids) for group in groups)
        assert result.facts["parity_max"] == pytest.approx(0.25, abs=1e-5)
        assert result.facts["parity_tokens"] == num_tokens
        assert result.facts["parity_mean"] == pytest.approx(0.25 / num_tokens, abs=1e-5)
        k3 = math.exp(0.25) - 1 - 0.25
        assert result.facts["parity_kl"] == pytest.approx(k3 / num_tokens, abs=1e-6)
        honest, other = (result.parity_by_worker[name] for name in ("rollout-0", "rollout-1"))
        assert honest.largest < 1e-5 and honest.kl < 1e-9
        assert honest.num_tokens + other.num_tokens == num_tokens
        assert other.largest == pytest.approx(0.25, abs=1e-5)
        assert other.mean == pytest.approx(0.25 / other.num_tokens, abs=1e-5)
        assert other.kl == pytest.approx(k3 / other.num_tokens, abs=1e-6)


def test_a_ratio_beyond_all_bounds_gives_a_divergence_that_is_finite():
    group = shift_behaviour(make_group(0), -1000.0)
    (parity,) = make_learner().train_step([group]).parity_by_worker.values()
    assert parity.mean == pytest.approx(1000, rel=1e-3)
    assert parity.kl == pytest.approx(math.exp(MAX_LOG_RATIO) - 1 - MAX_LOG_RATIO, rel=1e-6)


def after_one_large_step(**settings):
    """A learner at version 1, far from version 0, and float64 models of both versions."""
    learner = make_learner(learning_rate=0.05, warmup_steps=0, **settings)
    old = reference_model(weights_of(learner))
    learner.train_step([make_group(number) for number in range(2)])
    return learner, old, reference_model(weights_of(learner))


def test_stale_samples_are_compared_under_the_weights_they_were_sampled_with():
    learner, old, new = after_one_large_step(objective=ALL_TRAINED, parity_share=EVERYTHING)
    honest = make_group(5, model=old, version=0, worker="honest")
    fresh = make_group(6, model=new, version=1, worker="fresh")
    mislabelled = make_group(7, model=new, version=0, worker="mislabelled")
    result = learner.train_step([honest, fresh, mislabelled])
    assert result.parity_by_worker["honest"].largest < 1e-4
    assert result.parity_by_worker["fresh"].largest < 1e-4
    assert result.parity_by_worker["mislabelled"].mean > 0.1


def test_of_the_engines_that_share_a_group_the_one_with_other_logprobs_is_named():
    group = make_group(0, samples=4)
    first_wrong = group.samples.offsets[3]
    shifted = shift_behaviour(group, -0.25 * (np.arange(len(group.samples.logprobs)) >= first_wrong))
    shared = replace(shifted.samples, workers=("right", "right", "right", "wrong"))
    learner = make_learner(objective=ALL_TRAINED, parity_share=EVERYTHING)
    parity = learner.train_step(
        [score(shared, group.rewards), make_group(1, worker="right")]
    ).parity_by_worker
    assert parity.keys() == {"right", "wrong"}
    assert parity["right"].largest < 1e-4 and parity["wrong"].mean == pytest.approx(0.25, abs=1e-4)
    assert parity["wrong"].num_tokens == len(group.samples.logprobs) - first_wrong


def test_a_sequence_sampled_across_an_update_is_compared_token_by_token():
    learner, old, new = after_one_large_step(objective=ALL_TRAINED, parity_share=EVERYTHING)
    under_old, under_new = make_group(5, model=old, lengths=(6, 6)), make_group(5, model=new, lengths=(6, 6))
    is_new = np.arange(24) % 6 >= 3
    samples = replace(
        under_old.samples,
        versions=is_new.astype(np.int32),
        logprobs=np.where(is_new, under_new.samples.logprobs, under_old.samples.logprobs),
    )
    assert np.abs(under_new.samples.logprobs - under_old.samples.logprobs).max() > 0.1
    mixed = score(samples, under_old.rewards)
    result = learner.train_step([mixed])
    assert result.facts["parity_tokens"] == 24
    assert result.facts["parity_max"] < 1e-4


def test_engines_that_keep_their_cache_are_compared_on_sequences_of_one_version():
    learner, old, new = after_one_large_step(parity_share=EVERYTHING, engines_keep_kv=True)
    across = make_group(5, model=new, version=1, lengths=(6, 6), worker="across")
    versions = np.where(np.arange(24) % 6 >= 3, 1, 0).astype(np.int32)
    versions[18:] = 1  # the last of four was sampled under one version
    mixed = score(replace(across.samples, versions=versions), across.rewards)
    before = make_group(6, model=old, version=0, lengths=(6, 6), worker="before")
    result = learner.train_step([mixed, before])
    assert result.parity_by_worker["across"].num_tokens == 6
    assert result.parity_by_worker["before"].num_tokens == 24
    assert result.facts["parity_max"] < 1e-4


def test_versions_no_longer_kept_are_not_compared():
    learner, old, new = after_one_large_step(parity_versions=1, parity_share=EVERYTHING)
    result = learner.train_step([make_group(5, model=old, version=0), make_group(6, model=new, version=1)])
    assert result.facts["parity_tokens"] == len(make_group(6).samples.token_ids)
    assert result.facts["parity_max"] < 1e-4


# Demonstrations


IMITATION = {
    "sft": ObjectiveConfig(name="sft"),
    "bon_sft": ObjectiveConfig(name="bon_sft", num_select=4),
}


@pytest.mark.parametrize("name", IMITATION)
@pytest.mark.parametrize("micro_batch_tokens", [32, 8192])
def test_a_step_of_imitation_is_the_slow_transcription(name, micro_batch_tokens):
    """sft: cross-entropy of the demonstrations alone; bon_sft: that and the samples' terms."""
    groups = [demonstrate(shift_behaviour(make_group(number), -0.3)) for number in range(3)]
    learner = make_learner(
        objective=IMITATION[name], micro_batch_tokens=micro_batch_tokens, eps=1e-3, max_grad_norm=1e9
    )
    result = learner.train_step(groups)
    model = reference_model()
    loss = slow_imitation_loss(model, groups, 1.0)
    assert result.facts["demonstration_logprob"] == pytest.approx(-loss.item(), rel=1e-5)
    if name == "bon_sft":
        assert np.count_nonzero(result.weights_BN) > 6
        loss = loss + slow_loss(model, groups, result.weights_BN, 1.0, truncated(2.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-3, weight_decay=0)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    optimizer.step()
    assert result.facts["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert result.facts["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert_same_weights(weights_of(learner), dict(model.named_parameters()), tolerance=1e-7)


def test_what_a_demonstration_says_touches_no_fact_about_samples():
    groups = [shift_behaviour(make_group(number), -0.3) for number in range(2)]
    for objective in IMITATION.values():
        one, other = (
            make_learner(objective=objective, parity_share=EVERYTHING)
            .train_step([demonstrate(group, seed=seed) for group in groups])
            .facts
            for seed in (0, 1)
        )
        assert one["demonstration_logprob"] != other["demonstration_logprob"]
        for name in ("parity_tokens", "parity_mean", "parity_max", "ratio_mean", "ratio_truncated_fraction",
                     "kl", "kl_reference", "staleness_ratio", "trained_tokens", "trained_sequences"):  # fmt: skip
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
        assert one["parity_max"] == pytest.approx(0.3, abs=1e-4)
        assert one["parity_tokens"] == sum(len(group.samples.token_ids) for group in groups)


def test_an_objective_that_imitates_nobody_ignores_demonstrations():
    groups = [make_group(number) for number in range(2)]
    without, with_demonstrations = (
        make_learner().train_step(batch) for batch in (groups, [demonstrate(group) for group in groups])
    )
    assert with_demonstrations.fingerprint == without.fingerprint
    assert "demonstration_logprob" not in with_demonstrations.facts


def test_a_group_without_a_demonstration_to_imitate_is_named():
    learner = make_learner(objective=IMITATION["sft"])
    with pytest.raises(
        ValueError,
        match=r"problem 'problem-1' of group 1 has no demonstration, .*'sft' imitates: give it one",
    ):
        learner.train_step([demonstrate(make_group(0)), make_group(1)])
    assert learner.version == 0


# Divergence to the model before training


def new_bytes():
    """Of all tensors that anything holds, but for those that were there when the garbage collector was frozen."""
    gc.collect()
    tensors = [held for held in gc.get_objects() if type(held) in (torch.Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_only_a_positive_coefficient_keeps_a_copy_of_the_weights():
    gc.freeze()  # to look through what is made here, not through a million objects
    without = make_learner(kl_coefficient=0.0)
    of_one = new_bytes()
    with_reference = make_learner(kl_coefficient=0.1)
    of_both = new_bytes()
    parameter_bytes = sum(tensor.numel() * 4 for tensor in weights_of(without).values())
    assert (of_both - of_one) - of_one == parameter_bytes
    assert with_reference.version == without.version


def test_a_coefficient_of_zero_changes_no_bit():
    groups = [shift_behaviour(make_group(number), -0.2) for number in range(2)]
    learners = make_learner(), make_learner(kl_coefficient=0.0)
    for _ in range(2):
        one, two = (learner.train_step(groups) for learner in learners)
        assert one.fingerprint == two.fingerprint and one.facts["loss"] == two.facts["loss"]
        assert one.facts["kl_reference"] == 0


def test_the_reference_is_the_model_before_training():
    """In the first step the divergence is nothing; in the second it is that of a slow transcription."""
    learner, old, new = after_one_large_step(kl_coefficient=0.5)
    groups = [make_group(number, model=new, version=1, rewards=np.zeros(4)) for number in range(5, 8)]
    facts = learner.train_step(groups).facts

    def k3(weight, logprobs, of_reference):
        log_rho = of_reference - logprobs
        return -(log_rho.exp() - 1 - log_rho).sum() / 4

    under_old = [make_group(number, model=old) for number in range(5, 8)]
    loss = slow_loss(new, under_old, np.zeros((3, 4)), 1.0, k3)
    (0.5 * loss).backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in new.parameters()))
    assert facts["kl_reference"] == pytest.approx(loss.item(), rel=1e-4)
    assert facts["loss"] == pytest.approx(0.5 * loss.item(), rel=1e-4)
    assert facts["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert facts["trained_sequences"] == 12 and facts["kl"] == pytest.approx(0, abs=1e-5)
    first = make_learner(kl_coefficient=0.5).train_step([make_group(0)])
    assert first.facts["kl_reference"] == 0
    assert first.facts["grad_norm"] == pytest.approx(
        make_learner().train_step([make_group(0)]).facts["grad_norm"]
    )


def test_the_divergence_pulls_towards_the_reference():
    learner, _, new = after_one_large_step(kl_coefficient=1.0)
    groups = [make_group(number, model=new, version=1, rewards=np.zeros(4)) for number in range(5, 8)]
    values = [learner.train_step(groups).facts["kl_reference"] for _ in range(3)]
    assert values[0] > values[1] > values[2]


def test_a_resumed_learner_keeps_the_reference_and_continues_bit_for_bit(tmp_path):
    def batch(step):
        return [make_group(10 * step + number, version=step) for number in range(2)]

    settings = {"kl_coefficient": 0.3, "importance": "sequence", "learning_rate": 0.01}
    straight = make_learner(**settings)
    straight.train_step(batch(0))
    straight.save(tmp_path)
    resumed = make_learner(**settings)
    resumed.load(tmp_path)
    for step in (1, 2):
        one, two = straight.train_step(batch(step)), resumed.train_step(batch(step))
        assert one.fingerprint == two.fingerprint
        assert one.facts["kl_reference"] == two.facts["kl_reference"] > 0
    for changed in ({"kl_coefficient": 0.2}, {"importance": "token"}):
        ((name, value),) = changed.items()
        with pytest.raises(ValueError, match=f"written with learner.{name} = .*, this run has {value!r}"):
            make_learner(**{**settings, **changed}).load(tmp_path)


def test_every_step_has_its_number_of_the_schedule_also_in_a_run_that_is_resumed(tmp_path):
    rewards = np.array([1.0, 0.0, 0.0, 0.0])

    def steps(learner, first, last):
        return [
            learner.train_step([make_group(step, version=step, rewards=rewards)])
            for step in range(first, last)
        ]

    def make(num_select):
        return make_learner(objective=ObjectiveConfig(name="pass_at_k", num_select=num_select))

    schedule = {"from": 3, "to": 1, "over": 2}
    straight = make(schedule)
    first = steps(straight, 0, 1)
    straight.save(tmp_path)
    rest = steps(straight, 1, 4)
    assert [step.facts["num_select"] for step in first + rest] == [3, 2, 1, 1]
    # One success of four, with N: it is the best of all subsets that it is in; with 1, the others are its baseline.
    assert [step.weights_BN[0, 0] for step in first + rest] == pytest.approx([3 / 4, 2 / 4, 1 / 4, 1 / 4])
    resumed = make(schedule)
    resumed.load(tmp_path)
    assert [step.fingerprint for step in steps(resumed, 1, 4)] == [step.fingerprint for step in rest]
    with pytest.raises(ValueError, match="written with objective.num_select = .*, this run has .*'over': 3"):
        make({**schedule, "over": 3}).load(tmp_path)


@pytest.mark.parametrize(("reward", "what"), [(1e300, "loss"), (1e30, "gradient norm")])
def test_a_step_that_is_not_finite_leaves_the_learner_untouched(reward, what):
    learner = make_learner()
    before = weights_of(learner)
    with pytest.raises(ArithmeticError, match=f"{what} is .* in step 1 at version 0"):
        learner.train_step([make_group(0, rewards=np.array([reward, 0.0, 0.0, 0.0]))])
    assert learner.version == 0
    learner.train_step([make_group(0, rewards=np.zeros(4))])
    assert_same_weights(weights_of(learner), before)


def test_groups_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size, got sizes \[4, 5\]"):
        make_learner().train_step([make_group(0, samples=4), make_group(1, samples=5)])


def test_bfloat16_computes_about_the_same_step_on_float32_parameters():
    groups = [make_group(number) for number in range(4)]
    learner = make_learner(dtype="bfloat16")
    exact, rounded = make_learner().train_step(groups), learner.train_step(groups)
    assert rounded.facts["loss"] == pytest.approx(exact.facts["loss"], rel=0.05, abs=0.02)
    assert rounded.facts["grad_norm"] == pytest.approx(exact.facts["grad_norm"], rel=0.1)
    assert 1e-5 < rounded.facts["parity_max"] < 0.3
    assert {tensor.dtype for tensor in weights_of(learner).values()} == {torch.float32}


def test_an_engine_that_rounds_weights_to_bfloat16_is_compared_under_the_rounded_weights():
    learner = make_learner(publish_dtype="bfloat16", parity_share=EVERYTHING)
    rounded = weights_of(learner)
    learner.train_step([make_group(1)])
    old = make_group(0, model=reference_model(rounded), version=0)
    assert learner.train_step([old]).facts["parity_max"] < 1e-4
    exact = make_learner(parity_share=EVERYTHING)
    exact.train_step([make_group(1)])
    assert exact.train_step([old]).facts["parity_max"] > 1e-3


def test_config_modules_import_neither_torch_nor_ray():
    code = "import sys, learner.config, learner.types; sys.exit(bool({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
