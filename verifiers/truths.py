"""Every truth judged before a run: against itself, by the verifier's own process.

A verifier's module says by which completions a problem is tried (`trials`); one without is not looked at. What was
judged well is remembered by its content and that of our code, so that a second start need not judge it again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from verifiers.config import VerifierConfig
from verifiers.process.killable import VerifierProcess
from verifiers.registry import VERIFIERS, trials_of
from verifiers.types import Problem, Trial, Verdict

GROUP = 32
"""Problems between two reports, judged by one process."""
MAX_PROCESSES = 4
MAX_REMEMBERED_BYTES = 64 * 2**20
"""Of the file of what was judged, which begins anew beyond it."""


@dataclass(slots=True, kw_only=True)
class JudgedTruths:
    """What came of it, by problem id, in one line each."""

    faults: dict[str, str] = field(default_factory=dict)
    """Those that cannot be judged, or not rightly."""
    slow: dict[str, str] = field(default_factory=dict)
    """Those that do not get a verdict in time: a right answer may be called a timeout."""
    num_remembered: int = 0


def judge_truths(
    problems: Sequence[Problem],
    config: VerifierConfig,
    on_progress: Callable[[int], None] = lambda num: None,
) -> JudgedTruths:
    """Try every problem by every verifier that says how. `on_progress` hears how many of them are through.

    Raises VerifierStartError where a verifier does not start.
    """
    judged = JudgedTruths()
    for name in config.names:
        make = trials_of(name)
        if make is None:
            continue
        is_ours = name in VERIFIERS  # another's code is not known by its content
        remembered = _read_remembered() if is_ours else frozenset()
        what_judges = _what_judges(name, config)
        pending: list[_Case] = []
        for problem in problems:
            trials = make(problem)
            digest = _digest(what_judges, problem, trials)
            if digest in remembered:
                judged.num_remembered += 1
            else:
                pending.append(_Case(problem, trials, digest))
        num_done = len(problems) - len(pending)
        for cases in _in_processes(name, config, pending, judged):
            num_done += len(cases)
            on_progress(num_done)
            if is_ours:
                _remember([case.digest for case in cases if case.is_judged_well])
    return judged


@dataclass(slots=True)
class _Case:
    problem: Problem
    trials: Sequence[Trial]
    digest: str
    is_judged_well: bool = False


def _in_processes(
    name: str, config: VerifierConfig, cases: Sequence[_Case], judged: JudgedTruths
) -> Iterator[list[_Case]]:
    """Some of the cases, as soon as they are judged. A process of the verifier lives and dies in one thread."""
    parts = iter([cases[start : start + GROUP] for start in range(0, len(cases), GROUP)])
    num_processes = min(-(-len(cases) // GROUP), MAX_PROCESSES, os.cpu_count() or 1)
    done: queue.SimpleQueue[list[_Case] | None] = queue.SimpleQueue()
    lock = threading.Lock()
    is_over = threading.Event()

    def work() -> None:
        try:
            with _process(config, name) as process:
                while not is_over.is_set():
                    with lock:
                        part = next(parts, None)
                    if part is None:
                        return
                    for case in part:
                        _judge(name, config, process, case, judged)
                    done.put(list(part))
        finally:
            done.put(None)

    with ThreadPoolExecutor(max(1, num_processes)) as pool:
        futures = [pool.submit(work) for _ in range(num_processes)]
        try:
            num_left = num_processes
            while num_left:
                if (part := done.get()) is None:
                    num_left -= 1
                else:
                    yield part
        finally:
            is_over.set()
        for future in futures:
            future.result()


def _judge(
    name: str, config: VerifierConfig, process: VerifierProcess, case: _Case, judged: JudgedTruths
) -> None:
    problem_id = case.problem.id
    verdicts = process.judge(case.problem, [trial.completion for trial in case.trials])
    why = _why_not_judged(name, case.trials, verdicts, process.last_error)
    if why is not None:
        judged.faults.setdefault(problem_id, f"problem {problem_id!r}: {why}")
    elif any(verdict.status == "timeout" for verdict in verdicts):
        judged.slow.setdefault(
            problem_id,
            f"problem {problem_id!r}: verifier {name!r} needs more than verifier.timeout_s = {config.timeout_s:g} for it",
        )
    else:
        case.is_judged_well = True


@contextmanager
def _process(config: VerifierConfig, name: str) -> Iterator[VerifierProcess]:
    process = VerifierProcess(config, name)
    try:
        yield process
    finally:
        process.close()


def _why_not_judged(
    name: str, trials: Sequence[Trial], verdicts: Sequence[Verdict], last_error: str
) -> str | None:
    remedy = "correct it, or leave the row out with problems.max_invalid_rows"
    for trial, verdict in zip(trials, verdicts, strict=True):
        if verdict.status == "crashed":
            return f"verifier {name!r} fails on it ({last_error}): {remedy}"
        if not trial.is_right or verdict.status == "timeout":
            continue
        if verdict.status != "ok":
            return f"verifier {name!r} gives the row's own truth, or its solution, the status {verdict.status!r}: {remedy}"
        if not math.isclose(verdict.reward, 1.0):
            return f"verifier {name!r} gives the row's own truth, or its solution, the reward {verdict.reward:g}: {remedy}"
    return None


def _what_judges(name: str, config: VerifierConfig) -> str:
    """Our code, the verifier and its settings; not of how many workers it has."""
    settings = config.model_dump_json(exclude={"workers", "num_cpus", "num_gpus", "resources"})
    return f"{_code()}\0{name}\0{settings}"


def _digest(what_judges: str, problem: Problem, trials: Sequence[Trial]) -> str:
    """Of all that decides the verdicts on a problem's trials. Not of time, which decides none."""
    truth = json.dumps(dict(problem.truth), sort_keys=True, default=str)
    content = "\0".join([what_judges, problem.prompt, truth, *(trial.completion for trial in trials)])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bonfire" / "judged-truths"


def _read_remembered() -> frozenset[str]:
    try:
        return frozenset(_file().read_text().split())
    except (OSError, ValueError):  # there is none, or it is damaged: what is in it is judged again
        return frozenset()


def _remember(digests: Sequence[str]) -> None:
    """A cache that cannot be written costs time only."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_REMEMBERED_BYTES:
            path.unlink()
        with path.open("a") as file:
            file.write("".join(f"{digest}\n" for digest in digests))
    except OSError:
        return
