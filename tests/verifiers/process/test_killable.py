"""The verifier's process: whatever a verifier does, the others are judged and the right one is blamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.shared.paths import ROOT
from tests.shared.waiting import wait_for
from verifiers.config import VerifierConfig
from verifiers.countdown import puzzles
from verifiers.process.child import PAGE
from verifiers.process.killable import VerifierProcess, VerifierStartError
from verifiers.types import Problem

PUZZLE = Problem(id="p", prompt="3 5 7 2 = 24 :", truth={"numbers": [3, 5, 7, 2], "target": 24})
ANY = Problem(id="p1", prompt="", truth={})

# A candidate says what the verifier does with it; anything else is worth its length.
HOSTILE = r"""
import ctypes, os, subprocess, sys, time
from decimal import Decimal
from pathlib import Path
from verifiers.types import Verdict

class Liar(str):
    def __len__(self): raise OSError("no length")

def judge(problem, completion):
    command, _, argument = completion.partition(" ")
    if command == "hang":
        while True: time.sleep(0.01)
    if command == "spin":
        while True: pass
    if command == "sleep": time.sleep(float(argument))
    if command == "exit": os._exit(int(argument))
    if command == "sys.exit": sys.exit(3)
    if command == "segfault": ctypes.string_at(0)
    if command == "kill": os.kill(os.getpid(), 9)
    if command == "raise": raise KeyError("no such\nkey")
    if command == "recurse": return judge(problem, completion)
    if command == "print":
        print('{"verdicts": []}'); os.write(1, b'{"verdicts": [[0, 1, 1, "ok", 0]]}\n'); sys.stdout.flush()
    if command == "flood": os.write(2, b"x" * 1_000_000); os.write(1, b"y" * 1_000_000)
    if command == "input": return float(len(sys.stdin.read()))
    if command == "close": os.closerange(0, 100); time.sleep(60)
    if command == "once":
        if not os.path.exists(argument):
            open(argument, "w").close(); os._exit(9)
    if command == "child":
        Path(argument).write_text(str(subprocess.Popen(["sleep", "60"]).pid)); time.sleep(60)
    if command == "pid": Path(argument).write_text(str(os.getpid())); time.sleep(60)
    if command == "verdict": return Verdict(score=2.5, reward=-1.0, status="wrong_format", latency_s=99.0)
    if command == "minus": return Verdict(score=float("-inf"), reward=0.0)
    if command == "answer": return Verdict(score=1.0, reward=1.0, answer=argument)
    if command == "answers": return Verdict(score=1.0, reward=1.0, answer=argument * 1001)
    if command == "number": return Verdict(score=1.0, reward=1.0, answer=float(argument))
    if command == "bytes": return Verdict(score=1.0, reward=1.0, answer=argument.encode())
    if command == "liar": return Verdict(score=1.0, reward=1.0, answer=Liar("x"))
    if command == "decimal": return Verdict(score=Decimal("0.5"), reward=Decimal("0.25"))
    if command == "nan": return float("nan")
    if command == "none": return None
    if command == "modules": return float(bool({"pydantic", "ray", "torch", "numpy"} & set(sys.modules)))
    return len(completion)
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VerifierProcess]]:
    (tmp_path / "hostile_verifier.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    opened: list[VerifierProcess] = []

    def start(timeout_s: float = 20.0, **settings: int) -> VerifierProcess:
        opened.append(
            VerifierProcess(
                VerifierConfig(reward="hostile_verifier:judge", timeout_s=timeout_s, **settings),
                "hostile_verifier:judge",
            )
        )
        return opened[-1]

    yield start
    for process in opened:
        process.close()


def is_alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_verdicts_through_the_process_equal_those_of_the_function() -> None:
    texts = ["(5-2)*7+3", "3+5+7+2", "(", "\x00", "3 + 5\ud800", "5 / (3 - 3)", "é\n", ""] * 20
    with VerifierProcess(VerifierConfig(), "countdown") as process:
        verdicts = process.judge(PUZZLE, texts)
        assert process.judge(PUZZLE, []) == []
        assert (process.num_restarts, process.last_error) == (0, "")
    expected = [puzzles.verify(PUZZLE, text) for text in texts]
    assert [replace(verdict, latency_s=0.0) for verdict in verdicts] == expected
    assert {verdict.answer for verdict in verdicts} == {
        "( 5 - 2 ) * 7 + 3", "2 + 3 + 5 + 7", "5 / ( 3 - 3 )", None
    }  # fmt: skip
    assert all(0 < verdict.latency_s < 1 for verdict in verdicts)


def test_the_longest_candidates_are_refused_unread_and_the_rest_judged() -> None:
    with VerifierProcess(VerifierConfig(max_candidate_chars=9), "countdown") as process:
        verdicts = process.judge(PUZZLE, ["(5-2)*7+3", "(5-2)*7+3 ", "x" * 10**6])
    assert [v.status for v in verdicts] == ["ok", "refused", "refused"]
    assert [v.reward for v in verdicts] == [1.0, 0.0, 0.0]
    assert [v.score for v in verdicts] == [1.0, -math.inf, -math.inf]


def test_messages_larger_than_a_pipe_get_through(hostile: Callable[..., VerifierProcess]) -> None:
    process = hostile(max_candidate_chars=10**6)
    assert [v.score for v in process.judge(ANY, ["a" * 500_000] * 6)] == [500_000.0] * 6
    assert [v.score for v in process.judge(ANY, ["ab"] * 5000)] == [2.0] * 5000


def test_a_users_verdict_keeps_its_score_reward_and_status_but_not_its_latency(
    hostile: Callable[..., VerifierProcess],
) -> None:
    whole, infinite = hostile().judge(ANY, ["verdict", "minus"])
    assert (whole.score, whole.reward, whole.status) == (2.5, -1.0, "wrong_format")
    assert whole.latency_s < 1
    assert (infinite.score, infinite.reward, infinite.status) == (-math.inf, 0.0, "ok")


def test_a_users_answer_comes_through_as_it_is_and_a_mere_number_answers_nothing(
    hostile: Callable[..., VerifierProcess],
) -> None:
    answers = ["x", "", "  4\n", 'é "{}\x00', "x" * 1000]
    verdicts = hostile().judge(ANY, [*(f"answer {answer}" for answer in answers), "decimal", "aaa"])
    assert [verdict.answer for verdict in verdicts] == [*answers, None, None]
    assert [(verdict.score, verdict.reward) for verdict in verdicts[-2:]] == [(0.5, 0.25), (3.0, 3.0)]


def test_an_answer_that_is_long_or_no_utf8_is_replaced_by_its_digest(
    hostile: Callable[..., VerifierProcess],
) -> None:
    commands = ["answers a", "answers b", "answers a", "answer \ud800", "answer \udfff", "answer \ud800"]
    answers = [verdict.answer for verdict in hostile().judge(ANY, commands)]
    assert answers[0] == "sha256:" + hashlib.sha256(b"a" * 1001).hexdigest()
    assert [answers.index(answer) for answer in answers] == [0, 1, 0, 3, 4, 3]
    assert all(len(answer) == 71 and answer.isascii() for answer in answers if answer)


@pytest.mark.parametrize("command", ["hang", "spin"])
def test_only_the_hanging_candidate_is_a_timeout(
    hostile: Callable[..., VerifierProcess], command: str
) -> None:
    process = hostile(timeout_s=0.4)
    started = time.monotonic()
    verdicts = process.judge(ANY, [*("a" * i for i in range(20)), command, "bb"])
    assert time.monotonic() - started < 2.5
    assert [v.status for v in verdicts] == ["ok"] * 20 + ["timeout", "ok"]
    assert [v.score for v in verdicts] == [*map(float, range(20)), -math.inf, 2.0]
    assert verdicts[20].reward == 0.0 and 0.4 <= verdicts[20].latency_s < 1.0
    assert process.num_restarts == 1
    assert [v.score for v in process.judge(ANY, ["ccc"])] == [3.0]


def test_a_group_of_nothing_but_hangs_ends(hostile: Callable[..., VerifierProcess]) -> None:
    verdicts = hostile(timeout_s=0.2).judge(ANY, ["hang"] * 4)
    assert [v.status for v in verdicts] == ["timeout"] * 4


def test_the_time_limit_is_each_candidates_own(hostile: Callable[..., VerifierProcess]) -> None:
    process = hostile(timeout_s=0.5)
    verdicts = process.judge(ANY, ["sleep 0.3"] * 4)
    assert [v.status for v in verdicts] == ["ok"] * 4
    assert all(0.3 <= verdict.latency_s < 0.5 for verdict in verdicts)
    assert process.num_restarts == 0


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("exit 7", "exited with code 7"),
        ("exit 0", "exited with code 0"),
        ("segfault", "died of SIGSEGV (stderr ends: Fatal Python error: Segmentation fault"),
        ("kill", "died of SIGKILL"),
        ("close", "closed the files through which it answers (let it close only those that it opened)"),
    ],
)
def test_a_candidate_that_kills_the_process_is_crashed_and_the_others_are_judged(
    hostile: Callable[..., VerifierProcess], command: str, cause: str
) -> None:
    process = hostile(retries=1)
    verdicts = process.judge(ANY, ["a", command, "bbb"])
    assert [v.status for v in verdicts] == ["ok", "crashed", "ok"]
    assert math.isnan(verdicts[1].score) and math.isnan(verdicts[1].reward)
    assert (verdicts[0].score, verdicts[2].score) == (1.0, 3.0)
    assert cause in process.last_error and "candidate 1 of problem 'p1'" in process.last_error
    assert process.num_restarts == 2


