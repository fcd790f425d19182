"""What a pass keeps is what the estimate says, and blocks are recomputed where that does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import transformers

from learner.config import LearnerConfig
from learner.gang import ALONE, Gang
from learner.learner import Learner
from learner.model import attention, memory
from learner.model.causal_lm import load_model
from learner.model.logprobs import hidden_states, token_logprobs
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import collect, micro_batches
from tests.shared.saved_tensors import counting
from tests.shared.tiny_model import make_group
from tests.shared.wide_model import NUM_LAYERS, save_wide_model

OPTIMIZER_BYTES = 4 * 3
"""A parameter's gradient and two averages in float32: what a learner has yet to make when its weights are there."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_wide_model(tmp_path_factory.mktemp("wide"))


def one_group():
    return make_group(0, samples=4, prompt_length=50, lengths=(50, 50))


def only_batch():
    sequences = collect([one_group().samples])
    (batch,) = micro_batches(sequences, np.arange(sequences.num_samples), 4096)
    return batch


def kept_bytes(policy, *, bfloat16: bool, recompute: bool) -> int:
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        counting(list(policy.parameters())) as kept,
    ):
        logprobs_T = token_logprobs(policy, only_batch(), 1.0, recompute=recompute)
        total = kept.total
    assert logprobs_T.requires_grad
    return total


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_pass_keeps_what_is_estimated(directory, bfloat16):
    policy = load_model(str(directory))
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())
    shape = memory.ModelShape.read(directory, num_parameters)
    batch = only_batch()

    def estimated(recompute: bool) -> float:
        return memory.activation_bytes(
            shape,
            positions=batch.input_ids.numel(),
            completion_tokens=len(batch.target_ids),
            bfloat16=bfloat16,
            recompute=recompute,
        )

    # No tensors that a pass keeps, but what is there for a moment while it goes back.
    head = memory.head_bytes(
        shape,
        completion_tokens=len(batch.target_ids),
        size=2 if bfloat16 else 4,
        is_cast=bfloat16,
    )
    everything = kept_bytes(policy, bfloat16=bfloat16, recompute=False)
    assert estimated(False) - head == pytest.approx(everything, rel=0.25)
    inputs = kept_bytes(policy, bfloat16=bfloat16, recompute=True)
    rounded = 2 * num_parameters if bfloat16 else 0
    # One is recomputed, and kept, while its gradient is made.
    one_block = (everything - rounded - inputs) / NUM_LAYERS
    assert estimated(True) - head - rounded == pytest.approx(inputs + one_block, rel=0.25)
    assert inputs < 0.2 * everything


def test_a_frozen_head_is_cast_once_however_many_chunks_it_is_applied_to(directory, monkeypatch):
    policy = load_model(str(directory))
    head = policy.get_output_embeddings().weight
    monkeypatch.setattr("learner.model.logprobs.MAX_LOGITS", 7 * head.shape[0])
    kept, logprobs = {}, {}
    for is_frozen in (False, True):
        head.requires_grad_(not is_frozen)
        kept[is_frozen] = kept_bytes(policy, bfloat16=True, recompute=False)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logprobs[is_frozen] = token_logprobs(policy, only_batch(), 1.0)
    assert kept[True] <= kept[False]
    assert torch.equal(logprobs[True], logprobs[False])
    assert policy.get_output_embeddings().weight is head


class OneOfTwo(Gang):
    """As if another rank were on this machine."""

    def num_here(self) -> int:
        return 2


