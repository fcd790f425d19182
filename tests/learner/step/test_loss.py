"""Every importance mode, the divergence to a reference and demonstrations, against slow transcriptions in
float64 and against full enumeration.

Enumeration: the samples of one group are all completions of one or two tokens, as if drawn from the uniform
distribution. Their plain mean is then an exact expectation, and importance weights turn it into the policy's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from learner.config import Importance, LearnerConfig
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.step.batch import collect, micro_batches
from learner.step.loss import IMPORTANCE, LossFacts, Ratios, micro_batch_loss
from tests.shared.tiny_model import (
    VOCABULARY_SIZE,
    demonstrate,
    make_group,
    model_path,
    reference_model,
    shift_behaviour,
    slow_imitation_loss,
    slow_logprobs,
    slow_loss,
)

MODES = {
    "token": LearnerConfig(max_importance_ratio=1.3),
    "sequence": LearnerConfig(importance="sequence", max_importance_ratio=1.6),
    "ppo_clip": LearnerConfig(importance="ppo_clip", clip_low=0.3, clip_high=0.4),
    "none": LearnerConfig(importance="none"),
}
TEMPERATURE = 0.8


def slow_token(weight, logprobs, behaviour):
    return weight * ((logprobs.detach() - behaviour).exp().clamp(max=1.3) * logprobs).sum()


def slow_sequence(weight, logprobs, behaviour):
    return weight * min(float((logprobs.detach() - behaviour).exp().prod()), 1.6) * logprobs.sum()


def slow_ppo_clip(weight, logprobs, behaviour):
    """The published surrogate, differentiated through its ratios."""
    ratios = (logprobs - behaviour).exp()
    return torch.minimum(ratios * weight, ratios.clamp(1 - 0.3, 1 + 0.4) * weight).sum()


def slow_none(weight, logprobs, behaviour):
    return weight * logprobs.sum()


SLOW = {"token": slow_token, "sequence": slow_sequence, "ppo_clip": slow_ppo_clip, "none": slow_none}
SLOW_REFERENCE_FACTORS = {
    "token": lambda ratios: ratios.clamp(max=1.3),
    "sequence": lambda ratios: ratios.prod().clamp(max=1.6),
    "ppo_clip": lambda ratios: ratios.clamp(max=1.4),
    "none": torch.ones_like,
}


@pytest.fixture(scope="module")
def anchor():
    """Another policy in the neighbourhood, the reference of divergences."""
    model = load_model(model_path())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def slow_anchor(anchor):
    return reference_model(dict(anchor.named_parameters())).requires_grad_(False)


def split(group, field):
    """A tensor for every sample of `token_ids` or `logprobs`."""
    values = torch.from_numpy(getattr(group.samples, field))
    values = values.double() if values.is_floating_point() else values.long()
    return values.split(np.diff(group.samples.offsets).tolist())


def stale_groups(count=3):
    """Groups sampled from something else than the policy: ratios on both sides of every bound above."""
    rng = np.random.default_rng(3)
    groups = [
        make_group(number, prompt_length=3 + number, temperature=TEMPERATURE) for number in range(count)
    ]
    return [
        shift_behaviour(group, np.minimum(0.5 * rng.standard_normal(len(old)) - 0.05, -old))
        for group in groups
        for old in [group.samples.logprobs]
    ]


def mixed_weights(groups):
    """Both signs, and some zeros."""
    weights_BN = np.random.default_rng(4).standard_normal((len(groups), groups[0].samples.num_samples))
    weights_BN[:, 1] = 0
    return weights_BN


def step_gradient(policy, groups, weights_BN, config, *, demonstrations=(), reference=None, max_tokens=64):
    """What a step accumulates in the parameters' gradients, and its facts."""
    sequences = collect([group.samples for group in groups], demonstrations)
    facts = LossFacts()
    policy.zero_grad()
    for batch in micro_batches(sequences, np.arange(len(sequences.starts)), max_tokens):
        reference_logprobs_T = None
        if reference is not None:
            with torch.no_grad():
                reference_logprobs_T = token_logprobs(reference, batch, TEMPERATURE)
        loss, batch_facts = micro_batch_loss(
            token_logprobs(policy, batch, TEMPERATURE),
            batch,
            torch.from_numpy(weights_BN.reshape(-1)).float(),
            len(groups),
            config,
            reference_logprobs_T,
        )
        loss.backward()
        facts += batch_facts
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}, facts


