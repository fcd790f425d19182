"""The countdown checker against hostile text and a slow oracle; the generator's promises."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.shared.paths import ROOT
from verifiers import exact_match
from verifiers.countdown import puzzles
from verifiers.types import Problem

PUZZLE = Problem(id="p", prompt="3 5 7 2 = 24 :", truth={"numbers": [3, 5, 7, 2], "target": 24})


def judged(completion: str, problem: Problem = PUZZLE) -> tuple[float, str]:
    verdict = puzzles.verify(problem, completion)
    assert verdict.score == verdict.reward
    return verdict.reward, verdict.status


def puzzle(numbers: list[int], target: int) -> Problem:
    return Problem(id="q", prompt="", truth={"numbers": numbers, "target": target})


def puzzle_of_prompt(prompt: str) -> Problem:
    numbers, rest = prompt.split(" = ")
    target, colon = rest.split(" ")
    assert colon == ":"
    return puzzle([int(number) for number in numbers.split(" ")], int(target))


@pytest.mark.parametrize(
    "text",
    [
        "5 * 7 - 3 * 2 - 5 + 5 - 5",
        "( 3 + 7 ) * 2 + 5",
        "24",
        "3 + 5 + 7 + 2",
        "3 5 7 2",
        "",
    ],
)
def test_an_expression_that_misses_gets_nothing(text: str) -> None:
    assert judged(text)[0] == 0.0


@pytest.mark.parametrize("text", ["(5-2)*7+3", "( 5 - 2 ) * 7 + 3", " \t3\n+ 7*(5-2) ", "((3)+(7*((5-2))))"])
def test_a_right_expression_is_rewarded_whatever_its_white_space(text: str) -> None:
    assert judged(text) == (1.0, "ok")


def answer(completion: str) -> str | None:
    return puzzles.verify(PUZZLE, completion).answer


def test_solutions_that_differ_in_order_or_parentheses_give_one_answer() -> None:
    votes = ["( 5 - 2 ) * 7 + 3", "3+7*(5-2)", "( ( 5 - 2 ) * 7 ) + 3", "3 + ( 5 - 2 ) * 07"]
    assert {answer(text) for text in votes} == {"( 5 - 2 ) * 7 + 3"}


def test_a_wrong_expression_answers_too_and_what_is_no_expression_does_not() -> None:
    assert answer("7 + 2 + 5 + 3") == answer("3 + 5 + (2 + 7)") == "2 + 3 + 5 + 7"
    assert answer("7  /(5-3-2)") == "7 / ( 5 - 3 - 2 )"
    assert answer("3 +") is answer("") is answer("x") is None


def test_an_expression_of_other_numbers_answers_as_it_is_written() -> None:
    assert answer("4*(5+1)") == "4 * ( 5 + 1 )"
    assert answer("(1+5)  *4") == "( 1 + 5 ) * 4"


def test_a_division_by_zero_does_not_vote_with_the_solution_it_would_be_without_one() -> None:
    zero = puzzle([9, 8, 3, 0], 9)
    right = puzzles.verify(zero, "9 + 8 * 0 / 3")
    undefined = puzzles.verify(zero, "9 + 8 / ( 3 / 0 )")
    assert (right.reward, right.answer) == (1.0, "0 * 8 / 3 + 9")
    assert (undefined.reward, undefined.answer) == (0.0, "9 + 8 / ( 3 / 0 )")


def test_a_puzzle_beyond_canonical_forms_is_answered_as_written() -> None:
    ones = puzzle([1] * 65, 65)
    verdict = puzzles.verify(ones, "+".join("1" * 65))
    assert (verdict.reward, verdict.answer) == (1.0, " + ".join("1" * 65))


@pytest.mark.parametrize(
    ("completions", "strategy"),
    [
        (["( 5 - 2 ) * 7 + 3", "4 + 9 * ( 8 - 1 )", "12*(1-2)+3"], "( n - n ) * n + n"),
        (["8 - 3 - 2", "8 - ( 3 + 2 )", "(1-2)-3"], "n - n - n"),
        (["8 / 4 * 2", "3 * ( 9 / 3 )"], "n * n / n"),
        (["8 / ( 4 * 2 )", "8 / 4 / 2"], "n / n / n"),
        (["5"], "n"),
        (["", "5 +", "five", "+".join("1" * 65)], None),
    ],
)
def test_a_strategy_is_the_kinds_of_steps_whatever_the_numbers(
    completions: list[str], strategy: str | None
) -> None:
    assert {puzzles.strategy(text) for text in completions} == {strategy}


def test_fractions_are_exact() -> None:
    assert judged("8 / ( 3 - 8 / 3 )", puzzle([8, 3, 8, 3], 24)) == (1.0, "ok")
    assert judged("1 / 3 * 3", puzzle([1, 3, 3], 1)) == (1.0, "ok")
    assert judged("7 / 2", puzzle([7, 2], 3)) == (0.0, "ok")


def test_operators_associate_to_the_left() -> None:
    assert judged("9 - 3 - 2", puzzle([9, 3, 2], 4)) == (1.0, "ok")
    assert judged("16 / 4 / 2", puzzle([16, 4, 2], 2)) == (1.0, "ok")
    assert judged("12 / 3 * 2", puzzle([12, 3, 2], 8)) == (1.0, "ok")


def test_every_number_must_be_used_exactly_once() -> None:
    twice = puzzle([6, 6, 2], 10)
    assert judged("6 + 6 - 2", twice) == (1.0, "ok")
    assert judged("6 + 2 + 2", twice) == (0.0, "ok")
    assert judged("12 - 2", twice) == (0.0, "ok")
    assert judged("6 + 6 - 2 + 6 - 6", twice) == (0.0, "ok")


def test_division_by_zero_is_judged_and_wrong() -> None:
    assert judged("3 / ( 7 - 5 - 2 )") == (0.0, "ok")
    assert judged("3 / 0", puzzle([3, 0], 3)) == (0.0, "ok")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-3 + 5",
        "3 + - 5",
        "+ 3",
        "3 5",
        "3 +",
        "* 3",
        "( 3",
        "3 )",
        "( )",
        ")(",
        "3 ( 5 )",
        "( 3 ) ( 5 )",
        "3 ** 5",
        "3 // 5",
        "3 % 5",
        "3 ^ 5",
        "3.5 + 7",
        "3e5",
        "0x10",
        "3_5",
        "3 = 3",
        "the answer is 24",
        "10 ^ 10000",
        "9" * 5000,
        "1234567890",
        "٣ + 5",  # an Arabic-Indic digit, which int() would take
        "３ + 5",  # full-width
        "² + 5",
        "3 × 5",
        "3 − 5",
        "3\x00+ 5",
        "\x00",
        "3\u00a0+ 5",
        "3 + 5\ud800",
        "__import__('os').system('true')",
        "( 5 - 2 ) * 7 + 3 # right",
        "( 5 - 2 ) * 7 + 3 = 24",
        "( 5 - 2 ) * 7 + 3 <eos>",
    ],
)
def test_what_is_no_expression_is_wrong_format(text: str) -> None:
    assert judged(text) == (0.0, "wrong_format")


def test_deep_nesting_costs_no_recursion() -> None:
    depth = 4000
    assert judged("(" * depth + "24" + ")" * depth, puzzle([24], 24)) == (1.0, "ok")
    for text in ("(" * 100_000, "(" * 100_000 + "1" + ")" * 100_000, "1" + "+(1" * 100_000):
        assert judged(text) == (0.0, "wrong_format")


@pytest.mark.parametrize(
    "text",
    [
        "999999999*" * 900 + "1",
        "1/999999937+" * 800 + "1",
        "(" * 9_999,
        "1+" * 4_999 + "1",
        "/".join(["9"] * 5000),
    ],
)
def test_hostile_text_takes_milliseconds(text: str) -> None:
    started = time.perf_counter()
    assert judged(text)[0] == 0.0
    assert time.perf_counter() - started < 0.2


def oracle(text: str) -> tuple[Fraction | None, list[int]] | None:
    """Python's own grammar and exact fractions: (value, numbers used), None if it is no expression."""
    if not set(text) <= set("0123456789+-*/() "):
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    used: list[int] = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        left, right = value(node.left), value(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
        raise AssertionError

    try:
        return value(tree), used
    except AssertionError:  # unary minus, **, //, calls
        return None
    except ZeroDivisionError:
        return None, [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


TOKENS = st.sampled_from(["1", "2", "3", "12", "+", "-", "*", "/", "(", ")", "( 1 + 2 )", "3 *", "- 1"])


@settings(max_examples=400, deadline=None, database=None)
@given(st.lists(TOKENS, max_size=12).map(" ".join))
@example("1 / ( 3 - 3 )")
@example("( 1 + 2 ) * 3 - 1")
def test_the_checker_agrees_with_pythons_grammar(text: str) -> None:
    expected = oracle(text)
    if expected is None:
        assert judged(text) == (0.0, "wrong_format")
        return
    value, used = expected
    if value is None:
        assert judged(text, puzzle(used, 1)) == (0.0, "ok")
    elif value.denominator == 1:
        assert judged(text, puzzle(used[::-1], int(value))) == (1.0, "ok")
        assert judged(text, puzzle(used, int(value) + 1)) == (0.0, "ok")
        assert judged(text, puzzle([*used, 1], int(value))) == (0.0, "ok")
    else:
        assert judged(text, puzzle(used, int(value))) == (0.0, "ok")


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(max_size=60) | st.text(alphabet="0123456789+-*/() \t\n\x00", max_size=60))
def test_no_text_makes_the_checker_raise(text: str) -> None:
    assert judged(text)[0] in (0.0, 1.0)


@settings(max_examples=40, deadline=None, database=None)
@given(
    seed=st.integers(0, 10**9),
    weights=st.tuples(*[st.floats(0.1, 5)] * 4),
    num_operands=st.integers(2, 6),
    max_number=st.integers(9, 30),
)
def test_every_clean_demonstration_verifies_and_none_is_held_out(
    seed: int, weights: puzzles.Weights, num_operands: int, max_number: int
) -> None:
    pairs = puzzles.demonstrations(
        20, seed, corruption=0.0, operator_weights=weights, num_operands=num_operands, max_number=max_number
    )
    for prompt, completion in pairs:
        problem = puzzle_of_prompt(prompt)
        numbers, target = problem.truth["numbers"], problem.truth["target"]
        assert judged(completion, problem) == (1.0, "ok")
        assert len(numbers) == num_operands and all(1 <= number <= max_number for number in numbers)
        assert 10 <= target <= 99
        assert not puzzles.is_held_out(numbers)


def test_corruption_spoils_its_share_of_the_demonstrations_and_keeps_targets_in_range() -> None:
    pairs = list(puzzles.demonstrations(5000, seed=1, corruption=0.2))
    problems = [puzzle_of_prompt(prompt) for prompt, _ in pairs]
    rewards = [judged(text, problem) for problem, (_, text) in zip(problems, pairs, strict=True)]
    assert 0.17 < rewards.count((0.0, "ok")) / len(pairs) < 0.22
    assert rewards.count((0.0, "ok")) + rewards.count((1.0, "ok")) == len(pairs)
    assert all(10 <= problem.truth["target"] <= 99 for problem in problems)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (("+", 1, ("-", 2, 3)), "1 + 2 - 3"),
        (("-", 1, ("-", 2, 3)), "1 - ( 2 - 3 )"),
        (("-", ("-", 1, 2), 3), "1 - 2 - 3"),
        (("*", 4, ("/", 6, 2)), "4 * 6 / 2"),
        (("/", 4, ("*", 6, 2)), "4 / ( 6 * 2 )"),
        (("*", ("+", 1, 2), ("-", 9, 3)), "( 1 + 2 ) * ( 9 - 3 )"),
        (("+", ("*", 1, 2), ("/", 9, 3)), "1 * 2 + 9 / 3"),
    ],
)
def test_expressions_carry_only_the_parentheses_they_need(tree: tuple[object, ...], text: str) -> None:
    assert puzzles._render(tree)[0] == text


