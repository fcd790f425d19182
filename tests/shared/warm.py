"""Processes that need not import first what they all import: forks of one that has.

Python's fork server; each pytest process that wants one has its own, from the first use on.
"""

from __future__ import annotations

import multiprocessing

PRELOADED = (
    "cluster.commands.cli",
    "cluster.commands.plan",
    "cluster.commands.train",
    "cluster.evaluation.evaluation",
    "cluster.evaluation.rescoring",
    "learner.learner",
    "learner.sft",
    "transformers.models.auto.tokenization_auto",
)
"""Not Ray: it reads its environment when it is imported."""

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(list(PRELOADED))
