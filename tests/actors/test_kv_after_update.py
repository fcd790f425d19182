"""What sequences in flight, those that wait and those that come later are computed with after an update.

Shapes: `T` tokens of one sample, `V` vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from tests.shared.engine import TIMEOUT_S
from tests.shared.policies import load, make_policy, publish, update
from tests.shared.sampling import (
    LONG_PROMPT,
    PROMPT,
    assert_sampled_from,
    expected_logprobs,
    lease,
    logprobs,
    sample,
    tokens,
    versions_of,
    with_settings,
)

BLOCK = 32


@torch.no_grad()
def logprobs_with_kept_kv(
    policies: dict[int, Any], prompt: Sequence[int], completion: Sequence[int], versions_T: np.ndarray
) -> np.ndarray:
    """[T] of a sequence each position of which is computed once, under the version of the token sampled from it."""
    cache, parts, sequence = DynamicCache(), [], [*prompt, *completion]
    bounds = [0, *(np.flatnonzero(np.diff(versions_T)) + 1), len(versions_T)]
    for start, end in itertools.pairwise(bounds):
        first, last = (len(prompt) - 1 + start if start else 0), len(prompt) - 1 + end
        policy = policies[int(versions_T[start])]
        logits_TV = policy(input_ids=torch.tensor([sequence[first:last]]), past_key_values=cache).logits[0]
        logprobs_TV = torch.log_softmax(logits_TV[start - end :].double() / 0.7, dim=-1)
        parts.append(logprobs_TV[torch.arange(end - start), torch.tensor(completion[start:end])])
    return torch.cat(parts).numpy()


def after_a_step(engine: Any) -> None:
    """Wait until the engine has made one more step."""
    before = engine.clock.busy_s
    while engine.clock.busy_s == before:
        time.sleep(0.001)


def sample_across_updates(
    engine: Any, tiny_model: Any, leases: Sequence[Any], seeds: Sequence[int]
) -> tuple[list[Any], dict[int, Any]]:
    """Outputs, and the policy of every version: one update after each further step or so."""
    policy = make_policy(tiny_model)
    policies = {load(engine, policy): policy}
    later = [make_policy(tiny_model, seed=seed) for seed in seeds]
    published = [publish(policy) for policy in later]
    futures = engine.sample(leases)
    for policy, weights in zip(later, published, strict=True):
        after_a_step(engine)
        policies[update(engine, *weights)] = policy
        assert not all(future.done() for future in futures)
    return [future.result(TIMEOUT_S) for future in futures], policies


@pytest.fixture
def scheduled_tokens(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many token positions the engine has computed since the test began, or was asked last."""
    scheduler = engine._llm.engine_core.engine_core.scheduler
    schedule, counts = scheduler.schedule, []

    def count(*arguments: Any, **settings: Any) -> Any:
        output = schedule(*arguments, **settings)
        counts.append(output.total_num_scheduled_tokens)
        return output

    def take() -> int:
        total = sum(counts)
        counts.clear()
        return total

    monkeypatch.setattr(scheduler, "schedule", count)
    return take


def needed_tokens(outputs: Sequence[Any], prompt: Sequence[int]) -> int:
    """Positions that groups of one prompt take without any update: its whole blocks once, and no last token."""
    lengths = [len(ids) for output in outputs for ids in tokens(output)]
    shared = len(prompt) // BLOCK * BLOCK
    return sum(len(prompt) + length - 1 for length in lengths) - shared * (len(lengths) - 1)