def test_the_demonstrators_habit_follows_the_weights() -> None:
    def count(weights: puzzles.Weights) -> Counter[str]:
        return Counter("".join(text for _, text in puzzles.demonstrations(2000, 5, 0.2, weights)))

    additive, even = count((4, 4, 1, 1)), count((1, 1, 2, 2))
    assert additive["*"] + additive["/"] < 0.3 * (additive["+"] + additive["-"])
    assert even["*"] + even["/"] > 0.5 * (even["+"] + even["-"])
    assert not {"-", "*", "/"} & set(count((1, 0, 0, 0)))


def test_a_tenth_of_the_multisets_is_held_out_in_any_order() -> None:
    multisets = list(combinations_with_replacement(range(1, 16), 4))
    share = sum(map(puzzles.is_held_out, multisets)) / len(multisets)
    assert 0.08 < share < 0.12
    for numbers in multisets[::50]:
        assert puzzles.is_held_out(numbers) == puzzles.is_held_out(numbers[::-1])


@pytest.mark.parametrize("held_out", [False, True])
def test_every_problem_demonstrates_a_solution_of_its_own(held_out: bool) -> None:
    for problem in puzzles.generate_problems(400, seed=7, held_out=held_out):
        assert problem.demonstration is not None
        assert judged(problem.demonstration, problem) == (1.0, "ok")
        assert problem.demonstration == " ".join(problem.demonstration.split())
        assert set(problem.truth) == {"numbers", "target"}


