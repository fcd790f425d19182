"""What a row means: the published formats, and rows of the user's own.

A format has own names for fields; where a row has them, they are used. A name that the config sets
must be in every row. Messages leave out the row's place, which the caller knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from verifiers.countdown.puzzles import prompt_text
from verifiers.math.text import boxed_answer
from verifiers.problems import cases, prompt_template, row_checks
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.rows import Row
from verifiers.types import Problem

Fields = Mapping[str, Any]
Reader = Callable[[Fields, str], Any]
"""From a row's fields and the name of its solution's field to a part of the truth; None: the row has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How rows of a kind become problems."""

    prompt_fields: tuple[str, ...] = ("prompt",)
    """Its names for the prompt; the first that a row has counts."""
    prompt_template: str = "{prompt}"
    id_field: str = ""
    difficulty_field: str = ""
    demonstration_field: str = ""
    truth: Mapping[str, Reader] | None = None
    """None: every field that nothing else names, under its own name."""
    make_prompt: Callable[[Fields], str] | None = None
    """For rows that have no prompt."""
    take_demonstration: Callable[[Any], Any] = lambda solution: solution
    """Of what its field holds; None: the row has none."""
    clean_demonstration: Callable[[str], str] = str
    why_invalid: Callable[[Problem], str | None] = lambda problem: None
    """What is wrong with a problem that no verifier could judge rightly, and the remedy."""


def to_problem(row: Row, config: ProblemsConfig, *, demonstrates: bool) -> tuple[str, Problem]:
    """The row's prompt field and its problem; `demonstrates`: with its demonstration.

    Raises ValueError for a row of which no problem can be made.
    """
    kind, fields = FORMATS[config.format], row.fields
    prompt_field, prompt = _prompt(fields, config, kind)
    template = kind.prompt_template if config.prompt_template is None else config.prompt_template
    difficulty = _value(fields, config.difficulty_field, kind.difficulty_field, "difficulty_field")
    problem = Problem(
        id=_identity(row, config, kind),
        prompt=prompt_template.fill(template, prompt, fields),
        truth=_truth(fields, prompt_field, config, kind),
        difficulty="" if difficulty is None else str(difficulty),
        demonstration=_demonstration(fields, config, kind) if demonstrates else None,
    )
    if why := kind.why_invalid(problem):
        raise ValueError(why)
    return prompt, problem


def _identity(row: Row, config: ProblemsConfig, kind: Format) -> str:
    identity = _value(row.fields, config.id_field, kind.id_field, "id_field")
    if identity is None and config.id_field is None:
        return row.key
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        raise ValueError(
            f"field {config.id_field or kind.id_field!r} is {identity!r}: make it a text or an integer"
        )
    return str(identity)


def _demonstration(fields: Fields, config: ProblemsConfig, kind: Format) -> str | None:
    held = _value(fields, config.demonstration_field, kind.demonstration_field, "demonstration_field")
    text = kind.take_demonstration(held)
    if text is None and config.demonstration_field is None:
        return None
    return kind.clean_demonstration(_text(text, config.demonstration_field or kind.demonstration_field))


def _truth(fields: Fields, prompt_field: str, config: ProblemsConfig, kind: Format) -> dict[str, Any]:
    truth = {name: _take(fields, field, "truth_fields") for name, field in config.truth_fields.items()}
    if kind.truth is not None:
        solution_field = config.demonstration_field or kind.demonstration_field
        for name, read in kind.truth.items():
            if name not in truth and (value := read(fields, solution_field)) is not None:
                truth[name] = value
    elif not truth:
        # Not even a held-out row's demonstration is part of the truth.
        named = {prompt_field, config.id_field, config.difficulty_field, config.demonstration_field}
        truth = {name: value for name, value in fields.items() if name not in named}
    return truth


def _prompt(fields: Fields, config: ProblemsConfig, kind: Format) -> tuple[str, str]:
    """The field that holds the prompt (empty: none does), and the prompt."""
    chosen = config.prompt_field
    names = kind.prompt_fields if chosen is None else (chosen,)
    name = next((name for name in names if name in fields), None)
    if name is not None:
        return name, _text(fields[name], name)
    if chosen is None and kind.make_prompt is not None:
        return "", kind.make_prompt(fields)
    raise _missing(fields, names, "prompt_field")


def _value(fields: Fields, chosen: str | None, own: str, setting: str) -> Any:
    """Of the field that the setting names; else of the format's own, and None where the row has none."""
    return fields.get(own) if chosen is None else _take(fields, chosen, setting)


def _take(fields: Fields, name: str, setting: str) -> Any:
    if name not in fields:
        raise _missing(fields, (name,), setting)
    return fields[name]


