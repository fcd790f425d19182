"""Exercises in the form of published data sets, made up: other words for every story."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def svamp_rows(*, num_stories: int, of_each: int) -> list[dict[str, Any]]:
    """As SVAMP's: sums and differences of two numbers, in `num_stories` stories of `of_each` variations."""
    dice = random.Random(0)

    def word() -> str:
        return "".join(dice.choices(string.ascii_lowercase, k=7))

    rows = []
    for story in range(num_stories):
        who, verb, things, place = (word() for _ in range(4))
        for variation in range(of_each):
            more, less = dice.randrange(50, 99), dice.randrange(1, 50)
            sign, value = ("+", more + less) if variation % 2 else ("-", more - less)
            question = "there altogether" if sign == "+" else "left"
            rows.append(
                {
                    "ID": f"story-{story}-{variation}",
                    "Body": f"{who} {verb} {more} {things} in the {place} and then {less} {things}.",
                    "Question": f"How many {things} are {question}?",
                    "Equation": f"( {more}.0 {sign} {less}.0 )",
                    "Answer": float(value),
                }
            )
    return rows
