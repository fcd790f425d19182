"""Attention by tiles is attention with a mask: outputs and gradients, for all that a layer can say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learner.model.attention import attend
from learner.model.gpu_attention import by_flex
from learner.model.tiled_attention import Settings
from learner.step.layout import Layout
from tests.learner.step.test_layout import random_layout, seen


def slow_attention(query, key, value, sees, *, scale, softcap=None, sinks_H=None):
    """softmax over a dense mask, as transformers' eager attention spells it: [1, H, X, D] -> [1, X, H, D]."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~sees, torch.finfo(scores.dtype).min)
    if sinks_H is not None:
        scores = torch.cat([scores, sinks_H[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    shares = torch.softmax(scores, -1)[..., : sees.shape[1]]
    return (shares @ value.repeat_interleave(groups, 1)).transpose(1, 2)


def attended(query, key, value, layout, *, window, softcap, sinks_H):
    out, _ = attend(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.7,
        sliding_window=window,
        softcap=softcap,
        s_aux=sinks_H,
        layout=layout,
    )
    return out


@pytest.mark.parametrize("window", [None, 1, 4, 9])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("value_width", [8, 5])
def test_outputs_and_gradients_are_those_of_a_dense_mask(window, softcap, has_sinks, value_width):
    """float64, 1e-12; four query heads on two key heads."""
    for seed in range(6):
        torch.manual_seed(seed)
        layout = random_layout(seed)
        length = layout.num_positions
        query, key, value = (
            torch.randn(1, heads, length, width, dtype=torch.float64, requires_grad=True)
            for heads, width in ((4, 8), (2, 8), (2, value_width))
        )
        sinks_H = torch.randn(4, dtype=torch.float64, requires_grad=True) if has_sinks else None
        inputs = [query, key, value, *([sinks_H] if has_sinks else [])]
        sees = torch.from_numpy(seen(layout, window))
        in_segment = sees.any(1)
        ours = attended(query, key, value, layout, window=window, softcap=softcap, sinks_H=sinks_H)
        theirs = slow_attention(query, key, value, sees, scale=0.7, softcap=softcap, sinks_H=sinks_H)
        weights = torch.randn_like(theirs) * in_segment[None, :, None, None]
        torch.testing.assert_close(ours[:, in_segment], theirs[:, in_segment], rtol=0, atol=1e-12)
        assert not ours[:, ~in_segment].any()
        for mine, other in zip(
            torch.autograd.grad((ours * weights).sum(), inputs),
            torch.autograd.grad((theirs * weights).sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("softcap", "window"), [(None, None), (None, 7), (20.0, None)])
def test_bfloat16_is_as_near_to_float64_as_a_dense_mask_in_bfloat16(softcap, window):
    torch.manual_seed(0)
    layout = random_layout(1)
    length = layout.num_positions
    sees = torch.from_numpy(seen(layout, window))
    exact = [torch.randn(1, heads, length, 16, dtype=torch.float64) for heads in (4, 2, 2)]
    expected = slow_attention(*exact, sees, scale=0.25, softcap=softcap)
    rounded = [tensor.bfloat16() for tensor in exact]
    ours, _ = attend(
        torch.nn.Module(), *rounded, None, scaling=0.25, sliding_window=window, softcap=softcap, layout=layout
    )
    theirs = slow_attention(*rounded, sees, scale=0.25, softcap=softcap)
    assert ours.dtype == torch.bfloat16
    error, dense_error = ((x.double() - expected)[:, sees.any(1)].norm() for x in (ours, theirs))
    assert error < 1.2 * dense_error


def test_without_a_layout_every_row_is_a_sequence():
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, heads, 6, 8, dtype=torch.float64) for heads in (4, 2, 2))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    ours, _ = attend(torch.nn.Module(), query, key, value, None)
    torch.testing.assert_close(ours, slow_attention(query, key, value, causal, scale=8**-0.5))


def test_rows_with_padding_on_the_right_see_nothing_of_it():
    torch.manual_seed(0)
    lengths = np.array([6, 2, 4])
    layout = Layout(starts_G=np.arange(3) * 6, lengths_G=lengths, prefixes_G=np.full(3, -1), num_positions=18)
    query, key, value = (torch.randn(3, heads, 6, 8, dtype=torch.float64) for heads in (4, 2, 2))
    ours, _ = attend(torch.nn.Module(), query, key, value, None, layout=layout)
    for row, length in enumerate(lengths):
        alone, _ = attend(
            torch.nn.Module(), *(tensor[row : row + 1, :, :length] for tensor in (query, key, value)), None
        )
        torch.testing.assert_close(ours[row, :length], alone[0])
        assert not ours[row, length:].any()


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_what_a_gpu_computes_by_flex_attention_is_the_same(window, softcap, has_sinks):
    """On the CPU, where it has no gradient and is not compiled: mask, soft cap and sinks as they are written."""
    for seed in range(2):
        torch.manual_seed(seed)
        layout = random_layout(seed)
        length = layout.num_positions
        query, key, value = (torch.randn(1, heads, length, 16) for heads in (4, 2, 2))
        sinks_H = torch.randn(4) if has_sinks else None
        ours = attended(query, key, value, layout, window=window, softcap=softcap, sinks_H=sinks_H)
        lines = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        settings = Settings(scale=0.7, window=window, softcap=softcap)
        theirs = by_flex(lines, sinks_H, layout, settings, is_compiled=False)
        in_segment = torch.from_numpy(seen(layout, None).any(1))
        torch.testing.assert_close(ours[0, in_segment], theirs[in_segment], rtol=0, atol=1e-5)
