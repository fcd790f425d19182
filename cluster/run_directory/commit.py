"""Which version of the code made a result."""

from __future__ import annotations

import subprocess


def git_commit(*, beside: str = "") -> str:
    """Commit of the working directory, with `+dirty` for uncommitted changes; empty outside git.

    `beside`: a directory, from the repository's root, whose changes do not count: of results, while more of them are made.
    """
    status = ["status", "--porcelain", "--untracked-files=no", "--", ":(top)"]
    if beside:
        status.append(f":(top,exclude){beside}")

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if git(*status) else "")
    except (OSError, subprocess.SubprocessError):
        return ""
