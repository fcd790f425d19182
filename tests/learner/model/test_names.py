"""What a parameter is on disk, and back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Qwen3_5Config
from transformers.core_model_loading import Chunk, Interleave, Transpose, WeightConverter, WeightRenaming

from learner.model.causal_lm import load_model
from learner.model.names import StoredLayout, stored_buffers
from tests.shared.architectures import MAX_POSITIONS, build, by_name
from tests.shared.models_table import check_names, check_training, make_learner
from tests.shared.tiny_model import build_model


def sources_of(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **stored_buffers(model)}


def stored_by(model) -> dict[str, torch.Tensor]:
    layout = StoredLayout(model)
    return {
        name: tensor
        for group in layout.groups
        for name, tensor in layout.store(group, sources_of(model)).items()
    }


def test_experts_are_stored_one_by_one_and_named_as_mixtral_names_them():
    model = build(by_name("Mixtral"))
    stored = stored_by(model)
    experts = model.model.layers[1].mlp.experts
    for number in range(4):
        path = f"model.layers.1.block_sparse_moe.experts.{number}"
        gate, up = experts.gate_up_proj[number].chunk(2)
        assert torch.equal(stored[f"{path}.w1.weight"], gate)
        assert torch.equal(stored[f"{path}.w3.weight"], up)
        assert torch.equal(stored[f"{path}.w2.weight"], experts.down_proj[number])
    assert torch.equal(
        stored["model.layers.0.block_sparse_moe.gate.weight"], model.model.layers[0].mlp.gate.weight
    )


def test_buffers_of_a_checkpoint_are_stored_and_keep_their_values():
    model = build(by_name("DeepSeek-V3"))
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    bias.uniform_()
    layout = StoredLayout(model)
    (tensor,) = [one for one in layout if one.is_buffer]
    assert tensor.name == "model.layers.1.mlp.gate.e_score_correction_bias" and tensor.shape == (4,)
    assert torch.equal(stored_by(model)[tensor.name], bias)


@pytest.mark.parametrize(
    "conversions",
    [
        [],
        [WeightRenaming(source_patterns=r"^transformer\.", target_patterns="model.")],
        [WeightConverter("up_and_gate", ["mlp.gate_proj", "mlp.up_proj"], operations=[Chunk(dim=0)])],
        [WeightConverter("o_of_heads", ["self_attn.o_proj"], operations=[Transpose(0, 1)])],
        [WeightConverter("mixed", ["mlp.down_proj"], operations=[Interleave(dim=0)])],
    ],
    ids=["as it is", "renamed", "two in one", "transposed", "interleaved"],
)
def test_what_is_stored_is_loaded_back(conversions):
    model = build_model()
    model._weight_conversions = conversions
    layout = StoredLayout(model)
    stored = stored_by(model)
    assert {one.name: one.shape for one in layout} == {name: tuple(one.shape) for name, one in stored.items()}
    loaded = {name: one for group in layout.groups for name, one in layout.load(group, stored).items()}
    assert loaded.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded[name], parameter)
    assert len(stored) == len(loaded) - (2 if conversions and "up_and_gate" in str(conversions) else 0)


def test_the_language_model_of_a_multimodal_checkpoint_keeps_the_names_that_it_has_there(tmp_path):
    """As Qwen3.5 is on the hub: under a prefix, with a vision tower beside it."""
    model = build(by_name("Qwen3.5"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {
        name.replace("model.", "model.language_model.", 1): one for name, one in load_file(file).items()
    }
    save_file({**tensors, "model.visual.patch_embed.weight": torch.zeros(3)}, file, {"format": "pt"})
    settings = json.loads((tmp_path / "config.json").read_text())
    Qwen3_5Config(text_config=settings).save_pretrained(tmp_path)
    stored = stored_by(load_model(str(tmp_path)))
    assert stored.keys() == tensors.keys() and "model.language_model.norm.weight" in stored
    for name, tensor in tensors.items():
        assert torch.equal(stored[name], tensor)


def test_a_multimodal_model_is_trained_on_text_and_stored_whole(tmp_path):
    text = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "sliding_window": 8,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=90)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    learner = make_learner(tmp_path / "model")
    before = {name: value.detach().clone() for name, value in learner._policy.parameters.items()}
    check_training(learner, moved=lambda name: "language_model" in name)
    for name, value in learner._policy.parameters.items():
        assert "language_model" in name or torch.equal(value, before[name])
    check_names(learner, tmp_path / "model", tmp_path / "checkpoint")
