"""A full disk ends a run with one line, and leaves what was there before: on a real file system of one megabyte."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.shared.full_disk import on_small_disk
from tests.shared.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("disk")
    disk = on_small_disk(directory, "1m")
    if subprocess.run([*disk, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody make a mount namespace")
    done = subprocess.run(
        [*disk, sys.executable, "-m", "tests.shared.full_disk", directory],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"directory": directory, **json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("checkpoint", "checkpoints/step-000002.partial"),
        ("trajectories", "trajectories/step-000002.parquet"),
        ("metrics", "metrics.jsonl"),
        ("small file", "run.json"),
    ],
)
def test_one_line_names_the_path_and_the_free_bytes(seen, what, path):
    line = seen[what]
    assert line.startswith(f"{seen['directory']}/run/{path} cannot be written (")
    assert "No space left on device" in line and " bytes are free on that disk: make room" in line
    free_bytes = int(line.split("; ")[1].split()[0].replace(",", ""))
    assert free_bytes < 8192 and "\n" not in line


def test_the_learners_own_writer_says_that_the_disk_is_full(seen):
    assert "No space left on device" in seen["learner"]


def test_what_was_there_is_as_it_was_and_nothing_else_is_left(seen):
    assert seen["after"] == seen["before"]


def test_the_older_checkpoint_is_used_and_the_run_goes_on_once_there_is_room(seen):
    assert seen["used"] == f"{seen['directory']}/run/checkpoints/step-000001"
    assert seen["metrics lines"] == '{"step": 1}\n{"step": 2}\n'
