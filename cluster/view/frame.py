"""What every page has around it: the name of its run, and the tab it is under."""

from __future__ import annotations

from typing import Any

from cluster.view.library import Run


def base(tab: str) -> dict[str, Any]:
    """Of a page that is about no single run."""
    return {"tab": tab, "run": None}


def of_run(run: Run, tab: str) -> dict[str, Any]:
    """Of a page of one run."""
    return {**base(tab), "run": run, "state": run.state}
