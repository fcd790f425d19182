"""What is shown of a run, and of all runs."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster.jobs import asking, find_run, joining, steer
from cluster.jobs.status import describe_workers, show_all, show_status
from tests.shared.dashboards import ON, two_jobs
from tests.shared.run_directories import write_run


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.PENDING])
def test_a_run_without_a_controller_is_shown_by_its_job(on_cluster, capsys, status):
    on_cluster([], two_jobs(status))
    show_status("first", ON, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        f"first   no controller at the moment: job first-resumed-1 is {status} for 1:2[0-9]; the end of its log:",
        shown[0],
    )
    assert shown[1:] == ["  b", "  c", "  d"]
    show_status(None, ON, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    told = {name: facts[name] for name in ("name", "run_dir", "address", "stage", "job", "log")}
    assert told == {
        "name": "first", "run_dir": None, "address": ON, "stage": str(status), "job": "first-resumed-1",
        "log": ["b", "c", "d"],
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"no controller at the moment .job first-resumed-1 is {status}"):
        steer.scale("first", ON, rollout=2, verifier=None)


def test_a_list_has_the_runs_without_a_controller_and_each_run_once(on_cluster, monkeypatch, capsys):
    on_cluster(["other", "second"], two_jobs())
    monkeypatch.setattr(asking, "ask", lambda found, method: {"stage": "training", "step": 3, "steps": 9})
    show_all(ON)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[0] for line in shown] == ["other", "second", "first"]
    assert " ".join(shown[2]).startswith("first no controller, for 1:2")
    assert shown[2][-2:] == ["job", "RUNNING"]
    assert find_run.find_run("first-resumed-1", ON).name == "first"
    on_cluster(["other", "second", "first"], two_jobs())
    show_all(ON)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "other",
        "second",
        "first",
    ]
    assert find_run.find_run("first-resumed-1", ON).has_controller


def test_a_list_of_runs_asks_each_on_its_own_cluster(tmp_path, monkeypatch, capsys):
    """Ray joins one cluster at a time, and goes on asking that one."""
    joined: list[str] = []

    def ask(found: find_run.FoundRun, method: str) -> dict[str, Any]:
        if not joined:
            joined.append(found.address)
        if joined != [found.address]:
            raise ValueError(f"no controller answers for {found.label}")
        return {"stage": "training", "step": 3, "steps": 9}

    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/on-a-cluster", local=False, address="10.0.0.1:6379", started=time.time() + 1)
    write_run(tmp_path / "runs/alone")
    monkeypatch.setattr(asking, "ask", ask)
    monkeypatch.setattr(joining, "disconnect", joined.clear)
    show_all(None)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == [["runs/on-a-cluster", "training", "3/9"], ["runs/alone", "training", "3/9"]]


def test_status_says_what_workers_do_what_is_waited_for_and_what_was_decided():
    def worker(name: str, pid: int, startup_s: dict[str, float], **facts: Any) -> dict[str, Any]:
        node = {"node_id": "1a2b3c4d5e" if pid else ""}
        state = {"leaving": False, "silent": False, "startup_s": startup_s}
        return {"name": name, "pid": pid, **state, **node, **facts}

    counts = {"num_tokens": 10_000, "num_reprefilled_tokens": 2_500}
    facts = {
        "rollout_workers": [
            worker("rollout-0", 10, {"placed": 1.0}, serving=True, version=7),
            worker("rollout-1", 11, {"placed": 1.0}, serving=True, version=6, leaving=True, **counts),
            worker("rollout-2", 0, {}, serving=False, version=-1),
        ],
        "verifier_workers": [
            worker("verifier-0", 12, {"placed": 1.0, "verifiers": 2.0}),
            worker("verifier-1", 13, {"placed": 1.0}),
            worker("verifier-2", 14, {"placed": 1.0, "verifiers": 2.0}, silent=True),
        ],
        "learner_ranks": [{"pid": 15, "node_id": "1a2b3c4d5e"}],
        "limited_by": "learning (the learner waits 5% of the time): more learner.ranks would help",
        "waiting_for": ["1 rollout worker (1 CPU)"],
        "decisions": ["rollout 1 -> 2: asked for by command"],
        "targets": {"rollout": 2, "verifier": 2},
        "unjudged_problems": [{"problem_id": "p7", "error": "KeyError: 'x'"}],
        "restarts": {"rollout": 1, "verifier": 0},
    }
    assert describe_workers(facts) == [
        "rollout-0: pid 10, serves version 7",
        (
            "rollout-1: pid 11, serves version 6, updates made it compute 2,500 tokens again (25% of those sampled), leaving"
        ),
        "rollout-2: no process yet, starting",
        "verifier-0: pid 12, judges",
        "verifier-1: pid 13, starting",
        "verifier-2: pid 14, does not answer",
        "learner: pid 15",
        "limited by learning (the learner waits 5% of the time): more learner.ranks would help",
        "waiting for resources: 1 rollout worker (1 CPU)",
        "scaled: rollout 1 -> 2: asked for by command",
        "set aside: problem p7: KeyError: 'x'",
        "wanted: 2 rollout, 2 verifier workers",
        "replaced: 1 rollout, 0 verifier workers",
    ]
    facts["learner_ranks"].append({"pid": 16, "node_id": "ffffffff00"})
    lines = describe_workers(facts)
    assert lines[0] == "rollout-0: pid 10 on node 1a2b3c4d, serves version 7"
    assert lines[2] == "rollout-2: no process yet, starting"
    assert lines[6:8] == [
        "learner rank 0: pid 15 on node 1a2b3c4d",
        "learner rank 1: pid 16 on node ffffffff",
    ]


def test_status_ends_with_the_events(tmp_path, monkeypatch, capsys):
    events = ["10:00:00 rollout-0 is lost: killed", "10:00:09 no step for 60 s"]
    facts = {
        "stage": "training", "step": 0, "steps": 9, "num_select": 4, "metrics_url": "", "events": events,
        "groups": {"buffered": 2}, "rollout_workers": [], "verifier_workers": [], "learner_ranks": [],
        "limited_by": None, "waiting_for": [], "decisions": [], "targets": {"rollout": 1, "verifier": 1},
        "unjudged_problems": [], "held_out": None,
        "restarts": {"rollout": 0, "verifier": 0},
    }  # fmt: skip
    monkeypatch.setattr(asking, "ask", lambda found, method: facts)
    show_status(str(write_run(tmp_path / "first")), None, as_json=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"  {event}" for event in events]
