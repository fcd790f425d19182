"""Problems of a split, and the check that a verifier can judge every one of them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence

from verifiers.config import VerifierConfig
from verifiers.countdown import puzzles, steps
from verifiers.problems.config import ProblemsConfig, as_written
from verifiers.problems.formats import to_problem
from verifiers.problems.invalid_rows import InvalidRows
from verifiers.problems.prompt_template import field_names
from verifiers.problems.rows import Split, read_rows
from verifiers.registry import problem_check
from verifiers.types import Problem


def load_problems(config: ProblemsConfig, split: Split) -> list[Problem]:
    """All problems of the split; the same list in every process.

    Raises ValueError that names the setting, or in a line each the rows of which no problem can be made. Rows left out
    under `problems.max_invalid_rows` are counted in a notice on standard error.
    """
    problems, invalid = read_problems(config, split)
    invalid.settle()
    return problems


def read_problems(config: ProblemsConfig, split: Split) -> tuple[list[Problem], InvalidRows]:
    """The problems of the split, and the rows of which none could be made, not settled yet."""
    if config.source == "countdown":
        problems = puzzles.generate_problems(
            config.num_train if split == "train" else config.num_test,
            config.seed,
            held_out=split == "test",
            num_operands=config.num_operands,
            max_number=config.max_number,
            min_target=config.min_target,
            max_target=config.max_target,
            operator_weights=config.operator_weights,
            spell=steps.SPELLINGS[config.notation],
        )
        return problems, InvalidRows(split=split, limit=0, num_rows=len(problems))
    problems, invalid = _problems_of_rows(config, split)
    if config.shuffle_seed is not None:
        # By id and not by position: a row added later moves no other against its neighbours.
        problems.sort(key=lambda problem: _uniform(f"{config.shuffle_seed} {problem.id}"))
    return problems[: config.max_train if split == "train" else config.max_test], invalid


def check_problems(problems: Sequence[Problem], config: VerifierConfig) -> None:
    """Raise ValueError, a line for each, for problems that the verifier could not judge."""
    invalid = InvalidRows(split="", limit=0, num_rows=len(problems))
    for why in find_unjudgeable(problems, config).values():
        invalid.add(why)
    invalid.settle()


def find_unjudgeable(problems: Sequence[Problem], config: VerifierConfig) -> dict[str, str]:
    """By id, in one line, why the verifier cannot judge a problem, as far as its `check_problem` can tell.

    Raises ValueError where a verifier's own check fails in another way.
    """
    checks = {name: check for name in config.names if (check := problem_check(name)) is not None}
    faults: dict[str, str] = {}
    for problem in problems:
        for name, check in checks.items():
            try:
                check(problem)
            except ValueError as error:
                faults.setdefault(problem.id, str(error))
            except Exception as error:  # the user's own function can fail in any way
                raise ValueError(
                    f"verifier {name!r}: its check_problem fails on {problem.id!r}: {error!r}"
                ) from error
        try:
            json.dumps(dict(problem.truth))
        except (TypeError, ValueError) as error:
            faults.setdefault(
                problem.id,
                f"problem {problem.id!r}: its truth cannot be sent to the verifier's process ({error}): name the fields "
                "that it needs in problems.truth_fields",
            )
    return faults


def warn_of_shared_prompts(train: Sequence[Problem], test: Sequence[Problem]) -> None:
    """Say on standard error how many held-out prompts are trained on, if any are.

    A warning and no error: published splits share some, and a run may mean to measure its own training problems.
    """
    trained = {problem.prompt: problem.id for problem in reversed(train)}
    shared = [problem for problem in test if problem.prompt in trained]
    if shared:
        print(
            f"bonfire: warning: {len(shared)} of {len(test)} held-out prompts are training prompts too, so the "
            f"evaluation is contaminated; the first: {shared[0].id!r} has the prompt of {trained[shared[0].prompt]!r}: "
            "drop them from one side, or use problems.test_fraction",
            file=sys.stderr,
        )


def _problems_of_rows(config: ProblemsConfig, split: Split) -> tuple[list[Problem], InvalidRows]:
    # Held-out problems that are a fraction of the training problems are read from their files.
    source: Split = "train" if config.test_fraction is not None else split
    template = config.prompt_template
    if template is not None and "prompt" not in field_names(template):
        raise ValueError(
            f"problems.prompt_template = {template!r} leaves the prompt out: put {{prompt}} in it"
        )
    problems: list[Problem] = []
    place_of: dict[str, str] = {}
    invalid = InvalidRows(split=source, limit=config.max_invalid_rows)
    for row in read_rows(config, source):
        invalid.num_rows += 1
        try:
            prompt, problem = to_problem(row, config, demonstrates=split == "train")
        except ValueError as error:
            invalid.add(f"{row.where}: {error}")
            continue
        if problem.id in place_of:
            raise ValueError(
                f"{row.where}: id {problem.id!r} was used in {place_of[problem.id]} already: make it unique, "
                "or choose another problems.id_field"
            )
        place_of[problem.id] = row.where
        # By the prompt and not by id: a problem that is there twice is never on both sides.
        if config.test_fraction is None or (_uniform(prompt) < config.test_fraction) == (split == "test"):
            problems.append(problem)
    if not problems:
        if invalid.num > invalid.limit:
            invalid.settle()
        raise ValueError(_why_none(config, split, invalid.num_rows))
    return problems, invalid


def _why_none(config: ProblemsConfig, split: Split, num_rows: int) -> str:
    if num_rows and config.test_fraction is not None:
        return (
            f"problems.test_fraction = {config.test_fraction} leaves no {split} problem of {num_rows} rows: "
            "name held-out problems instead"
        )
    kind = "path" if config.source == "files" else "split"
    place = as_written(getattr(config, f"{split}_{kind}"))
    return f"problems.{split}_{kind} = {place!r} holds no problems: give rows, one to a problem"


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
