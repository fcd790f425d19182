"""APPS, LiveCodeBench and CodeContests: what a row becomes, and that its right program is judged right."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.shared.json_lines import write_rows
from tests.shared.programs import make_verifier
from tests.shared.refusals import refusal
from verifiers.config import VerifierConfig
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.loading import check_problems, load_problems
from verifiers.truths import judge_truths
from verifiers.types import Problem

ADD = {
    "problem_id": 7,
    "question": "Add two numbers.",
    "difficulty": "introductory",
    "starter_code": "",
    "solutions": json.dumps(["print(sum(map(int, open(0).read().split())))"]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}),
}
TWICE = ADD | {
    "problem_id": 8,
    "starter_code": "class Solution:\n    def twice(self, n: int) -> int:\n        ",
    "solutions": ["def twice(n):\n    return 2 * n"],
    "input_output": json.dumps({"fn_name": "twice", "inputs": [[2], [5]], "outputs": [[4], 10]}),
}
CASES = [{"input": "2 3", "output": "5", "testtype": "stdin"}]
HIDDEN = [{"input": "5 5", "output": "10", "testtype": "stdin"}]
LIVE = {
    "question_content": "Add two numbers.",
    "question_id": "abc_1",
    "difficulty": "easy",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": json.dumps(CASES),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(HIDDEN)))).decode(),
}
LIVE_FUNCTION = LIVE | {
    "question_id": "lc_1",
    "starter_code": "class Solution:\n    def pair(self, a: int, b: List[int]) -> List[int]:\n        ",
    "metadata": json.dumps({"func_name": "pair"}),
    "public_test_cases": json.dumps(
        [{"input": "1\n[2, 3]", "output": "[1, 2, 3]", "testtype": "functional"}]
    ),
    "private_test_cases": json.dumps([{"input": "0\n[]", "output": "[0]", "testtype": "functional"}]),
}
CONTEST = {
    "name": "1_A. Add",
    "description": "Add two numbers.",
    "difficulty": 7,
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["2 2\n"], "output": ["4\n"]},
    "generated_tests": {"input": [], "output": []},
    "input_file": "",
    "output_file": "",
}


def load(path: Path, format: str, *rows: dict[str, Any], **settings: Any) -> list[Problem]:
    source = write_rows(path / "rows.jsonl", *rows)
    config = ProblemsConfig(source="files", train_path=source, format=format, **settings)
    return load_problems(config, "train")


def test_apps_rows_become_inputs_and_outputs_with_a_prompt_that_says_how(tmp_path):
    add, twice = load(tmp_path, "apps", ADD, TWICE)
    assert (add.id, add.difficulty, twice.id) == ("7", "introductory", "8")
    assert add.truth == {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
    assert twice.truth == {"inputs": [[2], [5]], "outputs": [[4], 10], "fn_name": "twice"}
    assert add.prompt == (
        "Add two numbers.\n\nWrite a Python program that reads standard input and writes the answer to standard output."
    )
    assert twice.prompt.endswith("(self, n: int) -> int:\n\nWrite the function `twice` in Python.")
    assert "print(" not in add.prompt


@pytest.mark.parametrize(
    ("format", "row", "solution"),
    [("apps", ADD, "print(sum(map(int, open(0).read().split())))"), ("apps", TWICE, "def twice(n):\n    return 2 * n"),
     ("apps", ADD | {"solutions": "print(3)"}, "print(3)"), ("apps", ADD | {"solutions": ["a", "b"]}, "a"), ("apps", ADD | {"solutions": "7"}, "7"),
     ("apps", ADD | {"solutions": "[]"}, None), ("apps", ADD | {"solutions": ""}, None), ("apps", ADD | {"solutions": None}, None),
     ("code_contests", CONTEST | {"solutions": {"language": [2, 3, 3], "solution": ["int main", "print(1)", "print(2)"]}}, "print(1)"),
     ("code_contests", CONTEST | {"solutions": {"language": [2], "solution": ["int main"]}}, None), ("code_contests", CONTEST, None)],
)  # fmt: skip
def test_the_first_solution_is_the_demonstration(tmp_path, format, row, solution):
    assert load(tmp_path, format, row)[0].demonstration == solution


def test_a_row_whose_own_solution_fails_is_found_before_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make_verifier().close()  # or there is no sandbox here
    wrong = ADD | {"problem_id": 9, "solutions": json.dumps(["print(3)"])}
    judged = judge_truths(
        load(tmp_path, "apps", ADD, TWICE, wrong), VerifierConfig(reward="python_tests", timeout_s=20.0)
    )
    assert (
        list(judged.faults) == ["9"]
        and "gives the row's own truth, or its solution, the reward 0" in judged.faults["9"]
    )


def test_livecodebench_rows_have_public_and_packed_private_tests(tmp_path):
    add, pair = load(tmp_path, "livecodebench", LIVE, LIVE_FUNCTION)
    assert add.truth == {"inputs": ["2 3", "5 5"], "outputs": ["5", "10"]}
    assert pair.truth == {
        "inputs": ["1\n[2, 3]", "0\n[]"],
        "outputs": ["[1, 2, 3]", "[0]"],
        "fn_name": "pair",
    }
    assert (add.id, pair.difficulty) == ("abc_1", "easy")


def test_a_pickle_that_names_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    message = refusal(lambda: load(tmp_path, "livecodebench", LIVE | {"private_test_cases": packed}))
    assert "field 'private_test_cases' is no JSON" in message and not (tmp_path / "run").exists()


def test_code_contests_rows_have_three_kinds_of_tests_and_are_compared_by_tokens(tmp_path):
    (problem,) = load(tmp_path, "code_contests", CONTEST)
    assert problem.truth == {"inputs": ["1 2\n", "2 2\n"], "outputs": ["3\n", "4\n"], "compare": "tokens"}
    assert (problem.id, problem.difficulty) == ("1_A. Add", "7")


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [("apps", ADD | {"input_output": ""}, "field 'input_output' is no JSON"),
     ("apps", ADD | {"input_output": "{}"}, "field 'input_output' has no tests"),
     ("apps", {"question": "q"}, "field 'input_output' is missing; it has 'question': set problems.truth_fields"),
     ("apps", ADD | {"question": " "}, "field 'question' is ' '"),
     ("livecodebench", LIVE | {"public_test_cases": "[]", "private_test_cases": ""}, "have no tests"),
     ("livecodebench", LIVE_FUNCTION | {"metadata": "{}"}, "field 'metadata' has no func_name"),
     ("code_contests", CONTEST | {"input_file": "in.txt"}, "reads or writes a file"),
     ("code_contests", CONTEST | {"public_tests": {}, "private_tests": None}, "have no tests")],
)  # fmt: skip
def test_a_row_without_tests_that_can_be_run_is_refused_in_one_line(tmp_path, format, row, message):
    text = refusal(lambda: load(tmp_path, format, row))
    assert message in text and "\n" not in text


def test_the_verifier_accepts_all_of_them(tmp_path):
    config = VerifierConfig(reward="python_tests")
    for format, rows in (
        ("apps", (ADD, TWICE)),
        ("livecodebench", (LIVE, LIVE_FUNCTION)),
        ("code_contests", (CONTEST,)),
    ):
        check_problems(load(tmp_path, format, *rows), config)