def slow_gradient(loss_of_model):
    model = reference_model()
    loss = loss_of_model(model)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, loss.item()


def relative_distance(ours, theirs):
    """|ours - theirs| / |theirs| over all parameters."""
    assert ours.keys() == theirs.keys()
    size = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in theirs.values()))
    assert size > 1e-3
    return math.sqrt(sum(float(d.square().sum()) for d in difference(ours, theirs).values())) / size


def difference(ours, theirs):
    return {name: ours[name].double() - theirs[name].double() for name in theirs}


# Importance


@pytest.mark.parametrize("mode", IMPORTANCE)
def test_the_gradient_of_every_mode_is_its_formula(policy, mode):
    groups = stale_groups()
    weights_BN = mixed_weights(groups)
    ours, facts = step_gradient(policy, groups, weights_BN, MODES[mode])
    theirs, loss = slow_gradient(lambda model: slow_loss(model, groups, weights_BN, TEMPERATURE, SLOW[mode]))
    assert relative_distance(ours, theirs) < 1e-4
    if mode != "ppo_clip":  # whose loss is another function with the same gradient
        assert facts.loss == pytest.approx(loss, rel=1e-4)
    if mode == "none":
        assert facts.num_cut == 0
    else:
        assert 0.1 < facts.num_cut / facts.num_tokens < 0.7


def test_the_modes_differ_off_policy_and_agree_on_policy(policy):
    stale = stale_groups()
    fresh = [make_group(number, temperature=TEMPERATURE) for number in range(3)]
    weights_BN = mixed_weights(stale)
    off_policy = {mode: step_gradient(policy, stale, weights_BN, MODES[mode])[0] for mode in IMPORTANCE}
    on_policy = {mode: step_gradient(policy, fresh, weights_BN, MODES[mode])[0] for mode in IMPORTANCE}
    for mode in ("sequence", "ppo_clip", "none"):
        assert relative_distance(on_policy[mode], on_policy["token"]) < 1e-4
        assert relative_distance(off_policy[mode], off_policy["token"]) > 0.05


@pytest.mark.parametrize(
    ("weight", "ratio", "factor"),
    [
        (1.0, 1.41, 0.0),
        (1.0, 1.39, 1.39),
        (1.0, 0.1, 0.1),
        (-1.0, 0.69, 0.0),
        (-1.0, 0.71, 0.71),
        (-1.0, 9.0, 9.0),
        (0.0, 9.0, 9.0),
        (0.0, 0.1, 0.1),
    ],
)
def test_ppo_clip_zeroes_a_token_only_where_its_ratio_left_the_range_in_the_weights_direction(
    weight, ratio, factor
):
    log_ratio_U = torch.tensor([ratio]).log()
    factors = IMPORTANCE["ppo_clip"](
        Ratios(log_token_U=log_ratio_U, log_sequence_U=log_ratio_U, weights_U=torch.tensor([weight])),
        MODES["ppo_clip"],
    )
    assert factors.policy_U.item() == pytest.approx(factor, rel=1e-6)
    assert factors.is_cut_U.item() is (factor == 0)


def test_every_token_of_a_sample_has_the_sequence_factor_of_its_whole_sample(policy):
    """Also when the samples of a step are spread over micro-batches."""
    groups = stale_groups()
    weights_BN = mixed_weights(groups)
    whole, whole_facts = step_gradient(policy, groups, weights_BN, MODES["sequence"], max_tokens=4096)
    parts, parts_facts = step_gradient(policy, groups, weights_BN, MODES["sequence"], max_tokens=16)
    assert relative_distance(parts, whole) < 1e-4
    log_ratios = [
        float(
            (slow_logprobs(policy, group.samples.prompt_token_ids, tokens, TEMPERATURE).detach() - old).sum()
        )
        for group in groups
        for tokens, old in zip(split(group, "token_ids"), split(group, "logprobs"), strict=True)
    ]
    lengths = np.concatenate([np.diff(group.samples.offsets) for group in groups])
    assert whole_facts.num_cut == parts_facts.num_cut == lengths[np.exp(log_ratios) > 1.6].sum()


