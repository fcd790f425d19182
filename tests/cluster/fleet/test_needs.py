"""What a run is said to need is what it takes, and is not refused where a setting chosen by itself would fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cluster.config.schema import RunConfig
from cluster.fleet.needs import (
    disk_needed,
    largest_pass,
    memory_needed,
    model_shape,
    num_adapter_parameters,
)
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.step.batch import collect, micro_batches
from tests.shared.saved_tensors import counting
from tests.shared.tiny_model import make_group
from tests.shared.wide_model import save_wide_model

SAMPLES, PROMPT, COMPLETION = 4, 50, 50
MICRO_BATCH_TOKENS = 740
"""About a multiple of what a group takes, and of what a sequence does."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_wide_model(tmp_path_factory.mktemp("wide"))


def config_of(directory, groups_per_step: int = 8, **learner) -> RunConfig:
    rollout = {
        "samples_per_prompt": SAMPLES,
        "max_model_len": PROMPT + COMPLETION,
        "max_tokens": COMPLETION,
    }
    return RunConfig.model_validate(
        {
            "model": str(directory),
            "rollout": rollout,
            "learner": learner,
            "objective": {"name": "rloo"},
            "train": {"groups_per_step": groups_per_step},
        }
    )


@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_largest_pass_keeps_what_is_estimated(directory, share_prompts):
    """Of groups as long as they may be, in micro-batches as full as they may be."""
    policy = load_model(str(directory))
    groups = [
        make_group(number, samples=SAMPLES, prompt_length=PROMPT, lengths=(COMPLETION, COMPLETION)).samples
        for number in range(8)
    ]
    sequences = collect(groups)
    packing = "shared" if share_prompts else "packed"
    most = 0
    for batch in micro_batches(sequences, np.arange(sequences.num_samples), MICRO_BATCH_TOKENS, packing):
        with counting(list(policy.parameters())) as kept:
            logprobs_T = token_logprobs(policy, batch, 1.0)
            most = max(most, kept.total)
        del logprobs_T
    config = config_of(
        directory, micro_batch_tokens=MICRO_BATCH_TOKENS, share_prompts=share_prompts, recompute="never"
    )
    estimated, recomputes = largest_pass(config)
    assert not recomputes
    assert estimated == pytest.approx(most, rel=0.25)


def with_much_to_keep(directory, ranks: int, recompute: str) -> RunConfig:
    """A pass of 1e6 positions a rank: all else is small beside it."""
    return config_of(
        directory, groups_per_step=20_000, ranks=ranks, recompute=recompute, micro_batch_tokens=1_000_000
    )


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_auto_fits_wherever_always_does_and_keeps_blocks_where_there_is_room_for_all_ranks(directory, ranks):
    automatic, always, never = (
        with_much_to_keep(directory, ranks, how) for how in ("auto", "always", "never")
    )
    least, most = (sum(memory_needed(config).values()) for config in (always, never))
    assert most > 1.5 * least
    for free in np.linspace(0.5 * least, 3 * most, 50):
        needed = sum(memory_needed(automatic, free).values())
        assert needed == (most if not largest_pass(automatic, free)[1] else least)
        assert needed <= max(free, least)
    passes = ranks * largest_pass(never)[0]
    assert largest_pass(automatic, 2.2 * passes)[1] is False
    assert largest_pass(automatic, 1.9 * passes)[1] is True


def test_auto_leaves_the_other_roles_what_they_need(directory):
    """Half of the machine would do for the pass, were it not for the engines."""
    alone = with_much_to_keep(directory, 1, "auto")
    needed = largest_pass(alone)[0]
    free = 2.2 * needed
    engines = alone.rollout.model_copy(update={"kv_cache_mib": int(1.4 * needed) >> 20})
    crowded = alone.model_copy(update={"rollout": engines})
    assert not largest_pass(alone, free)[1]
    assert largest_pass(crowded, free)[1]
    assert sum(memory_needed(crowded, free).values()) <= free


def test_a_model_with_a_state_computes_the_prompt_of_every_sample(tmp_path):
    settings = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    state = {"mamba_n_heads": 2, "mamba_d_head": 64, "mamba_d_state": 16}

    def ratio(**more) -> float:
        """The largest pass with prompts shared, where the layers allow it, to that with none."""
        (tmp_path / "config.json").write_text(json.dumps(settings | more))
        passes = [
            largest_pass(config_of(tmp_path, groups_per_step=1, share_prompts=shared))[0]
            for shared in (True, False)
        ]
        return passes[0] / passes[1]

    positions = PROMPT + SAMPLES * COMPLETION, SAMPLES * (PROMPT + COMPLETION)
    assert ratio() == pytest.approx(positions[0] / positions[1], rel=0.05)
    assert ratio(**state) == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_take_memory_and_disk_for_what_is_trained_and_the_frozen_weights_once(directory, ranks):
    """Per parameter of the model: frozen, and two published versions; of the adapters gradients and averages too."""
    settings = {"ranks": ranks, "parity_versions": 3, "kl_coefficient": 0.1}
    whole = config_of(directory, **settings)
    adapted = config_of(directory, **settings, lora={"rank": 2, "target": ["q_proj", "v_proj"]})
    shape = model_shape(adapted)
    policy = load_model(str(directory))
    layers = {name: part for name, part in policy.named_modules() if name.endswith(("q_proj", "v_proj"))}
    expected = sum(2 * (layer.in_features + layer.out_features) for layer in layers.values())
    assert shape.num_adapter_parameters == expected > 0
    saved = memory_needed(whole)["learner"] - memory_needed(adapted)["learner"]
    if ranks == 1:
        of_head = 2 * shape.vocabulary * shape.hidden  # its gradient, of one chunk and of those before
        assert saved == 4 * (5 * shape.num_parameters + 3 * shape.num_parameters + of_head) - 4 * (
            3 * shape.num_parameters + (5 + 3) * expected
        )
    assert saved > 0
    assert disk_needed(adapted) < disk_needed(whole)


def test_adapters_of_a_model_that_is_yet_to_be_made_are_counted_too():
    config = RunConfig.model_validate({"model": "no/such", "sft": {}, "learner": {"lora": {"rank": 4}}})
    size, inner = config.sft.hidden_size, config.sft.intermediate_size
    of_layer = 4 * (4 * 2 * size + 3 * (size + inner))
    assert num_adapter_parameters(config) == config.sft.num_layers * of_layer
