"""Does every layer attend as far as the model's own mask would let it?

The learner's attention has no mask: a window is what the layer says. Some layers say nothing and leave it to the mask.
Short sequences cannot tell, and windows are too long to try. So a pass is made in which the mask that each layer is
given knows the window it was made for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from learner.model import attention

_NAME = "bonfire_windows"


@torch.no_grad()
def check_windows(policy: Any, model: str) -> None:
    """Raises ValueError, in one line naming `model`, where a layer's window is not its mask's."""
    device = next(policy.parameters()).device
    input_ids = torch.arange(4, device=device)[None]
    policy.set_attn_implementation(_NAME)
    try:
        policy.base_model(input_ids=input_ids, use_cache=False)
    except _OtherWindow as error:
        raise ValueError(
            f"model = {model!r} ({type(policy).__name__}) {error}: the learner cannot train this architecture"
        ) from None
    finally:
        policy.set_attn_implementation(attention.NAME)


class _OtherWindow(Exception):
    """Says what the mask and the layer say."""


def _mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    device: torch.device,
    config: Any,
    local_size: int | None = None,
    **_: Any,
) -> torch.Tensor:
    """A mask of the right shape that hides nothing, and knows its window or chunk."""
    mask = torch.zeros(batch_size, 1, q_length, kv_length, device=device)
    mask.asked = (local_size, getattr(config, "max_position_embeddings", math.inf))  # type: ignore[attr-defined]
    return mask


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    # A model that makes its masks by itself has none that knows.
    of_mask, num_positions = getattr(attention_mask, "asked", (sliding_window, math.inf))
    # As wide as there are positions: no window.
    if min(of_mask or math.inf, num_positions) != min(sliding_window or math.inf, num_positions):
        raise _OtherWindow(
            f"masks with a window of {of_mask}, and {type(module).__name__} attends with one of {sliding_window}"
        )
    return attention.attend(module, query, key, value, None, sliding_window=sliding_window, **others)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)