COMMON = {
    "vocab_size": 128,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
OTHERS = {
    "Gemma 2": transformers.Gemma2Config(**COMMON, head_dim=64),
    "Mixtral": transformers.MixtralConfig(
        **COMMON | {"intermediate_size": 256}, num_local_experts=8, num_experts_per_tok=2
    ),
    "Qwen3-MoE": transformers.Qwen3MoeConfig(
        **COMMON, head_dim=64, moe_intermediate_size=256, num_experts=8, num_experts_per_tok=4
    ),
    "DeepSeek-V3": transformers.DeepseekV3Config(
        **COMMON | {"num_attention_heads": 16, "num_key_value_heads": 16},
        moe_intermediate_size=64,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=0,
        q_lora_rank=96,
        kv_lora_rank=64,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
    ),
    "Falcon-H1": transformers.FalconH1Config(
        **COMMON, mamba_d_ssm=512, mamba_n_heads=8, mamba_d_head=64, mamba_d_state=64, mamba_n_groups=1
    ),
    "Qwen3-Next": transformers.Qwen3NextConfig(
        **COMMON,
        head_dim=64,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        shared_expert_intermediate_size=64,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        layer_types=["linear_attention", "full_attention"],
    ),
}


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_experts_latent_heads_norms_and_states_are_estimated_too(name, bfloat16):
    """Rows are as long as the chunks in which states are computed, or they would be padded."""
    torch.manual_seed(0)
    policy = transformers.AutoModelForCausalLM.from_config(OTHERS[name]).float().eval()
    policy.set_attn_implementation(attention.NAME)
    parameters = list(policy.parameters())
    shape = memory.ModelShape.of(policy.config.to_dict(), num_parameters=0)
    assert shape.carries_state == (name in ("Falcon-H1", "Qwen3-Next"))
    samples = make_group(0, samples=2, prompt_length=192, lengths=(65, 65)).samples
    sequences = collect([samples])
    packing = "rows" if shape.carries_state else "shared"
    totals = []
    for chosen in (
        [0],
        [0, 1],
    ):  # the second one's positions, without the copies of weights that a pass makes once
        (batch,) = micro_batches(sequences, np.array(chosen), 4096, packing)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), counting(parameters) as kept:
            hidden = hidden_states(policy, batch)
            totals.append((batch.input_ids.numel(), kept.total))
        del hidden
    (fewer, less), (more, total) = totals
    estimated = memory.activation_bytes(
        shape, positions=more - fewer, completion_tokens=0, bfloat16=bfloat16, recompute=False
    )
    assert estimated == pytest.approx(total - less, rel=0.25)


def kept_in_a_step(directory, free_bytes: float, gang: Gang = ALONE, **settings) -> int:
    """By a learner that finds so many bytes free when its weights are loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_bytes))
        learner = Learner(
            str(directory), LearnerConfig(**settings), ObjectiveConfig(name="rloo"), 1.0, seed=0, gang=gang
        )
    with counting(list(learner._policy.parameters.values())) as kept:
        learner.train_step([one_group()])
        return kept.total


@pytest.fixture(scope="module")
def bounds(directory):
    """Bytes kept in a step with all blocks kept and with none."""
    return kept_in_a_step(directory, 0.0, recompute="never"), kept_in_a_step(
        directory, 0.0, recompute="always"
    )


def test_recompute_is_what_the_setting_says_whatever_is_free(directory, bounds):
    everything, inputs = bounds
    assert inputs < 0.2 * everything
    assert kept_in_a_step(directory, 1e15, recompute="always") == inputs


def test_auto_recomputes_from_where_a_pass_does_not_fit_beside_the_optimizer(directory, bounds):
    num_parameters = sum(parameter.numel() for parameter in load_model(str(directory)).parameters())
    batch = only_batch()
    needed = memory.activation_bytes(
        memory.ModelShape.read(directory, num_parameters),
        positions=batch.input_ids.numel(),
        completion_tokens=len(batch.target_ids),
        bfloat16=False,
        recompute=False,
    )
    just_enough = (needed + OPTIMIZER_BYTES * num_parameters) / memory.SHARE_OF_MACHINE
    assert kept_in_a_step(directory, just_enough + 4, recompute="auto") == bounds[0]
    assert kept_in_a_step(directory, just_enough - 4, recompute="auto") == bounds[1]
    for_two = 2 * just_enough
    assert kept_in_a_step(directory, for_two + 8, OneOfTwo(), recompute="auto") == bounds[0]
    assert kept_in_a_step(directory, for_two - 8, OneOfTwo(), recompute="auto") == bounds[1]
