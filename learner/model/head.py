"""From hidden states to logits, by the model's own code.

What lies between differs: Granite divides, Cohere and Falcon-H1 multiply, Gemma caps. So no rule is written
here. The policy's own `forward` is called, with a body in the place of its base model that returns what it is
given.

Shapes: `T` tokens, `D` hidden size, `V` vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

TOLERANCE = 1e-4
"""Of the largest logit."""
CHECKED_LOGIT = 50.0
"""The largest logit at which a head is checked: far beyond where Gemma caps, so that the cap is seen."""


def head_of(policy: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """hidden_TD -> logits_TV in the dtype that the model computes in, with a gradient.

    `policy` is a causal language model of transformers; nothing of it is copied, so its weights are always
    those that it has when the head is called. Raises ValueError where it has no base model.
    """
    base = policy.base_model
    if base is policy:
        raise ValueError(f"{type(policy).__name__} has no base model: its head cannot be called alone")
    shell = copy.copy(policy)
    shell._modules = {**policy._modules, policy.base_model_prefix: _Given(base, policy.get_decoder())}

    def head(hidden_TD: torch.Tensor) -> torch.Tensor:
        logits_TV: torch.Tensor = shell.forward(inputs_embeds=hidden_TD[None], use_cache=False).logits[0]
        return logits_TV

    return head


@torch.no_grad()
def check_head(policy: Any, model: str) -> None:
    """Compare the head with the model's own logits. Raises ValueError, in one line naming `model`, if they differ or
    the model has no base model.
    """
    try:
        head = head_of(policy)
    except ValueError as error:
        raise ValueError(f"model = {model!r}: {error}; the learner cannot train this architecture") from error
    input_ids = torch.arange(4, device=policy.device)[None]
    output = policy.get_output_embeddings()
    logits_TV = policy(input_ids=input_ids, use_cache=False).logits[0]
    gain = CHECKED_LOGIT / max(float(logits_TV.abs().max()), 1e-6)
    enlarging = output.register_forward_hook(lambda module, inputs, logits: gain * logits)
    try:
        expected_TV = policy(input_ids=input_ids, use_cache=False).logits[0]
        hidden_TD = policy.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[0]
        actual_TV = head(hidden_TD)
    finally:
        enlarging.remove()
    difference = float((actual_TV - expected_TV).abs().max() / expected_TV.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"model = {model!r} ({type(policy).__name__}) computes other logits than its head does from its hidden "
            f"state (relative difference {difference:.3g}): the learner cannot train this architecture"
        )


class _Given(torch.nn.Module):
    """Returns the embeddings that it is given as hidden states; in all else the base model.

    So does the base model's own decoder, where it has one, as OPT's: that is what such a policy calls.
    """

    def __init__(self, base: torch.nn.Module, decoder: torch.nn.Module) -> None:
        super().__init__()
        # No children: their parameters are the policy's.
        self.__dict__.update(_base=base, _decoder=decoder)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_base"], name)
        return _Given(value, value) if value is self.__dict__["_decoder"] else value

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> _Hidden:
        return _Hidden(last_hidden_state=inputs_embeds)


class _Hidden(SimpleNamespace):
    """What a base model returns, without anything but the hidden states."""

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.last_hidden_state,)[index]