def test_retries_are_counted_and_a_passing_fault_leaves_no_trace(
    hostile: Callable[..., VerifierProcess], tmp_path: Path
) -> None:
    assert hostile(retries=1).judge(ANY, [f"once {tmp_path / 'a'}"])[0].status == "ok"
    assert hostile(retries=0).judge(ANY, [f"once {tmp_path / 'b'}"])[0].status == "crashed"


def test_retries_zero_to_two_give_one_to_three_attempts(hostile: Callable[..., VerifierProcess]) -> None:
    for retries in (0, 2):
        process = hostile(retries=retries)
        assert process.judge(ANY, ["exit 1"])[0].status == "crashed"
        assert process.judge(ANY, ["a"])[0].status == "ok"
        assert process.num_restarts == retries + 1


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("raise", "KeyError: 'no such\\nkey'"),
        ("sys.exit", "SystemExit: 3"),
        ("recurse", "RecursionError: maximum recursion depth exceeded"),
        ("nan", "ValueError: the verifier returned reward nan, which is not finite"),
        ("none", "TypeError: the verifier returned None, not a Verdict or a number"),
        ("number 4", "TypeError: the verifier returned answer 4.0, not a text or None"),
        ("bytes x", "TypeError: the verifier returned answer b'x', not a text or None"),
        ("liar", "OSError: no length"),
    ],
)
def test_an_exception_of_the_verifier_is_crashed_with_its_text_and_costs_no_restart(
    hostile: Callable[..., VerifierProcess], command: str, error: str
) -> None:
    process = hostile()
    verdicts = process.judge(ANY, ["a", command, "bbb"])
    assert [v.status for v in verdicts] == ["ok", "crashed", "ok"]
    assert math.isnan(verdicts[1].score) and math.isnan(verdicts[1].reward)
    assert process.last_error.startswith(error)
    assert process.num_restarts == 0


