"""A result names the code that made it."""

from __future__ import annotations

import subprocess

import pytest

from cluster.run_directory.commit import git_commit


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Of a file of code and one of results."""
    monkeypatch.chdir(tmp_path)
    for path in ("code/a.py", "results/a.json"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("1")
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*named, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], check=True)
    return tmp_path


def test_changes_make_a_commit_dirty_but_for_results_that_are_being_made(repository, monkeypatch):
    clean = git_commit()
    assert len(clean) == 40
    (repository / "new.py").write_text("untracked")
    (repository / "results/a.json").write_text("2")
    monkeypatch.chdir(repository / "code")
    assert (git_commit(), git_commit(beside="results")) == (clean + "+dirty", clean)
    (repository / "code/a.py").write_text("2")
    assert git_commit(beside="results") == clean + "+dirty"


def test_outside_of_git_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_commit() == ""