def every_completion(length):
    """A group of all completions of `length` tokens, sampled uniformly."""
    token_ids = np.indices((VOCABULARY_SIZE,) * length).reshape(length, -1).T
    count = len(token_ids)
    group = make_group(0, samples=1, prompt_length=4)
    samples = replace(
        group.samples,
        offsets=np.arange(0, count * length + 1, length, dtype=np.int32),
        token_ids=token_ids.reshape(-1).astype(np.int32),
        logprobs=np.full(count * length, -math.log(VOCABULARY_SIZE), np.float32),
        versions=np.zeros(count * length, np.int32),
        texts=("",) * count,
        workers=group.samples.workers * count,
        finish_reasons=("length",) * count,
    )
    return replace(
        group,
        samples=samples,
        scores=np.zeros(count),
        rewards=np.zeros(count),
        statuses=("ok",) * count,
        answers=(None,) * count,
        latencies_s=np.zeros(count, np.float32),
    )


def first_two_log_softmaxes(model, group):
    """[V] of the first token, and [V, V] of the second given each first one, at the temperature."""
    prompt = torch.from_numpy(group.samples.prompt_token_ids).long()
    inputs = torch.cat([prompt.expand(VOCABULARY_SIZE, -1), torch.arange(VOCABULARY_SIZE)[:, None]], dim=1)
    log_softmax = torch.log_softmax(model(input_ids=inputs).logits / TEMPERATURE, dim=-1)
    return log_softmax[0, -2], log_softmax[:, -1]


def test_sequence_weights_without_a_bound_give_the_exact_gradient_from_a_uniform_sampler(policy):
    """E_mu[rho w grad log pi] = grad E_pi[w]: token weights leave out how the first token was drawn."""
    group = every_completion(2)
    count = group.samples.num_samples
    values = np.random.default_rng(0).standard_normal(count)

    def negative_expectation(model):
        first, second = first_two_log_softmaxes(model, group)
        return -((first[:, None] + second).exp().reshape(-1) * torch.from_numpy(values)).sum()

    exact, _ = slow_gradient(negative_expectation)
    weights_BN = values[None] / count
    unbounded = {"max_importance_ratio": 1e9}
    of_sequences, _ = step_gradient(
        policy, [group], weights_BN, LearnerConfig(importance="sequence", **unbounded), max_tokens=4096
    )
    of_tokens, _ = step_gradient(policy, [group], weights_BN, LearnerConfig(**unbounded), max_tokens=4096)
    assert relative_distance(of_sequences, exact) < 1e-4
    assert relative_distance(of_tokens, exact) > 0.2


# Divergence to the reference


def slow_divergence(model, reference, groups, factors):
    """Mean over all samples of the sum over tokens of factor * k3."""
    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        for tokens, behaviour in zip(split(group, "token_ids"), split(group, "logprobs"), strict=True):
            logprobs, of_reference = (
                slow_logprobs(m, group.samples.prompt_token_ids, tokens, TEMPERATURE)
                for m in (model, reference)
            )
            rho = (of_reference - logprobs).exp()
            total = total + (factors((logprobs.detach() - behaviour).exp()) * (rho - 1 - rho.log())).sum()
    return total / sum(group.samples.num_samples for group in groups)


@pytest.mark.parametrize("mode", IMPORTANCE)
def test_the_divergence_is_its_formula_and_adds_to_the_loss(policy, anchor, slow_anchor, mode):
    groups = stale_groups()
    weights_BN = mixed_weights(groups)

    config = MODES[mode].model_copy(update={"kl_coefficient": 0.7})
    with_penalty, facts = step_gradient(policy, groups, weights_BN, config, reference=anchor)
    without, facts_without = step_gradient(policy, groups, weights_BN, MODES[mode])
    theirs, divergence = slow_gradient(
        lambda model: 0.7 * slow_divergence(model, slow_anchor, groups, SLOW_REFERENCE_FACTORS[mode])
    )
    assert relative_distance(difference(with_penalty, without), theirs) < 1e-3
    assert 0.7 * facts.kl_reference == pytest.approx(divergence, rel=1e-4)
    assert facts.loss - facts_without.loss == pytest.approx(divergence, rel=1e-3)
    assert facts_without.kl_reference == 0