def test_what_a_verifier_prints_or_reads_does_not_touch_the_protocol(
    hostile: Callable[..., VerifierProcess],
) -> None:
    process = hostile()
    verdicts = process.judge(ANY, ["print", "flood", "input", "a"] * 3)
    assert [v.score for v in verdicts] == [5.0, 5.0, 0.0, 1.0] * 3
    assert process.num_restarts == 0


def test_a_process_that_died_between_two_groups_is_replaced_and_nobody_blamed(
    hostile: Callable[..., VerifierProcess],
) -> None:
    process = hostile(retries=0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    pid = process.pid
    assert wait_for(lambda: not is_alive(pid), timeout_s=10.0)
    assert process.judge(ANY, ["a"])[0].status == "ok"
    assert process.num_restarts == 1 and "SIGKILL" in process.last_error


def test_a_stopped_process_is_replaced(hostile: Callable[..., VerifierProcess]) -> None:
    process = hostile(timeout_s=0.4, max_candidate_chars=10**7)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert [v.score for v in process.judge(ANY, ["a" * 10**6, "b"])] == [10.0**6, 1.0]
    assert process.last_error == "verifier process: no reply in 5.4 s, killed; at problem 'p1'"


def test_a_process_that_begins_late_is_given_the_time_and_no_candidate_is_blamed(
    hostile: Callable[..., VerifierProcess],
) -> None:
    process = hostile(timeout_s=0.4, retries=0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (process.pid, signal.SIGCONT)).start()
    assert [verdict.status for verdict in process.judge(ANY, ["a", "b"])] == ["ok", "ok"]
    assert (process.num_restarts, process.last_error) == (0, "")


def test_a_spare_that_died_is_replaced_before_it_is_needed() -> None:
    others = set(psutil.Process().children())
    with VerifierProcess(VerifierConfig(reward="math", timeout_s=0.4), "math") as process:
        (spare,) = [c for c in set(psutil.Process().children()) - others if c.pid != process.pid]
        spare.kill()
        psutil.Process(process.pid).kill()
        problem = Problem(id="p", prompt="", truth={"answer": "5"})
        verdicts = process.judge(problem, [r"\boxed{6}", r"\boxed{5}"])
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0]


