"""How much memory a pass of the learner takes: an estimate from the model's config. Imports no torch.

A block of a transformer keeps for its backward pass, a position: what its two norms read (their input and
the normalised one, in float32), the inputs of its linear layers, queries, keys, values and the attention's
output, and four of the feed-forward layer's width. With `recompute` only its input, in float32, and all of
this for one block at a time. Counted besides: the tokens that each expert of a mixture is given, latent
attention's heads, the states of Mamba 2 and gated delta nets as transformers' own code computes them; what
the head takes while its gradient is made; and of a sharded model what a rank has in whole at a time.
Kernels need some more for a moment; benchmarks/learner.py compares with what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.model_files import CONFIG, check_sizes, read_object, text_settings
from learner.config import ALL_LINEAR, LearnerConfig
from verifiers.resources_config import Dtype

FLOAT32_BYTES = 4
CUDA_BYTES = 1.0 * 2**30
"""Of a GPU what is not torch's to give: CUDA's context and the workspace of kernels."""
SHARE_OF_GPU = 0.9
"""Of a GPU's memory, what is planned with: the workspace of kernels, and gaps between tensors, take some."""
SHARE_OF_MACHINE = 0.5
"""Of the memory that is free on the CPU's side, what passes may fill: there are engines that take some."""
FOUR_NORMS = ("gemma2", "gemma3", "gemma4", "glm4")
"""Beginnings of the model types that normalise what attention and feed-forward layer give, too."""
DELTA_NET = "linear_attention"
DELTA_NET_CHUNK = 64
MAX_LOGITS_BYTES = 3 * 2**28
"""Logits, their exponentials and gradients in float32 at a time: three chunks of `logprobs.MAX_LOGITS`."""


def bytes_of(dtype: Dtype | None) -> int:
    """Of a number; None is float32."""
    return 2 if dtype == "bfloat16" else FLOAT32_BYTES


def stored_bytes(config: LearnerConfig) -> int:
    """Of a number that is trained, and of each of its two averages."""
    return FLOAT32_BYTES if config.lora is not None else bytes_of(config.weights_dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Channels that a repeated layer keeps of a position."""

    exact: float
    """In float32, whatever dtype the pass computes in."""
    rounded: float
    """In the dtype that the pass computes in."""

    def bytes(self, size: int) -> float:
        return self.exact * FLOAT32_BYTES + self.rounded * size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide about memory."""

    num_parameters: float
    hidden: int
    vocabulary: int
    blocks: tuple[Block, ...]
    carries_state: bool
    """Along the row: sequences get rows of their own, and share no prompt."""
    num_adapter_parameters: float = 0.0
    """Trained alone, where there are any."""

    @property
    def num_trained(self) -> float:
        return self.num_adapter_parameters or self.num_parameters

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], num_parameters: float, num_adapter_parameters: float = 0.0
    ) -> ModelShape:
        """From a config.json, `text_config` where it is nested."""
        text = text_settings(settings)
        kinds = text.get("layer_types") or []
        num_layers = text.get("num_hidden_layers", 1)
        blocks = tuple(
            _block(text, kinds[layer] if layer < len(kinds) else "") for layer in range(num_layers)
        )
        return cls(
            num_parameters=num_parameters,
            hidden=text.get("hidden_size", 0),
            vocabulary=text.get("vocab_size", 0),
            blocks=blocks,
            carries_state=bool(text.get("mamba_n_heads")) or DELTA_NET in kinds,
            num_adapter_parameters=num_adapter_parameters,
        )

    @classmethod
    def read(cls, directory: Path, num_parameters: float, num_adapter_parameters: float = 0.0) -> ModelShape:
        """Raises ValueError for a config.json with sizes that are no numbers."""
        path = directory / CONFIG
        settings = read_object(path)
        check_sizes(path, text_settings(settings))
        try:
            return cls.of(settings, num_parameters, num_adapter_parameters)
        except (TypeError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{path} has sizes that cannot be reckoned with ({error}): take the file that came with the model"
            ) from error


def _block(text: Mapping[str, Any], kind: str) -> Block:
    """One layer, of the kind that `layer_types` names."""
    hidden = text.get("hidden_size", 0)
    num_norms = 4 if str(text.get("model_type")).startswith(FOUR_NORMS) else 2
    exact, rounded = 2.0 * num_norms * hidden, 2.0 * hidden
    for part in (_delta_net if kind == DELTA_NET else _attention, _mamba, _feed_forward):
        of_part = part(text)
        exact, rounded = exact + of_part.exact, rounded + of_part.rounded
    return Block(exact=exact, rounded=rounded)


