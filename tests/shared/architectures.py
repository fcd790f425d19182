"""Small random models of every architecture in docs/models.md: two to four layers, a vocabulary of 96.

Weights are large enough that log-probs differ by nats and what one token does is seen in the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

VOCABULARY_SIZE = 96
MAX_POSITIONS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A row of docs/models.md."""

    name: str
    config: Callable[[], Any]
    packing: Literal["shared", "rows"] = "shared"
    """The cheapest under which the learner computes it rightly."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Settings under [rollout] without which vLLM's CPU build does not serve it."""


def _config(name: str, /, **settings: Any) -> Callable[[], Any]:
    base = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    merged = {field: value for field, value in (base | settings).items() if value is not _ABSENT}
    return lambda: getattr(transformers, name)(**merged)


_ABSENT = object()
_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "layer_types": ["linear_attention", "full_attention"],
}

ARCHITECTURES = (
    Architecture("Llama", _config("LlamaConfig", tie_word_embeddings=False)),
    Architecture(
        "Qwen2",
        _config(
            "Qwen2Config",
            head_dim=_ABSENT,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        ),
    ),
    Architecture("Qwen3", _config("Qwen3Config", tie_word_embeddings=True)),
    Architecture("Qwen3-MoE", _config("Qwen3MoeConfig", **_EXPERTS, norm_topk_prob=True)),
    Architecture(
        "Mixtral", _config("MixtralConfig", num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    ),
    Architecture("Mistral with a window", _config("MistralConfig", sliding_window=8)),
    Architecture(
        "Gemma 2",
        _config(
            "Gemma2Config", sliding_window=8, query_pre_attn_scalar=32, hidden_activation="gelu_pytorch_tanh"
        ),
    ),
    Architecture(
        "Gemma 3",
        _config(
            "Gemma3TextConfig",
            sliding_window=8,
            query_pre_attn_scalar=32,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ),
    Architecture(
        "Gemma 4 (text)",
        _config(
            "Gemma4TextConfig",
            sliding_window=8,
            global_head_dim=64,
            num_hidden_layers=4,
            num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 2,
            vocab_size_per_layer_input=VOCABULARY_SIZE,
            hidden_size_per_layer_input=16,
        ),
    ),
    Architecture(
        "Phi-3", _config("Phi3Config", head_dim=_ABSENT, num_attention_heads=2, num_key_value_heads=1)
    ),
    Architecture(
        "OLMo 2", _config("Olmo2Config", head_dim=_ABSENT, num_attention_heads=2, num_key_value_heads=1)
    ),
    Architecture(
        "SmolLM3",
        _config(
            "SmolLM3Config",
            head_dim=_ABSENT,
            num_attention_heads=2,
            num_key_value_heads=1,
            no_rope_layers=[1, 0],
        ),
    ),
    Architecture("GLM-4", _config("Glm4Config", partial_rotary_factor=0.5)),
    Architecture(
        "Granite",
        _config(
            "GraniteConfig",
            head_dim=_ABSENT,
            num_attention_heads=2,
            num_key_value_heads=1,
            logits_scaling=4.0,
            residual_multiplier=0.5,
            embedding_multiplier=3.0,
            attention_multiplier=0.2,
        ),
    ),
    Architecture(
        "gpt-oss",
        _config(
            "GptOssConfig",
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ),
    Architecture(
        "DeepSeek-V3",
        _config(
            "DeepseekV3Config",
            head_dim=_ABSENT,
            num_key_value_heads=4,
            moe_intermediate_size=32,
            n_routed_experts=4,
            topk_method="noaux_tc",  # this and the next, which vLLM asks for, as the real one's config.json says
            scoring_func="sigmoid",
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=32,
            kv_lora_rank=512,  # the kernel of vLLM's CPU build knows this and the next value only
            qk_nope_head_dim=32,
            qk_rope_head_dim=64,
            v_head_dim=32,
        ),
    ),
    Architecture(
        "Qwen3-Next",
        _config("Qwen3NextConfig", **_EXPERTS, **_DELTA_NET, shared_expert_intermediate_size=32),
        packing="rows",
        engine={"prefix_caching": False, "dtype": "bfloat16"},
    ),
    Architecture(
        "Qwen3.5",
        _config("Qwen3_5TextConfig", **_DELTA_NET),
        packing="rows",
        engine={"prefix_caching": False, "dtype": "bfloat16"},
    ),
    Architecture(
        "Falcon-H1",
        _config(
            "FalconH1Config",
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_n_groups=1,
            mamba_expand=1,
            mamba_chunk_size=16,
        ),
        packing="rows",
        engine={"prefix_caching": False},
    ),
)


def by_name(name: str) -> Architecture:
    return next(one for one in ARCHITECTURES if one.name == name)


@torch.no_grad()
def build(architecture: Architecture, seed: int = 0) -> Any:
    """A float32 model in inference mode."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(architecture.config()).float().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "conv" not in name:
            fan_in = min(parameter.shape[-2:]) if parameter.dim() == 2 else 64
            parameter.normal_(std=1.5 / fan_in**0.5)
    return model


def save(architecture: Architecture, directory: Path, seed: int = 0) -> Path:
    """Write it as a checkpoint; of what is served in bfloat16 the values are too, as they are on the hub."""
    model = build(architecture, seed)
    if architecture.engine.get("dtype") == "bfloat16":
        model = model.bfloat16().float()
    model.save_pretrained(directory)
    return directory
