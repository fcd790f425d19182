"""Which verifiers name answers: what `verifier.reward` is checked by is what they do."""

from __future__ import annotations

import pytest

from verifiers.config import NAMING_ANSWERS, VerifierConfig
from verifiers.registry import VERIFIERS, resolve
from verifiers.types import Problem

PROBLEM = Problem(id="p", prompt="?", truth={"answer": "7", "numbers": [3, 4], "target": 7})


@pytest.mark.parametrize("name", ["countdown", "countdown_steps", "exact_match", "math", "format", "length"])
def test_the_verifiers_said_to_name_answers_are_those_that_do(name):
    completion = {"countdown": "3 + 4", "countdown_steps": "3 + 4 = 7"}.get(name, "7")
    section = {} if VERIFIERS[name].settings is None else {"settings": {}}
    verify = resolve(name, **section).verify
    assert verify is not None
    assert (verify(PROBLEM, completion).answer is not None) is (name in NAMING_ANSWERS)


def test_a_run_may_vote_where_any_verifier_in_use_names_answers():
    assert set(NAMING_ANSWERS) < set(VERIFIERS)
    assert VerifierConfig(reward="math").may_name_answers
    assert VerifierConfig(reward="length", score="exact_match").may_name_answers
    assert VerifierConfig(reward="mine.judging:verify").may_name_answers
    assert not VerifierConfig(reward={"length": 1.0, "format": 1.0}).may_name_answers
