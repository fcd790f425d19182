"""Groups asked of the shared engine, and what transformers says of their tokens.

Shapes: `T` tokens of one sample, `V` vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from actors.config import RolloutConfig
from actors.types import Lease, Piece
from tests.shared.engine import ENGINE, TIMEOUT_S

if TYPE_CHECKING:
    from actors.engine import Engine

PROMPT = (15, 13, 17, 12, 3, 34, 2)
LONG_PROMPT = tuple(range(10, 55))  # more than one KV block of 32 tokens
groups = itertools.count()


def lease(seed: int, prompt: Sequence[int] = PROMPT, n: int = ENGINE.samples_per_prompt) -> Lease:
    """All of a new group's `n` samples."""
    return Lease(piece=Piece(next(groups), 0, n), problem_id="p", prompt_token_ids=tuple(prompt), seed=seed)


def sample(engine: Engine, leases: Sequence[Lease]) -> list[list[Any]]:
    """The completions of each lease."""
    return [future.result(TIMEOUT_S) for future in engine.sample(leases)]


def tokens(completions: Sequence[Any]) -> list[list[int]]:
    return [list(completion.token_ids) for completion in completions]


def logprobs(completions: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(completion.logprobs.logprobs) for completion in completions]


def versions_of(completion: Any) -> np.ndarray:
    """[T] version of each token; 0 where no span covers it."""
    versions_T = np.zeros(len(completion.token_ids), int)
    for span in completion.weight_versions:
        assert not versions_T[span.start : span.end].any()
        versions_T[span.start : span.end] = int(span.version)
    return versions_T


@torch.no_grad()
def expected_logprobs(
    policy: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float
) -> np.ndarray:
    """[T] log_softmax(logits / temperature) of each token, by transformers, one sequence at a time."""
    logits_TV = policy(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    logprobs_TV = torch.log_softmax(logits_TV.double() / temperature, dim=-1)
    return logprobs_TV[torch.arange(len(completion)), torch.tensor(completion)].numpy()


def assert_sampled_from(
    policy: Any, prompt: Sequence[int], completions: Sequence[Any], temperature: float
) -> None:
    for completion, ours in zip(tokens(completions), logprobs(completions), strict=True):
        np.testing.assert_allclose(
            ours, expected_logprobs(policy, prompt, completion, temperature), rtol=0, atol=1e-4
        )


def with_settings(engine: Engine, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> RolloutConfig:
    config = ENGINE.model_copy(update=settings)
    monkeypatch.setattr(engine, "_config", config)
    return config
