"""The published formats: what a row becomes, and what cannot become a problem."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.shared.json_lines import write_rows
from tests.shared.paths import FIXTURES
from tests.shared.refusals import refusal
from verifiers.config import VerifierConfig
from verifiers.math.text import boxed_answer
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.formats import FORMATS
from verifiers.problems.loading import check_problems, load_problems
from verifiers.types import Problem


def load(name: str, format: str, **settings: Any) -> list[Problem]:
    path = str(FIXTURES / name)
    return load_problems(ProblemsConfig(source="files", train_path=path, format=format, **settings), "train")


def published(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / name).read_text().splitlines()]


def refused(path: str, format: str, **settings: Any) -> str:
    config = ProblemsConfig(source="files", train_path=path, format=format, **settings)
    return refusal(lambda: load_problems(config, "train"))


# MATH


def test_math_takes_the_last_box_as_the_answer_and_the_solution_as_the_demonstration() -> None:
    problems = load("math/*/*.json", "math")
    assert [problem.id for problem in problems] == [
        "algebra/1.json:1",
        "algebra/2.json:1",
        "counting_and_probability/1.json:1",
    ]
    assert [problem.truth for problem in problems] == [
        {"answer": "2"},
        {"answer": "\\frac{3}{8}"},
        {"answer": "\\dfrac{3}{8}"},
    ]
    assert [problem.difficulty for problem in problems] == ["Level 2", "Level 1", "Level 3"]
    assert problems[1].prompt == (
        "Write $0.375$ as a common fraction.\nReason step by step, and put the final answer in \\boxed{}."
    )
    demonstration = json.loads((FIXTURES / "math/algebra/2.json").read_text())["solution"]
    assert problems[1].demonstration == demonstration


def test_math_500_brings_its_own_answers_and_ids() -> None:
    problems = load("math500.jsonl", "math")
    assert [problem.id for problem in problems] == [
        "test/precalculus/9001.json",
        "test/number_theory/9002.json",
    ]
    assert problems[0].truth == {"answer": "\\left( 2, \\frac{\\pi}{2} \\right)"}
    assert [problem.difficulty for problem in problems] == ["2", "1"]


def test_an_answer_that_is_a_number_becomes_its_text(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "aime.jsonl", {"problem": "p", "answer": 204}, {"problem": "q", "answer": 0.5}
    )
    problems = load_problems(ProblemsConfig(source="files", test_path=path, format="math"), "test")
    assert [problem.truth["answer"] for problem in problems] == ["204", "0.5"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{42}$.", "42"),
        (r"$\boxed{1}$, no: $\boxed{ 2 }$", "2"),
        (r"\boxed{\frac{a}{b_{1}}} and more }", r"\frac{a}{b_{1}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"the answer is $\boxed 7$ and $x$", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x \mid x > 0\right.}", r"\left\{x \mid x > 0\right."),
        (r"\boxed{\begin{matrix} 1 \\ 2 \end{matrix}}", r"\begin{matrix} 1 \\ 2 \end{matrix}"),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{\boxed{3}}", "3"),
        ("no box", None),
        (r"\boxedly{3}", None),
        (r"\boxed{", None),
        (r"\boxed{1 + {2}", None),
        (r"\boxed{ }", None),
        (r"\boxed{1}, then \boxed{2", None),
        (r"\boxed 7 without an end", None),
        (r"\boxed", None),
    ],
)
def test_the_last_box_is_found_with_its_braces_balanced(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == answer


def test_several_boxes_are_one_answer_in_the_truth_as_in_a_completion(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "x.jsonl", {"problem": "p", "solution": "either $\\boxed{2}$ or $\\boxed{3}$."}
    )
    (problem,) = load(path, "math")
    assert problem.truth == {"answer": "2, 3"}


@pytest.mark.parametrize(
    ("solution", "answer", "found"),
    [
        ("\\boxed{3}", "2", "3"),
        ("\\boxed{2} or \\boxed{3}", 3, "2, 3"),
        ("\\boxed{\\frac13}", "3", "\\frac13"),
    ],
)
def test_a_solution_that_contradicts_the_rows_answer_is_refused(
    tmp_path: Path, solution: str, answer: Any, found: str
) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"problem": "p", "solution": solution, "answer": answer})
    assert refused(path, "math") == (
        f"{path}:1: its solution answers {found!r}, and the answer to be found is {str(answer)!r}: correct the "
        "row, or raise problems.max_invalid_rows"
    )


def test_a_solution_that_spells_the_rows_answer_differently_is_no_contradiction(tmp_path: Path) -> None:
    spellings = [
        ("\\boxed{x=2}", "2"),
        ("\\boxed{1{,}200}", "1200"),
        ("\\boxed{\\frac24}", "1/2"),
        ("so 2", "2"),
    ]
    rows = [{"problem": "p", "solution": solution, "answer": answer} for solution, answer in spellings]
    assert len(load(write_rows(tmp_path / "x.jsonl", *rows), "math")) == len(spellings)


# GSM8K


def test_gsm8k_takes_what_follows_the_mark_and_leaves_the_calculator_out() -> None:
    problems = load("gsm8k.jsonl", "gsm8k")
    assert [problem.truth for problem in problems] == [{"answer": "18"}, {"answer": "1800"}, {"answer": "-5"}]
    assert problems[0].demonstration == (
        "The baker makes 6 * 8 = 48 rolls.\nAfter selling 30 there are 48 - 30 = 18 left.\n#### 18"
    )
    assert problems[0].prompt == (
        published("gsm8k.jsonl")[0]["question"]
        + "\nReason step by step, and end with a line '#### ' and the answer."
    )
    assert [problem.id for problem in problems] == ["gsm8k.jsonl:1", "gsm8k.jsonl:2", "gsm8k.jsonl:3"]


# Programs


def test_humaneval_shows_the_program_as_it_is_and_keeps_the_solution_from_the_verifier(
    tmp_path: Path,
) -> None:
    rows = published("humaneval.jsonl")
    packed = tmp_path / "HumanEval.jsonl.gz"  # as it is published
    packed.write_bytes(gzip.compress((FIXTURES / "humaneval.jsonl").read_bytes()))
    for path in (FIXTURES / "humaneval.jsonl", packed):
        problems = load(str(path), "humaneval")
        assert [problem.id for problem in problems] == ["HumanEval/9001", "HumanEval/9002"]
        for problem, row in zip(problems, rows, strict=True):
            assert problem.prompt == row["prompt"] and problem.demonstration == row["canonical_solution"]
            assert problem.truth == {name: row[name] for name in ("prompt", "entry_point", "test")}


def test_the_fixture_programs_pass_their_own_tests() -> None:
    for row in published("humaneval.jsonl"):
        space: dict[str, Any] = {}
        exec(row["prompt"] + row["canonical_solution"] + row["test"], space)  # noqa: S102  our own programs
        space["check"](space[row["entry_point"]])
    for row in published("mbpp.jsonl"):
        program = [row["code"], row["test_setup_code"], *row["test_list"], *row["challenge_test_list"]]
        exec("\n".join(program), {})  # noqa: S102


def test_mbpp_shows_its_tests_one_to_a_line() -> None:
    rows, problems = published("mbpp.jsonl"), load("mbpp.jsonl", "mbpp")
    assert [problem.id for problem in problems] == ["9001", "9002"]
    assert problems[1].prompt == (
        "Write a function to find the sum of all values of a chain of nodes.\n"
        "Your code should pass these tests:\n"
        "assert chain_sum(first) == 7\nassert chain_sum(first.next) == 4\n"
    )
    for problem, row in zip(problems, rows, strict=True):
        assert problem.truth == {
            name: row[name] for name in ("test_list", "test_setup_code", "challenge_test_list")
        }
        assert problem.demonstration == row["code"]


def test_sanitized_mbpp_is_the_same_format_with_other_names() -> None:
    (row,) = json.loads((FIXTURES / "sanitized-mbpp.json").read_text())
    (problem,) = load("sanitized-mbpp.json", "mbpp")
    assert problem.id == "9001" and problem.prompt.startswith(row["prompt"])
    assert problem.truth == {"test_list": row["test_list"], "test_imports": row["test_imports"]}


@pytest.mark.parametrize("test", ["f(1) == 2", "assert 1 == 1", "assert (f(1) == 2, 'wrong')", "1"])
def test_mbpp_tests_that_cannot_fail_are_refused(tmp_path: Path, test: str) -> None:
    row = {"task_id": 1, "text": "t", "code": "c", "test_list": ["assert f(0) == 1", test]}
    path = write_rows(tmp_path / "x.jsonl", row)
    shown = ast.unparse(ast.parse(test))
    assert refused(path, "mbpp") == (
        f"{path}:1: test_list has {shown!r}, which asserts nothing about the program: correct it, or raise "
        "problems.max_invalid_rows"
    )


def test_mbpp_tests_may_prepare_and_call(tmp_path: Path) -> None:
    tests = [
        "values = [1]",
        "f(values)",
        "assert values == [2]",
        "for x in values:\n    check(x)",
        "assert not f",
    ]
    row = {"task_id": 1, "text": "t", "code": "c", "test_list": tests}
    assert len(load(write_rows(tmp_path / "x.jsonl", row), "mbpp")) == 1


def test_a_humaneval_prompt_must_define_the_function_that_is_tested(tmp_path: Path) -> None:
    row = {**published("humaneval.jsonl")[0], "entry_point": "count"}
    path = write_rows(tmp_path / "x.jsonl", row)
    assert refused(path, "humaneval") == (
        f"{path}:1: its prompt does not define entry_point 'count': correct the row, or raise "
        "problems.max_invalid_rows"
    )


# Countdown


def test_countdown_rows_are_put_as_the_generator_puts_them() -> None:
    problems = load("countdown.jsonl", "countdown")
    assert [problem.prompt for problem in problems] == ["44 19 35 = 98 :", "3 7 2 5 = 24 :"]
    assert problems[0].truth == {"numbers": [44, 19, 35], "target": 98}
    check_problems(problems, VerifierConfig())


def test_the_studys_own_file_is_in_the_countdown_format(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "1 2 = 3 :", "difficulty": "add", "demonstration": "1 + 2"}
    path = write_rows(tmp_path / "x.jsonl", {**row, "numbers": [1, 2], "target": 3})
    truth = {"numbers": [1, 2], "target": 3}
    assert load(path, "countdown") == [Problem(**row, truth=truth)]


# What a user may change


def test_a_field_that_is_named_replaces_the_formats_own_and_must_be_there(tmp_path: Path) -> None:
    row = {"q": "1+1?", "problem": "other", "proof": "\\boxed{2}", "key": 5, "hard": "yes"}
    path = write_rows(tmp_path / "x.jsonl", row)
    names = {
        "prompt_field": "q",
        "demonstration_field": "proof",
        "id_field": "key",
        "difficulty_field": "hard",
    }
    (problem,) = load(path, "math", prompt_template="{prompt}", **names)
    assert problem == Problem(
        id="5", prompt="1+1?", truth={"answer": "2"}, difficulty="yes", demonstration="\\boxed{2}"
    )
    for setting in names:
        text = refused(path, "math", **{**names, setting: "none"})
        assert text == (
            f"{path}:1: field 'none' is missing; it has 'q', 'problem', 'proof', 'key', 'hard': set problems.{setting}"
        )


def test_a_fact_for_the_verifier_is_taken_from_the_field_that_is_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "x.jsonl", {"problem": "p", "solution": "no box", "final": "7", "prompt": "r"}
    )
    (problem,) = load(path, "math", truth_fields={"answer": "final"})
    assert problem.truth == {"answer": "7"} and problem.demonstration == "no box"
    (problem,) = load(path, "rows", truth_fields={"answer": "final"})
    assert problem.truth == {"answer": "7"} and problem.prompt == "r"
    assert refused(path, "rows", truth_fields={"answer": "none"}) == (
        f"{path}:1: field 'none' is missing; it has 'problem', 'solution', 'final', 'prompt': set problems.truth_fields"
    )


# What cannot become a problem


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        (
            "math",
            {"question": "q"},
            "field 'problem' is missing; it has 'question': set problems.prompt_field",
        ),
        (
            "math",
            {"problem": "p", "proof": "x"},
            "field 'solution' is missing; it has 'problem', 'proof': set problems.demonstration_field",
        ),
        (
            "math",
            {"problem": "p", "solution": "so it is 2"},
            (
                "field 'solution' has no \\boxed{...} that ends and is not empty: correct it, set "
                "problems.truth_fields = { answer = FIELD }, or raise problems.max_invalid_rows"
            ),
        ),
        (
            "math",
            {"problem": "p", "solution": "\\boxed{2}", "answer": [[2], 3]},
            "field 'answer' is [[2], 3]: make it a text that is not empty",
        ),
        (
            "gsm8k",
            {"question": "q", "answer": "It is 18."},
            (
                "field 'answer' has no answer after '####': correct it, set "
                "problems.truth_fields = { answer = FIELD }, or raise problems.max_invalid_rows"
            ),
        ),
        (
            "humaneval",
            {"task_id": "x", "prompt": "def f():\n", "canonical_solution": " 1", "test": "t"},
            (
                "field 'entry_point' is missing; it has 'task_id', 'prompt', 'canonical_solution', 'test': "
                "set problems.truth_fields"
            ),
        ),
        (
            "mbpp",
            {"task": "x"},
            "field 'text' or 'prompt' is missing; it has 'task': set problems.prompt_field",
        ),
        (
            "countdown",
            {"target": 3},
            "field 'numbers' or 'nums' is missing; it has 'target': set problems.truth_fields",
        ),
        ("countdown", {"nums": 3, "target": 3}, "its numbers are 3: make them a list of integers"),
    ],
)
def test_a_row_that_lacks_something_is_named_by_its_place(
    tmp_path: Path, format: str, row: dict[str, Any], message: str
) -> None:
    good = published({"math": "math500.jsonl"}.get(format, f"{format}.jsonl"))
    path = write_rows(tmp_path / "x.jsonl", *good, row)
    assert refused(path, format) == f"{path}:{len(good) + 1}: {message}"


def test_every_format_is_a_choice_of_the_setting() -> None:
    assert set(FORMATS) == set(ProblemsConfig.model_fields["format"].annotation.__args__)  # type: ignore[union-attr]


def test_a_demonstration_earns_the_reward_of_the_verifier_that_goes_with_its_format() -> None:
    from verifiers.math import verifier
    from verifiers.math.config import MathConfig
    from verifiers.programs import python_tests

    judge = verifier.MathVerifier(MathConfig(), timeout_s=10.0)
    for name, format in (("math/*/*.json", "math"), ("math500.jsonl", "math"), ("gsm8k.jsonl", "gsm8k")):
        for problem in load(name, format):
            verifier.check_problem(problem)
            assert problem.demonstration is not None
            assert judge.verify(problem, problem.demonstration).reward == 1.0, problem.id
    for name in ("humaneval.jsonl", "mbpp.jsonl", "sanitized-mbpp.json"):
        for problem in load(name, "humaneval" if name == "humaneval.jsonl" else "mbpp"):
            python_tests.check_problem(problem)
