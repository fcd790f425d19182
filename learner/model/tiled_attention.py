"""Attention on the CPU, by the tiles of a layout.

Each tile is one call of torch's flash kernel; they are put together by their log-sum-exp. For the gradient
a kernel needs of all other tiles no more than the final output and log-sum-exp of its queries, so each
tile's backward call gives its exact share (as in ring attention, Liu et al., arXiv 2310.01889).

Shapes: `X` positions of the line, `H` query heads, `h` key heads, `D` channels of a head; a tile has
`B` pieces of `Q` queries and `K` keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from learner.step.layout import Layout, Places

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_ROWS = 256
"""Queries whose scores are in memory at a time, where there is a soft cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a layer says of its attention."""

    scale: float
    window: int | None
    softcap: float | None


class TiledAttention(torch.autograd.Function):
    """query [X, H, D], key and value [X, h, D], sinks [H] or None -> [X, H, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks_H: torch.Tensor | None,
        layout: Layout,
        settings: Settings,
    ) -> torch.Tensor:
        precise = torch.promote_types(query.dtype, torch.float32)
        out = torch.zeros_like(query, memory_format=torch.contiguous_format)
        lse_XH = torch.full(query.shape[:2], -math.inf, dtype=precise)
        for tile in layout.tiles(settings.window):
            kernel = _flash_tile if settings.softcap is None else _capped_tile
            queries, keys = tile.queries, tile.keys
            out_BHQD, lse_BHQ = kernel(
                _block(query, queries), _block(key, keys), _block(value, keys), tile.is_causal, settings
            )
            part, lse = _line(out_BHQD, queries), _line(lse_BHQ[..., None], queries)[..., 0]
            where = queries.stretch or queries.positions
            if tile.is_first:
                out[where], lse_XH[where] = part, lse
                continue
            total = torch.logaddexp(lse_XH[where], lse)
            before, now = (lse_XH[where] - total).exp()[..., None], (lse - total).exp()[..., None]
            out[where] = (out[where] * before + part * now).to(out.dtype)
            lse_XH[where] = total
        if sinks_H is not None:  # one more key for every query, whose value is zero
            total = torch.logaddexp(lse_XH, sinks_H.to(precise))
            out = (out * (lse_XH - total).exp()[..., None]).to(out.dtype)
            lse_XH = total
        ctx.save_for_backward(query, key, value, sinks_H, out, lse_XH)
        ctx.layout, ctx.settings = layout, settings
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, sinks_H, out, lse_XH = ctx.saved_tensors
        settings = ctx.settings
        gradient = gradients[0].contiguous()
        gradient_q, gradient_k, gradient_v = (
            torch.zeros(tensor.shape, dtype=torch.promote_types(tensor.dtype, torch.float32))
            for tensor in (query, key, value)
        )
        for tile in ctx.layout.tiles(settings.window):
            kernel = _flash_tile_backward if settings.softcap is None else _capped_tile_backward
            queries, keys = tile.queries, tile.keys
            parts = kernel(
                _block(gradient, queries),
                _block(query, queries),
                _block(key, keys),
                _block(value, keys),
                _block(out, queries),
                # exp(score - lse) of a padded query is zero
                _block(lse_XH[..., None], queries, padding=torch.finfo(lse_XH.dtype).max)[..., 0],
                tile.is_causal,
                settings,
            )
            for total, part, places in zip(
                (gradient_q, gradient_k, gradient_v), parts, (queries, keys, keys), strict=True
            ):
                if places.stretch:
                    total[places.stretch] += _line(part, places)
                else:
                    total.index_add_(0, places.positions, _line(part, places).to(total.dtype))
        gradient_sinks = None
        if sinks_H is not None:
            shares_XH = (sinks_H.to(lse_XH.dtype) - lse_XH).exp()
            delta_XH = (gradient * out).sum(-1, dtype=lse_XH.dtype)
            gradient_sinks = -(shares_XH * delta_XH).nan_to_num(0.0).sum(0).to(sinks_H.dtype)
        return (
            gradient_q.to(query.dtype),
            gradient_k.to(key.dtype),
            gradient_v.to(value.dtype),
            gradient_sinks,
            None,
            None,
        )


