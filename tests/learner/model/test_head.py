"""The head is the model's own: what lies between hidden states and logits is not written down here."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    GPTJConfig,
    Llama4TextConfig,
    LlamaForCausalLM,
    OPTConfig,
)

from learner.model.causal_lm import load_model
from learner.model.head import check_head, head_of
from learner.model.packing import choose_packing
from tests.shared.architectures import build, by_name
from tests.shared.tiny_model import build_model

IDS = torch.arange(2, 12)[None]
SMALL = {
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def hidden_of(model) -> torch.Tensor:
    return model.base_model(input_ids=IDS, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Llama", lambda logits: logits),
        ("Granite", lambda logits: logits / 4.0),
        ("Gemma 2", lambda logits: 30.0 * torch.tanh(logits / 30.0)),
        ("Falcon-H1", lambda logits: logits * 0.5),
    ],
)
def test_logits_are_divided_multiplied_and_capped_as_the_model_does(name, rule):
    model = build(by_name(name)).double()
    if name == "Falcon-H1":
        model.model.lm_head_multiplier = 0.5
    weight = 20 * model.get_output_embeddings().weight.detach()  # logits far beyond the cap
    model.get_output_embeddings().weight.data = weight
    hidden = hidden_of(model)
    logits = head_of(model)(hidden)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, rule(hidden @ weight.T), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        logits, model(input_ids=IDS, use_cache=False).logits[0], rtol=1e-12, atol=1e-12
    )


def test_a_scale_of_the_logits_is_applied():
    model = AutoModelForCausalLM.from_config(CohereConfig(**SMALL, logit_scale=0.25, pad_token_id=0)).eval()
    hidden = hidden_of(model)
    torch.testing.assert_close(head_of(model)(hidden), 0.25 * hidden @ model.lm_head.weight.T)


def test_the_head_sees_new_weights_and_passes_gradients_to_them():
    model = build_model()
    head = head_of(model)
    hidden = hidden_of(model).detach().requires_grad_()
    before = head(hidden)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    logits = head(hidden)
    torch.testing.assert_close(logits, 2 * before)
    logits.square().sum().backward()
    torch.testing.assert_close(model.lm_head.weight.grad, 2 * logits.detach().T @ hidden.detach())
    torch.testing.assert_close(hidden.grad, 2 * logits.detach() @ model.lm_head.weight.detach())


def test_the_head_leaves_the_model_as_it_is():
    model = build_model()
    names = [name for name, _ in model.named_parameters()]
    head_of(model)(hidden_of(model))
    assert [name for name, _ in model.named_parameters()] == names
    assert model.state_dict().keys() == build_model().state_dict().keys()
    assert model.base_model is model.model and isinstance(model.model, type(build_model().model))


class CapsOnlyWithTokens(LlamaForCausalLM):
    """Its logits depend on more than the hidden state."""

    def forward(self, input_ids=None, **others):
        output = super().forward(input_ids=input_ids, **others)
        if input_ids is not None:
            output.logits = 30.0 * torch.tanh(output.logits / 30.0)
        return output


def test_a_head_that_does_not_give_the_models_logits_is_refused_however_small_they_are():
    model = CapsOnlyWithTokens(build_model().config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    with pytest.raises(
        ValueError, match=r"model = 'x' \(CapsOnlyWithTokens\) computes other logits"
    ) as error:
        check_head(model, "x")
    assert "\n" not in str(error.value)
    check_head(build_model(), "x")


def saved(config, directory) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return str(directory)


def test_a_policy_that_calls_its_base_models_decoder_has_its_head(tmp_path):
    config = OPTConfig(
        vocab_size=96,
        hidden_size=64,
        word_embed_proj_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=96,
        max_position_embeddings=64,
        init_std=0.2,
    )
    policy = load_model(saved(config, tmp_path))
    logits = head_of(policy)(hidden_of(policy))
    torch.testing.assert_close(logits, policy(input_ids=IDS, use_cache=False).logits[0])
    assert float(logits.detach().std()) > 0.5
    assert choose_packing(policy, "opt", share_prompts=True) == "shared"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (FalconConfig(**SMALL, alibi=False), "takes no attention function from outside"),
        (
            GPTJConfig(vocab_size=23, n_embd=32, n_layer=1, n_head=2, rotary_dim=8, n_positions=64),
            "takes no attention function from outside",
        ),
        (
            Llama4TextConfig(
                **SMALL,
                head_dim=16,
                intermediate_size_mlp=32,
                num_local_experts=2,
                moe_layers=[],
                pad_token_id=0,
            ),
            "has no base model",
        ),
    ],
    ids=["Falcon", "GPT-J", "Llama 4"],
)
def test_an_architecture_that_cannot_be_trained_is_refused_in_one_line(config, why, tmp_path):
    directory = saved(config, tmp_path)
    with pytest.raises(ValueError) as refusal:
        load_model(directory)
    message = str(refusal.value)
    assert message.startswith(f"model = {directory!r}") and why in message and "\n" not in message
    assert message.endswith("the learner cannot train this architecture")