def test_a_verifier_that_cannot_start_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_verifier.py").write_text("import sys\nraise RuntimeError('no weights')\n")
    (tmp_path / "quitting_verifier.py").write_text("import os\nos._exit(5)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, reason in {
        "countdwn": r"verifier 'countdwn' is unknown \(did you mean countdown\?\): choose one of countdown, countdown_steps, exact_match, math",
        "broken_verifier:judge": "RuntimeError: no weights",
        "quitting_verifier:judge": "its process exited with code 5 before it was ready",
    }.items():
        with pytest.raises(VerifierStartError, match=reason):
            VerifierProcess(VerifierConfig(reward=name), name)


def test_a_verifier_that_cannot_restart_leaves_crashed_verdicts(
    hostile: Callable[..., VerifierProcess], tmp_path: Path
) -> None:
    process = hostile()
    (tmp_path / "hostile_verifier.py").write_text("raise RuntimeError('gone')")
    verdicts = process.judge(ANY, ["a", "exit 1", "b"])
    assert [v.status for v in verdicts][1:] == ["crashed", "crashed"]
    assert process.last_error == "RuntimeError: gone"


def test_what_a_hanging_verifier_started_is_ended_with_it(
    hostile: Callable[..., VerifierProcess], tmp_path: Path
) -> None:
    note = tmp_path / "grandchild"
    assert hostile(timeout_s=0.5).judge(ANY, [f"child {note}"])[0].status == "timeout"
    assert wait_for(lambda: not is_alive(int(note.read_text())), timeout_s=10.0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hanging"])
def test_the_process_dies_with_a_parent_that_was_killed(tmp_path: Path, busy: bool) -> None:
    (tmp_path / "hostile_verifier.py").write_text(HOSTILE)
    note = tmp_path / "pid"
    parent_program = (
        "import time\n"
        "from verifiers.config import VerifierConfig\n"
        "from verifiers.process.killable import VerifierProcess\n"
        "from verifiers.types import Problem\n"
        "process = VerifierProcess(VerifierConfig(reward='hostile_verifier:judge', timeout_s=60), 'hostile_verifier:judge')\n"
        f"if {busy}: process.judge(Problem(id='p', prompt=''), ['pid {note}'])\n"
        f"open({str(note)!r}, 'w').write(str(process.pid))\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    try:
        assert wait_for(lambda: note.exists() and note.read_text(), timeout_s=10.0)
        pid = int(note.read_text())
        assert is_alive(pid)
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not is_alive(pid), timeout_s=5.0)


def test_closing_ends_the_process() -> None:
    process = VerifierProcess(VerifierConfig(), "countdown")
    pid = process.pid
    assert pid is not None and is_alive(pid)
    process.close()
    process.close()
    assert not is_alive(pid) and process.pid is None
    assert process.judge(PUZZLE, ["(5-2)*7+3"])[0].reward == 1.0
    process.close()


def test_the_process_starts_without_heavy_imports(hostile: Callable[..., VerifierProcess]) -> None:
    assert hostile().judge(ANY, ["modules"])[0].score == 0.0


def test_many_restarts_leak_no_file_descriptors(hostile: Callable[..., VerifierProcess]) -> None:
    process = hostile(retries=0)
    process.judge(ANY, ["exit 1"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        process.judge(ANY, ["exit 1"])
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_candidate_that_wants_more_memory_than_its_verifier_may_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(
        "from verifiers.types import Verdict\n"
        "def judge(problem, text):\n"
        "    return Verdict(score=1.0, reward=float(bytes(int(text))[0] == 0))\n"
    )
    program = (
        "import os, sys, verifiers.registry as registry\n"
        "from verifiers.process.child import judge_requests\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "registry.VERIFIERS['hungry'] = registry.Row(path='hungry:judge', memory_mib=512)\n"
        "judge_requests(int(sys.argv[1]), os.getppid())\n"
    )
    candidates = [[0, "1000"], [1, str(2**30)], [2, "1"]]
    lines = [{"name": "hungry"}, {"problem": {"id": "p", "prompt": ""}, "candidates": candidates}]
    with (tmp_path / "page").open("w+b") as page:
        page.truncate(PAGE.size)
        done = subprocess.run(
            [sys.executable, "-c", program, str(page.fileno()), str(tmp_path)],
            input="".join(json.dumps(line) + "\n" for line in lines),
            pass_fds=[page.fileno()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    replies = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    statuses = {row[0]: row[3] for reply in replies for row in reply["verdicts"]}
    assert statuses == {0: "ok", 1: "refused", 2: "ok"}
    assert {reply["error"] for reply in replies} == {None}
