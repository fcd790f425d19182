"""What is read from an equation: its plan, its operations, its numbers. The texts are odd on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.study.equation_verifier import EquationVerifier, features
from benchmarks.study.equations import numbers, operands, operations, plan

QUESTION = "There are 87 oranges and 1,290 bananas in 2 groups of 4.0 kg."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 87 + 2", "2+87"),
        ("#### 2 + 87", "2+87"),  # one plan in another order
        ("87 - 2", "87-2"),
        ("2 - 87", "2-87"),
        ("#### (87 + 2) * 4", "2+87 4*r"),
        ("#### 4 * (87 + 2)", "2+87 4*r"),
        ("#### 87 + 2 * 4", "2*4 87+r"),
        ("#### 87 - (4 - 2)", "4-2 87-r"),
        ("#### (87 + 2) / (4 - 2)", "2+87 4-2 r/r"),
        ("#### (87 + 2) * (4 - 2)", "2+87 4-2 r*r"),
        ("#### (4 - 2) * (2 + 87)", "2+87 4-2 r*r"),  # one plan, whichever factor comes first
        ("#### (4 - 2) / (2 + 87)", "4-2 2+87 r/r"),
        ("#### (87 * 2) + (2 * 4)", "2*4 2*87 r+r"),
        ("First 87 - 4.\n#### 87 + 2", "2+87"),  # the last line that has any
        ("#### 87 + 2\nDone.", "2+87"),
        ("87 + 2 = 89", "2+87"),
        ("1,290 / 2", "1290/2"),
        ("$1290 ÷ 2", "1290/2"),
        ("87 × 2", "2*87"),
        ("87 − 2", "87-2"),
        ("86 - 2", "?-2"),  # miscopied
        ("2.5 * 4", "4*?"),
        ("#### 89", ""),
        ("a 2-year-old of 4 kg", ""),
        ("12 pens - 5 pens", ""),
        ("= = = + - (", ""),
        ("87 + =", ""),
        ("((((((87", ""),
        ("87 + 2 *", "2+87"),  # what is left open is left out
        ("3.14.15 + 2", ""),
        ("", ""),
        ("²³ + ½ = ٣", ""),
        ("87 +\n2", ""),  # not across lines
    ],
)
def test_a_plan_is_the_calculations_in_order(text, expected):
    assert plan(QUESTION, text) == expected


@pytest.mark.parametrize(
    ("plan", "strategy", "used"),
    [
        ("2+87 4*r", "n+n n*r", ["2", "87", "4"]),
        ("?-2", "n-n", ["?", "2"]),
        ("2+87 4-2 r/r", "n+n n-n r/r", ["2", "87", "4", "2"]),
        ("", "", []),
    ],
)
def test_operations_are_a_plan_without_its_numbers(plan, strategy, used):
    assert operations(plan) == strategy and operands(plan) == used


def test_numbers_are_read_as_they_come():
    assert numbers(QUESTION) == ["87", "1290", "2", "4"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["(", "1+", "1=", "9", "1 ", "1,000", "x1", "((1)", "$", "1.0", "9*8=9*9=", "a "]
)
def test_hostile_texts_are_read_to_no_great_length(unit):
    text = unit * 100_000
    assert len(plan(text, text)) < 2_000
    assert len(list(features(text[:2_000], text))) < 1_000


def samples(num, *, first):
    """Questions of two kinds, each with its sum, its difference and its difference the wrong way round."""
    questions, texts, rewards = [], [], []
    for number in range(first, first + num):
        asks_sum = number % 2
        asked = "altogether" if asks_sum else "left"
        questions.append(f"He had {60 + number} pens and then {number} pens. How many are {asked}?")
        texts.append(
            [f"#### {60 + number} + {number}", f"#### {60 + number} - {number}", f"{number} - {60 + number}"]
        )
        rewards.append([1.0, 0.0, 0.0] if asks_sum else [0.0, 1.0, 0.0])
    return questions, texts, rewards


def test_a_verifier_learns_which_equation_a_question_asks_for():
    verifier = EquationVerifier(*samples(400, first=1))
    again = EquationVerifier(*samples(400, first=1))
    questions, texts, rewards = samples(10, first=500)
    for question, own, judged in zip(questions, texts, rewards, strict=True):
        scores = verifier.scores(question, [*own, "Well."])
        assert np.argmax(scores) == np.argmax(judged) and scores.max() > 0 > np.sort(scores)[-2]
        assert scores.tolist() == again.scores(question, [*own, "Well."]).tolist()


def test_a_verifier_says_how_often_a_sample_is_right_where_all_are_alike():
    """One question, one answer, right in three of four: the penalty draws its odds of 3 towards 1."""
    verifier = EquationVerifier(["Of 3 and 4?"], [["3 + 4"] * 400], [[1.0, 1.0, 1.0, 0.0] * 100])
    (score,) = verifier.scores("Of 3 and 4?", ["3 + 4"])
    assert score == pytest.approx(np.log(3), abs=0.1)


def test_from_samples_that_are_all_right_nothing_is_learned():
    with pytest.raises(ValueError, match="all right or all wrong"):
        EquationVerifier(["q"], [["1 + 2", "2 + 1"]], [[1.0, 1.0]])
