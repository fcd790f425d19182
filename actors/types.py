"""What flows from the rollout workers on: leases, groups of samples, their facts, verdicts, scored groups.

Shapes: `n` samples of one prompt, `P` tokens of the prompt, `T` tokens of all n completions laid
end to end. A group is columnar because thousands of short samples a second pass through one
controller: one numpy array per field, not one object per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np

FINISH_REASONS = ("stop", "length")


class Piece(NamedTuple):
    """Samples `start` to `stop - 1` of a group; of an undivided group all of them."""

    group: int
    start: int
    stop: int

    @property
    def num_samples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Permission to sample a piece of a group. `piece.group` is the group's place in the run's order and its identity."""

    piece: Piece
    problem_id: str
    prompt_token_ids: tuple[int, ...]
    seed: int
    """Sample i of the group is drawn with seed + i: strides between groups are at least n."""
    priority: int = 0
    """Lower goes first in an engine; of equals the earlier lease."""
    temperature: float | None = None
    """None: the engine's own, `rollout.temperature`."""
    cache_salt: str = ""
    """KV of a prompt is shared among leases of the same salt alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleGroup:
    """Exactly n samples of one prompt, whole or not at all (leaving one out biases Best-of-N).

    A piece of a group has the same form: it is a group of fewer samples, with the seed of its first one.
    """

    group: int
    problem_id: str
    workers: tuple[str, ...]  # n, who sampled each
    seed: int  # of sample 0; sample i has seed + i
    prompt_token_ids: np.ndarray  # int32 [P]
    offsets: np.ndarray  # int32 [n + 1]: completion i is token_ids[offsets[i]:offsets[i + 1]]
    token_ids: np.ndarray  # int32 [T], stop token included
    logprobs: np.ndarray  # float32 [T], of the distribution sampled from (temperature applied)
    versions: np.ndarray  # int32 [T], policy version each token was sampled under
    texts: tuple[str, ...]  # n
    finish_reasons: tuple[str, ...]  # n, each in FINISH_REASONS

    def __post_init__(self) -> None:
        n, num_tokens = len(self.texts), len(self.token_ids)
        assert len(self.finish_reasons) == len(self.workers) == n and len(self.offsets) == n + 1
        assert self.offsets[0] == 0 and self.offsets[-1] == num_tokens
        assert len(self.logprobs) == num_tokens and len(self.versions) == num_tokens
        if np.any(np.diff(self.offsets) < 1):
            raise ValueError(f"group {self.group} of {self.sampled_by} has a sample without tokens")
        if not np.all(self.logprobs <= 1e-3):
            raise ValueError(
                f"group {self.group} of {self.sampled_by} has a behaviour log-probability that is NaN or > 0"
            )
        if np.any(self.versions < 0):
            raise ValueError(f"group {self.group} of {self.sampled_by} has a token of unknown policy version")
        if not set(self.finish_reasons) <= set(FINISH_REASONS):
            raise ValueError(
                f"group {self.group} of {self.sampled_by} has finish reasons {set(self.finish_reasons)}, "
                f"not all in {FINISH_REASONS}"
            )

    @property
    def num_samples(self) -> int:
        return len(self.texts)

    @property
    def oldest_version(self) -> int:
        return int(self.versions.min())

    @property
    def newest_version(self) -> int:
        return int(self.versions.max())

    @property
    def sampled_by(self) -> str:
        """The workers' names, in words."""
        return ", ".join(dict.fromkeys(self.workers))


