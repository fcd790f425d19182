"""What a verifier is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal["ok", "wrong_format", "timeout", "too_large", "crashed", "refused"]
"""How a verdict came about.

`ok`: judged. `wrong_format`: no answer could be read from the candidate. `timeout`: the candidate
used up its time. `too_large`: what it gives its tests does not fit through to them. `refused`: the
verifier declined it (too long, forbidden content). All five are
facts about the *candidate*: its reward is real and it stays in its group. `crashed` is a fault of
the *verifier*: score and reward are NaN, the group is sampled again and never trained as it is.
"""

Turn = tuple[str, str]
"""Of a conversation: its role (`system`, `user`, `assistant`) and its text."""

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One prompt and whatever its verifier needs to know the truth."""

    id: str
    prompt: str
    truth: Mapping[str, Any] = field(default_factory=dict)
    difficulty: str = ""
    demonstration: str | None = None
    """An expert's completion, for the imitation objectives. Verifiers are not told it."""
    turns: tuple[Turn, ...] = ()
    """What was said before the prompt, which is the user's last turn, where the row is a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One candidate judged: `score` selects among N, `reward` is what we want to be true.

    They are equal only for a perfect verifier. `-inf` is a legal score (never selected unless all
    are), NaN is legal only with `status="crashed"`.
    """

    score: float
    reward: float
    status: Status = "ok"
    answer: str | None = None
    """What the candidate answers: candidates with equal texts vote together (majority@k). None: no vote.

    A long one arrives as its digest (`verifiers.process.child.short_answer`).
    """
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A completion by which a problem is tried before a run."""

    completion: str
    is_right: bool
    """It answers as the truth says, so that its reward must be 1; of another only a verdict is wanted."""


CRASHED = Verdict(score=math.nan, reward=math.nan, status="crashed")
"""What stands for the verdict that a failing verifier did not give."""

REFUSED = Verdict(score=-math.inf, reward=0.0, status="refused")
"""For a candidate that is not judged because of what it is."""
