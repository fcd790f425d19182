"""Sharing a row and a prompt changes nothing, and is not done where it would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.config import LearnerConfig
from learner.learner import Learner
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.model.packing import choose_packing
from learner.objectives.config import ObjectiveConfig
from learner.objectives.groups import demonstrations_of, stack
from learner.objectives.table import OBJECTIVES
from learner.step.batch import collect, micro_batches
from learner.step.loss import micro_batch_loss
from tests.shared.architectures import build, by_name
from tests.shared.tiny_model import demonstrate, make_group, make_norms_exact, model_path

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


def in_float64():
    policy = load_model(model_path()).double()
    make_norms_exact(policy)
    return policy


def objective_of(name: str) -> ObjectiveConfig:
    settings = {"name": name}
    if ObjectiveConfig(name=name).has_effect("num_select"):
        settings["num_select"] = 3
    return ObjectiveConfig(**settings)


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_shared_prompt_gives_the_same_loss_and_gradients(name, kl_coefficient):
    """float64, 1e-10, samples of an older policy and demonstrations included."""
    policy = in_float64()
    objective = objective_of(name)
    groups = [
        demonstrate(
            make_group(number, samples=6, prompt_length=4 + 3 * number, rewards=np.arange(6.0) <= number)
        )
        for number in range(3)
    ]
    groups = [replace(group, answers=tuple("aabbcd")) for group in groups]
    demonstrations = demonstrations_of(groups, objective)
    weights_M = OBJECTIVES[name].weights(stack(groups, demonstrations), objective).reshape(-1)
    sequences = collect([group.samples for group in groups], demonstrations)
    config = LearnerConfig(kl_coefficient=kl_coefficient)
    outcomes = []
    for packing in ("shared", "packed"):
        policy.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for batch in micro_batches(sequences, np.arange(len(sequences.starts)), 70, packing):
            logprobs_T = token_logprobs(policy, batch, 0.7)
            reference_T = logprobs_T.detach() - 0.1 * (batch.target_ids % 3) if kl_coefficient else None
            loss, _ = micro_batch_loss(logprobs_T, batch, weights_M, len(groups), config, reference_T)
            loss.backward()
            total += loss.detach()
        outcomes.append([total, *(parameter.grad.clone() for parameter in policy.parameters())])
    assert any(bool(tensor.any()) for tensor in outcomes[0][1:])
    for shared, apart in zip(*outcomes, strict=True):
        torch.testing.assert_close(shared, apart, rtol=0, atol=1e-10)


def test_a_transformer_shares_prompts_unless_told_otherwise():
    policy = load_model(model_path())
    assert choose_packing(policy, "tiny", share_prompts=True) == "shared"
    assert choose_packing(policy, "tiny", share_prompts=False) == "packed"


def hybrid(name: str, tmp_path):
    """A model whose layers carry a state along the row."""
    from transformers import FalconH1Config, FalconH1ForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    if name == "falcon":
        config = FalconH1Config(
            **SIZES, mamba_d_ssm=64, mamba_n_heads=2, mamba_d_head=32, mamba_d_state=16, mamba_n_groups=1
        )
        return FalconH1ForCausalLM(config).eval()
    config = Qwen3NextConfig(
        **SIZES,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        decoder_sparse_step=1,
    )
    return Qwen3NextForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["falcon", "qwen"])
def test_a_model_with_a_state_gets_a_row_for_each_sequence(name, tmp_path):
    policy = hybrid(name, tmp_path)
    policy.set_attn_implementation("bonfire")
    assert choose_packing(policy, name, share_prompts=True) == "rows"


def test_an_attention_that_the_learner_does_not_reproduce_is_refused():
    policy = load_model(model_path())
    layer = policy.base_model.layers[1].self_attn
    original = layer.forward
    layer.forward = lambda *arguments, layout=None, **settings: original(
        *arguments, layout=layout, sliding_window=2 if layout else None, **settings
    )
    with pytest.raises(ValueError, match=r"model = 'odd' \(LlamaForCausalLM\) gives other hidden states"):
        choose_packing(policy, "odd", share_prompts=True)


def phimoe(**settings):
    """Its attention knows of no window; its mask has one."""
    from transformers import PhimoeConfig, PhimoeForCausalLM

    policy = PhimoeForCausalLM(PhimoeConfig(**SIZES, num_local_experts=2, pad_token_id=0, **settings)).eval()
    policy.set_attn_implementation("bonfire")
    return policy


def test_a_window_that_only_the_mask_knows_of_is_refused_however_long_it_is():
    with pytest.raises(ValueError) as refusal:
        choose_packing(phimoe(sliding_window=2000), "phi", share_prompts=True)
    assert str(refusal.value) == (
        "model = 'phi' (PhimoeForCausalLM) masks with a window of 2000, and PhimoeAttention attends with one of None: "
        "the learner cannot train this architecture"
    )
    everywhere = phimoe(sliding_window=2000, max_position_embeddings=2000)
    assert choose_packing(everywhere, "phi", share_prompts=True) == "shared"


@pytest.mark.parametrize("layer_says", [None, 3000])
def test_a_layer_with_another_window_than_its_mask_is_refused(layer_says):
    policy = build(by_name("Gemma 2"))
    policy.set_attn_implementation("bonfire")
    policy.config.sliding_window = 2000  # of the mask
    policy.config.max_position_embeddings = 4000
    (sliding,) = (
        layer.self_attn for layer in policy.base_model.layers if layer.self_attn.sliding_window == 8
    )
    sliding.sliding_window = 2000
    assert choose_packing(policy, "gemma", share_prompts=True) == "shared"
    sliding.sliding_window = layer_says
    with pytest.raises(
        ValueError, match=rf"a window of 2000, and Gemma2Attention attends with one of {layer_says}: "
    ):
        choose_packing(policy, "gemma", share_prompts=True)


def test_a_learner_says_how_it_packs_and_counts_what_sharing_saves():
    learner = Learner(model_path(), LearnerConfig(), ObjectiveConfig(name="rloo"), 1.0, seed=0)
    assert learner.packing == "shared"
    group = make_group(0, samples=4, prompt_length=20, lengths=(5, 5), rewards=np.array([1.0, 0, 0, 1]))
    facts = learner.train_step([group]).facts
    assert facts["positions"] == 20 + 4 * 4
    assert facts["prompt_sharing"] == pytest.approx(4 * 24 / 36)
