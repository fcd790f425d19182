"""Problems of inputs and outputs: programs that read and print, and functions by their arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.shared.programs import cases, make_verifier
from verifiers.programs.python_tests import PythonTests, check_problem, job_of
from verifiers.sandbox.outputs import same_output

SUM = cases(["3\n1 2 3\n", "1\n5\n", "0\n\n"], ["6\n", "5", "0\n"])


@pytest.fixture(scope="module")
def verifier() -> Iterator[PythonTests]:
    verifier = make_verifier()
    yield verifier
    verifier.close()


READ = {
    "input": "n = int(input())\nprint(sum(map(int, input().split())))",
    "input with EOFError": "x = []\nwhile True:\n    try: x.append(input())\n    except EOFError: break\nprint(sum(map(int, x[1].split())))",
    "sys.stdin.read": "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
    "sys.stdin.readline": "import sys\ninput = sys.stdin.readline\nn = int(input())\nprint(sum(map(int, input().split())))",
    "sys.stdin.buffer": "import sys\nread = sys.stdin.buffer.read\nsys.stdout.write(str(sum(map(int, read().split()[1:]))))",
    "the lines of sys.stdin": "import sys\nlines = list(sys.stdin)\nprint(sum(int(x) for x in lines[1].split()))",
    "from sys import stdin, stdout": "from sys import stdin, stdout\nstdin.readline()\nstdout.write('%d\\n' % sum(map(int, stdin.readline().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split()[1:])))",
    "os.read": "import os\nos.write(1, str(sum(map(int, os.read(0, 10**6).split()[1:]))).encode())",
    "fileinput": "import fileinput\nlines = list(fileinput.input())\nprint(sum(map(int, lines[1].split())))",
    "sys.exit": "import sys\ninput()\nprint(sum(map(int, input().split())))\nsys.exit(0)",
    "exit()": "input()\nprint(sum(map(int, input().split())))\nexit()",
    "os._exit": "import os\ninput()\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)",
    "a main function": "def main():\n    input()\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "a thread": "import sys, threading\ndef main():\n    input()\n    print(sum(map(int, input().split())))\nthreading.stack_size(1 << 26)\nsys.setrecursionlimit(10**6)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "a thread that is not joined": "import threading\ndef main():\n    input()\n    print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()",
    "atexit": "import atexit\ninput()\natexit.register(print, sum(map(int, input().split())))",
    "globals kept between functions": "total = 0\ndef add(x):\n    global total\n    total += x\ninput()\nfor x in input().split(): add(int(x))\nprint(total)",
    "io.StringIO": "import io, sys\ninput()\nout = io.StringIO()\nprint(sum(map(int, input().split())), file=out)\nsys.stdout.write(out.getvalue())",
    "atexit, with sys.stdout taken": "import atexit, io, sys\nsys.stdout = io.StringIO()\natexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))\ninput()\nprint(sum(map(int, input().split())))",
    "a file of its own that is not closed": "import os\nout = os.fdopen(1, 'w')\ninput()\nout.write(str(sum(map(int, input().split()))))",
    "sys.stdout closed": "import sys\ninput()\nprint(sum(map(int, input().split())))\nsys.stdout.close()",
    "sys.stdout wrapped": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\ninput()\nprint(sum(map(int, input().split())))",
    "__file__": "import os\nos.path.dirname(os.path.abspath(__file__))\ninput()\nprint(sum(map(int, input().split())))",
    "white space around": "input()\nprint()\nprint('  ', sum(map(int, input().split())), '  ')\nprint('\\n\\n')",
    "words on standard error": "import sys\ninput()\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))",
    "names that the official harnesses import": "input()\nx: List[int] = list(map(int, input().split()))\nprint(reduce(lambda a, b: a + b, x, 0) + pow(2, 3, 2) * ceil(0.5) * inf if False else sum(accumulate([sum(x)])))",
    "a child process": "import subprocess, sys\nx = sys.stdin.read()\nsubprocess.run([sys.executable, '-S', '-c', 'import sys; print(sum(map(int, sys.argv[1:])))', *x.split()[1:]])",
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_honest_programs_read_and_print_as_they_like(verifier, name):
    verdict = verifier.verify(SUM, f"```python\n{READ[name]}\n```")
    assert (verdict.reward, verdict.status) == (1.0, "ok"), verifier._sandbox.run(
        job_of(SUM, READ[name]), wall_s=9.0
    )


WRONG = {
    "another number": "print(7)",
    "nothing": "pass",
    "one case only": "print(6)",
    "an exception after the answer": READ["input"] + "\nraise ValueError",
    "an exit code": READ["input"] + "\nimport sys\nsys.exit(1)",
    "an exit with a text": READ["input"] + "\nexit('done')",
    "a signal": READ["input"] + "\nimport os\nos.kill(os.getpid(), 9)",
    "an abort": "import os\n" + READ["input"] + "\nos.abort()",
    "the prompt of input": "input('n? ')\nprint(sum(map(int, input().split())))",
    "more than was asked": READ["input"] + "\nprint(1)",
    "a class Solution alone": "class Solution:\n    def f(self): return 6",
    "a result line": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'[\"printed\",\"6\"]')\n    except OSError: pass",
    "no end of an object": READ["input"] + "\nclass D:\n    def __del__(self):\n        import os\n        os._exit(1)\nd = D()",
    "its directory closed": READ["input"] + "\nimport os, tempfile\nos.chmod(tempfile.gettempdir(), 0)",
    "a text printed after sys.stdout was closed": "import sys\nsys.stdout.close()\nprint(6)",
    "no flush": "import os\ninput()\nprint(sum(map(int, input().split())))\nos._exit(0)",
    "the parent killed": "import os\nos.kill(os.getppid(), 9)\nprint(0)",
    "a word left for the next case": "import os\nif os.path.exists('n'): print(open('n').read())\nelse: open('n', 'w').write('5'); print(6)",
    "the same from a patched module": "import json, sys\njson.dumps = lambda *a, **k: '[\"printed\", \"6\"]'\nsys.exit(0)",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_and_cheats_fail_by_themselves(verifier, name):
    verdict = verifier.verify(SUM, f"```python\n{WRONG[name]}\n```")
    assert (verdict.reward, verdict.status) == (0.0, "ok")
    assert verifier.verify(SUM, READ["input"]).reward == 1.0


def test_nothing_of_a_case_goes_on_in_the_next(verifier):
    program = (
        "import os, sys, time\nn = input()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(0.2)\n        while True: print('late', flush=True)\n    os._exit(0)\nprint(n)"
    )
    problem = cases([f"{n}\n" for n in range(20)], [f"{n}\n" for n in range(20)])
    assert verifier.verify(problem, program).reward == 1.0


def test_state_does_not_outlive_a_case(verifier):
    program = "import builtins\nprint(getattr(builtins, 'seen', 0))\nbuiltins.seen = 1"
    assert verifier.verify(cases(["a", "b"], ["0", "0"]), program).reward == 1.0


def test_endless_programs_and_floods_have_their_own_statuses():
    verifier = make_verifier(timeout_s=1.5, output_kib=64)
    try:
        for program, status in (("while True: pass", "timeout"), ("print('x' * 10**6)", "too_large"), ("def (", "wrong_format"),
                                ("import time\ntime.sleep(60)", "timeout"), ("while True: print('x' * 1000)", "too_large")):  # fmt: skip
            verdict = verifier.verify(SUM, program)
            assert (verdict.status, verdict.reward) == (status, 0.0)
            assert (verdict.score == -math.inf) == (status != "wrong_format")
        assert verifier.verify(SUM, READ["input"]).reward == 1.0
    finally:
        verifier.close()


def test_large_inputs_and_outputs_go_through(verifier):
    numbers = " ".join(map(str, range(200_000)))
    problem = cases([f"{numbers}\n"], ["\n".join(map(str, range(200_000)))])
    assert verifier.verify(problem, "print(*map(int, input().split()), sep='\\n')").reward == 1.0


def test_partial_scores_count_the_cases():
    verifier = make_verifier(partial=True)
    try:
        verdict = verifier.verify(SUM, "print(5)")
        assert (verdict.score, verdict.reward) == (pytest.approx(1 / 3), 0.0)
        verdict = verifier.verify(cases([[1], [2]], [1, 4], fn_name="f"), "def f(x): return x")
        assert (verdict.score, verdict.reward) == (0.5, 0.0)
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("printed", "expected", "by_lines", "by_tokens"),
    [("6\n", "6", True, True), ("  6  \n\n", "6", True, True), ("6\r\n7\r\n", "6\n7", True, True), ("1  2\n", "1 2", True, True),
     ("1 2\n3 \n", "1 2 \n3", True, True), ("1\n2", "1 2", False, True), ("1 2", "1\n2", False, True), ("1\n\n2", "1\n2", False, True),
     ("6", "7", False, False), ("", "6", False, False), ("6", "", False, False), ("", "", True, True), ("\n", "", True, True),
     ("6 6", "6", False, False), ("YES", "Yes", False, False), ("yes", "yes", True, True),
     ("0.3333333", "0.33333333333", True, True), ("0.33333", "0.33333333", False, False), ("3", "3.0", True, True), ("3.0", "3", True, True),
     ("3.0000001", "3", False, False), ("3.0000001", "3.0", True, True), ("1e6", "1000000", True, True), ("1000000.4", "1000000.5", True, True),
     ("1000002", "1000000.0", False, False), ("1e-7", "0.0", True, True), ("12345678901234567891", "12345678901234567890", False, False),
     ("007", "7", False, False), ("0101", "101", False, False), ("+5", "5", True, True), ("-0", "0", True, True), ("nan", "nan", True, True),
     ("nan", "1.0", False, False), ("inf", "1.0", False, False), ("1_000", "1000", False, False), ("0x10", "16", False, False),
     (".5", "0.5", True, True), ("5.", "5", True, True), ("٣", "3", False, False), ("1e99999", "1.0", False, False), ("a b", "a c", False, False),
     ("9" * 500, "9" * 499 + "8", False, False), ("1.5e0", "1.5", True, True), ("True", "1", False, False)],
)  # fmt: skip
def test_outputs_are_compared_by_lines_or_by_tokens(printed, expected, by_lines, by_tokens):
    assert (same_output(printed, expected, "lines"), same_output(printed, expected, "tokens")) == (
        by_lines,
        by_tokens,
    )


FUNCTIONS = [
    (cases([[1, 2], [3, 4]], [3, 7], fn_name="add"), "def add(a, b): return a + b", "def add(a, b): return 3"),
    (cases([[1, 2]], [[3]], fn_name="add"), "def add(a, b): return a + b", "def add(a, b): return [[3]]"),
    (cases(["1\n2", "3\n4"], ["3", "7"], fn_name="add"), "class Solution:\n    def add(self, a, b): return a + b", "class Solution:\n    def add(self, a, b): return a"),
    (cases([[[3, 1, 2]]], [[1, 2, 3]], fn_name="order"), "def order(x): return tuple(sorted(x))", "def order(x): return x"),
    (cases(['"ab"'], ['"ba"'], fn_name="turn"), "def turn(s): return s[::-1]", "def turn(s): return s"),
    (cases([["ab"]], [["ba"]], fn_name="turn"), "class Solution:\n    def turn(self, s: str) -> str:\n        return s[::-1]", "def turn(s): return s"),
    (cases([[{"1": 2}]], [2], fn_name="at"), "def at(d): return d[1]", "def at(d): return d['1']"),
    (cases([[True]], ["false"], fn_name="no"), "def no(x): return not x", "def no(x): return x"),
    (cases([[1], [1]], [1, 1], fn_name="f"), "class Solution:\n    seen = 0\n    def __init__(self): self.n = 0\n    def f(self, x):\n        self.n += 1\n        return self.n", "def f(x): return 2"),
    (cases([[[3, 1, 2]]], [6], fn_name="f"), "class Solution:\n    def f(self, x: List[int]) -> Optional[int]:\n        d = defaultdict(int)\n        for v in x: heappush([], v); d[0] += v\n        return d[0]", "def f(x): return 0"),
    (cases([[2, 3]], [[[0, 1], [2, 3]]], fn_name="f"), "def f(a, b): return [(0, 1), (a, b)]", "def f(a, b): return [[0, 1]]"),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(FUNCTIONS)))
def test_functions_are_judged_by_arguments_and_results(verifier, index):
    problem, right, wrong = FUNCTIONS[index]
    check_problem(problem)
    assert verifier.verify(problem, f"```python\n{right}\n```").reward == 1.0, job_of(problem, right).tests
    assert verifier.verify(problem, wrong).reward == 0.0
    assert (
        verifier.verify(
            problem, "class Same:\n    __eq__ = lambda *a: True\ndef add(*a): return Same()"
        ).reward
        == 0.0
    )


@pytest.mark.parametrize(
    ("problem", "message"),
    [(cases([], []), "truth 'inputs' is \\[\\]"), (cases(["1"], []), "truth 'outputs' is \\[\\]"), (cases(["1"], ["2", "3"]), "as many as there are inputs, 1"),
     (cases([1], ["2"]), "truth 'inputs' is \\[1\\].*texts, or fn_name"), (cases(["1"], [{"a": 1}]), "truth 'outputs'"),
     (cases(["1"], ["2"], fn_name="a b"), "the name of a function"), (cases(["(1"], ["2"], fn_name="f"), "lists of arguments"),
     (cases([5], ["2"], fn_name="f"), "lists of arguments"), (cases(["1"], ["2"], compare="words"), "lines or tokens")],
)  # fmt: skip
def test_cases_that_cannot_be_judged_are_refused(problem, message):
    with pytest.raises(ValueError, match=message):
        check_problem(problem)


def test_trusted_candidates_run_programs_too():
    verifier = make_verifier(trusted_candidates=True)
    try:
        assert verifier.verify(SUM, READ["input"]).reward == 1.0
        assert verifier.verify(SUM, WRONG["another number"]).reward == 0.0
    finally:
        verifier.close()