def _attention(text: Mapping[str, Any]) -> Block:
    heads = text.get("num_attention_heads", 1)
    if text.get(
        "kv_lora_rank"
    ):  # latent: every head has keys of its own, and values as wide as those in the kernel
        nope, rope, value = (
            text.get(name, 0) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        latent = (text.get("q_lora_rank") or 0) + text["kv_lora_rank"]
        return Block(exact=2 * latent, rounded=heads * (4 * (nope + rope) + value + 2 * rope) + 2 * latent)
    width = text.get("head_dim") or text.get("hidden_size", 0) // heads
    return Block(exact=0, rounded=2 * heads * width + 2 * (text.get("num_key_value_heads") or heads) * width)


def _delta_net(text: Mapping[str, Any]) -> Block:
    """A gated delta net: keys repeated for the value heads, and products of all pairs within a chunk."""
    heads = text["linear_num_value_heads"]
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    values = heads * text["linear_value_head_dim"]
    repeated = heads * text["linear_key_head_dim"]
    return Block(
        exact=6 * values + 7 * repeated + 10 * heads * DELTA_NET_CHUNK, rounded=2 * (2 * keys + values)
    )


def _mamba(text: Mapping[str, Any]) -> Block:
    """Mamba 2, beside attention or instead of it: B and C repeated for its heads, and all pairs within a chunk."""
    heads = text.get("mamba_n_heads")
    if not heads:
        return Block(exact=0, rounded=0)
    state, groups = text.get("mamba_d_state", 0), text.get("mamba_n_groups", 1)
    inner = text.get("mamba_d_ssm") or heads * text["mamba_d_head"]
    convolved = inner + 2 * groups * state
    pairs = heads * text.get("mamba_chunk_size", 256)
    return Block(exact=pairs + 4 * inner, rounded=2 * pairs + inner + 3 * convolved + 6 * heads * state)


def _feed_forward(text: Mapping[str, Any]) -> Block:
    """An expert's part of a mixture is computed in float32, and keeps its tokens' inputs and outputs too."""
    hidden = text.get("hidden_size", 0)
    width = text.get("intermediate_size") or 4 * hidden
    experts = text.get("num_experts_per_tok") or 0
    if text.get("moe_intermediate_size"):
        width_of_one = text["moe_intermediate_size"]
        shared = (text.get("n_shared_experts") or 0) * width_of_one
        shared += text.get("shared_expert_intermediate_size") or 0
    elif text.get("num_local_experts"):
        width_of_one, shared = width, 0
    else:
        return Block(exact=0, rounded=4 * width)
    return Block(exact=experts * (2 * hidden + 4 * width_of_one), rounded=4 * shared)


def num_cast(shape: ModelShape, config: LearnerConfig) -> float:
    """Weights that a pass has in bfloat16 beside those that it is given.

    Autocast keeps its copies of float32 weights that are trained, and the backward pass those of frozen ones; merged
    adapters' layers make theirs one at a time (`learner.model.lora`), of all linear layers but the head.
    """
    if config.dtype != "bfloat16" or config.weights_dtype == "bfloat16":
        return 0.0
    if config.lora is not None and config.lora.publish == "merged" and config.lora.target == (ALL_LINEAR,):
        return float(shape.vocabulary * shape.hidden)
    return shape.num_parameters


def activation_bytes(
    shape: ModelShape,
    *,
    positions: int,
    completion_tokens: int,
    bfloat16: bool,
    recompute: bool,
    cast: float | None = None,
) -> float:
    """What one pass over `positions` keeps until its backward pass, logits of `completion_tokens` included.

    `cast`: `num_cast`; None: as of float32 weights that are trained.
    """
    size = 2 if bfloat16 else FLOAT32_BYTES
    of_blocks = [block.bytes(size) for block in shape.blocks]
    inputs = len(of_blocks) * shape.hidden * FLOAT32_BYTES
    blocks = max(of_blocks) + inputs if recompute else sum(of_blocks)
    if cast is None:
        cast = shape.num_parameters if bfloat16 else 0.0
    head = head_bytes(shape, completion_tokens=completion_tokens, size=size, is_cast=cast > 0)
    logits = 0 if recompute else completion_tokens * shape.vocabulary * size
    return positions * blocks + logits + head + 2 * cast


def head_bytes(shape: ModelShape, *, completion_tokens: int, size: int, is_cast: bool) -> float:
    """What the head's backward pass takes for a moment: logits and their gradient, and the gradient of its weight, of a chunk
    and of those before, and once more in float32 where `is_cast`; unless it is frozen.
    """
    if not completion_tokens:
        return 0.0
    logits = min(MAX_LOGITS_BYTES, 3.0 * completion_tokens * shape.vocabulary * FLOAT32_BYTES)
    of_weight = 0 if shape.num_adapter_parameters else 2 * size + is_cast * FLOAT32_BYTES
    return logits + shape.vocabulary * shape.hidden * of_weight


def fixed_bytes(shape: ModelShape, config: LearnerConfig) -> float:
    """Weights, gradients, AdamW's two averages, and the reference policy, on the device of the learner, all ranks."""
    copies = 4 + (config.kl_coefficient > 0)
    size = bytes_of(config.weights_dtype)
    gathered = config.ranks * gathered_bytes(shape, config)
    if config.lora is not None:
        trained = copies * FLOAT32_BYTES * shape.num_adapter_parameters
        return size * shape.num_parameters + trained + gathered
    return copies * size * shape.num_parameters + gathered


def left_for_a_pass(shape: ModelShape, config: LearnerConfig, share_bytes: float) -> float:
    """Of a rank's share of a GPU, beside all that it has for good."""
    return share_bytes * SHARE_OF_GPU - CUDA_BYTES - fixed_bytes(shape, config) / config.ranks


def gathered_bytes(shape: ModelShape, config: LearnerConfig) -> float:
    """What each of several ranks has in whole beside its shards: embedding and head, from a pass' beginning to its end; the
    head's gradient, and a copy to be added up over the ranks; and two blocks, one of them ahead of its turn.

    Of a head that is tied to the embedding that is one matrix too much.
    """
    if config.ranks == 1:
        return 0.0
    head = float(shape.vocabulary * shape.hidden)
    outside = min(2 * head, shape.num_parameters)
    two_blocks = 2 * (shape.num_parameters - outside) / max(1, len(shape.blocks))
    gradients = 0.0 if config.lora is not None else 2 * head
    return bytes_of(config.weights_dtype) * (outside + gradients + two_blocks)


def recomputes(config: LearnerConfig, needed_bytes: float, free_bytes: float) -> bool:
    """Whether a pass that would keep `needed_bytes` recomputes its blocks instead."""
    if config.recompute == "auto":
        return needed_bytes > free_bytes
    return config.recompute == "always"
