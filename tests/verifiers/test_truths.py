"""Truths judged before a run, by the verifier's own processes."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from verifiers.config import VerifierConfig
from verifiers.truths import GROUP, judge_truths
from verifiers.types import Problem

MATH = VerifierConfig(reward="math")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bonfire" / "judged-truths"


def problems(*answers: str) -> list[Problem]:
    return [
        Problem(id=f"p{place}", prompt="", truth={"answer": answer}) for place, answer in enumerate(answers)
    ]


@pytest.fixture
def own_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fails on `boom`, judges `never` wrong, refuses `long`, hangs at `slow`."""
    (tmp_path / "truth_verifiers.py").write_text(
        textwrap.dedent(
            """
            import time
            from verifiers.types import REFUSED, Trial
            def judge(problem, completion):
                truth = problem.truth["answer"]
                if truth == "boom":
                    raise KeyError("x")
                if truth == "slow":
                    time.sleep(60)
                return REFUSED if truth == "long" else float(completion == truth and truth != "never")
            def trials(problem):
                return [Trial(completion=problem.truth["answer"], is_right=True)]
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "truth_verifiers:judge"


def test_truths_that_cannot_be_judged_or_not_rightly_or_not_in_time_are_told_apart(
    own_verifier, cache
) -> None:
    judged = judge_truths(
        problems("fine", "boom", "never", "long", "slow"), VerifierConfig(reward=own_verifier, timeout_s=0.5)
    )
    remedy = "correct it, or leave the row out with problems.max_invalid_rows"
    name = repr(own_verifier)
    assert judged.faults == {
        "p1": f"problem 'p1': verifier {name} fails on it (KeyError: 'x'): {remedy}",
        "p2": f"problem 'p2': verifier {name} gives the row's own truth, or its solution, the reward 0: {remedy}",
        "p3": f"problem 'p3': verifier {name} gives the row's own truth, or its solution, the status 'refused': {remedy}",
    }
    assert list(judged.slow) == ["p4"]
    assert not cache.exists(), "what another's code says is not remembered"


def test_progress_ends_with_all_and_every_truth_is_looked_at_once() -> None:
    many = problems(*[str(number) for number in range(3 * GROUP + 1)])
    told: list[int] = []
    assert judge_truths(many, MATH, told.append).faults == {}
    assert told == sorted(told) and told[-1] == len(many) and len(told) == 4


def test_what_was_judged_well_is_remembered_by_its_content(cache) -> None:
    judge_truths(problems("1", "2"), MATH)
    assert len(cache.read_text().split()) == 2
    told: list[int] = []
    again = judge_truths(problems("1", "3"), MATH, told.append)
    assert again.num_remembered == 1 and told == [2]
    assert (
        judge_truths(problems("1"), VerifierConfig(reward="math", math={"decimal_places": 3})).num_remembered
        == 0
    )


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(cache) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"\xff\xfe")
    assert judge_truths(problems("1"), MATH).faults == {}
    cache.unlink()
    cache.mkdir()
    assert judge_truths(problems("1"), MATH).faults == {}


def test_verifiers_that_do_not_say_how_to_try_a_problem_are_not_asked() -> None:
    judged = judge_truths([Problem(id="p", prompt="", truth={"numbers": [1], "target": 1})], VerifierConfig())
    assert not judged.faults and not judged.slow


def test_a_program_that_the_data_set_gives_must_pass_its_tests() -> None:
    tests = {"test_list": ["assert f(1) == 2"]}
    right, wrong, none = (
        Problem(id=name, prompt="", truth=tests, demonstration=code)
        for name, code in (
            ("right", "def f(x): return x + 1"),
            ("wrong", "def f(x): return x"),
            ("none", None),
        )
    )
    judged = judge_truths([right, wrong, none], VerifierConfig(reward="python_tests"))
    assert list(judged.faults) == ["wrong"]
