"""The log-probs that the policy gives to sampled tokens, without the whole logits in float32.

Shapes: `R` rows of `L` positions, `T` completion tokens, `V` vocabulary, `D` channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from learner.model.head import head_of
from learner.step.batch import PackedBatch

MAX_LOGITS = 2**26
"""Logits in float32 at a time, in elements: 256 MiB."""
# Without dropout there is no random state to preserve.
_recomputed = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def token_logprobs(
    policy: Any, batch: PackedBatch, temperature: float, *, recompute: bool = False
) -> torch.Tensor:
    """float32 [T]: log-prob of each completion token under softmax(logits / temperature); float64 of a float64 policy.

    The head is applied to completion positions only. With `recompute` the backward pass computes each block,
    and each chunk of the logits, once more instead of keeping what is inside.
    """
    hidden_TD = hidden_states(policy, batch, recompute=recompute)
    head, output = head_of(policy), policy.get_output_embeddings()
    chunk = max(1, MAX_LOGITS // output.weight.shape[0])
    run = _recomputed if recompute else _at_once
    with _cast_once(output):
        pieces = [
            run(_head_logprobs, hidden, head, targets, temperature)
            for hidden, targets in zip(hidden_TD.split(chunk), batch.target_ids.split(chunk), strict=True)
        ]
    return torch.cat(pieces)


def hidden_states(policy: Any, batch: PackedBatch, *, recompute: bool = False) -> torch.Tensor:
    """[T, D]: what the head sees where each completion token is predicted."""
    with _recomputing(policy) if recompute else nullcontext():
        hidden_RLD = policy.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, layout=batch.layout, use_cache=False
        ).last_hidden_state
    return hidden_RLD.flatten(0, 1)[batch.hidden_positions]


def blocks(policy: Any) -> list[torch.nn.Module]:
    """The model's repeated layers, as it names them itself; none of a model that names none."""
    names = set(policy._no_split_modules or ())
    return [part for part in policy.modules() if type(part).__name__ in names]


class TokenLogprobs(torch.nn.Module):
    """`token_logprobs` as a module's forward, for `torch.func.functional_call` with other weights."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: PackedBatch, temperature: float, recompute: bool = False) -> torch.Tensor:
        return token_logprobs(self.policy, batch, temperature, recompute=recompute)


@contextmanager
def _recomputing(policy: Any) -> Iterator[None]:
    """Each block's forward keeps its inputs only. transformers' own switch works in training mode, with dropout."""
    parts = blocks(policy)
    for part in parts:
        part.forward = functools.partial(_recomputed, part.forward)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


@contextmanager
def _cast_once(output: torch.nn.Module) -> Iterator[None]:
    """Frozen weights as autocast would make them: it would do so for each chunk, and the backward pass keep every copy."""
    weight = output._parameters.get("weight")
    device = weight.device.type if weight is not None else "cpu"
    if weight is None or weight.requires_grad or not torch.is_autocast_enabled(device):
        yield
        return
    output._parameters["weight"] = weight.to(torch.get_autocast_dtype(device))  # type: ignore[assignment]
    try:
        yield
    finally:
        output._parameters["weight"] = weight


def _at_once(function: Any, *arguments: Any) -> torch.Tensor:
    return function(*arguments)


def _head_logprobs(
    hidden_TD: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    target_ids: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    return _TargetLogprobs.apply(head(hidden_TD), target_ids, temperature)


class _TargetLogprobs(torch.autograd.Function):
    """log softmax(logits [T, V] / temperature) of the targets [T]: -> [T].

    Keeps the logits as they are, in bfloat16 where they are, and not their softmax; the gradient of row t
    is (onehot - softmax) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, target_ids: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        scaled_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32)) / temperature
        lse_T = scaled_TV.logsumexp(-1)
        ctx.save_for_backward(logits_TV, target_ids, lse_T)
        ctx.temperature = temperature
        return scaled_TV.gather(1, target_ids[:, None])[:, 0] - lse_T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        logits_TV, target_ids, lse_T = ctx.saved_tensors
        scale_T = gradients[0] / ctx.temperature
        gradient_TV = (
            logits_TV.to(lse_T.dtype).div_(ctx.temperature)
            if logits_TV.dtype != lse_T.dtype
            else (logits_TV / ctx.temperature)
        )
        gradient_TV.sub_(lse_T[:, None]).exp_().mul_(-scale_T[:, None])
        gradient_TV.scatter_add_(1, target_ids[:, None], scale_T[:, None])
        return gradient_TV.to(logits_TV.dtype), None, None
