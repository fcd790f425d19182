"""What the tests of real runs share: their settings, and how one is started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # it imports Ray, which tests without a cluster need not
    from cluster.config.schema import RunConfig
    from tests.shared.live_run import LiveRun


@pytest.fixture(scope="session")
def make_config(tiny_model: Path, user_modules: Path) -> Callable[..., RunConfig]:
    """Settings of a small run by the verifier `loop_verifiers:slow`; sections given replace its own."""
    from tests.shared.live_run import REWARDS, run_config

    (user_modules / "loop_verifiers.py").write_text(REWARDS)
    return partial(run_config, tiny_model, "loop_verifiers:slow")


@pytest.fixture(scope="session")
def start(ray_cluster: str) -> Callable[..., AbstractContextManager[LiveRun]]:
    """Context manager of a run on the session's cluster; afterwards no process of it is left."""
    from tests.shared.live_run import started

    return started
