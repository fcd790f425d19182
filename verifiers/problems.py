"""Problems of a split, and the check that a verifier can judge every one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from verifiers import countdown
from verifiers.config import VerifierConfig
from verifiers.problems_config import ProblemsConfig
from verifiers.registry import resolve
from verifiers.types import Problem

Split = Literal["train", "test"]


def load_problems(config: ProblemsConfig, split: Split) -> list[Problem]:
    """All problems of the split, in the source's order; the same list in every process."""
    if config.source == "countdown":
        return countdown.generate_problems(
            config.num_train if split == "train" else config.num_test,
            config.seed,
            held_out=split == "test",
            num_operands=config.num_operands,
            max_number=config.max_number,
            min_target=config.min_target,
            max_target=config.max_target,
            operator_weights=config.operator_weights,
        )
    path = config.train_path if split == "train" else config.test_path
    if path is None:
        raise ValueError(
            f"problems.{split}_path is not set, and the {split} problems are needed: set it to a file"
        )
    return _read_problems(Path(path), split, config)


def check_problems(problems: Sequence[Problem], config: VerifierConfig) -> None:
    """Raise ValueError for the first problem that the verifier could not judge, before a run starts."""
    verifier = resolve(config.name)
    for problem in problems:
        if verifier.check_problem is not None:
            try:
                verifier.check_problem(problem)
            except ValueError:
                raise
            except Exception as error:  # the user's own function can fail in any way
                raise ValueError(
                    f"verifier.name = {config.name!r}: its check_problem fails on {problem.id!r}: {error!r}"
                ) from error
        try:
            json.dumps(dict(problem.truth))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"problem {problem.id!r}: its truth cannot be sent to the verifier's process ({error}): "
                "use only what JSON can hold"
            ) from error


def _read_problems(path: Path, split: Split, config: ProblemsConfig) -> list[Problem]:
    setting = f"problems.{split}_path"
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for number, row in _read_rows(path, setting):
        where = f"{path}:{number}"
        prompt = _take(row, config.prompt_field, "prompt_field", where)
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(
                f"{where}: field {config.prompt_field!r} is {prompt!r}: make it a text that is not empty"
            )
        identity: Any = f"{path.name}:{number}"
        if config.id_field is not None:
            identity = _take(row, config.id_field, "id_field", where)
            if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
                raise ValueError(
                    f"{where}: field {config.id_field!r} is {identity!r}: make it a text or an integer"
                )
        identity = str(identity)
        if identity in line_of:
            raise ValueError(
                f"{where}: id {identity!r} was used on line {line_of[identity]} already: make it unique, "
                "or choose another problems.id_field"
            )
        line_of[identity] = number
        difficulty = ""
        if config.difficulty_field is not None:
            difficulty = str(_take(row, config.difficulty_field, "difficulty_field", where))
        demonstration: Any = None
        if config.demonstration_field is not None and split == "train":
            demonstration = _take(row, config.demonstration_field, "demonstration_field", where)
            if not isinstance(demonstration, str) or not demonstration:
                raise ValueError(
                    f"{where}: field {config.demonstration_field!r} is {demonstration!r}: "
                    "make it a text that is not empty"
                )
        # Not even a held-out row's demonstration is part of the truth.
        taken = {config.prompt_field, config.id_field, config.difficulty_field, config.demonstration_field}
        problems.append(
            Problem(
                id=identity,
                prompt=config.prompt_template.replace("{prompt}", prompt),
                truth={name: value for name, value in row.items() if name not in taken},
                difficulty=difficulty,
                demonstration=demonstration,
            )
        )
    if not problems:
        raise ValueError(f"{setting} = {str(path)!r} holds no problems: put one JSON object on each line")
    return problems


def _read_rows(path: Path, setting: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows; blank lines are skipped."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(
            f"{setting} = {str(path)!r} cannot be read ({error.strerror}, in {Path.cwd()}): correct the path"
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}:{number}: not JSON ({error}): put one JSON object on each line"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(  # noqa: TRY004  a fault of the file, like the others
                    f"{path}:{number}: a {type(row).__name__}, not a JSON object: put one on each line"
                )
            yield number, row


def _take(row: dict[str, Any], name: str, setting: str, where: str) -> Any:
    if name not in row:
        names = ", ".join(map(repr, row)) or "no field"
        raise ValueError(f"{where}: field {name!r} is missing; it has {names}: set problems.{setting}")
    return row[name]
