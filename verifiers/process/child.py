"""The child's side of `verifiers.process.killable`, which describes the protocol: judges what it is sent, and nothing else.

Run as a program (`python -m verifiers.process.child PAGE_DESCRIPTOR PARENT_PID`); imports little, so that
it starts fast.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
from typing import Any

from verifiers.registry import Verifier, import_verifier, resolve
from verifiers.types import CRASHED, REFUSED, Problem

FLUSH_S = 0.002
MAX_ANSWER_CHARS = 1000
"""A longer answer is replaced by its digest, so that pipes and Parquet files stay small."""

PAGE = struct.Struct("@dq")
"""Shared memory: since when (time.monotonic, the same clock in both), at which index (IDLE: at none, or at a whole group).

Native, so that each half is one aligned store; only a dead child's halves are read together.
"""
IDLE = -1

CLOSED_FILES = 86
"""Exit code where the verifier has closed the files that the child answers through: nothing else can be said then."""
_PR_SET_PDEATHSIG = 1
_Row = tuple[int, float, float, str, float, str | None]


def judge_requests(page_descriptor: int, parent_pid: int) -> None:
    """Read what `resolve` takes and then requests from stdin until it ends, write verdicts to stdout.

    With `only_imports` among what it takes, it imports the verifier's module, says that it could, and ends.
    """
    _die_with_parent(parent_pid)
    faulthandler.enable()
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # What the verifier prints goes to stderr, and what it reads is empty: the pipes are ours.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    page = mmap.mmap(page_descriptor, PAGE.size)

    def send(message: dict[str, Any]) -> None:
        try:
            replies.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            replies.flush()
        except OSError as error:
            if error.errno == errno.EBADF:
                os._exit(CLOSED_FILES)
            raise

    try:
        start = json.loads(requests.readline())
        if start.pop("only_imports", False):
            import_verifier(start["name"])
            send({"ready": True})
            return
        verifier = resolve(**start)
    except BaseException as error:  # noqa: BLE001  a user's module may raise anything
        send({"failed": str(error) if isinstance(error, ValueError) else _one_line(error)})
        return
    if verifier.row.memory_mib is not None:
        resource.setrlimit(resource.RLIMIT_AS, (verifier.row.memory_mib << 20,) * 2)
    send(
        {
            "ready": True,
            "judges_groups": verifier.verify_batch is not None,
            "keeps_time": verifier.row.keeps_time,
            "warm_spare": verifier.row.warm_spare,
        }
    )

    clock = time.monotonic
    verify = verifier.verify
    for line in requests:
        request = json.loads(line)
        problem = Problem(**request["problem"])
        candidates: list[tuple[int, str]] = request["candidates"]
        verdicts: list[_Row] = []
        error_text = None
        if verify is None:
            send(_judge_batch(verifier, problem, candidates))
            continue
        flushed_at = clock()
        for index, completion in candidates:
            started_at = clock()
            PAGE.pack_into(page, 0, started_at, index)
            try:
                verdict = verify(problem, completion)
                answer = None if verdict.answer is None else short_answer(verdict.answer)
            except BaseException as error:  # noqa: BLE001  SystemExit too: the verifier is at fault
                # The limit is there for what candidates want; without one the machine is out of memory.
                wants_too_much = isinstance(error, MemoryError) and verifier.row.memory_mib is not None
                verdict, answer = REFUSED if wants_too_much else CRASHED, None
                error_text = error_text if wants_too_much else _one_line(error)
            now = clock()
            verdicts.append((index, verdict.score, verdict.reward, verdict.status, now - started_at, answer))
            if now - flushed_at > FLUSH_S:
                send({"verdicts": verdicts, "error": error_text})
                verdicts, error_text, flushed_at = [], None, now
        PAGE.pack_into(page, 0, clock(), IDLE)
        send({"verdicts": verdicts, "error": error_text})


def _judge_batch(verifier: Verifier, problem: Problem, candidates: list[tuple[int, str]]) -> dict[str, Any]:
    """A message with the verdicts on a whole group; its time is shared out among the candidates."""
    assert verifier.verify_batch is not None
    started_at = time.monotonic()
    error_text = None
    try:
        batch = verifier.verify_batch(problem, [completion for _, completion in candidates])
        answers = [None if verdict.answer is None else short_answer(verdict.answer) for verdict in batch]
    except BaseException as error:  # noqa: BLE001  as in `judge_requests`
        error_text = _one_line(error)
        batch, answers = [CRASHED] * len(candidates), [None] * len(candidates)
    share_s = (time.monotonic() - started_at) / max(1, len(candidates))
    rows = [
        (index, verdict.score, verdict.reward, verdict.status, share_s, answer)
        for (index, _), verdict, answer in zip(candidates, batch, answers, strict=True)
    ]
    return {"verdicts": rows, "error": error_text}


def short_answer(answer: str) -> str:
    """The answer itself, or its digest where it is longer than MAX_ANSWER_CHARS or cannot be stored as UTF-8.

    Equal answers stay equal, different ones different.
    """
    if len(answer) <= MAX_ANSWER_CHARS and (answer.isascii() or _is_unicode(answer)):
        return answer
    return "sha256:" + hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process with its parent; one that waits for work also ends with its stdin."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(1)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]


if __name__ == "__main__":
    judge_requests(int(sys.argv[1]), int(sys.argv[2]))
