"""Real vLLM: what it samples, under which weights, and that it says so truthfully.

Shapes: `n` samples of a group, `T` tokens of one sample.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from actors.weights.manifest import WeightManifest
from cluster.leasing.priority import of_evaluation, of_training
from learner.model.publish import BUCKET_BYTES
from tests.shared.engine import ENGINE, TIMEOUT_S
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

EOS = 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_logprobs_are_those_of_the_distribution_sampled_from(
    engine, tiny_model, monkeypatch, temperature
):
    policy = make_policy(tiny_model)
    load(engine, policy)
    with_settings(engine, monkeypatch, temperature=temperature)
    (output,) = sample(engine, [lease(seed=3)])
    assert_sampled_from(policy, PROMPT, output, temperature)
    other = 1.7 - temperature
    wrong = expected_logprobs(policy, PROMPT, tokens(output)[0], other)
    assert np.abs(logprobs(output)[0] - wrong).max() > 0.05  # the test can tell the two apart


def test_leases_of_several_temperatures_share_an_engine(engine, tiny_model):
    policy = make_policy(tiny_model)
    load(engine, policy)
    asked = {None: ENGINE.temperature, 0.7: 0.7, 1.3: 1.3}
    outputs = sample(engine, [replace(lease(seed=3), temperature=given) for given in asked])
    for output, temperature in zip(outputs, asked.values(), strict=True):
        assert_sampled_from(policy, PROMPT, output, temperature)
    assert tokens(outputs[0]) == tokens(outputs[1]) != tokens(outputs[2])


def test_samples_follow_the_policy_in_frequency(engine, tiny_model, monkeypatch):
    policy = make_policy(tiny_model)
    load(engine, policy)
    with_settings(engine, monkeypatch, max_tokens=1)
    (output,) = sample(engine, [lease(seed=0, n=2048)])
    counts_V = np.bincount([ids[0] for ids in tokens(output)], minlength=policy.config.vocab_size)
    expected_V = np.exp(
        [expected_logprobs(policy, PROMPT, [token], 0.7)[0] for token in range(len(counts_V))]
    )
    likely = expected_V * 2048 >= 20
    assert likely.sum() >= 5
    z = (counts_V - 2048 * expected_V) / np.sqrt(2048 * expected_V * (1 - expected_V))
    assert np.abs(z[likely]).max() < 4.5


def test_a_lease_with_a_lower_priority_overtakes_those_that_wait(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    per_group = ENGINE.samples_per_prompt
    num_first = 4 * ENGINE.max_num_seqs // per_group
    first = [replace(lease(seed=0), priority=100 + number) for number in range(num_first)]
    ends: list[int] = []
    futures = [*engine.sample(first), *engine.sample([replace(lease(seed=0), priority=7)])]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: ends.append(number))
    for future in futures:
        future.result(TIMEOUT_S)
    assert ends.index(num_first) <= 2 * ENGINE.max_num_seqs // per_group


def test_evaluation_takes_the_places_that_training_leaves(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    evaluated = [replace(lease(seed=0, n=64), priority=of_evaluation(number)) for number in range(3)]
    trained = [replace(lease(seed=0, n=64), priority=of_training(9, 10**6 + number)) for number in range(2)]
    ends: list[str] = []
    for what, leases in (("evaluated", evaluated), ("trained", trained)):
        for future in engine.sample(leases):
            future.add_done_callback(lambda _, what=what: ends.append(what))
    while len(ends) < 5:
        time.sleep(0.01)
    # One group of the evaluation had all places already.
    assert ends.index("trained") <= 1 and ends[-2:] == ["evaluated", "evaluated"]


def test_a_piece_of_a_group_has_the_samples_that_the_whole_group_has_bit_for_bit(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    whole = lease(seed=70, n=16)
    pieces = [
        replace(whole, piece=whole.piece._replace(start=a, stop=b)) for a, b in ((0, 5), (5, 6), (6, 16))
    ]
    (undivided,) = sample(engine, [whole])
    divided = [one for piece in sample(engine, pieces[::-1])[::-1] for one in piece]
    alone = [one for piece in pieces for one in sample(engine, [piece])[0]]
    for others in (divided, alone):
        assert tokens(undivided) == tokens(others)
        for ours, theirs in zip(logprobs(undivided), logprobs(others), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_samples_are_those_of_a_request_for_each_with_the_seeds_of_the_lease_bit_for_bit(engine, tiny_model):
    """A slow transcription: vLLM asked for one sample at a time."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    load(engine, make_policy(tiny_model))
    (ours,) = sample(engine, [lease(seed=90, n=16)])

    def ask_vllm():
        for seed in range(90, 106):
            parameters = SamplingParams(
                seed=seed, temperature=ENGINE.temperature, max_tokens=ENGINE.max_tokens, stop_token_ids=[EOS],
                logprobs=0, flat_logprobs=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
            )  # fmt: skip
            engine._llm.add_request(f"seed {seed}", {"prompt_token_ids": list(PROMPT)}, parameters)
        finished = {}
        while len(finished) < 16:
            finished |= {
                output.request_id: output.outputs[0] for output in engine._llm.step() if output.finished
            }
        return [finished[f"seed {seed}"] for seed in range(90, 106)]

    theirs = engine._call(ask_vllm).result(TIMEOUT_S)
    assert tokens(ours) == tokens(theirs)
    for one, other in zip(logprobs(ours), logprobs(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_load_is_what_the_scheduler_holds_and_a_group_finds_its_own_prompt(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    before = engine.load
    per_group = ENGINE.samples_per_prompt
    num_groups = 2 * ENGINE.max_num_seqs // per_group
    futures = engine.sample([lease(seed=0, prompt=LONG_PROMPT) for _ in range(num_groups)])
    seen = []
    while not all(future.done() for future in futures):
        seen.append(engine.load)
        time.sleep(0.001)
    assert max(one.num_running for one in seen) == ENGINE.max_num_seqs
    assert max(one.num_waiting for one in seen) >= per_group
    assert 0 < max(one.kv_usage for one in seen) <= 1
    after = engine.load
    assert (after.num_running, after.num_waiting) == (0, 0) and after.kv_usage < 0.01
    queried = after.prefix_queried_tokens - before.prefix_queried_tokens
    hit = after.prefix_hit_tokens - before.prefix_hit_tokens
    assert queried == num_groups * per_group * len(LONG_PROMPT)
    assert 0 < hit <= 32 * (num_groups * per_group - 1)  # the prompt's one whole block


@pytest.mark.parametrize("num_samples", [1, 8, 33])
def test_a_lease_has_exactly_the_samples_it_is_for(engine, num_samples):
    for output in sample(engine, [lease(seed=0, n=num_samples), lease(seed=num_samples, n=num_samples)]):
        assert len(output) == num_samples
        assert all(len(ids) == len(values) for ids, values in zip(tokens(output), logprobs(output)))


def test_a_completion_ends_with_its_stop_token_or_at_its_length_limit(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    (output,) = sample(engine, [lease(seed=0, n=256)])
    reasons = [completion.finish_reason for completion in output]
    assert set(reasons) == {"stop", "length"}
    for ids, reason in zip(tokens(output), reasons, strict=True):
        assert EOS not in ids[:-1]
        if reason == "stop":
            assert ids[-1] == EOS
        else:
            assert len(ids) == ENGINE.max_tokens and ids[-1] != EOS


def test_the_same_lease_on_the_same_weights_gives_the_same_samples_bit_for_bit(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    first, again = (sample(engine, [lease(seed=40), lease(seed=48)]) for _ in range(2))
    load(engine, make_policy(tiny_model, seed=9))
    load(engine, make_policy(tiny_model))
    later = sample(engine, [lease(seed=40), lease(seed=48)])
    for one, other in itertools.chain(zip(first, again, strict=True), zip(first, later, strict=True)):
        assert tokens(one) == tokens(other)
        for ours, theirs in zip(logprobs(one), logprobs(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_samples_of_a_group_have_consecutive_seeds(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    first, third, far = sample(engine, [lease(seed=100), lease(seed=102), lease(seed=108)])
    assert tokens(first)[2:] == tokens(third)[:-2]
    everything = {tuple(ids) for output in (first, far) for ids in tokens(output)}
    assert len(everything) == 16  # no two alike


def test_after_an_update_samples_come_from_the_new_weights_and_say_so(engine, tiny_model):
    before = make_policy(tiny_model)
    old = load(engine, before)
    (old_output,) = sample(engine, [lease(seed=0)])
    after = make_policy(tiny_model, seed=1)
    new = load(engine, after)
    (output,) = sample(engine, [lease(seed=0)])
    assert all((versions_of(completion) == old).all() for completion in old_output)
    assert all((versions_of(completion) == new).all() for completion in output)
    assert_sampled_from(after, PROMPT, output, 0.7)
    stale = expected_logprobs(before, PROMPT, tokens(output)[0], 0.7)
    assert np.abs(logprobs(output)[0] - stale).max() > 0.5  # the versions are far apart


def test_an_update_while_sampling_loses_no_sequence_and_every_token_tells_its_version(
    engine, tiny_model, monkeypatch
):
    config = with_settings(engine, monkeypatch, max_tokens=56)
    policies = {}
    policy = make_policy(tiny_model)
    policies[load(engine, policy)] = policy
    new_policies = [make_policy(tiny_model, seed=seed) for seed in (2, 3)]
    published = [publish(policy) for policy in new_policies]
    futures = engine.sample([lease(seed=16 * number, n=16) for number in range(4)])
    for policy, weights in zip(new_policies, published, strict=True):
        before = engine.clock.busy_s
        while engine.clock.busy_s == before:  # until a step is over
            assert not all(future.done() for future in futures)
            time.sleep(0.001)
        policies[update(engine, *weights)] = policy
    outputs = [future.result(TIMEOUT_S) for future in futures]

    assert [len(output) for output in outputs] == [16] * 4
    num_mixed = 0
    for completion in itertools.chain.from_iterable(outputs):
        ids, versions_T = list(completion.token_ids), versions_of(completion)
        assert completion.finish_reason == ("stop" if ids[-1] == EOS else "length")
        assert len(ids) == config.max_tokens or ids[-1] == EOS
        assert set(versions_T) <= set(policies) and np.all(np.diff(versions_T) >= 0)
        num_mixed += len(set(versions_T)) > 1
        by_version = {v: expected_logprobs(p, PROMPT, ids, 0.7) for v, p in policies.items()}
        expected_T = [by_version[version][t] for t, version in enumerate(versions_T)]
        np.testing.assert_allclose(completion.logprobs.logprobs, expected_T, rtol=0, atol=1e-4)
    assert num_mixed > 0


def test_an_update_made_ready_beside_sampling_serves_the_same_bits_as_one_loaded_whole(engine, tiny_model):
    policy, leases = make_policy(tiny_model, seed=11), [lease(seed=40), lease(seed=48)]
    model = engine._llm.model_executor.driver_worker.model_runner.get_model()
    joined = model.get_parameter("model.layers.1.self_attn.qkv_proj.weight")
    outputs = []
    load(engine, make_policy(tiny_model))  # of this layout: the next one is made ready
    for bucket_bytes, is_staged in ((BUCKET_BYTES, True), (40_000, False)):
        manifest, buckets, fingerprint = publish(policy, bucket_bytes)
        update(engine, manifest, buckets, fingerprint)
        held = [np.shares_memory(joined.detach().numpy(), bucket) for bucket in buckets]
        assert any(held) == is_staged
        outputs.append(sample(engine, leases))
        update(engine, manifest, buckets, fingerprint)
        outputs.append(sample(engine, leases))
    for output in outputs[1:]:
        for one, other in zip(outputs[0], output, strict=True):
            assert tokens(one) == tokens(other)
            assert all(map(np.array_equal, logprobs(one), logprobs(other)))


def test_updates_with_the_weights_it_has_change_nothing_that_is_sampled(engine, tiny_model, monkeypatch):
    with_settings(engine, monkeypatch, max_tokens=72, kv_after_update="keep")
    weights = publish(make_policy(tiny_model))
    update(engine, *weights)
    (undisturbed,) = sample(engine, [lease(seed=0)])
    (sampling,) = engine.sample([lease(seed=0)])
    num_updates = 0
    while not sampling.done():
        update(engine, *weights)
        num_updates += 1
    assert num_updates > 2
    assert tokens(sampling.result()) == tokens(undisturbed)
    assert all(map(np.array_equal, logprobs(sampling.result()), logprobs(undisturbed)))


def test_a_prefix_is_shared_within_a_version_and_never_across_versions(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    before = engine.load.prefix_hit_tokens
    sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    assert engine.load.prefix_hit_tokens == before
    sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    assert engine.load.prefix_hit_tokens == before + 32
    policy = make_policy(tiny_model, seed=4)
    load(engine, policy)
    (output,) = sample(engine, [lease(seed=0, prompt=LONG_PROMPT, n=1)])
    assert engine.load.prefix_hit_tokens == before + 32
    assert_sampled_from(policy, LONG_PROMPT, output, 0.7)


def test_leases_of_another_salt_share_no_prefix(engine, tiny_model):
    load(engine, make_policy(tiny_model))
    ours = [lease(seed=0, prompt=LONG_PROMPT, n=1) for _ in range(2)]
    theirs = [replace(lease(seed=0, prompt=LONG_PROMPT, n=1), cache_salt="theirs") for _ in range(2)]
    before = engine.load.prefix_hit_tokens
    hits = []
    for one in (ours[0], theirs[0], theirs[1], ours[1]):
        sample(engine, [one])
        hits.append(engine.load.prefix_hit_tokens - before)
    assert hits == [0, 0, 32, 64]


@pytest.mark.parametrize("left_out", ["lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_tensor_left_out_of_an_update_shows_in_the_fingerprint(engine, tiny_model, left_out):
    load(engine, make_policy(tiny_model))
    manifest, buckets, fingerprint = publish(make_policy(tiny_model, seed=5))
    incomplete = WeightManifest(
        entries=tuple(entry for entry in manifest.entries if entry.name != left_out),
        bucket_sizes=manifest.bucket_sizes,
    )
    assert engine.update_weights(engine.version + 1, incomplete, buckets).result(TIMEOUT_S) != fingerprint
    assert engine.update_weights(engine.version + 1, manifest, buckets).result(TIMEOUT_S) == fingerprint
    assert engine.fingerprint().result(TIMEOUT_S) == fingerprint


def test_a_version_older_than_the_engines_changes_nothing(engine, tiny_model):
    older, version = engine.version + 1, engine.version + 2
    manifest, buckets, fingerprint = publish(make_policy(tiny_model))
    assert engine.update_weights(version, manifest, buckets).result(TIMEOUT_S) == fingerprint
    late = [np.zeros_like(bucket) for bucket in buckets]
    assert engine.update_weights(older, manifest, late).result(TIMEOUT_S) == fingerprint
    assert engine.version == version and engine.fingerprint().result(TIMEOUT_S) == fingerprint


def test_an_update_that_does_not_fit_its_manifest_is_refused_and_the_old_one_served(engine, tiny_model):
    manifest, buckets, fingerprint = publish(make_policy(tiny_model))
    version = update(engine, manifest, buckets, fingerprint)
    with pytest.raises(ValueError, match="weight buckets hold"):
        engine.update_weights(version + 1, manifest, [buckets[0][:-64]]).result(TIMEOUT_S)
    assert engine.version == version and engine.fingerprint().result(TIMEOUT_S) == fingerprint


@pytest.mark.parametrize("prompt", [[10] * 97, [10] * 96, []])
def test_a_prompt_that_does_not_fit_fails_alone(engine, prompt):
    refused, other = engine.sample([lease(seed=0, prompt=prompt), lease(seed=0)])
    with pytest.raises(ValueError, match=r"vLLM refuses problem 'p' \(group \d+\): .*prompt"):
        refused.result(TIMEOUT_S)
    assert len(other.result(TIMEOUT_S)) == ENGINE.samples_per_prompt


def test_the_clock_tells_sampling_from_waiting_and_updating(engine, tiny_model):
    policy = make_policy(tiny_model)
    before = engine.clock
    sample(engine, [lease(seed=0)])
    sampled = engine.clock
    assert sampled.busy_s > before.busy_s
    load(engine, policy)
    updated = engine.clock
    assert updated.updating_s > sampled.updating_s and updated.busy_s == sampled.busy_s
    time.sleep(0.3)
    assert engine.clock.idle_s >= updated.idle_s + 0.1
    assert engine.clock.busy_s == updated.busy_s


@pytest.mark.slow
def test_memory_does_not_grow_over_200_updates(engine, tiny_model):
    published = [publish(make_policy(tiny_model, seed=seed)) for seed in (6, 7)]

    def update(times: int) -> int:
        for number in range(times):
            manifest, buckets, fingerprint = published[number % 2]
            assert (
                engine.update_weights(engine.version + 1, manifest, buckets).result(TIMEOUT_S) == fingerprint
            )
            if number % 10 == 0:
                sample(engine, [lease(seed=number)])
        return psutil.Process().memory_info().rss

    warm = update(40)
    assert update(200) - warm < 200 * sum(len(bucket) for bucket in published[0][1]) // 4


@pytest.mark.ends_engine
def test_shutdown_fails_what_is_not_finished_and_all_that_follows(engine, monkeypatch):
    with_settings(engine, monkeypatch, max_tokens=80)
    futures = engine.sample([lease(seed=64 * number, n=64) for number in range(4)])
    engine._stopping.set()  # what comes between this and the thread's end must be answered as well
    queued = [*engine.sample([lease(seed=0)]), engine.fingerprint()]
    engine.shutdown()
    for future in futures:
        with pytest.raises(RuntimeError, match="shut down"):
            future.result(TIMEOUT_S)
    for future in queued:
        assert isinstance(future.exception(TIMEOUT_S), RuntimeError | None)
    with pytest.raises(RuntimeError, match="has failed.*shut down"):
        engine.sample([lease(seed=0)])
    with pytest.raises(RuntimeError, match="has failed"):
        engine.raise_if_failed()
