"""The verifier `math`: what it reads, what it takes for equal, and what hostile answers cost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.shared.paths import FIXTURES, ROOT
from verifiers.config import VerifierConfig
from verifiers.math import reading
from verifiers.math.config import MathConfig
from verifiers.math.forms import Identity, Named, Quantity, RealSet
from verifiers.math.text import (
    MAX_ANSWER_CHARS,
    MAX_DEPTH,
    boxed_answer,
    equal_numbers,
    find_answer,
    plain_number,
    tidy,
)
from verifiers.math.verifier import MathVerifier, check_problem
from verifiers.process.killable import VerifierProcess
from verifiers.types import Problem, Verdict

CORPUS: list[dict[str, Any]] = [
    json.loads(line) for line in (FIXTURES / "math_corpus.jsonl").read_text().splitlines()
]
# Judged by hand before the library was run; docs/math.md discusses each.
FALSE_ACCEPTS = {(r"\frac{1}{3}", r"\boxed{0.333333}")}
FALSE_REJECTS = {
    ("100, 200", r"\boxed{100,200}"),
    (r"\frac{\pi^2}{6}", r"\boxed{\sum_{n=1}^\infty \frac{1}{n^2}}"),
    ("42", "The answer is an integer. It is 42."),
    ("42", "The answer is: 42 (forty-two)"),
}


def problem(answer: object) -> Problem:
    return Problem(id="p1", prompt="", truth={"answer": answer})


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(MathConfig(), timeout_s=2.0)


@pytest.fixture(scope="module")
def corpus_verdicts(verifier: MathVerifier) -> list[Verdict]:
    return [verifier.verify(problem(pair["gold"]), pair["completion"]) for pair in CORPUS]


def answer_of(verifier: MathVerifier, boxed: str, truth: str = "17") -> str | None:
    return verifier.verify(problem(truth), rf"\boxed{{{boxed}}}").answer


# --- the corpus


def test_the_verifier_errs_on_exactly_the_known_pairs_of_the_corpus(corpus_verdicts: list[Verdict]):
    """A change that errs elsewhere, or no longer errs here, shows up."""
    judged = list(zip(CORPUS, corpus_verdicts, strict=True))
    accepted = {
        (pair["gold"], pair["completion"])
        for pair, verdict in judged
        if verdict.reward and not pair["equivalent"]
    }
    rejected = {
        (pair["gold"], pair["completion"])
        for pair, verdict in judged
        if not verdict.reward and pair["equivalent"]
    }
    assert (accepted, rejected) == (FALSE_ACCEPTS, FALSE_REJECTS)


def test_the_corpus_holds_2483_different_pairs_of_which_1255_are_equivalent():
    assert len({(pair["gold"], pair["completion"]) for pair in CORPUS}) == len(CORPUS) == 2483
    assert sum(pair["equivalent"] for pair in CORPUS) == 1255


def test_no_answer_of_the_corpus_is_refused_or_crashes(corpus_verdicts: list[Verdict]):
    assert {verdict.status for verdict in corpus_verdicts} == {"ok", "wrong_format"}
    for pair, verdict in zip(CORPUS, corpus_verdicts, strict=True):
        if verdict.status == "wrong_format":
            assert not pair["equivalent"]


def test_every_truth_of_the_corpus_passes_the_check_before_a_run():
    for pair in CORPUS:
        check_problem(problem(pair["gold"]))


def test_answers_that_vote_together_are_judged_alike_but_for_units_names_and_identities(
    corpus_verdicts: list[Verdict],
):
    rewards: dict[tuple[str, str | None], set[float]] = {}
    for pair, verdict in zip(CORPUS, corpus_verdicts, strict=True):
        rewards.setdefault((pair["gold"], verdict.answer), set()).add(verdict.reward)
    apart = {gold for (gold, _), different in rewards.items() if len(different) > 1}
    left_out = Quantity | Identity | Named | RealSet
    assert {gold for gold in apart if not isinstance(reading.read(gold), left_out)} == {
        "12 m",
        "30 $m/s$",
    }


def test_a_truth_is_equal_to_itself(verifier: MathVerifier):
    for gold in {pair["gold"] for pair in CORPUS}:
        assert verifier.verify(problem(gold), rf"\boxed{{{gold}}}").reward == 1.0, gold


# --- numbers, which do not need the library


def slowly_equal(first: str, second: str) -> bool:
    """Exactly, or to six places where one is a decimal, by way of decimal texts."""
    values = [plain_value(tidy(text)) for text in (first, second)]
    if "." not in first and "." not in second:
        return values[0] == values[1]
    rounded = [Decimal(value.numerator) / Decimal(value.denominator) for value in values]
    return rounded[0].quantize(Decimal("1e-6")) == rounded[1].quantize(Decimal("1e-6"))


def number_texts(rng: random.Random) -> Iterator[str]:
    while True:
        sign = rng.choice(["", "", "-"])
        small, large = rng.randint(1, 12), rng.randint(1, 9_999_999)
        yield f"{sign}{small}"
        yield f"{sign}{large}"
        yield f"{sign}{large:,}"
        yield f"{sign}{small / 8}"
        yield f"{sign}{small / rng.randint(1, 12):.{rng.randint(1, 9)}f}"
        yield f"{sign}{small}/{rng.randint(1, 12)}"
        yield rf"{sign}\frac{{{small}}}{{{rng.randint(1, 12)}}}"
        yield rf"\frac{{{sign}{small}}}{{{rng.randint(1, 12)}}}"
        yield rf"{sign}\frac{small % 10}{rng.randint(1, 9)}"


def test_numbers_are_compared_to_six_places_where_one_is_a_decimal_and_exactly_otherwise():
    rng = random.Random(0)
    texts = [text for text, _ in zip(number_texts(rng), range(225), strict=False)]
    pairs = [(rng.choice(texts), rng.choice(texts)) for _ in range(200)]
    near = [(text, same) for text in texts for same in texts if plain_value(text) == plain_value(same)]
    pairs += [*rng.sample(near, 200), ("1/3", "0.3333333"), ("1/3", "0.33333"), ("2/3", "0.666667")]
    compared = 0
    for first, second in pairs:
        true, given = plain_number(tidy(first)), plain_number(tidy(second))
        if true and given:
            compared += 1
            assert equal_numbers(true, given, 6) is slowly_equal(first, second), (first, second)
    assert compared > 400


def plain_value(text: str) -> Fraction:
    number = plain_number(text)
    assert number is not None
    return number.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234,567.5", Fraction(2469135, 2)),
        ("+.25", Fraction(1, 4)),
        (r"-\frac34", Fraction(-3, 4)),
        (r"\frac{-3}{-4}", Fraction(3, 4)),
        ("10 / 4", Fraction(5, 2)),
    ],
)
def test_a_plain_number_has_its_exact_value(text: str, value: Fraction):
    assert plain_value(text) == value


@pytest.mark.parametrize(
    "text", ["", ".", "1,23", "1 234", r"\frac{1}{0}", "1/0", "٤٢", "1e5", "x", "2x", "--1", "9" * 501]
)
def test_what_is_not_a_plain_number_is_left_to_the_grammar(text: str):
    assert plain_number(text) is None


def test_decimal_places_decide_how_near_a_decimal_must_be():
    coarse = MathVerifier(MathConfig(decimal_places=2), timeout_s=2.0)
    fine = MathVerifier(MathConfig(decimal_places=8), timeout_s=2.0)
    for truth, given in [(r"\frac{1}{3}", "0.33"), (r"\sqrt{2}", "1.41")]:
        completion = rf"\boxed{{{given}}}"
        assert coarse.verify(problem(truth), completion).reward == 1.0
        assert fine.verify(problem(truth), completion).reward == 0.0
    assert fine.verify(problem(r"\frac{1}{3}"), r"\boxed{0.333333}").reward == 0.0


# --- where the answer stands


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{3} and so on", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{3}. Hence, \boxed{15}", "15"),
        (r"\boxed{3} or \boxed{5}", "3, 5"),
        (r"$x=\boxed{3}$, and $x=\boxed{5}$", "3, 5"),
        (r"\boxed{3}, \boxed{3}", "3"),
        (r"\boxed{\boxed{9}}", "9"),
        (r"so $\boxed 7$ and $x$", "7"),
        (r"\boxed{100},\boxed{200}", "100, 200"),
        (r"\boxed{4} but \boxed{5", "4"),
        ("a\n#### 5\n", "5"),
        ("#### 1. First step\nThe answer is 5.", "5"),
        ("#### (1) First step\nThe answer is 5.", "5"),
        ("#### 1) First step\nThe answer is 5.", "5"),
        ("#### (19 + 5) * 15\n", "(19 + 5) * 15"),
        ("#### (3, 4)", "(3, 4)"),
        ("#### $1,250 dollars", "$1,250 dollars"),
        ("#### −5", "−5"),
        ("The answer is `13`.", "13"),
        ("The answer is minus 5.", "minus 5"),
        ("The answer is (B) 14.", "(B) 14"),
        ("The answer is 9 apples, since 4 + 5 = 9.", "9 apples"),
        ("<think>5+8</think><answer>13 apples</answer>", "13 apples"),
        (r"<answer>It is \boxed{13}</answer>", "13"),
        (r"<answer>13</answer> No: \boxed{14}", "14"),
        ("The answer is 12.5. I hope so.", "12.5"),
        ("**Answer:** 72", "72"),
        ("**Final answer: 72**", "72"),
        ("The answer is: (B).", "(B)"),
    ],
)
def test_the_answer_is_what_is_marked_last(completion: str, answer: str):
    found = find_answer(completion)
    assert found and found.is_marked and found.text == answer


def test_prose_is_read_from_the_start_of_a_line_near_its_end():
    completion = "x" * 5000 + "\n" + "We get $a=1$.\n" * 30 + "It is 5 m long."
    found = find_answer(completion)
    assert found and not found.is_marked
    assert found.text.startswith("We get $a=1$.\n") and found.text.endswith("It is 5 m long.")


@pytest.mark.parametrize(
    "completion", ["", "  \n", r"\boxed{}", r"\boxed{ }", r"It is 5, \boxed{4", "I give up."]
)
def test_no_answer_is_a_wrong_format(verifier: MathVerifier, completion: str):
    verdict = verifier.verify(problem("4"), completion)
    assert (verdict.status, verdict.score, verdict.reward, verdict.answer) == ("wrong_format", 0.0, 0.0, None)


def test_with_require_boxed_only_a_box_is_an_answer():
    strict = MathVerifier(MathConfig(require_boxed=True), timeout_s=2.0)
    assert strict.verify(problem("4"), r"\boxed{4}").reward == 1.0
    for completion in ("The answer is 4.", "#### 4", "$4$"):
        assert strict.verify(problem("4"), completion).status == "wrong_format"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"either \boxed{2} or $\boxed{3}$", "2, 3"),
        (r"\boxed{1}, then \boxed{2", None),
        (r"\boxed{1} and \boxed{ }", None),
        ("no box", None),
    ],
)
def test_a_solution_has_the_answer_that_is_found_in_it(solution: str, answer: str | None):
    assert boxed_answer(solution) == answer
    if answer:
        found = find_answer(solution)
        assert found and found.text == answer


LONG_TEXTS = """
import itertools
from verifiers.math.text import boxed_answer, find_answer, tidy
starts = ["", r"\\boxed{4}", "#### 1", "answer is "]
units = [*" \\t$,;.=*{}()a1#!°~-√", "\\n", "\\\\", r"\\,", r"\\!", "and ", ", ", "x=", r"\\boxed ", r"\\boxed{",
         r"\\boxed{1}", r"\\boxed a", "#### 1\\n", "answer: ", r"\\overline{3}", "√("]