def _block(line: torch.Tensor, places: Places, padding: float = 0.0) -> torch.Tensor:
    """[X, H, D] -> [B, H, L, D]."""
    num_pieces, length = places.shape
    if places.stretch:
        return line[places.stretch].transpose(0, 1)[None]
    rows = line[places.positions]
    if places.slots is not None:
        padded = rows.new_full((num_pieces * length, *rows.shape[1:]), padding)
        padded[places.slots] = rows
        rows = padded
    return rows.unflatten(0, (num_pieces, length)).transpose(1, 2)


def _line(block: torch.Tensor, places: Places) -> torch.Tensor:
    """[B, H, L, D] -> [n, H, D], in the order of `places.positions`."""
    rows = block.transpose(1, 2).flatten(0, 1)
    return rows if places.slots is None else rows[places.slots]


def _flash_tile(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, H, Q, D] and log-sum-exp [B, H, Q] of the scores."""
    out, lse = _flash(query, key, value, 0.0, is_causal, scale=settings.scale)
    return out, lse


def _flash_tile_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse_BHQ: torch.Tensor,
    is_causal: bool,
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value; `out` and log-sum-exp are those of all tiles together."""
    return _flash_backward(gradient, query, key, value, out, lse_BHQ, 0.0, is_causal, scale=settings.scale)


def _capped_tile(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_flash_tile`, of scores bounded by a soft cap, which the CPU's flash kernel does not know."""
    outs, lses = [], []
    for low in range(0, query.shape[2], _ROWS):
        scores, _, value_BhgKD = _capped_scores(query, key, value, low, is_causal, settings)
        lse = scores.logsumexp(-1)
        outs.append((scores - lse[..., None]).exp() @ value_BhgKD)
        lses.append(lse)
    return torch.cat(outs, 3).flatten(1, 2).to(query.dtype), torch.cat(lses, 3).flatten(1, 2)


def _capped_tile_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse_BHQ: torch.Tensor,
    is_causal: bool,
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert settings.softcap is not None
    num_key_heads = key.shape[1]
    grouped = (num_key_heads, query.shape[1] // num_key_heads)
    precise = lse_BHQ.dtype
    gradients_q: list[torch.Tensor] = []
    gradient_k, gradient_v = torch.zeros_like(key, dtype=precise), torch.zeros_like(value, dtype=precise)
    for low in range(0, query.shape[2], _ROWS):
        rows = slice(low, low + _ROWS)
        scores, query_BhgQD, value_BhgKD = _capped_scores(query, key, value, low, is_causal, settings)
        gradient_BhgQD = gradient[:, :, rows].unflatten(1, grouped).to(precise)
        shares = (scores - lse_BHQ[:, :, rows].unflatten(1, grouped)[..., None]).exp()
        delta = (gradient_BhgQD * out[:, :, rows].unflatten(1, grouped)).sum(-1, keepdim=True)
        by_capped = shares * (gradient_BhgQD @ value_BhgKD.mT - delta)
        slope = 1 - (scores / settings.softcap).square()  # of cap * tanh(score / cap)
        by_score = (by_capped * slope.masked_fill(scores.isneginf(), 0.0)) * settings.scale
        gradients_q.append(by_score @ key[:, :, None].to(precise))
        gradient_k += (by_score.mT @ query_BhgQD).sum(2)
        gradient_v += (shares.mT @ gradient_BhgQD).sum(2)
    return torch.cat(gradients_q, 3).flatten(1, 2), gradient_k, gradient_v


def _capped_scores(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    low: int,
    is_causal: bool,
    settings: Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [B, h, H/h, Q, K] of the queries from `low` on, and what they are made of, heads grouped by key head."""
    assert settings.softcap is not None
    precise = torch.promote_types(query.dtype, torch.float32)
    num_key_heads = key.shape[1]
    query_BhgQD = query[:, :, low : low + _ROWS].unflatten(1, (num_key_heads, -1)).to(precise)
    scores = query_BhgQD @ key[:, :, None].to(precise).mT * settings.scale
    scores = settings.softcap * (scores / settings.softcap).tanh()
    if is_causal:
        num_queries, num_keys = scores.shape[-2:]
        ahead = torch.ones(num_queries, num_keys, dtype=torch.bool).triu(low + 1)
        scores = scores.masked_fill(ahead, -math.inf)
    return scores, query_BhgQD, value[:, :, None].to(precise)