@pytest.mark.parametrize("held_out", [False, True])
def test_problems_are_solvable_unique_and_on_their_side_of_the_split(held_out: bool) -> None:
    problems = puzzles.generate_problems(400, seed=7, held_out=held_out)
    keys = {(tuple(sorted(p.truth["numbers"])), p.truth["target"]) for p in problems}
    assert len(problems) == len(keys) == len({p.id for p in problems}) == 400
    for problem in problems:
        assert puzzles.is_held_out(problem.truth["numbers"]) == held_out
        assert puzzle_of_prompt(problem.prompt).truth == problem.truth
        assert 10 <= problem.truth["target"] <= 99
        puzzles.check_problem(problem)
    assert {p.difficulty for p in problems} == {"add", "mul", "div"}


def test_difficulty_names_the_hardest_step_of_the_generating_expression() -> None:
    for weights, expected in (((1, 1, 0, 0), {"add"}), ((1, 1, 1, 0), {"add", "mul"})):
        problems = puzzles.generate_problems(60, seed=1, held_out=False, operator_weights=weights)
        assert {p.difficulty for p in problems} == expected


def test_a_seed_gives_the_same_output_in_any_process() -> None:
    program = (
        "import hashlib; from verifiers.countdown import puzzles as c;"
        "made = [list(c.demonstrations(300, 11)), c.generate_problems(50, 7, held_out=True),"
        "c.generate_problems(50, 7, held_out=False)];"
        "print(hashlib.sha256(repr(made).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert len(digests) == 1
    assert list(puzzles.demonstrations(50, 1)) != list(puzzles.demonstrations(50, 2))


def test_the_first_draws_of_seed_7_never_change() -> None:
    """A published run names its problems by seed: changing the generator changes the experiment."""
    assert [p.prompt for p in puzzles.generate_problems(3, 7, held_out=False)] == [
        "9 6 5 9 = 11 :",
        "6 3 2 8 = 12 :",
        "5 11 2 14 = 18 :",
    ]
    assert [p.prompt for p in puzzles.generate_problems(3, 7, held_out=True)] == [
        "11 2 3 8 = 93 :",
        "4 6 6 12 = 24 :",
        "15 2 15 14 = 59 :",
    ]


def test_demonstrations_are_cheap_enough_to_be_made_at_every_start() -> None:
    started = time.process_time()
    assert sum(1 for _ in puzzles.demonstrations(15_000, 1)) == 15_000
    assert time.process_time() - started < 2.0


def test_an_impossible_puzzle_is_reported_instead_of_searched_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(puzzles, "MAX_REJECTIONS", 2000)
    with pytest.raises(ValueError, match=r"no expression of 2 numbers up to 3 .* raise problems.max_number"):
        list(puzzles.demonstrations(1, 1, num_operands=2, max_number=3))
    with pytest.raises(ValueError, match=r"only \d+ distinct problems of the 500 asked for"):
        puzzles.generate_problems(500, 1, held_out=False, num_operands=2, max_number=6)


@pytest.mark.parametrize(
    "truth",
    [
        {},
        {"numbers": [1, 2]},
        {"numbers": "1 2", "target": 3},
        {"numbers": [], "target": 3},
        {"numbers": [1.5, 2], "target": 3},
        {"numbers": [True, 2], "target": 3},
        {"numbers": [-1, 2], "target": 1},
        {"numbers": [1, 10**9], "target": 1},
        {"numbers": [1, 2], "target": "3"},
    ],
)
def test_a_problem_without_numbers_or_target_is_named(truth: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=r"^problem 'p9': truth '(numbers|target)' is [^\n]*verifier.reward$"
    ):
        puzzles.check_problem(Problem(id="p9", prompt="", truth=truth))


def test_an_exact_match_answers_with_its_stripped_text() -> None:
    problem = Problem(id="p", prompt="", truth={"answer": 42})
    answers = [exact_match.verify(problem, text).answer for text in ("42", " 42\n", "4 2", "", " \n")]
    assert answers == ["42", "42", "4 2", None, None]


def test_exact_match_ignores_only_surrounding_white_space() -> None:
    problem = Problem(id="p", prompt="", truth={"answer": 42})
    rewards = [exact_match.verify(problem, text).reward for text in ("42", " 42\n", "4 2", "42.", "", "042")]
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
