"""The parent's side of `verifiers.process.killable`'s protocol: one child process, its pipes and its end."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verifiers.config import SECTIONS, VerifierConfig
from verifiers.process.child import CLOSED_FILES, IDLE, PAGE

EXIT_TIMEOUT_S = 10.0
LAST_MOMENT_S = 0.5
TELL_AFTER_S = 5.0
TELL_EVERY_S = 30.0
STDERR_TAIL_BYTES = 8192


class VerifierStartError(RuntimeError):
    """The verifier's process did not get as far as judging."""


class ChildProcess:
    """One child process and the parent's ends of its pipes; none of its methods waits without a limit."""

    def __init__(self, config: VerifierConfig, name: str, *, only_imports: bool = False) -> None:
        """`only_imports`: it imports the verifier's module and ends, and is never asked."""
        self._name = name
        self.facts: dict[str, Any] = {}
        """What it said of itself when it was ready."""
        with tempfile.TemporaryFile() as page_file:
            page_file.truncate(PAGE.size)
            self._page = mmap.mmap(page_file.fileno(), PAGE.size)
            PAGE.pack_into(self._page, 0, time.monotonic(), IDLE)
            descriptor = page_file.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "verifiers.process.child", str(descriptor), str(os.getpid())],
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
        self._closed_files = False
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        for stream in (self._stdout, self._stderr):
            self._selector.register(stream, selectors.EVENT_READ)
        self.send(_start_message(config, name) | ({"only_imports": True} if only_imports else {}))

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def position(self) -> tuple[int, float]:
        """What it is at, and since when. The child stores them in the other order: never an old time for a new index."""
        index = PAGE.unpack_from(self._page)[1]
        return index, PAGE.unpack_from(self._page)[0]

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
        if self._ended and self._process.returncode is None:
            # Its pipe is at an end: so is it in a moment, or it lives on and nobody can hear it.
            try:
                self._process.wait(LAST_MOMENT_S)
            except subprocess.TimeoutExpired:
                self._closed_files = True
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
        elif code == CLOSED_FILES or self._closed_files:
            cause = "closed the files through which it answers (let it close only those that it opened)"
        elif code >= 0:
            cause = f"exited with code {code}"
        else:
            cause = f"died of {signal.Signals(-code).name}"
        stderr = " ".join(self._stderr_tail.decode(errors="replace").split())
        return cause + (f" (stderr ends: {stderr[-1000:]})" if stderr else "")

    def wait_until_ready(self, timeout_s: float, tell: Callable[[float], None] | None = None) -> None:
        """Returns when it can judge; kills it and raises VerifierStartError if it cannot.

        `tell` hears after TELL_AFTER_S seconds, and then every TELL_EVERY_S, for how long that has taken.
        """
        begun = time.monotonic()
        deadline, tell_at = begun + timeout_s, begun + TELL_AFTER_S
        while (remaining_s := deadline - time.monotonic()) > 0:
            if tell is not None and time.monotonic() >= tell_at:
                tell(time.monotonic() - begun)
                tell_at += TELL_EVERY_S
            messages = self.exchange(remaining_s if tell is None else min(remaining_s, TELL_AFTER_S))
            if messages is None:
                self.kill()
                raise VerifierStartError(
                    f"verifier {self._name!r}: its process {self.cause_of_death()} before it was ready"
                )
            for message in messages:
                if "failed" in message:
                    self.kill()
                    raise VerifierStartError(message["failed"])
                self.facts = message
                return
        self.kill()
        raise VerifierStartError(
            f"verifier {self._name!r}: not ready after verifier.startup_timeout_s = {timeout_s:g} s: raise it"
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


def _start_message(config: VerifierConfig, name: str) -> dict[str, Any]:
    """The arguments of `registry.resolve`, as JSON."""
    return {
        "name": name,
        "settings": getattr(config, name).model_dump(mode="json") if name in SECTIONS else None,
        "options": config.options.get(name),
        "timeout_s": config.timeout_s,
    }


def _child_environment() -> dict[str, str]:
    """The child imports what the parent would, and this very package (the name is not unique)."""
    paths = [str(Path(__file__).resolve().parents[2]), *(path or os.getcwd() for path in sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