def test_kept_kv_gives_the_log_probs_of_new_weights_after_old_keys_and_values(
    engine, tiny_model, monkeypatch, scheduled_tokens
):
    with_settings(engine, monkeypatch, max_tokens=56, kv_after_update="keep")
    before = engine.num_reprefilled_tokens
    outputs, policies = sample_across_updates(
        engine, tiny_model, [lease(seed=16 * number, n=16) for number in range(4)], seeds=(2, 3)
    )
    num_mixed, farthest = 0, 0.0
    for completion in itertools.chain.from_iterable(outputs):
        ids, versions_T = list(completion.token_ids), versions_of(completion)
        assert set(versions_T) <= set(policies) and np.all(np.diff(versions_T) >= 0)
        ours = np.array(completion.logprobs.logprobs)
        np.testing.assert_allclose(
            ours, logprobs_with_kept_kv(policies, PROMPT, ids, versions_T), rtol=0, atol=1e-4
        )
        recomputed = {v: expected_logprobs(p, PROMPT, ids, 0.7) for v, p in policies.items()}
        recomputed_T = np.array([recomputed[version][t] for t, version in enumerate(versions_T)])
        farthest = max(farthest, np.abs(ours - recomputed_T).max())
        num_mixed += len(set(versions_T)) > 1
    assert num_mixed > 0 and farthest > 0.5  # the test can tell kept from recomputed
    assert engine.num_reprefilled_tokens == before
    assert scheduled_tokens() == needed_tokens(outputs, PROMPT)


def test_a_request_after_an_update_finds_no_kv_of_an_older_version(engine, tiny_model, monkeypatch):
    with_settings(engine, monkeypatch, kv_after_update="keep")
    load(engine, make_policy(tiny_model))
    sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    before = engine.load.prefix_hit_tokens
    sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    assert engine.load.prefix_hit_tokens == before + BLOCK
    policy = make_policy(tiny_model, seed=4)
    load(engine, policy)
    (output,) = sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    assert engine.load.prefix_hit_tokens == before + BLOCK
    assert_sampled_from(policy, LONG_PROMPT, output, 0.7)


def test_a_sequence_that_waits_across_an_update_gets_none_of_its_groups_older_kv(
    engine, tiny_model, monkeypatch
):
    # More than the 64 that are sampled at a time, so that the last of the group begin after the update.
    with_settings(engine, monkeypatch, kv_after_update="keep")
    outputs, policies = sample_across_updates(
        engine, tiny_model, [lease(seed=0, prompt=LONG_PROMPT, n=96)], seeds=(5,)
    )
    newest = max(policies)
    late = [one for one in outputs[0] if set(versions_of(one)) == {newest}]
    assert 0 < len(late) < 96
    for completion in late:
        expected_T = expected_logprobs(policies[newest], LONG_PROMPT, completion.token_ids, 0.7)
        np.testing.assert_allclose(completion.logprobs.logprobs, expected_T, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("prompt", "num_samples"), [(PROMPT, 16), (LONG_PROMPT, 16), (LONG_PROMPT, 96)])
def test_the_tokens_that_updates_make_the_engine_compute_again_are_counted_exactly(
    engine, tiny_model, monkeypatch, scheduled_tokens, prompt, num_samples
):
    with_settings(engine, monkeypatch, max_tokens=40)
    before = engine.num_reprefilled_tokens
    outputs, _ = sample_across_updates(
        engine, tiny_model, [lease(seed=0, prompt=prompt, n=num_samples)], seeds=(2, 3)
    )
    counted = engine.num_reprefilled_tokens - before
    assert counted > 0
    # Those that wait find the prompt of those before them only under their own weights: one more is no repetition.
    assert scheduled_tokens() == needed_tokens(outputs, prompt) + counted


def test_without_a_sequence_in_flight_both_ways_give_the_same_samples_bit_for_bit(
    engine, tiny_model, monkeypatch
):
    seen = []
    for kv_after_update in ("recompute", "keep"):
        with_settings(engine, monkeypatch, kv_after_update=kv_after_update)
        for seed in (None, 1):
            load(engine, make_policy(tiny_model, seed=seed))
            seen.append(sample(engine, [lease(seed=40), lease(seed=48, prompt=LONG_PROMPT)]))
    for one, other in ((0, 2), (1, 3)):
        for ours, theirs in zip(seen[one], seen[other], strict=True):
            assert tokens(ours) == tokens(theirs)
            for left, right in zip(logprobs(ours), logprobs(theirs), strict=True):
                np.testing.assert_array_equal(left, right)
