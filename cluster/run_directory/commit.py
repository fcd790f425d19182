"""Which version of the code made a result."""

from __future__ import annotations

import subprocess


def git_commit() -> str:
    """Commit of the working directory, with `+dirty` for uncommitted changes; empty outside git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
