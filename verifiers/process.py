"""A verifier in a child process that can be killed, so that no verifier can hang or kill its worker.

The protocol is JSON lines (with Python's NaN and Infinity) over the child's stdin and stdout:

    child:  {"ready": true} | {"failed": "why"}                              once, after its imports
    parent: {"problem": {...}, "candidates": [[index, text], ...]}           one line for a whole group
    child:  {"verdicts": [[index, score, reward, status, latency_s, answer], ...],
             "error": "text of the latest exception" | null}             as many lines as it takes

The child's side is `verifiers/child.py`.

Verdicts are sent in batches, at most FLUSH_S apart; a line for each would cost more than judging.
So that the right candidate is blamed all the same, the child notes which candidate it is at, and
since when, in a page of memory shared with the parent. After a kill the verdicts that were not
sent yet (FLUSH_S worth of work) are simply made again.

Measured in a virtual machine, countdown in groups of 32: 50,000 to 75,000 verdicts/s with parent and child on
one core or on two, depending on what else runs there; a quarter of the time goes into canonical answers.
A child is ready in 0.1 s, which is also what a restart costs.

Covered: hanging, crashing, `sys.exit`, printing, reading stdin, a parent killed by SIGKILL (on
Linux; elsewhere an idle child ends, a hanging one stays), processes that a verifier started and
left in its process group, when the child is killed. Not covered: malice. It is no sandbox.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import mmap
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from verifiers.child import IDLE, PAGE
from verifiers.types import CRASHED, Problem, Verdict

if TYPE_CHECKING:
    from verifiers.config import VerifierConfig

START_TIMEOUT_S = 60.0
"""For the imports of a user's own verifier."""
EXIT_TIMEOUT_S = 10.0
STDERR_TAIL_BYTES = 8192

_REFUSED = Verdict(score=-math.inf, reward=0.0, status="refused")


class VerifierStartError(RuntimeError):
    """The verifier's process did not get as far as judging."""


