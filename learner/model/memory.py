"""How much memory a pass of the learner takes: an estimate from the model's config. Imports no torch.

A block of a transformer keeps for its backward pass, a position: what its two norms read (their input and
the normalised one, in float32), the inputs of its linear layers, queries, keys, values and the attention's
output, and four of the feed-forward layer's width. With `recompute` only its input, in float32, and all of
this for one block at a time. Kernels need some more for a moment; benchmarks/learner.py compares with what
was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.model_files import CONFIG, check_sizes, read_object, text_settings
from learner.config import LearnerConfig

FLOAT32_BYTES = 4
SHARE_OF_MACHINE = 0.5
"""Of the memory that is free on the CPU's side, what passes may fill: there are engines that take some."""
MAX_LOGITS_BYTES = 3 * 2**28
"""Logits, their exponentials and gradients in float32 at a time: three chunks of `logprobs.MAX_LOGITS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide about memory."""

    num_parameters: float
    num_layers: int
    hidden: int
    queries: int
    """Channels of all query heads together."""
    keys: int
    """Channels of all key heads together."""
    feed_forward: int
    """Width of the feed-forward layer that one token passes: of a mixture, of all its experts together."""
    vocabulary: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], num_parameters: float) -> ModelShape:
        """From a config.json, `text_config` where it is nested."""
        text = text_settings(settings)
        heads = text.get("num_attention_heads", 1)
        hidden = text.get("hidden_size", 0)
        head = text.get("head_dim") or hidden // heads
        feed_forward = text.get("intermediate_size") or 4 * hidden
        if text.get("moe_intermediate_size"):
            experts = text.get("num_experts_per_tok", 1) + (text.get("n_shared_experts") or 0)
            feed_forward = experts * text["moe_intermediate_size"] + text.get(
                "shared_expert_intermediate_size", 0
            )
        elif text.get("num_local_experts"):
            feed_forward *= text.get("num_experts_per_tok", 1)
        return cls(
            num_parameters=num_parameters,
            num_layers=text.get("num_hidden_layers", 1),
            hidden=hidden,
            queries=heads * head,
            keys=(text.get("num_key_value_heads") or heads) * head,
            feed_forward=feed_forward,
            vocabulary=text.get("vocab_size", 0),
        )

    @classmethod
    def read(cls, directory: Path, num_parameters: float) -> ModelShape:
        """Raises ValueError for a config.json with sizes that are no numbers."""
        path = directory / CONFIG
        settings = read_object(path)
        check_sizes(path, text_settings(settings))
        try:
            return cls.of(settings, num_parameters)
        except (TypeError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{path} has sizes that cannot be reckoned with ({error}): take the file that came with the model"
            ) from error


def activation_bytes(
    shape: ModelShape, *, positions: int, completion_tokens: int, bfloat16: bool, recompute: bool
) -> float:
    """What one pass over `positions` keeps until its backward pass, logits of `completion_tokens` included."""
    size = 2 if bfloat16 else FLOAT32_BYTES
    block = 4 * shape.hidden * FLOAT32_BYTES + size * (
        2 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 4 * shape.feed_forward
    )
    kept = shape.hidden * FLOAT32_BYTES
    blocks = block + shape.num_layers * kept if recompute else shape.num_layers * block
    logits = min(MAX_LOGITS_BYTES, 3.0 * completion_tokens * shape.vocabulary * FLOAT32_BYTES)
    if not recompute:
        logits += completion_tokens * shape.vocabulary * size
    rounded = 2 * shape.num_parameters if bfloat16 else 0  # autocast keeps a copy of the weights for the pass
    return positions * blocks + logits + rounded


def fixed_bytes(shape: ModelShape, config: LearnerConfig) -> float:
    """Weights, gradients, AdamW's two averages, and the reference policy, on the device of the learner, all ranks."""
    copies = 4 + (config.kl_coefficient > 0)
    size = 2 if config.weights_dtype == "bfloat16" else FLOAT32_BYTES
    return copies * size * shape.num_parameters


def recomputes(config: LearnerConfig, needed_bytes: float, free_bytes: float) -> bool:
    """Whether a pass that would keep `needed_bytes` recomputes its blocks instead."""
    if config.recompute == "auto":
        return needed_bytes > free_bytes
    return config.recompute == "always"