def _missing(fields: Fields, names: tuple[str, ...], setting: str) -> ValueError:
    wanted, known = " or ".join(map(repr, names)), ", ".join(map(repr, fields)) or "no field"
    return ValueError(f"field {wanted} is missing; it has {known}: set problems.{setting}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"field {name!r} is {value!r}: make it a text that is not empty")
    return value


def _column(*names: str, required: bool = True) -> Reader:
    """Reads the first of the fields that is there."""

    def read(fields: Fields, solution_field: str) -> Any:
        for name in names:
            if fields.get(name) is not None:
                return fields[name]
        if required:
            raise _missing(fields, names, "truth_fields")
        return None

    return read


def _math_answer(fields: Fields, solution_field: str) -> str:
    """The field `answer` where there is one, as in MATH-500; else what the solution boxes last, as the verifier reads it."""
    if solution_field != "answer" and fields.get("answer") is not None:
        answer = fields["answer"]
        return str(answer) if type(answer) in (int, float) else _text(answer, "answer")
    solution = _text(_take(fields, solution_field, "demonstration_field"), solution_field)
    boxed = boxed_answer(solution)
    if boxed is None:
        raise ValueError(
            f"field {solution_field!r} has no \\boxed{{...}} that ends and is not empty: correct it, set "
            "problems.truth_fields = { answer = FIELD }, or raise problems.max_invalid_rows"
        )
    return boxed


def _gsm8k_answer(fields: Fields, solution_field: str) -> str:
    """What follows the last `####`, without thousands separators."""
    solution = _text(_take(fields, solution_field, "demonstration_field"), solution_field)
    _, marker, rest = solution.rpartition("####")
    answer = rest.strip().partition("\n")[0].replace(",", "").strip()
    if not (marker and answer):
        raise ValueError(
            f"field {solution_field!r} has no answer after '####': correct it, set "
            "problems.truth_fields = { answer = FIELD }, or raise problems.max_invalid_rows"
        )
    return answer


def _without_calculator(rationale: str) -> str:
    """GSM8K's `48/2 = <<48/2=24>>24` without the calculator's annotation."""
    return re.sub(r"<<[^<>\n]*>>", "", rationale)


def _countdown_prompt(fields: Fields) -> str:
    numbers, target = _NUMBERS(fields, ""), _TARGET(fields, "")
    if not isinstance(numbers, list):
        raise ValueError(  # noqa: TRY004  a fault of the row, like the others
            f"its numbers are {numbers!r}: make them a list of integers"
        )
    return prompt_text(numbers, target)


def _of(read_cases: Callable[[Fields], Mapping[str, Any]], *names: str) -> dict[str, Reader]:
    def reader(name: str) -> Reader:
        return lambda fields, _: read_cases(fields).get(name)

    return {name: reader(name) for name in names}


_NUMBERS, _TARGET = _column("numbers", "nums"), _column("target")

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "rows": Format(),
        # https://github.com/hendrycks/math; MATH-500 adds `answer` and `unique_id`.
        "math": Format(
            prompt_fields=("problem",),
            prompt_template="{prompt}\nReason step by step, and put the final answer in \\boxed{}.",
            id_field="unique_id",
            difficulty_field="level",
            demonstration_field="solution",
            truth={"answer": _math_answer},
            why_invalid=row_checks.why_not_demonstrated,
        ),
        # https://github.com/openai/grade-school-math
        "gsm8k": Format(
            prompt_fields=("question",),
            prompt_template="{prompt}\nReason step by step, and end with a line '#### ' and the answer.",
            demonstration_field="answer",
            truth={"answer": _gsm8k_answer},
            clean_demonstration=_without_calculator,
            why_invalid=row_checks.why_not_demonstrated,
        ),
        # https://github.com/openai/human-eval
        "humaneval": Format(
            id_field="task_id",
            demonstration_field="canonical_solution",
            truth={name: _column(name) for name in ("prompt", "entry_point", "test")},
            why_invalid=row_checks.why_not_begun,
        ),
        # https://github.com/google-research/google-research/tree/master/mbpp; `prompt` and `test_imports`
        # are the sanitized subset's.
        "mbpp": Format(
            prompt_fields=("text", "prompt"),
            prompt_template="{prompt}\nYour code should pass these tests:\n{test_list}\n",
            id_field="task_id",
            demonstration_field="code",
            truth={
                "test_list": _column("test_list"),
                "test_setup_code": _column("test_setup_code", required=False),
                "test_imports": _column("test_imports", required=False),
                "challenge_test_list": _column("challenge_test_list", required=False),
            },
            why_invalid=row_checks.why_not_tested,
        ),
        # https://github.com/hendrycks/apps; TACO has the same fields.
        "apps": Format(
            prompt_fields=(),
            id_field="problem_id",
            difficulty_field="difficulty",
            demonstration_field="solutions",
            take_demonstration=cases.first_solution,
            truth=_of(cases.apps_cases, "inputs", "outputs", "fn_name"),
            make_prompt=cases.apps_prompt,
        ),
        # https://huggingface.co/datasets/livecodebench/code_generation_lite
        "livecodebench": Format(
            prompt_fields=(),
            id_field="question_id",
            difficulty_field="difficulty",
            truth=_of(cases.livecodebench_cases, "inputs", "outputs", "fn_name"),
            make_prompt=cases.livecodebench_prompt,
        ),
        # https://github.com/google-deepmind/code_contests
        "code_contests": Format(
            prompt_fields=(),
            id_field="name",
            difficulty_field="difficulty",
            demonstration_field="solutions",
            take_demonstration=cases.first_solution,
            truth=_of(cases.code_contests_cases, "inputs", "outputs", "compare"),
            make_prompt=cases.code_contests_prompt,
        ),
        "countdown": Format(
            id_field="id",
            difficulty_field="difficulty",
            demonstration_field="demonstration",
            truth={"numbers": _NUMBERS, "target": _TARGET},
            make_prompt=_countdown_prompt,
        ),
    }
)
