"""Score and reward from several verifiers: the sums, the worst status, and who is asked how often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from verifiers.composition import Panel, combine
from verifiers.config import VerifierConfig
from verifiers.process.child_process import VerifierStartError
from verifiers.types import CRASHED, Problem, Verdict

ANY = Problem(id="p", prompt="", truth={"answer": "ab"})
GOOD = Verdict(score=2.0, reward=1.0, answer="a")
FAIR = Verdict(score=0.5, reward=0.25, status="wrong_format", answer="b")
LATE = Verdict(score=-math.inf, reward=0.0, status="timeout")

MODULE = """
import os, time
from pathlib import Path
from verifiers.types import Verdict

def half(problem, completion):
    return 0.5

def pid(problem, completion):
    return float(os.getpid())

def hangs(problem, completion):
    if completion == "hang": time.sleep(60)
    return 1.0

def late(problem, completion):
    return Verdict(score=float("-inf"), reward=0.0, status="timeout", answer="late")

class Scaled:
    def __init__(self, *, factor, log=None):
        self.factor, self.log = factor, log
    def __call__(self, problem, completion):
        if self.log: Path(self.log).open("a").write(completion + "\\n")
        return self.factor * len(completion)

class Batch:
    '''Worth its place in the batch; the first candidate says what happens.'''
    def __init__(self, mark=None):
        self.mark = mark
    def verify_batch(self, problem, completions):
        if "hang" in completions: time.sleep(60)
        if "die" in completions: os._exit(3)
        if "once" in completions and not os.path.exists(self.mark):
            open(self.mark, "w").close(); os._exit(3)
        if "raise" in completions: raise KeyError("no such model")
        if "short" in completions: return [1.0]
        return [Verdict(score=float(i), reward=0.5, answer=str(i)) for i in range(len(completions))]

