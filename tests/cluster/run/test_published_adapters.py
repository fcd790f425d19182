"""Adapters published alone: a real engine serves them by vLLM's own path, proves that it does, and is caught when it does not."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from actors.weights.manifest import views
from cluster.config.parse import parse_config
from cluster.fleet.calls import Halt
from tests.shared.engine import TIMEOUT_S
from tests.shared.parity_faults import Pair, engine_of

pytestmark = pytest.mark.cluster

LORA = {"rank": 6, "alpha": 18, "publish": "adapter"}
"""vLLM has room for rank 8."""
LEARNING_RATE = 5e-3
NUM_STEPS = 4


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def pair(request, tiny_model):
    """With an engine of its own: where one is shut down no other of its process goes on, so this file has a process."""
    environment = dict(os.environ)
    engine = engine_of(str(tiny_model), request.param, adapter_rank=LORA["rank"])
    os.environ.clear()
    os.environ.update(environment)  # vLLM sets LD_PRELOAD and more, for processes it might start
    made = Pair(engine, str(tiny_model), request.param, lora=LORA, learning_rate=LEARNING_RATE)
    made.first_fingerprints = (engine.fingerprint().result(TIMEOUT_S), made.learner.published.fingerprint)
    yield made
    engine.shutdown()


def held(pair) -> int:
    return pair.engine.fingerprint().result(TIMEOUT_S)


def test_an_engine_without_an_adapter_holds_what_a_learner_without_a_step_has_published(pair):
    ours, theirs = pair.first_fingerprints
    assert ours == theirs


@pytest.fixture(scope="module")
def old(pair):
    """The adapter of some steps ago. That the engine was at parity in all of them is a claim of every test here."""
    return pair.after_steps(NUM_STEPS)


def test_an_adapter_is_served_and_proved(pair, old):
    pair.serve(pair.weights(), pair.version)
    assert held(pair) == pair.learner.published.fingerprint != pair.first_fingerprints[0]
    result = pair.step_of(pair.sample())
    pair.judge(result)
    assert result.parity_by_worker["rollout-0"].num_tokens == result.facts["trained_tokens"] > 500


def test_what_is_published_is_the_adapter_alone(pair, old):
    names = {name for name, _ in views(pair.learner.manifest, pair.weights())}
    assert {name.rpartition("lora_")[2] for name in names} == {"A.weight", "B.weight"}
    rank = {min(tensor.shape) for _, tensor in views(pair.learner.manifest, pair.weights())}
    assert rank == {LORA["rank"]}


def test_a_sequence_in_flight_goes_on_under_the_new_adapter(pair, old):
    def update() -> None:
        begun_s = pair.engine.clock.busy_s
        while pair.engine.clock.busy_s == begun_s:  # until a step is over
            time.sleep(0.0005)
        pair.serve(pair.weights(), pair.version)

    pair.serve(old, pair.version - 1)
    groups = pair.sample(update)
    assert any(len(set(group.versions.tolist())) > 1 for group in groups)
    pair.serve(pair.weights(), pair.version)
    pair.judge(pair.step_of(pair.sample()))


def test_an_engine_whose_sequences_go_without_the_adapter_stops_the_run(pair, old, monkeypatch):
    """What others shipped for months: the adapter arrives, and is proved to be there, and no sequence is sampled with it."""
    pair.serve(pair.weights(), pair.version)
    monkeypatch.setattr(pair.engine, "_adapter", None)
    assert held(pair) == pair.learner.published.fingerprint
    result = pair.step_of(pair.sample())
    with pytest.raises(Halt, match="^rollout-0 samples from another distribution than the learner trains"):
        pair.judge(result)


def test_an_engine_that_keeps_an_old_adapter_is_told_by_its_fingerprint_and_by_parity(pair, old):
    pair.serve(old, pair.version)
    assert held(pair) != pair.learner.published.fingerprint
    result = pair.step_of(pair.sample())
    with pytest.raises(Halt, match="^rollout-0 samples from another distribution than the learner trains"):
        pair.judge(result)


@pytest.mark.parametrize("damage", ["one element", "one layer left out", "not scaled"])
def test_a_damaged_adapter_has_another_fingerprint(pair, old, damage):
    buckets = pair.weights()
    for name, tensor in views(pair.learner.manifest, buckets):
        if damage == "one element" and name.endswith("layers.1.mlp.up_proj.lora_A.weight"):
            tensor[0, 0] += 0.5
        if damage == "one layer left out" and name.endswith("layers.1.mlp.down_proj.lora_B.weight"):
            tensor.zero_()
        if damage == "not scaled" and name.endswith("lora_B.weight"):
            tensor.mul_(LORA["rank"] / LORA["alpha"])
    pair.serve(buckets, pair.version)
    assert held(pair) != pair.learner.published.fingerprint
    pair.serve(pair.weights(), pair.version)
    assert held(pair) == pair.learner.published.fingerprint


def test_a_layer_that_vllm_has_no_place_for_is_named(pair, old):
    entries = [
        replace(entry, name=entry.name.replace("mlp.up_proj", "mlp.sideways_proj"))
        for entry in pair.learner.manifest.entries
    ]
    manifest = replace(pair.learner.manifest, entries=tuple(entries))
    updating = pair.engine.update_weights(pair.version, manifest, list(pair.weights()))
    with pytest.raises(
        ValueError, match="has no place for an adapter of 'model.layers.0.mlp.sideways_proj' \\(2 such"
    ):
        updating.result(TIMEOUT_S)
    pair.serve(pair.weights(), pair.version)
    assert held(pair) == pair.learner.published.fingerprint


def test_prompts_of_an_old_adapter_are_not_taken_from_the_cache(pair, old):
    pair.serve(old, pair.version)
    pair.sample()
    pair.serve(pair.weights(), pair.version)
    pair.judge(pair.step_of(pair.sample()))
    pair.serve(pair.weights(), pair.version)


def config_of(**settings):
    rollout = {"samples_per_prompt": 4, **settings.pop("rollout", {})}
    return parse_config(
        {
            "model": "m",
            "rollout": rollout,
            "objective": {"name": "rloo"},
            "learner": {"lora": LORA},
            **settings,
        }
    )


def test_engines_know_the_rank_without_being_told_and_a_config_does_not_write_it():
    config = config_of()
    assert config.rollout.adapter_rank == LORA["rank"]
    written = config.model_dump(mode="json", exclude_none=True)
    assert "adapter_rank" not in written["rollout"]
    assert parse_config(written) == config
    assert config_of(learner={"lora": {**LORA, "publish": "merged"}}).rollout.adapter_rank is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rollout": {"tensor_parallel": 2}}, "adapters are served by engines of one part"),
        (
            {"learner": {"lora": LORA, "weights_dtype": "bfloat16", "dtype": "bfloat16"}},
            "the frozen weights would be served in more digits",
        ),
        ({"learner": {"lora": {**LORA, "rank": 513}}}, "more than the 512 that vLLM has room for"),
        ({"rollout": {"adapter_rank": 8}}, "rollout.adapter_rank = 8 is not what the learner publishes"),
    ],
)
def test_what_cannot_be_served_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        config_of(**settings)


def test_the_bytes_of_an_adapter_are_few(pair):
    of_model = sum(tensor.nbytes for tensor in pair.learner._policy.all_parameters.values())
    assert sum(bucket.nbytes for bucket in pair.weights()) < 0.2 * of_model