def test_the_divergences_value_is_from_policy_to_reference_and_its_gradient_that_of_reference_to_policy(
    policy, anchor, slow_anchor
):
    """Over every completion of two tokens: the value is KL(pi || ref) of whole completions; the gradient
    is that of KL(ref || pi) of each token, at the places where the policy gets to."""
    group = every_completion(2)
    config = LearnerConfig(importance="sequence", max_importance_ratio=1e9, kl_coefficient=1.0)
    no_weights = np.zeros((1, group.samples.num_samples))
    ours, facts = step_gradient(policy, [group], no_weights, config, reference=anchor, max_tokens=4096)

    def policy_to_reference(model):
        terms = [
            (first[:, None] + second)
            for first, second in (first_two_log_softmaxes(m, group) for m in (model, slow_anchor))
        ]
        return (terms[0].exp() * (terms[0] - terms[1])).sum()

    def reference_to_policy_by_token(model):
        first, second = first_two_log_softmaxes(model, group)
        reference_first, reference_second = first_two_log_softmaxes(slow_anchor, group)
        at_second = (reference_second.exp() * (reference_second - second)).sum(dim=1)
        return (reference_first.exp() * (reference_first - first)).sum() + (
            first.detach().exp() * at_second
        ).sum()

    gradient_of_value, value = slow_gradient(policy_to_reference)
    expected, _ = slow_gradient(reference_to_policy_by_token)
    assert facts.kl_reference == pytest.approx(value, rel=1e-4)
    assert relative_distance(ours, expected) < 1e-3
    assert relative_distance(ours, gradient_of_value) > 0.1


def test_without_importance_weights_the_divergence_of_stale_samples_is_another_number(policy, anchor):
    group, weights_BN = every_completion(1), np.zeros((1, VOCABULARY_SIZE))
    values = {}
    for importance, bound in (("token", {"max_importance_ratio": 1e9}), ("none", {})):
        config = LearnerConfig(importance=importance, kl_coefficient=1.0, **bound)
        _, facts = step_gradient(policy, [group], weights_BN, config, reference=anchor)
        values[importance] = facts.kl_reference
    prompt = group.samples.prompt_token_ids
    logprobs, reference = (
        torch.cat(
            [
                slow_logprobs(model, prompt, token[None], TEMPERATURE)
                for token in torch.arange(VOCABULARY_SIZE)
            ]
        )
        .detach()
        .double()
        for model in (policy, anchor)
    )
    assert values["token"] == pytest.approx(float((logprobs.exp() * (logprobs - reference)).sum()), rel=1e-4)
    k3 = (reference - logprobs).exp() - 1 - (reference - logprobs)
    assert values["none"] == pytest.approx(float(k3.mean()), rel=1e-4)
    assert abs(values["none"] / values["token"] - 1) > 0.1


def test_a_reference_that_is_infinitely_surer_leaves_loss_and_gradient_finite():
    (batch,) = micro_batches(collect([make_group(0).samples]), np.arange(4), 4096)
    logprobs_T = torch.full((len(batch.target_ids),), -500.0, requires_grad=True)
    config = LearnerConfig(kl_coefficient=1.0)
    loss, _ = micro_batch_loss(logprobs_T, batch, torch.zeros(4), 1, config, torch.zeros_like(logprobs_T))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logprobs_T.grad).all()


