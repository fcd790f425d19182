"""Which problems a checkpoint can be gone on with."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.run_directory.problem_list import (
    Reconciled,
    digest,
    read_problem_list,
    reconcile,
    write_problem_list,
)
from verifiers.types import Problem

PROBLEMS = [
    Problem(id=f"p{number}", prompt=f"what is {number}?", truth={"answer": number}, demonstration=f"{number}")
    for number in range(10)
]


def saved(problems=PROBLEMS, *, imitated=False):
    return {problem.id: digest(problem, imitated=imitated) for problem in problems}


def repaired(problem: Problem) -> Problem:
    return dataclasses.replace(problem, truth={"answer": "mended"})


def go_on(problems, trained=(), *, imitated=False) -> Reconciled:
    return reconcile(saved(imitated=imitated), problems, set(trained), imitated=imitated)


def test_a_list_is_read_back_as_it_was_written_and_none_is_read_where_none_is(tmp_path):
    assert read_problem_list(tmp_path) is None
    write_problem_list(tmp_path, saved())
    assert read_problem_list(tmp_path) == saved()
    assert list(read_problem_list(tmp_path)) == [problem.id for problem in PROBLEMS]


def test_the_same_problems_in_any_order_go_on_in_that_of_the_checkpoint():
    same = go_on(PROBLEMS[::-1], trained=["p1"])
    assert same == Reconciled(problems=PROBLEMS) and same.describe() == []


def test_problems_repaired_or_removed_that_no_step_has_trained_on_are_accepted_and_named():
    others = [PROBLEMS[0], repaired(PROBLEMS[1]), *PROBLEMS[3:]]
    accepted = go_on(others, trained=["p0", "p3"])
    assert [problem.id for problem in accepted.problems] == [problem.id for problem in PROBLEMS]
    assert accepted.problems[1].truth == {"answer": "mended"}
    assert accepted.problems[2].prompt == ""
    assert (accepted.repaired, accepted.removed) == (frozenset({"p1"}), frozenset({"p2"}))
    assert accepted.describe() == [
        "1 problems that no step has trained on were repaired: 'p1'",
        "1 problems that no step has trained on were removed: 'p2'",
    ]


@pytest.mark.parametrize(
    ("problems", "trained", "why"),
    [
        ([*PROBLEMS, Problem(id="p10", prompt="?")], [], r"^1 problems are new: 'p10'; a run's problems are those"),
        ([repaired(PROBLEMS[0]), *PROBLEMS[1:]], ["p0"], r"^1 problems are other than they were: 'p0'; steps have"),
        (PROBLEMS[1:], ["p0"], r"^1 problems are gone: 'p0'; steps have trained on them"),
        ([], [], r"^all problems of the checkpoint are gone"),
    ],
    ids=["added", "repaired after training", "removed after training", "all removed"],
)  # fmt: skip
def test_other_changes_are_refused_with_the_reason(problems, trained, why):
    with pytest.raises(ValueError, match=why):
        go_on(problems, trained)


def test_many_are_counted_and_the_first_named():
    with pytest.raises(
        ValueError, match=r"^10 problems are gone: 'p0', 'p1', 'p2', 'p3', 'p4' and 5 more; steps"
    ):
        go_on([Problem(id="x", prompt="x")][:0], trained=[problem.id for problem in PROBLEMS])


def test_earlier_turns_of_a_conversation_count():
    turns = ({"role": "system", "content": "Be brief."},)
    spoken = [dataclasses.replace(PROBLEMS[0], turns=turns), *PROBLEMS[1:]]
    assert go_on(spoken).repaired == {"p0"}
    with pytest.raises(ValueError, match="other than they were: 'p0'"):
        go_on(spoken, ["p0"])


def test_a_demonstration_counts_only_where_it_is_imitated():
    other = [dataclasses.replace(PROBLEMS[0], demonstration="other"), *PROBLEMS[1:]]
    assert go_on(other, ["p0"]).repaired == frozenset()
    with pytest.raises(ValueError, match="other than they were: 'p0'"):
        go_on(other, ["p0"], imitated=True)