def joined(pieces: Sequence[SampleGroup]) -> SampleGroup:
    """One group of its pieces, given in the order of their samples; the same, byte for byte, as if it was never divided."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    starts = np.cumsum([0, *(piece.num_samples for piece in pieces)])
    tokens = np.cumsum([0, *(len(piece.token_ids) for piece in pieces)])
    for piece, start in zip(pieces, starts, strict=False):
        assert piece.group == first.group and piece.seed == first.seed + start
        assert np.array_equal(piece.prompt_token_ids, first.prompt_token_ids)
    offsets = [piece.offsets[1:] + start for piece, start in zip(pieces, tokens, strict=False)]
    return replace(
        first,
        workers=tuple(chain.from_iterable(piece.workers for piece in pieces)),
        offsets=np.concatenate([[0], *offsets]).astype(np.int32),
        token_ids=np.concatenate([piece.token_ids for piece in pieces]),
        logprobs=np.concatenate([piece.logprobs for piece in pieces]),
        versions=np.concatenate([piece.versions for piece in pieces]),
        texts=tuple(chain.from_iterable(piece.texts for piece in pieces)),
        finish_reasons=tuple(chain.from_iterable(piece.finish_reasons for piece in pieces)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What a run goes by of a group or a piece of one, where its tokens and texts are elsewhere."""

    piece: Piece
    problem_id: str
    workers: tuple[str, ...]
    """Each that sampled some of it, once."""
    num_tokens: int
    """Of all completions."""
    oldest_version: int
    newest_version: int
    finish_reasons: frozenset[str]
    """Those that occur."""
    only_text: bytes | None
    """Digest of the text that all its samples are; None: there are several."""

    @property
    def group(self) -> int:
        return self.piece.group

    @property
    def num_samples(self) -> int:
        return self.piece.num_samples

    @property
    def has_one_text(self) -> bool:
        """All its samples are alike."""
        return self.only_text is not None

    @classmethod
    def of(cls, group: SampleGroup, start: int = 0) -> GroupFacts:
        """`start`: which sample of the group the first one here is."""
        texts = set(group.texts)
        return cls(
            piece=Piece(group.group, start, start + group.num_samples),
            problem_id=group.problem_id,
            workers=tuple(dict.fromkeys(group.workers)),
            num_tokens=len(group.token_ids),
            oldest_version=group.oldest_version,
            newest_version=group.newest_version,
            finish_reasons=frozenset(group.finish_reasons),
            only_text=blake2b(texts.pop().encode(), digest_size=16).digest() if len(texts) == 1 else None,
        )

    @classmethod
    def joined(cls, pieces: Sequence[GroupFacts]) -> GroupFacts:
        """Of the group that these pieces are, given in the order of their samples."""
        if len(pieces) == 1:
            return pieces[0]
        first = pieces[0].piece
        texts = {piece.only_text for piece in pieces}
        return cls(
            piece=first._replace(stop=first.start + sum(piece.num_samples for piece in pieces)),
            problem_id=pieces[0].problem_id,
            workers=tuple(dict.fromkeys(chain.from_iterable(piece.workers for piece in pieces))),
            num_tokens=sum(piece.num_tokens for piece in pieces),
            oldest_version=min(piece.oldest_version for piece in pieces),
            newest_version=max(piece.newest_version for piece in pieces),
            finish_reasons=frozenset[str]().union(*(piece.finish_reasons for piece in pieces)),
            only_text=texts.pop() if len(texts) == 1 else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstration:
    """An expert's completion of a group's prompt, judged as the samples are."""

    token_ids: np.ndarray  # int32 [D], stop token included
    score: float  # not NaN

    def __post_init__(self) -> None:
        if len(self.token_ids) == 0:
            raise ValueError("a demonstration has no tokens")
        if np.isnan(self.score):
            raise ValueError("a demonstration has no verdict")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """The verdicts on a group's n samples, in their order."""

    scores: np.ndarray  # float64 [n], selects; -inf allowed
    rewards: np.ndarray  # float64 [n], the truth; finite
    statuses: tuple[str, ...]  # n
    answers: tuple[str | None, ...]  # n, equal texts are equal answers; None where there is none
    latencies_s: np.ndarray  # float32 [n]
    demonstration: Demonstration | None = None
    """Never one of the samples: it was not drawn from the policy. Only imitation objectives ask for it."""

    def __post_init__(self) -> None:
        n = len(self.scores)
        assert len(self.rewards) == len(self.latencies_s) == len(self.statuses) == len(self.answers) == n
        if not np.all(np.isfinite(self.rewards)) or np.any(np.isnan(self.scores)):
            raise ValueError("a group has a candidate without a verdict")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup(Judgement):
    """A group with its verdicts, ready to be trained on."""

    samples: SampleGroup

    def __post_init__(self) -> None:
        Judgement.__post_init__(
            self
        )  # without arguments super() does not find a class that slots have made anew
        assert len(self.scores) == self.samples.num_samples

    @classmethod
    def of(cls, samples: SampleGroup, judgement: Judgement) -> ScoredGroup:
        return cls(
            samples=samples, **{field.name: getattr(judgement, field.name) for field in fields(judgement)}
        )
