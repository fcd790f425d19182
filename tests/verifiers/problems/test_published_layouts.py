"""Data sets in the layouts that others publish, read by the mappings of docs/problems.md."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shared.json_lines import write_rows
from tests.shared.paths import ROOT
from tests.shared.refusals import refusal
from verifiers.config import VerifierConfig
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.fields import Missing, look_up, names, without
from verifiers.problems.loading import check_problems, load_problems
from verifiers.process.killable import VerifierProcess
from verifiers.registry import problem_check, resolve
from verifiers.types import Problem

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "1+1? Let's think step by step."}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 7, "answer": "1+1=2\n#### 2", "question": "1+1?"},
}
OLYMPIAD = {
    "id": 1606,
    "question": "Compute $1+1$.",
    "solution": ["It is $\\boxed{2}$."],
    "final_answer": ["2"],
    "context": None,
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
}
DEEPMATH = {
    "question": "Evaluate $\\lim_{x \\to 0} \\frac{\\sin x}{x}$.",
    "final_answer": "1",
    "difficulty": 4.5,
    "topic": "Mathematics -> Calculus",
    "r1_solution_1": "It is \\boxed{1}.",
    "r1_solution_2": "By L'Hopital, \\boxed{1}.",
}
SWE_MATH = {"problem": "What is $3!$?", "final_answer": "6", "answer": None, "source": "x"}
MESSAGES = {
    "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "\\boxed{2}"}],
    "answer": 2,
}
LAYOUTS: dict[str, tuple[dict[str, Any], Problem]] = {
    "verl": (
        VERL,
        Problem(id="7", prompt="1+1? Let's think step by step.", truth={"answer": "2"}),
    ),
    "OlympiadBench": (
        OLYMPIAD,
        Problem(
            id="1606",
            prompt="Compute $1+1$.\nReason step by step, and put the final answer in \\boxed{}.",
            truth={"answer": "2"},
            demonstration="It is $\\boxed{2}$.",
        ),
    ),
    "DeepMath": (
        DEEPMATH,
        Problem(
            id="x.jsonl:1",
            prompt="Evaluate $\\lim_{x \\to 0} \\frac{\\sin x}{x}$.\nReason step by step, and put the final answer in "
            "\\boxed{}.",
            truth={"answer": "1"},
            difficulty="4.5",
            demonstration="It is \\boxed{1}.",
        ),
    ),
    "problem and final answer": (
        SWE_MATH,
        Problem(
            id="x.jsonl:1",
            prompt="What is $3!$?\nReason step by step, and put the final answer in \\boxed{}.",
            truth={"answer": "6"},
        ),
    ),
    "messages": (
        MESSAGES,
        Problem(id="x.jsonl:1", prompt="1+1?", truth={"answer": 2}, demonstration="\\boxed{2}"),
    ),
}


def documented_mappings() -> dict[str, dict[str, Any]]:
    """The blocks of docs/problems.md that begin with `# LAYOUT`, as settings."""
    text = (ROOT / "docs" / "problems.md").read_text()
    blocks = re.findall(r"```toml\n(# (.*?)\n.*?)```", text, re.DOTALL)
    return {name.partition(":")[0]: tomllib.loads(block).get("problems", {}) for block, name in blocks}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read_by_its_documented_mapping(tmp_path: Path, layout: str) -> None:
    row, expected = LAYOUTS[layout]
    settings = {
        **documented_mappings()[layout],
        "source": "files",
        "train_path": write_rows(tmp_path / "x.jsonl", row),
    }
    (problem,) = load_problems(ProblemsConfig(**settings), "train")
    assert problem == expected
    check_problems([problem], VerifierConfig(reward="math"))


def test_the_same_rows_mean_the_same_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([VERL]), path)
    settings = documented_mappings()["verl"] | {"source": "files", "train_path": str(path)}
    assert load_problems(ProblemsConfig(**settings), "train") == [LAYOUTS["verl"][1]]


def load(tmp_path: Path, *rows: object, **settings: Any) -> list[Problem]:
    path = write_rows(tmp_path / "x.jsonl", *rows)
    return load_problems(ProblemsConfig(source="files", train_path=path, **settings), "train")


def refused(tmp_path: Path, *rows: object, **settings: Any) -> str:
    return refusal(lambda: load(tmp_path, *rows, **settings)).removeprefix(f"{tmp_path}/")


# Nested fields


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", {"b": [{"c": 1}, {"c": 2}], "d.e": 3}),
        ("a.b.0.c", 1),
        ("a.b.-1.c", 2),
        ("a.d.e", 3),
        ("x.y", "as it stands"),
        ("x.z", "nested"),
        ("n", None),
    ],
)
def test_a_dotted_path_leads_into_objects_and_lists(path: str, value: Any) -> None:
    row = {
        "a": {"b": [{"c": 1}, {"c": 2}], "d.e": 3},
        "x.y": "as it stands",
        "x": {"y": "!", "z": "nested"},
        "n": None,
    }
    assert look_up(row, path) == value


@pytest.mark.parametrize("path", ["b", "a.b.2.c", "a.b.c", "a.b.-3", "a.b.1.c.d", "n.x", "", ".", "a..b"])
def test_a_path_that_leads_nowhere_is_missing(path: str) -> None:
    with pytest.raises(Missing):
        look_up({"a": {"b": [{"c": 1}, {"c": 2}]}, "n": None}, path)


def test_what_is_taken_out_leaves_the_row_and_all_else_as_it_was() -> None:
    row = {"a": {"b": [{"c": 1, "d": 2}], "e": 3}, "f": 4}
    assert without(row, {"a.b.0.c", "f", "none.x"}) == {"a": {"b": [{"d": 2}], "e": 3}}
    assert without(row, {"a.b.0"}) == {"a": {"b": [None], "e": 3}, "f": 4}
    assert row == {"a": {"b": [{"c": 1, "d": 2}], "e": 3}, "f": 4}


def test_a_wrong_name_is_answered_with_the_nested_ones(tmp_path: Path) -> None:
    assert refused(tmp_path, VERL, truth_fields={"answer": "reward_model.truth"}) == (
        "x.jsonl:1: field 'reward_model.truth' is missing; it has 'data_source', 'prompt', 'ability', "
        "'reward_model.style', 'reward_model.ground_truth', 'extra_info.split', 'extra_info.index', "
        "'extra_info.answer', 'extra_info.question': set problems.truth_fields"
    )
    wide = {f"column_{number}": {} for number in range(100)}
    assert names(wide).endswith("'column_29' and 70 more")


def test_a_nested_demonstration_is_kept_from_the_verifier(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, VERL, demonstration_field="extra_info.answer", id_field="extra_info.index")
    assert problem.demonstration == "1+1=2\n#### 2"
    assert problem.truth["extra_info"] == {"split": "train", "question": "1+1?"}
    assert problem.truth["reward_model"] == VERL["reward_model"] and "prompt" not in problem.truth


def test_a_template_names_nested_fields_as_well(tmp_path: Path) -> None:
    (problem,) = load(
        tmp_path, VERL, prompt_template="{extra_info.question}: {prompt} {{extra_info.index}} {1.5}"
    )
    assert problem.prompt == "1+1?: 1+1? Let's think step by step. {extra_info.index} {1.5}"


# Conversations


def test_what_was_said_before_the_last_turn_is_kept_apart_from_the_prompt(tmp_path: Path) -> None:
    said = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2")]
    messages = [{"role": role, "content": text} for role, text in [*said, ("user", "And 2+2?")]]
    (problem,) = load(tmp_path, {"prompt": messages, "answer": 4}, prompt_template="{prompt} Box it.")
    assert problem.prompt == "And 2+2? Box it."
    assert problem.turns == tuple(said)
    assert problem.truth == {"answer": 4}


def test_roles_and_contents_as_other_libraries_write_them(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
    row = {"prompt": [{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]}
    (problem,) = load(tmp_path, row)
    assert (problem.turns, problem.prompt) == ((("system", "x"),), "1+1?")


USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [USER, {"role": "assistant", "content": "a"}],
            (
                "field 'prompt' ends with a turn of 'assistant', and a prompt ends with the user's: name the prompt's own "
                "turn, as in problems.prompt_field = 'prompt.0.content'"
            ),
        ),
        ([{"role": "tool", "content": "x"}, USER], "field 'prompt.0.role' is 'tool': make it one of system,"),
        (
            [{"from": "human", "value": "x"}],
            "field 'prompt.0' is {'from': 'human', 'value': 'x'}: make it a message",
        ),
        ([USER, "q"], "field 'prompt.1' is 'q': make it a message with 'role' and 'content'"),
        (
            [{"role": "user", "content": " "}],
            "field 'prompt.0.content' is ' ': make it a text that is not empty",
        ),
        (
            [{"role": "user", "content": None}],
            "field 'prompt.0.content' is None: make it a text that is not empty",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            "field 'prompt.0.content' is [{'type': 'image', 'url': 'x'}]: make it a text that is not empty (pictures",
        ),
        (
            [USER, {"role": "system", "content": "x"}, USER],
            "field 'prompt' has a system turn at place 1: make it the",
        ),
    ],
)
def test_messages_that_are_no_prompt_are_refused_with_the_cure(
    tmp_path: Path, messages: Any, message: str
) -> None:
    assert refused(tmp_path, {"prompt": messages}).startswith(f"x.jsonl:1: {message}")


def test_messages_of_other_names_are_read_by_their_path(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}],
        "answer": "2",
    }
    (problem,) = load(
        tmp_path, row, prompt_field="conversations.0.value", demonstration_field="conversations.1.value"
    )
    assert (problem.prompt, problem.demonstration) == ("1+1?", "2")
    assert problem.truth == {"conversations": [{"from": "human"}, {"from": "gpt"}], "answer": "2"}


# Truths


@pytest.mark.parametrize(
    ("answer", "given", "reward"),
    [(["2"], "2", 1), (["2"], "3", 0), ([2.5], "2.5", 1), (["1", "2"], "2, 1", 1), (["1", "2"], "1", 0)],
)
def test_the_math_verifier_takes_a_list_for_its_members(answer: Any, given: str, reward: float) -> None:
    problem = Problem(id="p", prompt="?", truth={"answer": answer})
    check_problems([problem], VerifierConfig(reward="math"))
    judge = resolve("math").verify
    assert judge is not None
    assert judge(problem, f"\\boxed{{{given}}}").reward == reward


def test_a_verifier_of_the_users_own_gets_the_list_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sees_the_list.py").write_text(
        "def judge(problem, completion):\n    return float(problem.truth['answer'] == ['2'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = load(tmp_path, {"prompt": "p", "answer": ["2"]})
    with VerifierProcess(VerifierConfig(reward="sees_the_list:judge"), "sees_the_list:judge") as process:
        assert process.judge(problem, [""])[0].reward == 1.0


@pytest.mark.parametrize("answer", [[], [["2"]], [None], [True], {"a": 1}])
def test_an_answer_of_another_shape_is_refused_by_the_verifier(answer: Any) -> None:
    check = problem_check("math")
    assert check is not None
    assert "needs a text or a number" in refusal(
        lambda: check(Problem(id="p", prompt="?", truth={"answer": answer}))
    )


def test_decimals_keep_their_digits_and_dates_go_unless_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    row = {
        "prompt": "p",
        "answer": Decimal("2.50"),
        "tiny": Decimal("0.0000000001"),
        "made": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "day": datetime.date(2026, 1, 2),
        "picture": b"\x00\x01",
        "nested": {"day": datetime.date(2026, 1, 2)},
    }
    pq.write_table(pa.Table.from_pylist([row]), path)

    def truth(**settings: Any) -> Any:
        config = ProblemsConfig(source="files", train_path=str(path), **settings)
        (problem,) = load_problems(config, "train")
        check_problems([problem], VerifierConfig(reward="math"))
        return json.loads(json.dumps(dict(problem.truth)))

    assert truth() == {"answer": "2.50", "tiny": "0.0000000001"}
    assert truth(truth_fields={"answer": "answer", "made": "made", "day": "nested.day"}) == {
        "answer": "2.50",
        "made": "2026-01-02T03:04:05",
        "day": "2026-01-02",
    }
    assert refusal(lambda: truth(truth_fields={"answer": "picture"})) == (
        f"{path}, row 1: field 'picture' holds a value of type bytes, which is no text, number, list or object: leave "
        "it out, or name another in problems.truth_fields"
    )


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "bad \\ud83d half", "answer": "2"}',
        '{"prompt": "p", "answer": "2 \\udc00"}',
        '{"prompt": "p", "answer": ["2", {"a": "\\ud83d"}]}',
        '{"prompt": [{"role": "system", "content": "\\ud83d"}, {"role": "user", "content": "p"}]}',
    ],
)
def test_half_a_character_is_a_fault_of_its_row(tmp_path: Path, row: str) -> None:
    text = refused(tmp_path, '{"prompt": "whole \\ud83d\\ude00"}', row)
    assert text.startswith("x.jsonl:2: a text of it has half of a character, \\u")
    assert len(load(tmp_path, '{"prompt": "p"}', row, max_invalid_rows=1)) == 1


@pytest.mark.parametrize("prompt", [" ", "\n\t", "\u00a0", "\u200b\u200b", "\u3000"])
def test_a_prompt_of_blanks_is_refused(tmp_path: Path, prompt: str) -> None:
    assert "blanks only: make it a text that is not empty" in refused(tmp_path, {"prompt": prompt})
