"""Runs programs that nobody has read: a warm Python in a bubblewrap sandbox judges one candidate after the other.

    with Sandbox(limits) as sandbox:
        outcome = sandbox.run(Job(program="def f(x): return x", tests=("assert f(1) == 1",)), wall_s=2.0)

Each candidate gets a process of its own, and its tests get another, the checker; what the candidate returns crosses
between them as plain data, so a candidate cannot say that it passed (`zygote`, `checker`,
`candidate`, `values`). The layers, from the outside in:

* bubblewrap: user, PID, mount, network, IPC, UTS and cgroup namespaces; a read-only root with the interpreter, its
  standard library, the shared libraries they need, and /dev/null; no network device but loopback; no environment.
  Started by root, it runs as nobody (`launcher`).
* for each process again: PID, mount, IPC and user namespaces, an empty tmpfs of its own as the only place to write,
  no capabilities, no_new_privs, a filter of system calls, resource limits, all descriptors closed but its socket.

Not covered: holes in the kernel, side channels (timing, shared caches), and the sum of what `max_processes` processes
may each use. docs/sandbox.md has the threat model and the attacks that are tested.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal, Self

from verifiers.sandbox.checker import make_outcome
from verifiers.sandbox.command import ENVIRONMENT, isolated_command, plain_command
from verifiers.sandbox.kernel import Limits
from verifiers.sandbox.values import Channel, ValueRefusedError
from verifiers.sandbox.zygote import BODY_FAILED, ENDING, READY, REPORT, REQUEST, SETUP_FAILED

START_TIMEOUT_S = 30.0
GRACE_S = 3.0
"""What the zygote may take, beyond a candidate's time, to kill it and to report."""
KILL_S = 1.0
"""What the kernel may take to end a sandbox that is given up. With GRACE_S less than `process.GRACE_S`."""
STDERR_TAIL_BYTES = 1000
HOW_TO_GET_IT = (
    "install bubblewrap (`apt-get install bubblewrap`) and allow user namespaces (docs/sandbox.md), or set "
    "verifier.python_tests.trusted_candidates = true to run candidates without isolation"
)


class SandboxError(RuntimeError):
    """The sandbox failed. Nothing is known about the candidate."""