class VerifierProcess:
    """Judges candidates in a child process, and replaces that process whenever it hangs or dies.

    Use it from one thread that lives as long as the object: Linux ends the child with the thread
    that started it.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._child: _Child | None = _Child(config.name)
        self.last_error = ""
        """Why the latest `crashed` verdict or restart came about; empty if there was none."""
        self.num_restarts = 0
        """Children started after the first."""

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def judge(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """One verdict for each completion, in order. Never raises for what a verifier does.

        A candidate that takes longer than `timeout_s` is a `timeout` (score -inf, reward 0). One on
        which the child dies is tried `retries` more times, then `crashed`; an exception is `crashed`
        at once.
        """
        limit = self._config.max_candidate_chars
        verdicts: list[Verdict | None] = [_REFUSED if len(text) > limit else None for text in completions]
        num_deaths: Counter[int] = Counter()
        while pending := [index for index, verdict in enumerate(verdicts) if verdict is None]:
            try:
                child = self._running_child()
            except VerifierStartError as error:
                self.last_error = str(error)
                for index in pending:
                    verdicts[index] = CRASHED
                break
            fault = self._judge_pending(child, problem, completions, verdicts, pending)
            if fault is None:
                continue
            index, running_s = child.kill()
            self._child = None
            # A child that dies between candidates is blamed on the first one left, so that the loop ends.
            known = 0 <= index < len(verdicts) and verdicts[index] is None
            culprit = index if known else next(i for i in pending if verdicts[i] is None)
            if known and fault == "timeout" and running_s >= self._config.timeout_s:
                verdicts[culprit] = Verdict(
                    score=-math.inf, reward=0.0, status="timeout", latency_s=running_s
                )
                continue
            cause = (
                f"no reply in {self._config.timeout_s:g} s, killed"
                if fault == "timeout"
                else child.cause_of_death()
            )
            self.last_error = f"verifier process: {cause}; at candidate {culprit} of problem {problem.id!r}"
            num_deaths[culprit] += 1
            if num_deaths[culprit] > self._config.retries:
                verdicts[culprit] = dataclasses.replace(CRASHED, latency_s=running_s if known else 0.0)
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running_child(self) -> _Child:
        if self._child is not None and self._child.has_exited():
            self._child.kill()
            self.last_error = f"verifier process: {self._child.cause_of_death()}; between two groups"
            self._child = None
        if self._child is None:
            self.num_restarts += 1
            self._child = _Child(self._config.name)
        return self._child

    def _judge_pending(
        self,
        child: _Child,
        problem: Problem,
        completions: Sequence[str],
        verdicts: list[Verdict | None],
        pending: list[int],
    ) -> str | None:
        """Fill in verdicts until all are there (None), or the child died ("death") or hangs ("timeout")."""
        child.send(
            {
                "problem": {
                    "id": problem.id,
                    "prompt": problem.prompt,
                    "truth": dict(problem.truth),
                    "difficulty": problem.difficulty,
                },
                "candidates": [[index, completions[index]] for index in pending],
            }
        )
        sent_at = time.monotonic()
        num_missing = len(pending)
        while num_missing:
            remaining_s = max(sent_at, child.since()) + self._config.timeout_s - time.monotonic()
            messages = child.exchange(max(0.0, remaining_s))
            if messages is None:
                return "death"
            if not messages and remaining_s <= 0:  # a parent that was itself held up reads before it judges
                return "timeout"
            for message in messages:
                for index, score, reward, status, latency_s, answer in message["verdicts"]:
                    verdicts[index] = Verdict(
                        score=score, reward=reward, status=status, latency_s=latency_s, answer=answer
                    )
                    num_missing -= 1
                self.last_error = message["error"] or self.last_error
        return None


class _Child:
    """One child process and the parent's ends of its pipes; none of its methods waits without a limit."""

    def __init__(self, name: str) -> None:
        with tempfile.TemporaryFile() as page_file:
            page_file.truncate(PAGE.size)
            self._page = mmap.mmap(page_file.fileno(), PAGE.size)
            PAGE.pack_into(self._page, 0, time.monotonic(), IDLE)
            descriptor = page_file.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "verifiers.child", name, str(descriptor), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=[descriptor],
                env=_child_environment(),
                start_new_session=True,  # Ctrl-C is the parent's business; kill() takes the whole group
            )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = (
            self._process.stdin,
            self._process.stdout,
            self._process.stderr,
        )
        self._outbox = memoryview(b"")
        self._inbox = b""
        self._stderr_tail = b""
        self._ended = False
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        for stream in (self._stdout, self._stderr):
            self._selector.register(stream, selectors.EVENT_READ)
        self._wait_until_ready(name)

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def since(self) -> float:
        """When it took up what it is doing now."""
        return PAGE.unpack_from(self._page)[0]

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message; `exchange` writes it."""
        assert not self._outbox
        self._outbox = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        self._write()
        if self._outbox:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def exchange(self, wait_s: float) -> list[dict[str, Any]] | None:
        """Wait for the child at most once and move what can be moved; None once it has ended."""
        if self._ended:
            return None
        messages: list[dict[str, Any]] = []
        for key, _ in self._selector.select(wait_s):
            if key.fileobj is self._stdin:
                self._write()
                if not self._outbox:
                    self._selector.unregister(self._stdin)
            elif key.fileobj is self._stderr:
                self._read_stderr()
            else:
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                self._ended = not chunk
                *lines, self._inbox = (self._inbox + chunk).split(b"\n")
                messages += map(json.loads, lines)
        return None if self._ended and not messages else messages

    def kill(self) -> tuple[int, float]:
        """End the child and its process group; returns the index it was at, and for how many seconds."""
        now = time.monotonic()
        if self._process.returncode is None:  # once reaped, its id may be somebody else's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S)
        if not self._stderr.closed:
            self._read_stderr()
        self._selector.close()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
        since, index = PAGE.unpack_from(self._page)  # only now: a living child may have moved on
        return index, max(0.0, now - since)

    def cause_of_death(self) -> str:
        """How it ended, with the end of what it wrote to stderr."""
        code = self._process.returncode
        if code is None:
            cause = "could not be killed"
        elif code >= 0:
            cause = f"exited with code {code}"
        else:
            cause = f"died of {signal.Signals(-code).name}"
        stderr = self._stderr_tail.decode(errors="replace").strip()
        return cause + (f" (stderr ends: {stderr[-1000:]})" if stderr else "")

    def _wait_until_ready(self, name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (remaining_s := deadline - time.monotonic()) > 0:
            messages = self.exchange(remaining_s)
            if messages is None:
                self.kill()
                raise VerifierStartError(
                    f"verifier.name = {name!r}: its process {self.cause_of_death()} before it was ready"
                )
            for message in messages:
                if "failed" in message:
                    self.kill()
                    raise VerifierStartError(message["failed"])
                return
        self.kill()
        raise VerifierStartError(
            f"verifier.name = {name!r}: not ready after {START_TIMEOUT_S:g} s of imports"
        )

    def _write(self) -> None:
        try:
            self._outbox = self._outbox[os.write(self._stdin.fileno(), self._outbox) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the end of stdout will tell
            self._outbox = memoryview(b"")

    def _read_stderr(self) -> None:
        """Keep its tail, so that the child never blocks on a full pipe and the parent never fills up."""
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._stderr.fileno(), 1 << 16)
            self._stderr_tail = (self._stderr_tail + chunk)[-STDERR_TAIL_BYTES:]
            if not chunk and self._stderr in self._selector.get_map():
                self._selector.unregister(self._stderr)


def _child_environment() -> dict[str, str]:
    """The child imports what the parent would, and this very package (the name is not unique)."""
    paths = [str(Path(__file__).resolve().parent.parent), *(path or os.getcwd() for path in sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
