"""What can be said of a candidate without knowing its problem: terms to be added to a score or a reward."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from verifiers.types import Problem, Verdict

if TYPE_CHECKING:
    from verifiers.shape_config import FormatConfig, LengthConfig


class Format:
    """1 if the whole candidate matches a pattern, else 0 and `wrong_format`."""

    def __init__(self, config: FormatConfig, *, timeout_s: float) -> None:
        self._pattern = re.compile(config.pattern)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        matches = self._pattern.fullmatch(completion) is not None
        return Verdict(
            score=float(matches), reward=float(matches), status="ok" if matches else "wrong_format"
        )


class Length:
    """From 1 for a short candidate to 0 for a long one."""

    def __init__(self, config: LengthConfig, *, timeout_s: float) -> None:
        self._free, self._zero = config.free_chars, config.zero_chars

    def verify(self, problem: Problem, completion: str) -> Verdict:
        worth = (self._zero - len(completion)) / (self._zero - self._free)
        worth = min(1.0, max(0.0, worth))
        return Verdict(score=worth, reward=worth)