class UnsupportedTestsError(RuntimeError):
    """The problem's own code fails, or its tests ask for what the sandbox cannot do. Not the candidate's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A candidate's program with the tests that decide about it."""

    program: str
    """A completion that holds one, where `reading` says how it is read."""
    tests: tuple[str, ...] = ()
    """Sources, run in order in one namespace. Their free names are the candidate's (`checker.names_to_ask`)."""
    prelude: str = ""
    """The problem's own definitions and imports, for the tests; run before the candidate is."""
    setup: str = ""
    """Runs before the tests, and may use the candidate's names."""
    entry: str | None = None
    """The function that is tested, where the problem names it."""
    reading: Mapping[str, Any] = field(default_factory=lambda: {"kind": "verbatim"})
    """How the program is read from a completion (`sandbox.reading`)."""
    run_all: bool = False
    """Go on after a test that failed, to count those that pass."""
    cases: tuple[tuple[str, str], ...] = ()
    """In place of tests: what the program reads from standard input, and what it is to print."""
    compare: str = "lines"
    """How what it prints is compared (`sandbox.outputs`)."""

    @property
    def num_tests(self) -> int:
        return len(self.cases) or len(self.tests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a candidate."""

    kind: Literal["passed", "failed", "too_large", "timeout", "wrong_format"]
    detail: str
    """Why it did not pass, in one line."""
    num_passed: int
    """Tests that held; with `run_all` of all tests, else of those up to the first that did not."""
    digest: str | None
    """The same for programs that differ in layout, comments and docstrings only; None where there is none."""


class Sandbox:
    """One warm interpreter; judges one candidate at a time, and is started anew after a fault of its own.

    Raises ValueError, in one line that says what to do, where no sandbox can be had. With `trusted` the candidate and
    its checker are plain processes with resource limits: no isolation, and one could stop or read the other.

    Use it from one thread that lives as long as the object: Linux ends bubblewrap with the thread that started it.
    """

    def __init__(self, limits: Limits, *, trusted: bool = False) -> None:
        self._limits = limits
        self._trusted = trusted
        self._zygote: _Zygote | None = None
        try:
            trial = Job(program="def f(x): return [x]", tests=("assert f(1) == [1]",))
            outcome = self.run(trial, wall_s=START_TIMEOUT_S)
        except SandboxError as error:
            self.close()
            raise ValueError(f"verifier 'python_tests': {error}: {HOW_TO_GET_IT}") from error
        if outcome.kind != "passed":
            self.close()
            raise ValueError(
                f"verifier 'python_tests': a trial candidate did not pass: {outcome.detail}: {HOW_TO_GET_IT}"
            )

    @property
    def pid(self) -> int | None:
        """Process id of bubblewrap (of the zygote, with `trusted`); None while there is none."""
        return self._zygote.pid if self._zygote else None

    def run(self, job: Job, *, wall_s: float) -> Outcome:
        """Judge a candidate, within `wall_s` seconds for its program and its tests together. Never hangs.

        Raises SandboxError if the sandbox fails, UnsupportedTestsError if the tests ask for what it cannot do.
        """
        if self._zygote is None:
            self._zygote = _Zygote(self._limits, trusted=self._trusted)
        try:
            outcome = self._zygote.run(job, wall_s)
        except SandboxError:
            self.close()
            raise
        finally:
            if self._zygote is not None and self._zygote.is_stuck:
                self.close()
        return outcome

    def close(self) -> None:
        """End the sandbox and all that runs in it."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Zygote:
    """The host's end of the zygote; no method waits without a limit."""

    def __init__(self, limits: Limits, *, trusted: bool) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="bonfire-candidates-") if trusted else None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._control, theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        self.is_stuck = False
        """Whether a candidate could not be cleared away in time; the next one needs another zygote."""
        try:
            command = plain_command(limits, self._scratch.name) if self._scratch else isolated_command(limits)
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=ENVIRONMENT,
                cwd="/",
            )
            theirs.close()
            if self._receive(len(READY), time.monotonic() + START_TIMEOUT_S) != READY:
                raise SandboxError(f"the sandbox does not start ({self._cause()})")
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise SandboxError(f"the sandbox does not start ({error})") from error
        except SandboxError:
            self.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run(self, job: Job, wall_s: float) -> Outcome:
        deadline = time.monotonic() + wall_s + GRACE_S
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(self._control, [REQUEST.pack(wall_s)], [theirs.fileno()])
            except OSError as error:
                raise SandboxError(f"the sandbox has ended ({self._cause()})") from error
            ours.settimeout(wall_s + GRACE_S)
            reply = _exchange(Channel(ours), job)
        ending = self._receive(ENDING.size, deadline)
        if not ending:
            raise SandboxError(f"the sandbox has ended ({self._cause()})")
        (timed_out,) = ENDING.unpack(ending)
        report = self._receive(REPORT.size, deadline)
        if len(report) < REPORT.size:
            if time.monotonic() < deadline:
                raise SandboxError(f"the sandbox has ended ({self._cause()})")
            self.is_stuck = True
        if reply is None:
            code = REPORT.unpack(report)[0] if not self.is_stuck else 0
            if timed_out or self.is_stuck:
                # What a candidate did that takes longer to undo than the grace is its own doing too.
                reply = {"kind": "timeout", "detail": f"not done after {wall_s:g} s"}
            elif code == SETUP_FAILED:
                raise SandboxError(f"the checker could not be confined ({self._cause()})")
            elif code < 0 or code == BODY_FAILED:
                cause = signal.Signals(-code).name if code < 0 else "no memory left to report"
                reply = {"kind": "failed", "detail": f"its values were too much for the checker ({cause})"}
            else:
                raise SandboxError(f"the checker gave no outcome ({self._cause()})")
        if reply["kind"] == "sandbox":
            raise SandboxError(f"{reply['detail']} ({self._cause()})")
        if reply["kind"] == "unsupported":
            raise UnsupportedTestsError(reply["detail"])
        return Outcome(
            kind=reply["kind"],
            detail=reply["detail"],
            num_passed=reply.get("passed", 0),
            digest=reply.get("digest"),
        )

    def close(self) -> None:
        self._control.close()
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_S)
        self._stderr.close()
        if self._scratch:
            self._scratch.cleanup()

    def _receive(self, size: int, deadline: float) -> bytes:
        """So many bytes from the zygote; fewer if it ends or time runs out. What is there already is always read."""
        data = b""
        while len(data) < size:
            self._control.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self._control.recv(size - len(data))
            except OSError:  # the time-out too
                break
            if not chunk:
                break
            data += chunk
        return data

    def _cause(self) -> str:
        """How the zygote ended, if it did, and the end of what it wrote."""
        assert self._process is not None
        try:
            cause = f"exit code {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            cause = "still running"
        self._stderr.seek(0)
        lines = self._stderr.read()[-STDERR_TAIL_BYTES:].decode(errors="replace").split()
        return f"{cause}: {' '.join(lines)}" if lines else cause


def _exchange(channel: Channel, job: Job) -> dict[str, Any] | None:
    """Send the job to the checker and read its outcome; None if it ends without one."""
    try:
        channel.send(asdict(job))
    except ValueRefusedError as error:
        return make_outcome("unsupported", f"the problem's tests are too large: {error}")
    except OSError:
        return None
    try:
        return channel.receive()
    except (EOFError, OSError, ValueRefusedError):
        return None
