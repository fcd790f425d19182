"""Demonstrations as sequences, and which of them a step learns from.

Shapes: `D` demonstrations, `X` tokens of all, each behind its prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from learner.step.batch import Sequences


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstrations:
    """What is learned from, in what order, and what is held out. Columnar: of all processes of a node one has it."""

    sequences: Sequences
    """Without samples: each is a demonstration, in a group of its own."""
    trained: np.ndarray  # int64, numbers of sequences
    held_out: np.ndarray  # int64, the others
    batch_size: int
    num_rows: int
    """Learned from in all steps, each as often as it comes."""
    seed: int

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def of_step(self, step: int) -> np.ndarray:
        """int64: the demonstrations of a step, counted from 0.

        All in random order, then all in another one, cut into batches; the last batch may be smaller. No step depends on
        those before it.
        """
        size = len(self.trained)
        first = step * self.batch_size
        end = min(first + self.batch_size, self.num_rows)
        epochs = range(first // size, (end - 1) // size + 1)
        order = np.concatenate([_order(self.seed, epoch, size) for epoch in epochs])
        return self.trained[order[first - epochs[0] * size : end - epochs[0] * size]]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def lay_out(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Sequences:
    """Each completion, stop token included, behind its prompt."""
    prompt_lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    completion_lengths = np.array([len(completion) for completion in completions], np.int64)
    lengths = prompt_lengths + completion_lengths
    tokens = (token for pair in zip(prompts, completions, strict=True) for tokens in pair for token in tokens)
    none = np.zeros(0, np.int64)
    return Sequences(
        token_ids=np.fromiter(tokens, np.int64, count=int(lengths.sum())),
        starts=np.cumsum(lengths) - lengths,
        prompt_lengths=prompt_lengths,
        completion_lengths=completion_lengths,
        completion_starts=none,
        logprobs=np.zeros(0, np.float32),
        versions=none,
        groups=np.arange(len(lengths)),
        workers=none,
        worker_names=(),
    )


def choose_held_out(prompts: Sequence[Sequence[int]], *, share: float, at_most: int) -> np.ndarray:
    """bool [D], by a hash of each prompt's tokens: a prompt is on one side with all its demonstrations, whatever other prompts
    there are, unless `share` of them is more than `at_most` demonstrations.
    """
    places = np.array([_uniform(prompt) for prompt in prompts])
    num_chosen = int((places < share).sum())
    if num_chosen > at_most:
        share = float(np.sort(places)[at_most])
    return places < share


def _uniform(prompt: Sequence[int]) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    digest = hashlib.blake2b(np.array(prompt, np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def fingerprint(sequences: Sequences) -> str:
    """Of all token ids and of where each prompt and completion ends."""
    content = hashlib.sha256()
    for column in (sequences.token_ids, sequences.prompt_lengths, sequences.completion_lengths):
        content.update(np.ascontiguousarray(column).tobytes())
    return f"{len(sequences.starts)} demonstrations, sha256 {content.hexdigest()[:16]}"
