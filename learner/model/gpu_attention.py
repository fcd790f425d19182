"""Attention over a micro-batch's sequences on a GPU, by kernels that torch has.

Plain causal sequences go through `torch.nn.attention.varlen` (FlashAttention); what it cannot say, shared
prompts, soft caps and sinks, through `flex_attention`, compiled, with a block mask made of the layout.
Tried on the CPU as far as its kernels allow (what is seen, uncompiled and forward); not yet on a GPU, whose limits here are
from torch's sources and issues.

Shapes: `R` rows of `L` positions, `X` = R * L; `H` query heads, `h` key heads, `D` channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    create_block_mask,
    flex_attention,
)
from torch.nn.attention.varlen import varlen_attn

from learner.model.tiled_attention import Settings
from learner.step.layout import NONE, Layout

_block_masks: WeakKeyDictionary[Layout, dict[int | None, BlockMask]] = WeakKeyDictionary()
_boundaries: WeakKeyDictionary[Layout, torch.Tensor] = WeakKeyDictionary()
WIDEST_OF_FLASH = 256
"""Channels of a head, of FlashAttention's kernels."""
AMPLE_BYTES = 160 << 10
"""Of shared memory, as an A100 and an H100 have: torch's default blocks fit up to WIDEST_OF_FLASH. Others have 100 KiB."""
NARROW = 128
"""Channels whose default blocks fit everywhere."""
SMALL_BLOCKS = {
    **dict.fromkeys(("fwd_BLOCK_M", "fwd_BLOCK_N"), 32),
    **dict.fromkeys(("bwd_BLOCK_M1", "bwd_BLOCK_N1", "bwd_BLOCK_M2", "bwd_BLOCK_N2"), 32),
    "num_stages": 1,
}
"""For kernels of wide heads: torch has one default, and does not look whether it fits."""
MOST_VARIANTS = 64
"""Of the compiled kernel: of dtypes, head widths, what wants a gradient. Beyond torch's 8 it would make all scores at once."""


def attend_on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks_H: torch.Tensor | None,
    layout: Layout,
    settings: Settings,
) -> torch.Tensor:
    """query [R, H, L, D], key and value [R, h, L, D] -> [R, L, H, D]."""
    num_rows, _, row_length, _ = query.shape
    lines = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
    is_plain = layout.is_line and not layout.has_prefixes and settings.softcap is None and sinks_H is None
    is_for_flash = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= WIDEST_OF_FLASH
    if is_plain and is_for_flash:
        out = by_varlen(lines, layout, settings)
    else:
        out = by_flex(lines, sinks_H, layout, settings)
    return out.unflatten(0, (num_rows, row_length))


def by_varlen(lines: list[torch.Tensor], layout: Layout, settings: Settings) -> torch.Tensor:
    query, key, value = lines
    boundaries = _boundaries.get(layout)
    if boundaries is None:
        ends = torch.from_numpy(layout.lengths_G).cumsum(0)
        boundaries = torch.cat([ends.new_zeros(1), ends]).to(query.device, torch.int32)
        _boundaries[layout] = boundaries
    longest = int(layout.lengths_G.max())
    out = varlen_attn(
        query,
        key,
        value,
        boundaries,
        boundaries,
        longest,
        longest,
        scale=settings.scale,
        window_size=(-1 if settings.window is None else settings.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)
    return out


def by_flex(
    lines: list[torch.Tensor],
    sinks_H: torch.Tensor | None,
    layout: Layout,
    settings: Settings,
    *,
    is_compiled: bool = True,
) -> torch.Tensor:
    """query [X, H, D], key and value [X, h, D] -> [X, H, D]. Uncompiled it makes all scores at once."""
    query, key, value = (line.transpose(0, 1)[None] for line in lines)

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return score if settings.softcap is None else settings.softcap * torch.tanh(score / settings.softcap)

    out, aux = (_compiled() if is_compiled else flex_attention)(
        query,
        key,
        value,
        score_mod=None if settings.softcap is None else capped,
        block_mask=_block_mask(layout, settings.window, query.device, is_compiled),
        scale=settings.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=sinks_H is not None),
        kernel_options=_kernel_options(query) if is_compiled else None,
    )
    if sinks_H is not None:  # one more key for every query, whose value is zero
        out = out * torch.sigmoid(aux.lse - sinks_H[None, :, None]).to(out.dtype)[..., None]
    return out[0].transpose(0, 1)


@cache
def _compiled() -> Any:
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(flex_attention, dynamic=True)


def _kernel_options(query: torch.Tensor) -> dict[str, Any] | None:
    """Of flex_attention, for queries [1, H, X, D] on a GPU; None: torch's own choice."""
    width = query.shape[-1]
    if width <= NARROW:
        return None
    device = torch.cuda.get_device_properties(query.device)
    available = getattr(
        device, "shared_memory_per_block_optin", device.shared_memory_per_block
    )  # not of AMD's
    return dict(SMALL_BLOCKS) if width > WIDEST_OF_FLASH or available < AMPLE_BYTES else None


def _block_mask(layout: Layout, window: int | None, device: torch.device, is_compiled: bool) -> BlockMask:
    masks = _block_masks.setdefault(layout, {})
    if window not in masks:
        segments_X = torch.full((layout.num_positions,), -2)  # padding is seen by nobody, but by itself
        prefixes_X = torch.full((layout.num_positions,), NONE)
        places_X = torch.arange(layout.num_positions)
        for number, (start, length, prefix, before) in enumerate(
            zip(layout.starts_G, layout.lengths_G, layout.prefixes_G, layout.prefix_lengths_G, strict=True)
        ):
            segments_X[start : start + length] = number
            prefixes_X[start : start + length] = int(prefix)
            places_X[start : start + length] = torch.arange(before, before + length)
        segments_X, prefixes_X, places_X = (t.to(device) for t in (segments_X, prefixes_X, places_X))
        span = window or layout.num_positions

        def sees(_b: torch.Tensor, _h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            own = (segments_X[q] == segments_X[k]) & (q >= k)
            return (own | (prefixes_X[q] == segments_X[k])) & (places_X[q] - places_X[k] < span)

        length = layout.num_positions
        masks[window] = create_block_mask(sees, None, None, length, length, str(device), _compile=is_compiled)
    return masks[window]