@pytest.mark.parametrize("mode", ["token", "sequence"])
def test_a_sampler_that_is_infinitely_less_sure_leaves_loss_and_gradient_finite(mode):
    (batch,) = micro_batches(collect([make_group(0, lengths=(9, 9)).samples]), np.arange(4), 4096)
    batch = replace(batch, behaviour_logprobs=torch.full_like(batch.behaviour_logprobs, -math.inf))
    logprobs_T = torch.full((len(batch.target_ids),), -0.5, requires_grad=True)
    config = LearnerConfig(importance=mode, max_importance_ratio=1e9, kl_coefficient=1.0)
    loss, _ = micro_batch_loss(logprobs_T, batch, torch.ones(4), 1, config, torch.zeros_like(logprobs_T))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logprobs_T.grad).all()


# Demonstrations


@pytest.mark.parametrize("max_tokens", [16, 64, 4096])
def test_demonstrations_add_their_cross_entropy_and_nothing_else(policy, max_tokens):
    groups = [demonstrate(group, length=3 + number) for number, group in enumerate(stale_groups())]
    weights_BN = mixed_weights(groups)
    demonstrations = [group.demonstration for group in groups]
    ours, facts = step_gradient(
        policy, groups, weights_BN, MODES["token"], demonstrations=demonstrations, max_tokens=max_tokens
    )
    theirs, loss = slow_gradient(
        lambda model: (
            slow_loss(model, groups, weights_BN, TEMPERATURE, slow_token)
            + slow_imitation_loss(model, groups, TEMPERATURE)
        )
    )
    assert relative_distance(ours, theirs) < 1e-4
    assert facts.loss == pytest.approx(loss, rel=1e-4)
    with torch.no_grad():
        expected = -float(slow_imitation_loss(reference_model(), groups, TEMPERATURE))
    assert facts.demonstration_logprob == pytest.approx(expected, rel=1e-5)
    _, without = step_gradient(policy, groups, weights_BN, MODES["token"], max_tokens=max_tokens)
    for name in ("num_tokens", "num_sequences", "num_cut"):
        assert getattr(facts, name) == getattr(without, name)
    for name in ("ratio_sum", "kl_sum", "stale_kl_sum"):
        assert getattr(facts, name) == pytest.approx(getattr(without, name), rel=1e-4)


def test_a_demonstration_has_neither_ratio_nor_divergence(policy, anchor):
    """Its gradient is the same whatever the mode, and with a reference."""
    groups = [demonstrate(group) for group in stale_groups(2)]
    no_weights = np.zeros((2, 4))
    demonstrations = [group.demonstration for group in groups]
    theirs, _ = slow_gradient(lambda model: slow_imitation_loss(model, groups, TEMPERATURE))
    for config in MODES.values():
        ours, _ = step_gradient(policy, groups, no_weights, config, demonstrations=demonstrations)
        assert relative_distance(ours, theirs) < 1e-4
    anchored = LearnerConfig(kl_coefficient=0.5)
    both, facts = step_gradient(
        policy, groups, no_weights, anchored, demonstrations=demonstrations, reference=anchor
    )
    of_samples, facts_of_samples = step_gradient(policy, groups, no_weights, anchored, reference=anchor)
    assert relative_distance(difference(both, of_samples), theirs) < 1e-4
    assert facts.kl_reference == pytest.approx(facts_of_samples.kl_reference, rel=1e-4)


# Settings


def test_every_mode_that_can_be_set_has_a_row():
    assert set(IMPORTANCE) == set(get_args(Importance))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 0.1}, "clip_low = 0.1 has no effect with importance = 'token': remove it or set importance = 'ppo_clip'"),
        ({"importance": "sequence", "clip_high": 0.1}, "clip_high = 0.1 has no effect with importance = 'sequence'"),
        ({"importance": "ppo_clip", "max_importance_ratio": 3}, "max_importance_ratio = 3.0 has no effect .* set importance = 'token'"),
        ({"importance": "none", "max_importance_ratio": 3}, "max_importance_ratio = 3.0 has no effect"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_on_the_mode_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        LearnerConfig(**settings)


@pytest.mark.parametrize("mode", IMPORTANCE)
def test_what_is_written_of_a_config_reads_back(mode):
    written = MODES[mode].model_dump(mode="json")
    assert LearnerConfig(**written) == MODES[mode]
    assert written["importance"] == mode and ("clip_low" in written) == (mode == "ppo_clip")