class Silent:
    pass
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Panel]]:
    (tmp_path / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    opened: list[Panel] = []

    def start(**settings: object) -> Panel:
        opened.append(Panel(VerifierConfig(**settings)))
        return opened[-1]

    yield start
    for panel in opened:
        panel.close()


def plain(verdicts: list[Verdict]) -> list[tuple[float, float, str, str | None]]:
    return [(verdict.score, verdict.reward, verdict.status, verdict.answer) for verdict in verdicts]


def test_score_and_reward_are_sums_over_their_own_verifiers() -> None:
    verdict = combine({"a": GOOD, "b": FAIR}, {"a": 1.0, "b": 2.0}, {"b": -4.0})
    assert verdict == Verdict(score=-2.0, reward=1.5, status="wrong_format", answer="a")


def test_without_a_score_the_rewards_weights_select() -> None:
    verdict = combine({"a": GOOD, "b": FAIR}, {"b": 2.0, "a": 10.0}, None)
    assert verdict == Verdict(score=21.0, reward=10.5, status="wrong_format", answer="b")


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_a_candidate_that_one_verifier_never_selects_is_never_selected(weight: float) -> None:
    verdict = combine({"a": GOOD, "b": LATE}, {"a": 1.0}, {"a": 5.0, "b": weight})
    assert verdict == Verdict(score=-math.inf, reward=1.0, status="ok", answer="a")


def test_the_status_is_the_worst_of_the_rewards_verifiers_and_a_crash_is_a_crash_of_all() -> None:
    assert combine({"a": FAIR, "b": LATE}, {"a": 1.0, "b": 1.0}, None).status == "timeout"
    for reward, score in (({"a": 1.0}, {"c": 1.0}), ({"c": 1.0}, {"a": 1.0})):
        crashed = combine({"a": GOOD, "c": CRASHED}, reward, score)
        assert crashed.status == "crashed" and math.isnan(crashed.reward)


def test_a_reward_of_one_and_a_score_of_another_verifier_meet_in_the_process(
    judge: Callable[..., Panel],
) -> None:
    panel = judge(reward="exact_match", score="parts:Scaled", options={"parts:Scaled": {"factor": 0.25}})
    assert plain(panel.judge(ANY, ["ab", "abc"])) == [(0.5, 1.0, "ok", "ab"), (0.75, 0.0, "ok", "abc")]


def test_a_weighted_sum_with_a_format_and_a_length_term(judge: Callable[..., Panel]) -> None:
    panel = judge(
        reward={"exact_match": 1.0, "format": 0.5, "length": 0.25},
        format={"pattern": "a+b?"},
        length={"free_chars": 2, "zero_chars": 6},
    )
    assert plain(panel.judge(ANY, ["ab", "aaaa", "xxxxxxx"])) == [
        (1.75, 1.75, "ok", "ab"),
        (0.625, 0.625, "ok", "aaaa"),
        (0.0, 0.0, "wrong_format", "xxxxxxx"),
    ]


def test_a_verifier_named_twice_judges_once(judge: Callable[..., Panel], tmp_path: Path) -> None:
    log = tmp_path / "log"
    panel = judge(
        reward={"parts:Scaled": 1.0, "exact_match": 1.0},
        score="parts:Scaled",
        options={"parts:Scaled": {"factor": 1, "log": str(log)}},
    )
    assert plain(panel.judge(ANY, ["ab", "a"])) == [(2.0, 3.0, "ok", "ab"), (1.0, 1.0, "ok", "a")]
    assert log.read_text() == "ab\na\n"


def test_a_candidate_that_hangs_one_verifier_costs_the_other_nothing(judge: Callable[..., Panel]) -> None:
    panel = judge(reward="parts:hangs", score="parts:pid", timeout_s=0.3)
    verdicts = panel.judge(ANY, ["a", "hang", "b"])
    assert [(verdict.reward, verdict.status) for verdict in verdicts] == [
        (1, "ok"),
        (0, "timeout"),
        (1, "ok"),
    ]
    assert len({verdict.score for verdict in [*verdicts, *panel.judge(ANY, ["c"])]}) == 1
    assert panel.num_restarts == 1


def test_a_verifier_of_whole_groups_sees_the_group_and_each_candidate_gets_its_own_verdict(
    judge: Callable[..., Panel],
) -> None:
    panel = judge(reward={"parts:half": 1.0, "parts:Batch": 2.0}, score="parts:Batch", max_candidate_chars=4)
    assert plain(panel.judge(ANY, ["a", "too long", "b"])) == [
        (0.0, 1.5, "ok", "0"),
        (-math.inf, 0.0, "refused", None),
        (1.0, 1.5, "ok", "1"),
    ]
    assert plain(panel.judge(ANY, [])) == []


@pytest.mark.parametrize(
    ("first", "error"),
    [
        ("raise", "KeyError: 'no such model'"),
        ("short", "ValueError: the verifier returned 1 verdicts on 2 candidates"),
        ("die", "exited with code 3; at problem 'p'"),
        ("hang", "no reply in 0.3 s, killed; at problem 'p'"),
    ],
)
def test_a_group_at_which_its_verifier_fails_is_crashed_whole_with_the_cause(
    judge: Callable[..., Panel], first: str, error: str
) -> None:
    panel = judge(reward="parts:Batch", batch_timeout_s=0.3, retries=1)
    assert [verdict.status for verdict in panel.judge(ANY, [first, "b"])] == ["crashed"] * 2
    assert error in panel.last_error
    assert plain(panel.judge(ANY, ["a"])) == [(0.0, 0.5, "ok", "0")]


def test_a_group_whose_verifier_died_once_is_judged_again(
    judge: Callable[..., Panel], tmp_path: Path
) -> None:
    panel = judge(reward="parts:Batch", options={"parts:Batch": {"mark": str(tmp_path / "mark")}}, retries=1)
    assert plain(panel.judge(ANY, ["once", "b"])) == [(0.0, 0.5, "ok", "0"), (1.0, 0.5, "ok", "1")]
    assert panel.num_restarts == 1


def test_a_batch_may_take_longer_than_a_candidate(judge: Callable[..., Panel]) -> None:
    panel = judge(reward="parts:Batch", timeout_s=0.1, batch_timeout_s=0.5, retries=0)
    started_at = time.monotonic()
    assert [verdict.status for verdict in panel.judge(ANY, ["hang"])] == ["crashed"]
    assert time.monotonic() - started_at >= 0.5


def test_equal_candidates_get_equal_verdicts_whatever_stands_beside_them(
    judge: Callable[..., Panel],
) -> None:
    panel = judge(reward={"exact_match": 1.0, "length": -0.1}, score="format", format={"pattern": "a.*"})
    texts = ["ab", "", "b" * 50, "a\n", "ab", "abc"]
    together = panel.judge(ANY, texts)
    alone = [panel.judge(ANY, [text])[0] for text in reversed(texts)][::-1]
    assert [replace(v, latency_s=0.0) for v in together] == [replace(v, latency_s=0.0) for v in alone]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"reward": "parts:Scaled"}, "missing 1 required keyword-only argument: 'factor': correct "),
        ({"reward": "parts:Silent"}, "cannot be called and have no method verify_batch: define __call__"),
        ({"reward": "parts:Other"}, "has no function or class 'Other': correct the part after the colon"),
        ({"reward": "parts:half", "options": {"parts:half": {"x": 1}}}, "only a class takes options"),
    ],
)
def test_a_class_that_cannot_be_built_is_one_line(
    judge: Callable[..., Panel], settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(VerifierStartError, match=reason) as error:
        judge(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"format": {"pattern": "a"}}, "format has no effect: .* name only 'countdown'; remove the section"),
        ({"reward": {"countdown": 0.0}}, "reward gives 'countdown' the weight 0"),
        ({"reward": {}}, "at least 1 item"),
        ({"score": {"countdown": math.nan}}, "finite"),
        ({"options": {"a:b": {}}}, "options.'a:b' has no effect"),
        ({"reward": "format", "options": {"format": {}}}, "options are for classes of your own"),
        ({"reward": "format", "format": {"pattern": "("}}, "is no regular expression"),
        ({"reward": "length", "length": {"zero_chars": 5, "free_chars": 5}}, "free_chars = 5 is not below"),
    ],
)
def test_a_setting_that_has_no_effect_or_no_sense_is_refused(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        VerifierConfig(**settings)


def test_what_is_written_reads_back_and_leaves_out_what_is_not_used() -> None:
    config = VerifierConfig(reward={"exact_match": 1.0, "length": 0.5}, length={"zero_chars": 9})
    written = config.model_dump()
    assert "format" not in written and "options" not in written
    assert written["length"] == {"free_chars": 0, "zero_chars": 9}
    assert VerifierConfig(**written) == config
