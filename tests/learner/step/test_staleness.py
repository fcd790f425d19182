"""What `staleness_ratio` says of a policy that has moved on, against the exact total variation, with rounding and without.

Every answer of three tokens is enumerated. Shapes: `Y` answers of `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.weights.manifest import views
from learner.objectives.config import ObjectiveConfig
from learner.types import staleness_ratio
from tests.shared.learners import make_learner
from tests.shared.tiny_model import VOCABULARY_SIZE, make_group, reference_model, score

NUM_TOKENS, NUM_GROUPS, NUM_SAMPLES = 3, 6, 64
ANSWERS = np.array(list(itertools.product(range(VOCABULARY_SIZE), repeat=NUM_TOKENS)))
PROMPTS = [make_group(number).samples.prompt_token_ids for number in range(NUM_GROUPS)]
OBJECTIVE = ObjectiveConfig(name="bon", num_select=4)


@torch.no_grad()
def logprobs_of_all_answers(model, prompt):
    """float64 [Y, T]."""
    prefixes = torch.tensor(list(itertools.product(range(VOCABULARY_SIZE), repeat=NUM_TOKENS - 1)))
    prompts = torch.from_numpy(prompt.astype(np.int64)).expand(len(prefixes), -1)
    logits = model(input_ids=torch.cat([prompts, prefixes], dim=1)).logits[:, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits, dim=-1).repeat_interleave(VOCABULARY_SIZE, dim=0)
    return logprobs.gather(2, torch.from_numpy(ANSWERS)[:, :, None])[:, :, 0].numpy()


def model_of(learner):
    return reference_model(dict(views(learner.manifest, learner.published.buckets)))


def drawn_from(model, version, sd_rounding=0.0):
    """Groups as an engine with the model's weights draws them; its log-probs differ from the learner's at random,
    such that E[learner's probability / engine's] = 1, as it must be of two distributions."""
    rng = np.random.default_rng(7)
    groups = []
    for number, prompt in enumerate(PROMPTS):
        logprobs_YT = logprobs_of_all_answers(model, prompt)
        chosen = rng.choice(len(ANSWERS), NUM_SAMPLES, p=np.exp(logprobs_YT.sum(axis=1)))
        group = make_group(100 + number, samples=NUM_SAMPLES, lengths=(NUM_TOKENS, NUM_TOKENS))
        logprobs = logprobs_YT[chosen].reshape(-1)
        rounding = sd_rounding * rng.standard_normal(len(logprobs)) + sd_rounding**2 / 2
        samples = replace(
            group.samples,
            prompt_token_ids=prompt,
            token_ids=ANSWERS[chosen].reshape(-1).astype(np.int32),
            logprobs=np.minimum(logprobs + rounding, 0).astype(np.float32),
            versions=np.full(len(logprobs), version, np.int32),
        )
        groups.append(score(samples, group.rewards))
    return groups


def total_variation(model, other):
    return np.mean(
        [
            np.abs(np.expm1((theirs - ours).sum(axis=1)) * np.exp(ours.sum(axis=1))).sum() / 2
            for ours, theirs in (
                (logprobs_of_all_answers(model, prompt), logprobs_of_all_answers(other, prompt))
                for prompt in PROMPTS
            )
        ]
    )


def learner_after(num_updates, **settings):
    """A learner after some updates, all of whose samples are compared, and the float64 model it began with."""
    learner = make_learner(
        objective=OBJECTIVE, warmup_steps=0, parity_share=1e6, parity_versions=9, **settings
    )
    first = model_of(learner)
    for step in range(num_updates):
        learner.train_step([make_group(10 * step + number) for number in range(4)])
    return learner, first


QUICK = {(1, 1e-3, 0.0), (3, 1e-3, 0.2), (3, 3e-3, 0.1)}
CASES = [
    pytest.param(*updates, sd_rounding, marks=[] if (*updates, sd_rounding) in QUICK else pytest.mark.slow)
    for updates in [(1, 1e-3), (3, 1e-3), (3, 3e-3)]
    for sd_rounding in (0.0, 0.1, 0.2)
]


@pytest.mark.parametrize(("num_updates", "learning_rate", "sd_rounding"), CASES)
def test_it_is_the_total_variation_of_a_policy_some_updates_away(num_updates, learning_rate, sd_rounding):
    """Log-ratios are far from normal here, so that it reads too much: up to a third."""
    learner, sampler = learner_after(num_updates, learning_rate=learning_rate)
    exact = (OBJECTIVE.num_select - 1) * total_variation(sampler, model_of(learner))
    facts = learner.train_step(drawn_from(sampler, 0, sd_rounding)).facts
    assert facts["rounding_kl"] == pytest.approx(NUM_TOKENS * sd_rounding**2 / 2, rel=0.2, abs=1e-9)
    assert 0.9 * exact < facts["staleness_ratio"] < 1.35 * exact


def test_it_is_zero_for_samples_of_the_policys_own_version_however_engines_round():
    learner, sampler = learner_after(0, dtype="bfloat16")
    facts = learner.train_step(drawn_from(sampler, 0, sd_rounding=0.3)).facts
    assert facts["kl"] > 0.01 and facts["parity_kl"] > 0.01
    assert facts["staleness_ratio"] == facts["staleness_kl"] == facts["rounding_kl"] == 0


def test_it_is_about_zero_for_an_older_version_of_the_same_weights_in_bfloat16():
    learner, sampler = learner_after(0, dtype="bfloat16", learning_rate=1e-12)
    groups = drawn_from(sampler, 0, sd_rounding=0.2)
    learner.train_step(groups)
    facts = learner.train_step(groups).facts
    with_rounding = staleness_ratio(NUM_TOKENS * facts["kl"], OBJECTIVE.num_select)
    assert with_rounding > 0.4
    assert facts["staleness_ratio"] < 0.05
    assert facts["rounding_kl"] == pytest.approx(NUM_TOKENS * facts["kl"], rel=0.02)


def test_rounding_is_remembered_where_no_token_can_be_compared():
    learner, sampler = learner_after(0)
    learner.train_step(drawn_from(sampler, 0, sd_rounding=0.2))
    learner._parity.forget()
    facts = learner.train_step(drawn_from(sampler, 0, sd_rounding=0.2)).facts
    assert facts["parity_tokens"] == 0
    assert facts["rounding_kl"] == pytest.approx(NUM_TOKENS * 0.02, rel=0.2)


def test_the_ratio_is_the_total_variation_of_a_normal_log_ratio():
    """By numerical integration of |exp(x) - 1| / 2 over x ~ N(-kl, 2 kl)."""
    for kl in (1e-4, 0.03, 0.5, 4.0):
        x = np.linspace(-kl - 12 * math.sqrt(2 * kl), -kl + 12 * math.sqrt(2 * kl), 200_001)
        density = np.exp(-((x + kl) ** 2) / (4 * kl)) / math.sqrt(4 * math.pi * kl)
        expected = np.trapezoid(np.abs(np.expm1(x)) * density, x) / 2
        assert staleness_ratio(kl, 5) == pytest.approx(4 * expected, rel=1e-6)
    assert staleness_ratio(-0.1, 5) == staleness_ratio(1.0, 1) == 0
