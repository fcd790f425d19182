"""Attention over a micro-batch's sequences without a mask, for every layer of every model.

Registered with transformers as `NAME`. `token_logprobs` hands the micro-batch's `Layout` to the model's
forward, which passes it on to each layer's attention; window, soft cap, grouped heads and sinks are what
the layer says.

On the CPU: `learner.model.tiled_attention`; on a GPU: `learner.model.gpu_attention`.

Shapes: `R` rows of `L` positions, `H` query heads, `h` key heads, `D` channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from learner.model.tiled_attention import Settings, TiledAttention
from learner.step.layout import Layout

NAME = "bonfire"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    layout: Layout | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query [R, H, L, D], key and value [R, h, L, D] -> [R, L, H, D].

    Without a layout every row is a sequence.
    """
    assert attention_mask is None, "the layout says what is seen, no mask"
    num_rows, row_length, width = query.shape[0], *query.shape[2:]
    layout = layout or Layout.of_rows(num_rows, row_length)
    if torch.is_autocast_enabled(query.device.type):  # as scaled_dot_product_attention would under autocast
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    value_width = value.shape[-1]
    if value_width < width:  # latent attention: the kernels want one width
        value = functional.pad(value, (0, width - value_width))
    settings = Settings(
        scale=width**-0.5 if scaling is None else scaling, window=sliding_window, softcap=softcap
    )
    if query.device.type == "cuda":
        from learner.model.gpu_attention import attend_on_gpu

        out = attend_on_gpu(query, key, value, s_aux, layout, settings)
    else:
        lines = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
        with torch.autocast("cpu", enabled=False):  # or it would round what is to be precise
            out = TiledAttention.apply(*lines, s_aux, layout, settings).unflatten(0, (num_rows, row_length))
    return out[..., :value_width], None


AttentionInterface.register(NAME, attend)
