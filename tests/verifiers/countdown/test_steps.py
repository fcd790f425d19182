"""Countdown in steps: what counts as a solution, checked against the expression it stands for."""

from __future__ import annotations

import random

import pytest

from verifiers.countdown import puzzles
from verifiers.countdown.expressions import evaluate
from verifiers.countdown.steps import MAX_SPELLED, expression_of, read_steps, spell_out, verify
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.loading import load_problems
from verifiers.types import Problem

PUZZLE = Problem(id="p", prompt="", truth={"numbers": [3, 5, 7, 2], "target": 24})


@pytest.mark.parametrize(
    ("text", "status", "reward"),
    [
        ("3 * 5 = 15 15 + 7 = 22 22 + 2 = 24", "ok", 1.0),
        ("3*5=15 15+7=22\n22+2=24 ", "ok", 1.0),
        ("7 + 2 = 9 3 * 5 = 15 15 + 9 = 24", "ok", 1.0),
        ("3 * 5 = 15 15 + 7 = 22 22 + 2 = 25", "ok", 0.0),  # a false sum
        ("3 * 5 = 16 16 + 7 = 23 23 + 2 = 25", "ok", 0.0),
        ("3 * 5 = 15 15 + 7 = 22 22 - 2 = 20", "ok", 0.0),  # misses
        ("3 * 5 = 15 15 + 7 = 22", "ok", 0.0),  # 2 is left
        ("3 * 5 = 15 7 + 2 = 9", "ok", 0.0),  # two are left
        ("3 * 8 = 24", "ok", 0.0),  # 8 is not there
        ("3 * 5 = 15 15 + 7 = 22 22 + 2 = 24 24 * 1 = 24", "ok", 0.0),
        ("5 - 2 = 3 3 + 3 = 6 6 * 7 = 42", "ok", 0.0),
        ("2 - 3 = 1 1 + 5 = 6 6 + 7 = 13", "ok", 0.0),
        ("7 / 2 = 3 3 + 3 = 6 6 + 5 = 11", "ok", 0.0),
        ("24", "wrong_format", 0.0),
        ("", "wrong_format", 0.0),
        ("3 * 5 = 15 15 + 7 = 22 22 + 2 =", "wrong_format", 0.0),
        ("3 * 5 = 15 so 15 + 7 = 22 22 + 2 = 24", "wrong_format", 0.0),
        ("3 * 5 = 15 15 + 7 = 22 22 + 2 = 24 done", "wrong_format", 0.0),
        ("3 * ٥ = 15", "wrong_format", 0.0),
        ("3 * 5 = 1515 + 7 = 22", "wrong_format", 0.0),
        ("1" * 10_001, "wrong_format", 0.0),
    ],
)
def test_a_solution_is_true_step_by_step_and_leaves_only_the_target(text, status, reward):
    verdict = verify(PUZZLE, text)
    assert (verdict.status, verdict.score, verdict.reward) == (status, reward, reward)


def test_a_division_by_zero_is_wrong_and_no_fault():
    puzzle = Problem(id="p", prompt="", truth={"numbers": [3, 3, 5], "target": 0})
    assert verify(puzzle, "3 - 3 = 0 5 / 0 = 0").reward == 0.0
    assert verify(puzzle, "3 - 3 = 0 0 / 5 = 0").reward == 1.0


def test_steps_in_another_order_vote_for_the_same_expression():
    texts = ("3 * 5 = 15 15 + 7 = 22 22 + 2 = 24", "7 + 2 = 9 5 * 3 = 15 9 + 15 = 24")
    assert [verify(PUZZLE, text).answer for text in texts] == ["2 + 3 * 5 + 7"] * 2


def test_demonstrations_spelled_out_are_right_and_stand_for_their_expression():
    problems = puzzles.generate_problems(500, 3, held_out=False)
    spelled = [(problem, text) for problem in problems if (text := spell_out(problem.demonstration))]
    assert 300 < len(spelled) < 500
    num_equal = 0
    for problem, text in spelled:
        verdict = verify(problem, text)
        assert verdict.reward == 1.0
        assert puzzles.verify(problem, verdict.answer).reward == 1.0
        num_equal += verdict.answer == puzzles.verify(problem, problem.demonstration).answer
    # The others make a number that is there already: which of the two a later step takes, it does not say.
    assert 0.9 * len(spelled) < num_equal < len(spelled)


@pytest.mark.parametrize("expression", ["50 * 2 - 1 + 1", "1 - 2 + 3", "7 / 2 * 2", "1 / 0"])
def test_what_has_no_small_whole_results_is_not_spelled_out(expression):
    assert spell_out(expression) is None


def test_a_solution_is_accepted_exactly_if_some_order_of_its_steps_reaches_the_target():
    draw = random.Random(0)
    accepted = 0
    for _ in range(4000):
        numbers = [draw.randint(1, 4) for _ in range(3)]
        target = draw.randint(1, 12)
        a, b, c = numbers
        first, second = draw.choice("+-*/"), draw.choice("+-*/")
        middle = evaluate([a, b, first])
        if type(middle) is not int or middle < 0:
            continue
        given = draw.choice([middle, middle + 1])
        result = evaluate([given, c, second])
        if type(result) is not int or result < 0:
            continue
        text = f"{a} {first} {b} = {given} {given} {second} {c} = {result}"
        puzzle = Problem(id="p", prompt="", truth={"numbers": draw.sample(numbers, 3), "target": target})
        # A false first step may name a number that is there by chance, and is false all the same.
        expected = given == middle and result == target
        assert verify(puzzle, text).reward == expected
        accepted += expected
    assert accepted > 50


def test_the_expression_of_steps_has_their_value():
    steps = read_steps("9 - 4 = 5 5 * 5 = 25 25 / 5 = 5")
    expression = expression_of(steps, [9, 4, 5, 5])
    assert evaluate(expression) == 5
    assert expression_of(steps, [9, 4, 5]) is None
    assert MAX_SPELLED == 99


def test_problems_and_demonstrations_come_in_the_notation_asked_for():
    config = ProblemsConfig(notation="steps", num_train=50)
    for problem in load_problems(config, "train"):
        assert verify(problem, problem.demonstration).reward == 1.0
    pairs = list(puzzles.demonstrations(300, 0, corruption=0.5, spell=spell_out))
    right = 0
    for prompt, text in pairs:
        numbers, target = prompt.removesuffix(" :").split(" = ")
        truth = {"numbers": [int(number) for number in numbers.split()], "target": int(target)}
        right += verify(Problem(id="p", prompt=prompt, truth=truth), text).reward
    assert 120 < right < 180
