"""Exercises in arithmetic as problems of a study: SVAMP's, and variations of them with other numbers.

SVAMP (Patel et al., arXiv 2103.07191) varies 100 stories, about ten times each, with other numbers and other questions. Two
variations of one story are not independent: the mean of some problems has the error of their stories.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verifiers.countdown import expressions

ALIKE = 0.4
"""Share of their words that two variations of a story have in common. From .35 to .45 SVAMP falls into 94 to 100 stories."""
TRIALS = 500
"""Draws of other numbers for an exercise."""

_FREQUENT = frozenset(
    [
        "a",
        "after",
        "all",
        "an",
        "and",
        "are",
        "at",
        "be",
        "by",
        "did",
        "do",
        "does",
        "each",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "him",
        "his",
        "how",
        "if",
        "in",
        "is",
        "it",
        "left",
        "many",
        "more",
        "much",
        "now",
        "of",
        "on",
        "one",
        "or",
        "she",
        "some",
        "than",
        "that",
        "the",
        "their",
        "them",
        "there",
        "they",
        "this",
        "to",
        "total",
        "was",
        "were",
        "what",
        "when",
        "who",
        "with",
        "would",
    ]
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A question with its answer, and how that is worked out."""

    id: str
    question: str
    answer: str
    working: tuple[str, ...]
    """Calculations of two numbers each, `19 + 4 = 23`, the last of which has the answer."""
    story: int
    """Exercises of one story are variations of each other."""

    @property
    def demonstration(self) -> str:
        """Its equation, not worked out: `#### (19 + 4) * 15`."""
        equations: dict[str, str] = {}
        equation = self.answer
        for line in self.working:
            left, sign, right, _, result = line.split()
            # A result is used once; of two equal numbers it does not matter which is it.
            left, right = equations.pop(left, left), equations.pop(right, right)
            equation = f"{left} {sign} {right}"
            equations[result] = f"({equation})"
        return f"#### {equation}"


def read_svamp(path: Path) -> list[Exercise]:
    """Those of SVAMP's problems whose equation has an operator and gives the answer; stories count from 0.

    Raises ValueError for a file that is not SVAMP's.
    """
    rows = _rows(path, ("ID", "Body", "Question", "Equation", "Answer"))
    questions = [_join(row["Body"], row["Question"]) for row in rows]
    exercises = []
    for row, question, story in zip(rows, questions, find_stories(questions), strict=True):
        working = work_out(str(row["Equation"]))
        if working and working[-1].endswith(f"= {row['Answer']:g}"):
            answer = f"{row['Answer']:g}"
            exercises.append(
                Exercise(id=row["ID"], question=question, answer=answer, working=working, story=story)
            )
    return exercises


def repeated(exercises: Sequence[Exercise], turns: int) -> list[Exercise]:
    """Each `turns` times, under other names."""
    return [replace(one, id=f"{one.id}/{turn}") for turn in range(turns) for one in exercises]


def renumbered(exercises: Sequence[Exercise], num: int, *, seed: int) -> list[Exercise]:
    """`num` variations of each with other numbers, of which nothing can be learned by heart; the exercises in turn.

    Every whole number of a question becomes another between its half and its double, and the working follows. Draws whose
    working takes others than whole numbers above 0 are drawn again; what has none after TRIALS comes less often.
    """
    variations = []
    for turn in range(num):
        for exercise in exercises:
            dice = random.Random(f"{seed} {exercise.id} {turn}")
            drawn = (_renumber(exercise, dice) for _ in range(TRIALS))
            if (variation := next((one for one in drawn if one is not None), None)) is not None:
                variations.append(replace(variation, id=f"{exercise.id}~{turn}"))
    return variations


