"""What a row means: the published formats, and rows of the user's own.

A format has own names for fields; where a row has them, they are used. A name that the config sets
must be in every row; it may be a path into nested fields (`verifiers.problems.fields`). Messages leave out
the row's place, which the caller knows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from verifiers.countdown.puzzles import prompt_text
from verifiers.math.text import boxed_answer
from verifiers.one_answer import as_one_answer
from verifiers.problems import cases, prompt_template, row_checks
from verifiers.problems import fields as row_fields
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.conversation import read_messages
from verifiers.problems.json_values import half_character, is_plain, storable
from verifiers.problems.rows import Row
from verifiers.problems.values import Fields, filled_text, missing, take
from verifiers.types import Problem, Turn

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
    has_one_answer: bool = False
    """Its truth is an `answer`, also where it is published as a list."""
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
    prompt_field, turns, prompt = _prompt(fields, config, kind)
    template = kind.prompt_template if config.prompt_template is None else config.prompt_template
    difficulty = _value(fields, config.difficulty_field, kind.difficulty_field, "difficulty_field")
    problem = Problem(
        id=_identity(row, config, kind),
        prompt=prompt_template.fill(template, prompt, fields),
        truth=_truth(fields, prompt_field, config, kind),
        difficulty="" if difficulty is None else str(difficulty),
        demonstration=_demonstration(fields, config, kind) if demonstrates else None,
        turns=turns,
    )
    if half := half_character(dataclasses.astuple(problem)):
        raise ValueError(
            f"a text of it has half of a character, {half}, without its other half: correct the row, or raise "
            "problems.max_invalid_rows"
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
    if isinstance(text, list) and len(text) == 1:  # OlympiadBench's solution
        text = text[0]
    return kind.clean_demonstration(filled_text(text, config.demonstration_field or kind.demonstration_field))


def _truth(fields: Fields, prompt_field: str, config: ProblemsConfig, kind: Format) -> dict[str, Any]:
    truth = {
        name: _storable(take(fields, field, "truth_fields"), field)
        for name, field in config.truth_fields.items()
    }
    if kind.truth is not None:
        solution_field = config.demonstration_field or kind.demonstration_field
        for name, read in kind.truth.items():
            if name not in truth and (value := read(fields, solution_field)) is not None:
                truth[name] = _storable(value, name)
        if kind.has_one_answer:
            truth["answer"] = as_one_answer(truth["answer"])
    elif not truth:
        # Not even a held-out row's demonstration is part of the truth.
        named = {prompt_field, config.id_field, config.difficulty_field, config.demonstration_field}
        others = row_fields.without(fields, {name for name in named if name})
        truth = {name: storable(value) for name, value in others.items() if is_plain(value)}
    return truth


def _storable(value: Any, field: str) -> Any:
    try:
        return storable(value)
    except ValueError as error:
        raise ValueError(f"field {field!r} {error}, or name another in problems.truth_fields") from error


def _prompt(fields: Fields, config: ProblemsConfig, kind: Format) -> tuple[str, tuple[Turn, ...], str]:
    """The field that holds the prompt (empty: none does), what was said before it, and the prompt."""
    chosen = config.prompt_field
    names = kind.prompt_fields if chosen is None else (chosen,)
    for name in names:
        try:
            value = row_fields.look_up(fields, name)
        except row_fields.Missing:
            continue
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return name, *read_messages(value, name)
        prompt = filled_text(value, name)
        if not any(letter.isprintable() and not letter.isspace() for letter in prompt):
            raise ValueError(
                f"field {name!r} is {prompt[:40]!r}, blanks only: make it a text that is not empty, or raise "
                "problems.max_invalid_rows"
            )
        return name, (), prompt
    if chosen is None and kind.make_prompt is not None:
        return "", (), kind.make_prompt(fields)
    raise missing(fields, names, "prompt_field")


def _value(fields: Fields, chosen: str | None, own: str, setting: str) -> Any:
    """Of the field that the setting names; else of the format's own, and None where the row has none."""
    return fields.get(own) if chosen is None else take(fields, chosen, setting)


def _column(*names: str, required: bool = True) -> Reader:
    """Reads the first of the fields that is there."""

    def read(fields: Fields, solution_field: str) -> Any:
        for name in names:
            if fields.get(name) is not None:
                return fields[name]
        if required:
            raise missing(fields, names, "truth_fields")
        return None

    return read


def _math_answer(fields: Fields, solution_field: str) -> Any:
    """The field `answer` where there is one, as in MATH-500; else what the solution boxes last, as the verifier reads it."""
    if solution_field != "answer" and fields.get("answer") is not None:
        answer = as_one_answer(storable(fields["answer"]))
        return str(answer) if type(answer) in (int, float) else filled_text(answer, "answer")
    solution = filled_text(take(fields, solution_field, "demonstration_field"), solution_field)
    boxed = boxed_answer(solution)
    if boxed is None:
        raise ValueError(
            f"field {solution_field!r} has no \\boxed{{...}} that ends and is not empty: correct it, set "
            "problems.truth_fields = { answer = FIELD }, or raise problems.max_invalid_rows"
        )
    return boxed


def _gsm8k_answer(fields: Fields, solution_field: str) -> str:
    """What follows the last `####`, without thousands separators."""
    solution = filled_text(take(fields, solution_field, "demonstration_field"), solution_field)
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
            has_one_answer=True,
            why_invalid=row_checks.why_not_demonstrated,
        ),
        # https://github.com/openai/grade-school-math
        "gsm8k": Format(
            prompt_fields=("question",),
            prompt_template="{prompt}\nReason step by step, and end with a line '#### ' and the answer.",
            demonstration_field="answer",
            truth={"answer": _gsm8k_answer},
            has_one_answer=True,
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