for start, unit, end in itertools.product(starts, units, ["!", r"\\boxed{5}"]):
    text = start + unit * (40_000 // len(unit)) + end
    find_answer(text), boxed_answer(text), tidy(text)
for space in [" ", "\\t", "\\n", "$"]:
    find_answer(r"\\boxed{4}" + space * 100_000 + r"\\boxed{5}")
text = r"\\boxed{" * 5_000 + "}" * 5_000
find_answer(text), boxed_answer(text)
"""


def test_finding_the_answer_takes_time_linear_in_the_text():
    """Each text takes some milliseconds; a quadratic pattern took 40 s for each kind of space."""
    done = subprocess.run([sys.executable, "-c", LONG_TEXTS], check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0


# --- votes


@pytest.mark.parametrize(
    "spellings",
    [
        ["0.5", r"\frac12", "1/2", r"\dfrac{1}{2}", ".50", r"\frac{2}{4}"],
        ["5", "x=5", "5.0", r"5\text{ cm}", r"5^\circ", r"\$5"],
        [r"\{1,2\}", "2, 1", "1,2", r"\left\{2,1\right\}"],
        ["x+1", "1+x", "y = x+1"],
        [r"\text{(C)}", "C", r"\textbf{(C)}"],
        ["Evelyn", r"\text{Evelyn}", r"\text{evelyn}"],
        ["[0, 0.5]", r"[0,\frac{1}{2}]"],
        ["3+4i", "4i + 3"],
    ],
)
def test_spellings_of_one_answer_vote_together(verifier: MathVerifier, spellings: list[str]):
    assert len({answer_of(verifier, spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("(1,2)", "[1,2]"),
        ("3,5", "35"),
        ("x+1", "x-1"),
        ("(3,4)", "(4,3)"),
        ("north", "thorn"),
        ("1,234", "1, 234"),
        ("AB", "BA"),
    ],
)
def test_different_answers_vote_apart(verifier: MathVerifier, first: str, second: str):
    assert answer_of(verifier, first) != answer_of(verifier, second)


def test_a_vote_does_not_depend_on_the_truth(verifier: MathVerifier):
    for boxed in ["0.5", r"\sqrt{8}", "3, 5", r"\text{even}", "x=5", r"50\%", "(1,2)"]:
        votes = {answer_of(verifier, boxed, truth) for truth in ("17", boxed, r"\sqrt{2}", r"\text{odd}")}
        assert len(votes) == 1, boxed


# --- faults


def test_an_answer_that_is_too_long_or_too_deep_is_refused(verifier: MathVerifier):
    honest_depth = MAX_DEPTH - 1  # the box's own braces are not counted, 1+( ... ) are
    deep = "(1+" * honest_depth + "1" + ")" * honest_depth
    for text in ("1+" * MAX_ANSWER_CHARS + "1", "(" * 11 + "5" + ")" * 11):
        verdict = verifier.verify(problem("x"), rf"\boxed{{{text}}}")
        assert (verdict.status, verdict.reward) == ("refused", 0.0)
    assert verifier.verify(problem(str(honest_depth + 1)), rf"\boxed{{{deep}}}").reward == 1.0


@pytest.mark.parametrize(
    "truth",
    [
        r"\frac{1}{0}",
        r"\int_0^1 x\,dx",
        "((",
        "10^{10^{10}}",
        r"$i^{22}=(i^{2})^{11}=(-1)^{11}=-1$",
        r"$y_{i}=\frac{\left(x-x_{0}\right)^{i-1}}{(i-1) !}, 1 \leq i \leq n$",
        "Let $f$ be a function; then it is not even.",
    ],
)
def test_a_truth_never_fails_against_itself_and_what_cannot_be_read_equals_nothing_else(
    verifier: MathVerifier, truth: str
):
    assert verifier.verify(problem(truth), rf"\boxed{{{truth}}}").reward == (
        truth.count("{") == truth.count("}")
    )
    assert verifier.verify(problem(truth), rf"\boxed{{{truth.replace(' ', '')} + 1}}").reward == 0.0


def test_a_truth_that_is_too_long_is_an_error_of_the_problem(verifier: MathVerifier):
    with pytest.raises(ValueError, match=r"truth 'answer' .* has 999 characters, more than 500: leave the"):
        verifier.verify(problem("1+" * 499 + "x"), r"\boxed{x}")


def test_what_breaks_the_reader_is_a_text_and_what_breaks_the_comparison_is_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    def breaking(*texts: object) -> bool:
        raise RecursionError

    monkeypatch.setattr("verifiers.math.verifier.read", breaking)
    verifier = MathVerifier(MathConfig(), timeout_s=2.0)
    assert verifier.verify(problem("x y"), r"\boxed{x  y}").reward == 1.0
    assert verifier.verify(problem("x y"), r"\boxed{xz}").reward == 0.0
    monkeypatch.undo()
    verifier = MathVerifier(MathConfig(), timeout_s=2.0)
    monkeypatch.setattr("verifiers.math.comparison.Comparison.equal", breaking)
    assert verifier.verify(problem("x"), r"\boxed{y}").status == "refused"
    assert verifier.verify(problem("x"), r"\boxed{x}").reward == 1.0


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"answer": True}, "is True, verifier 'math' needs a text or a number"),
        ({"answer": ["1"]}, r"is \['1'\], verifier 'math' needs a text or a number"),
        ({"answer": " $ $ "}, "which is empty"),
        (
            {"answer": "We add 3 and 4. " * 40},
            "has 638 characters, more than 500: give the final answer only",
        ),
        ({"answer": float("nan")}, "is nan, which is no number"),
        ({"answer": "-Inf"}, "is '-Inf', which is no number"),
        ({"answer": "(" * 11}, "nests brackets more than 10 deep"),
        ({"answer": r"\text{a"}, "braces do not match, so that no box can hold it: correct it"),
        ({"answer": "5\\"}, "braces do not match"),
        ({"answer": r"x}+\boxed{y"}, "braces do not match"),
    ],
)
def test_a_problem_without_a_readable_answer_is_found_before_the_run(truth: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"problem 'p1': truth 'answer' {'.*' + message}"):
        check_problem(Problem(id="p1", prompt="", truth=truth))


def test_a_truth_without_an_answer_is_told_what_it_has_and_what_to_set():
    with pytest.raises(
        ValueError, match=r"^problem 'p1': its truth has no 'answer', .*; it has 'final': set problems\."
    ):
        check_problem(Problem(id="p1", prompt="", truth={"final": "3"}))


def test_numbers_are_truths_too(verifier: MathVerifier):
    for answer in (42, 42.0):
        check_problem(problem(answer))
        assert verifier.verify(problem(answer), r"\boxed{42}").reward == 1.0


def test_checking_problems_imports_nothing_heavy():
    program = (
        "import sys; from verifiers.math.verifier import check_problem; "
        "sys.exit(bool({'mpmath', 'torch', 'ray', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


# --- isolation


def test_no_signal_is_used_so_that_any_thread_will_do(monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("signals work in the main thread only")

    for name in ("signal", "alarm", "setitimer"):
        monkeypatch.setattr(signal, name, forbidden)
    rewards: list[float] = []

    def judge() -> None:
        verifier = MathVerifier(MathConfig(), timeout_s=2.0)
        rewards.extend(
            verifier.verify(problem(r"\sqrt{8}"), completion).reward
            for completion in (r"\boxed{2\sqrt{2}}", r"\boxed{3\sqrt{2}}", r"It is $2\sqrt 2$ long.")
        )

    threads_before = threading.active_count()
    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert rewards == [1.0, 0.0, 1.0]
    assert threading.active_count() == threads_before


def test_an_answer_is_never_run_as_code(
    verifier: MathVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    attack = "__import__('pathlib').Path('canary').touch()"
    unquoted = "[c for c in ().__class__.__base__.__subclasses__()]"
    for code in (attack, unquoted, f"1+{attack}", f"(1)+({attack})", f"print({attack})", f"exec({attack!r})"):
        for form in (
            r"\boxed{%s}",
            r"\boxed{\text{%s}}",
            r"\boxed{\operatorname{%s}}",
            "$%s$",
            "answer: 1+%s",
            "%s",
        ):
            verdict = verifier.verify(problem("5"), form % code)
            assert verdict.reward == 0.0
    assert list(tmp_path.iterdir()) == []


HOSTILE_ENDLESS = [
    r"\boxed{9^{9^{9^{9}}}}",
    "It is 9**9**9**9 in all.",
    r"\boxed{((9!)!)!}",
    r"\boxed{\binom{10^{9}}{10^{8}}}",
    r"\boxed{9!!!!}",
    r"\boxed{\sqrt[3]{" + "9" * 400 + "}}",
    r"\boxed{\sin(10^{10^{5}})}",
    r"\boxed{e^{e^{e^{e^{e}}}}}",
    r"\boxed{\sum_{a=1}^{400}\sum_{b=1}^{400}\sum_{c=1}^{400} \frac{1}{a+b+c}}",
    r"\boxed{\sum_{n=1}^{\infty} \frac{\sin n}{n}}",
    r"\boxed{2.5^{0.3333}" + r"\sin\cos" * 40 + " x}",
    r"\boxed{" + r"3000!\pi+" * 50 + "1}",
]
HOSTILE_QUICK = [
    r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    r"\boxed{" + "{" * 400 + "1" + "}" * 400 + "}",
    r"\boxed{" + "1" * 9900 + "}",
    r"\boxed{\begin{pmatrix}" + r"\\".join(["&".join("1" * 40)] * 40) + r"\end{pmatrix}}",
    r"\boxed{" + r"\begin{a}" * 500 + "}",
    r"\boxed{" * 1400,
    r"\boxed{1" * 1200,
    r"\boxed{1}," * 1000,
    "$ $ " * 2400,
    "$x" * 4900,
    "answer " * 1400,
    "final answer is " * 600,
    "answer: a " * 900,
    "1 " * 4900,
    "(1+" * 3200,
    "#### 1" + " a" * 4800,
    "#### 1\n" * 1400,
    "\\" * 9900,
    r"\boxed" + " " * 9900,
    r"\boxed{4}" + " " * 9980 + r"\boxed{5}",
    r"\boxed{٤٢}",
    "\ud800" * 100,
]


def judge_in_a_process(answer: str, completions: list[str], timeout_s: float) -> tuple[list[Verdict], int]:
    """Verdicts on a problem of that answer, and how often the process had to be replaced."""
    with VerifierProcess(VerifierConfig(reward="math", timeout_s=timeout_s), "math") as process:
        return process.judge(problem(answer), completions), process.num_restarts


def test_a_hostile_answer_needs_no_kill_and_its_neighbours_are_judged():
    """Sizes are bounded before anything is computed: a tower of powers equals only itself."""
    completions = [text for hostile in HOSTILE_ENDLESS for text in (hostile, r"\boxed{5}")]
    verdicts, num_restarts = judge_in_a_process("5", completions, 20.0)
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0] * len(HOSTILE_ENDLESS)
    assert {verdict.status for verdict in verdicts} <= {"ok", "refused"}
    assert num_restarts == 0


def test_hostile_text_that_can_be_told_beforehand_needs_no_kill():
    verdicts, num_restarts = judge_in_a_process("17", HOSTILE_QUICK, 20.0)
    assert {verdict.status for verdict in verdicts} <= {"ok", "refused", "wrong_format"}
    assert not any(verdict.reward for verdict in verdicts)
    assert num_restarts == 0
