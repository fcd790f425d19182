"""What tests of the code verifier share: a verifier, or a reason why there is none, and problems."""

from __future__ import annotations

import os
from typing import Any

import pytest

from verifiers.programs.config import PythonTestsConfig
from verifiers.programs.python_tests import PythonTests
from verifiers.types import Problem

TIMEOUT_S = 20.0
"""A machine under load is slow; a test that needs a time-out brings its own verifier."""


def make_verifier(timeout_s: float = TIMEOUT_S, **settings: Any) -> PythonTests:
    try:
        return PythonTests(PythonTestsConfig(**settings), timeout_s=timeout_s)
    except ValueError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def human_eval(prompt: str, entry_point: str, test: str) -> Problem:
    truth = {"task_id": "HumanEval/0", "prompt": prompt, "entry_point": entry_point, "test": test}
    return Problem(id=truth["task_id"], prompt=prompt, truth=truth)


def mbpp(*asserts: str, **fields: Any) -> Problem:
    return Problem(id="1", prompt="Write a function.", truth={"test_list": list(asserts), **fields})


def cases(inputs: list[Any], outputs: list[Any], **fields: Any) -> Problem:
    return Problem(id="2", prompt="Write a program.", truth={"inputs": inputs, "outputs": outputs, **fields})
