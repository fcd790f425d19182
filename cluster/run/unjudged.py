"""Problems on which the verifier fails: tried again, set aside, listed; beyond a limit they end the run. Knows no Ray."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.fleet.calls import Halt
from cluster.run_directory.record import UNJUDGED_FILE, write_atomically

TRIES = 3
"""Groups of a problem on which the verifier fails before the problem is set aside: a worker may fail by itself."""

logger = logging.getLogger(__name__)


class Unjudged:
    """The problems set aside in a run, in RUN_DIR/unjudged.jsonl too: id, the verifier's message, step, time."""

    def __init__(
        self, run_dir: Path, *, limit: int, num_problems: int, entries: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """`limit`: how many there may be, of `num_problems`; `entries`: those of a checkpoint, as `entries` gives them."""
        self._path = run_dir / UNJUDGED_FILE
        self._limit = limit
        self._num_problems = num_problems
        self._failures: Counter[str] = Counter()
        self._entries = {entry["problem_id"]: dict(entry) for entry in entries}
        self._write()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return list(self._entries.values())

    def failed(self, problem_id: str, error: str, step: int) -> bool:
        """The verifier failed on a group of the problem; true if that sets it aside.

        Raises Halt, in one line, where more are set aside then than may be.
        """
        self._failures[problem_id] += 1
        if self._failures[problem_id] < TRIES or problem_id in self._entries:
            return False
        self._entries[problem_id] = {
            "problem_id": problem_id,
            "error": error,
            "step": step,
            "time": time.time(),
        }
        self._write()
        num = len(self._entries)
        if num > self._limit or num >= self._num_problems:
            raise Halt(
                f"the verifier cannot judge {num} of {self._num_problems} problems, more than train.max_unjudged_problems "
                f"= {self._limit} or all there are; they are listed in {self._path}, the last: {problem_id}: {error}; mend "
                "the verifier or those problems, and go on with --resume"
            )
        return True

    def is_first_failure(self, problem_id: str) -> bool:
        """Of the problem, as far as this process knows."""
        return self._failures[problem_id] == 0

    def _write(self) -> None:
        if self._entries or self._path.exists():
            write_atomically(
                self._path, "".join(json.dumps(entry) + "\n" for entry in self._entries.values())
            )
