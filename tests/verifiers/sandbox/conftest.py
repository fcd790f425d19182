"""A sandbox, and one attack on it after which it must still be good for another candidate."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator

import pytest

from tests.shared.sandbox_attacks import GOOD, LIMITS, WALL_S, Attack, assert_nothing_left
from verifiers.sandbox.sandbox import Job, Outcome, Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        sandbox = Sandbox(LIMITS)
    except ValueError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.fixture
def attack(sandbox: Sandbox) -> Attack:
    def run(program: str, *tests: str, wall_s: float = WALL_S) -> Outcome:
        pid = sandbox.pid
        outcome = sandbox.run(
            Job(program=textwrap.dedent(program), tests=tests or ("assert f(7) == 49",)), wall_s=wall_s
        )
        assert sandbox.pid == pid, "the attack took the sandbox down"
        assert_nothing_left(sandbox)
        assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"
        assert_nothing_left(sandbox)
        return outcome

    return run