def _renumber(exercise: Exercise, dice: random.Random) -> Exercise | None:
    """None where the working then takes others than whole numbers above 0, or cannot be followed."""
    others = {
        number: str(dice.randint(max(1, int(number) // 2), 2 * int(number)))
        for number in dict.fromkeys(_NUMBER.findall(exercise.question))
        if number.isdecimal() and int(number)
    }
    results: dict[str, str] = {}
    working = []
    for line in exercise.working:
        left, sign, right, _, result = line.split()
        if {left, right} & results.keys() & others.keys():
            return None  # one of the two, and nothing tells which
        # What is neither a result nor in the question stays what it is: the 2 of "both", the 12 of a dozen.
        left, right = (results.get(number) or others.get(number, number) for number in (left, right))
        value = expressions.evaluate([int(left), int(right), sign])
        if value is None or value.denominator != 1 or value <= 0:
            return None
        results[result] = str(value)
        working.append(f"{left} {sign} {right} = {value}")
    question = _NUMBER.sub(lambda found: others.get(found[0], found[0]), exercise.question)
    answer = working[-1].split()[-1]
    return replace(exercise, question=question, answer=answer, working=tuple(working))


def work_out(equation: str) -> tuple[str, ...]:
    """`( 19.0 + 4.0 ) * 15.0` -> (`19 + 4 = 23`, `23 * 15 = 345`); empty where that takes other than whole numbers."""
    postfix = expressions.to_postfix(re.sub(r"\.0+(?!\d)", "", equation))
    if postfix is None:
        return ()
    stack: list[int] = []
    lines: list[str] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append(item)
            continue
        right, left = stack.pop(), stack.pop()
        value = expressions.evaluate([left, right, item])
        if value is None or value.denominator != 1:
            return ()
        stack.append(int(value))
        lines.append(f"{left} {item} {right} = {int(value)}")
    return tuple(lines)


def find_stories(questions: Sequence[str]) -> list[int]:
    """For each question the number of its story: linked are questions that have `ALIKE` of their words in common.

    Words, not numbers, and none of the frequent ones; a link is the share of both questions' words that both have.
    """
    words = [frozenset(re.findall(r"[a-z]+", question.lower())) - _FREQUENT for question in questions]
    story_of = list(range(len(questions)))
    for i, ours in enumerate(words):
        for j in range(i):
            if story_of[i] != story_of[j] and len(ours & words[j]) >= ALIKE * len(ours | words[j]):
                old, new = story_of[i], story_of[j]
                story_of = [new if story == old else story for story in story_of]
    numbers = {story: number for number, story in enumerate(dict.fromkeys(story_of))}
    return [numbers[story] for story in story_of]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How much of a set of exercises a split gets."""

    stories: int | None
    """None: all that are left."""
    of_each: int | None
    """Exercises of a story, at most; None: all of them."""


def split(
    exercises: Sequence[Exercise], parts: Mapping[str, Part], *, seed: int
) -> dict[str, list[Exercise]]:
    """Deal the stories out, by a hash of the seed and their first exercise's id; no story is in two splits.

    Raises ValueError for fewer stories than the parts name.
    """
    by_story: dict[int, list[Exercise]] = {}
    for exercise in sorted(exercises, key=lambda exercise: _place(exercise.id, seed)):
        by_story.setdefault(exercise.story, []).append(exercise)
    stories = list(by_story.values())
    needed = sum(part.stories or 1 for part in parts.values())
    if len(stories) < needed:
        raise ValueError(
            f"{len(stories)} stories are too few for splits of {needed}: give the whole data set"
        )
    found = {}
    for name, part in parts.items():
        mine = stories[: part.stories]
        stories = stories[len(mine) :]
        found[name] = [exercise for story in mine for exercise in story[: part.of_each]]
    return found


def deal(
    exercises: Sequence[Exercise], sizes: Mapping[str, int], *, rest: str, seed: int
) -> dict[str, list[Exercise]]:
    """So many exercises of any story to each, in an order of the seed; the others to `rest`.

    Raises ValueError where none are left for it.
    """
    left = sorted(exercises, key=lambda exercise: _place(exercise.id, seed))
    found = {}
    for name, size in sizes.items():
        found[name], left = left[:size], left[size:]
    if not left:
        raise ValueError(f"{len(exercises)} exercises are too few for {dict(sizes)}: give the whole data set")
    return {**found, rest: left}


def as_rows(exercises: Iterable[Exercise]) -> str:
    """JSON lines: `prompt` and `answer` for the model and its verifier, `demonstration` to imitate, `story` for us."""
    return "".join(
        json.dumps(
            {
                "id": exercise.id,
                "prompt": exercise.question,
                "answer": exercise.answer,
                "demonstration": exercise.demonstration,
                "story": exercise.story,
            }
        )
        + "\n"
        for exercise in exercises
    )


def _place(identity: str, seed: int) -> bytes:
    """Order by hash: the same in every process and version of Python."""
    return hashlib.sha256(f"{seed} {identity}".encode()).digest()


def _join(body: str, question: str) -> str:
    """SVAMP's bodies may end within a sentence that the question ends."""
    body, question = " ".join(body.split()), " ".join(question.split())
    if body[-1:] in (".", "?", "!"):
        return f"{body} {question}"
    return f"{body}, {question[:1].lower()}{question[1:]}"


def _rows(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    missing = [name for name in names if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path} has no field {missing[0]!r}: give the file as it was published")
    return rows
