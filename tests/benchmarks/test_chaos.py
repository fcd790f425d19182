"""How a chaos run counts and judges; the faults themselves are struck by test_faults.py."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.chaos import campaign
from benchmarks.chaos.campaign import Campaign, Strike, longest_wait_s
from benchmarks.chaos.driver import SETTINGS
from benchmarks.chaos.faults import FAULTS, deal
from benchmarks.chaos.invariant import Account, account
from benchmarks.chaos.network import Network, why_not_separate
from benchmarks.chaos.results import result, summarise
from benchmarks.chaos.worker_faults import NOTICED
from benchmarks.chaos.world import NoVictimError
from cluster.config.parse import load_config
from cluster.leasing.ledger import Ledger
from tests.shared.paths import ROOT

PROBLEMS, PER_STEP, STEPS = 5, 4, 5


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 20 groups, four epochs, of which the last group is not trained."""
    ledger = Ledger(num_problems=PROBLEMS, num_groups=100, seed=3)
    groups = list(range(PER_STEP * STEPS - 1)) + [21]
    (tmp_path / "trajectories").mkdir()
    for step in range(STEPS):
        write(tmp_path, step + 1, groups[PER_STEP * step : PER_STEP * (step + 1)], ledger)
    for group in groups:
        leased = ledger.lease("w", version=0, now_s=0.0)
        while leased.group != group:
            leased = ledger.lease("w", version=0, now_s=0.0)
        ledger.receive(leased, "w")
        ledger.commit(group)
    ledger.train(groups)
    checkpoint = tmp_path / "checkpoints" / f"step-{STEPS:06d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "run_state.json").write_text(json.dumps({"version": STEPS, "ledger": ledger.to_json()}))
    return tmp_path


def write(run_dir: Path, step: int, groups: list[int], ledger: Ledger) -> None:
    problems = [f"p{ledger.problem_index(group)}" for group in groups]
    table = pa.table({"group": groups, "problem_id": problems})
    pq.write_table(table, run_dir / "trajectories" / f"step-{step:06d}.parquet")


def rewrite(run_dir: Path, step: int, **changed: list) -> None:
    path = run_dir / "trajectories" / f"step-{step:06d}.parquet"
    pq.write_table(pa.table({**pq.read_table(path).to_pydict(), **changed}), path)


def test_a_run_that_lost_nothing_is_found_whole(run_dir: Path) -> None:
    seen = account(run_dir)
    assert (seen.num_steps, seen.num_trained) == (STEPS, 20)
    assert (seen.lost, seen.duplicated, seen.misplaced) == ([], [], [])


def test_a_group_of_the_ledger_without_a_trajectory_is_lost(run_dir: Path) -> None:
    (run_dir / "trajectories" / "step-000002.parquet").unlink()
    seen = account(run_dir)
    assert seen.lost == [4, 5, 6, 7]


def test_a_group_that_is_there_twice_is_duplicated_and_the_one_in_whose_place_it_is_lost(
    run_dir: Path,
) -> None:
    rewrite(run_dir, 2, group=[4, 5, 6, 1])
    seen = account(run_dir)
    assert (seen.lost, seen.duplicated) == ([7], [1])


def test_a_group_that_the_ledger_does_not_hold_for_trained_is_one_too_many(run_dir: Path) -> None:
    rewrite(run_dir, 5, group=[16, 17, 18, 19])
    seen = account(run_dir)
    assert (seen.lost, seen.duplicated) == ([21], [19])


def test_a_prompt_in_anothers_place_is_found(run_dir: Path) -> None:
    path = run_dir / "trajectories" / "step-000003.parquet"
    first, second, *rest = pq.read_table(path).to_pydict()["problem_id"]
    assert first != second
    rewrite(run_dir, 3, problem_id=[second, first, *rest])
    assert account(run_dir).misplaced == [8, 9]


def test_every_fault_strikes_once_and_the_rest_by_weight() -> None:
    dealt = deal(list(FAULTS), 1000, Random(0))
    counts = Counter(dealt)
    assert len(dealt) == 1000 and counts.keys() == FAULTS.keys()
    assert counts["rollout worker killed"] > 2 * counts["head lost"]
    assert deal(list(FAULTS), 1000, Random(0)) == dealt != deal(list(FAULTS), 1000, Random(1))
    assert sorted(deal(list(FAULTS), len(FAULTS), Random(2))) == sorted(FAULTS)
    assert len(set(deal(list(FAULTS), 5, Random(3)))) == 5


def strike(name: str, *, recovered_s: float, noticed_s: float = 0.0) -> Strike:
    return Strike(
        name=name,
        course=iter(()),
        bound_s=FAULTS[name].bound_s,
        struck_s=100.0,
        struck_time=1000.0,
        noticed_s=noticed_s,
        recovered_s=recovered_s,
    )


WHOLE = Account(num_steps=9, num_trained=36, lost=[], duplicated=[], misplaced=[])
FINE = {
    "seed": 1,
    "seconds": 60.0,
    "left_out": {},
    "resumes": 0,
    "clusters": 0,
    "exit_code": 130,
    "leaked": [],
    "left": [],
}


def test_recoveries_are_told_by_median_and_longest() -> None:
    strikes = [
        strike("head lost", noticed_s=101.0, recovered_s=130.0),
        strike("head lost", noticed_s=103.0, recovered_s=110.0),
        strike("driver paused", recovered_s=104.0),
    ]
    rows = summarise(strikes)
    assert list(rows) == ["driver paused", "head lost"]
    assert rows["head lost"]["count"] == 2
    assert (rows["head lost"]["noticed_median_s"], rows["head lost"]["noticed_longest_s"]) == (2.0, 3.0)
    assert (rows["head lost"]["recovered_median_s"], rows["head lost"]["recovered_longest_s"]) == (20.0, 30.0)
    assert rows["driver paused"]["noticed_median_s"] is None
    assert result(strikes, WHOLE, wanted=3, **FINE)["failures"] == []


def test_whatever_must_not_be_is_a_failure_by_name() -> None:
    late = strike("verifier worker killed", recovered_s=100.0 + FAULTS["verifier worker killed"].bound_s + 1)
    lost = Account(num_steps=9, num_trained=36, lost=[7], duplicated=[3, 4], misplaced=[])
    bad = {**FINE, "exit_code": 1, "leaked": ["12 ray::RolloutWorker"], "left": ["13 raylet"]}
    assert result([late], lost, wanted=2, **bad)["failures"] == [
        "groups lost: [7]",
        "groups duplicated: [3, 4]",
        "verifier worker killed: not recovered within 120 s",
        "only 1 of 2 faults struck in the time",
        "the run ended with exit code 1, not 0 or 130",
        "the run left a process: 12 ray::RolloutWorker",
        "a process could not be ended: 13 raylet",
    ]


def test_the_learners_longest_wait_is_that_of_the_steps_after_the_fault(tmp_path: Path) -> None:
    waits = [(990, 9.0), (1001, 0.1), (1004, 2.5), (1006, 0.2), (1007, 0.1), (1008, 0.3), (1030, 8.0)]
    lines = [json.dumps({"time": time, "wait_s": wait}) for time, wait in waits]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert longest_wait_s(tmp_path, strike("head lost", recovered_s=110.0)) == 2.5
    assert longest_wait_s(tmp_path, strike("head lost", recovered_s=131.0)) == 8.0


class QuietWorld:
    """A run that is always well, and counts what strikes it."""

    def __init__(self) -> None:
        self.random = Random(0)
        self.is_whole = True
        self.step = self.best_step = 100
        self.under_way: list[str] = []
        self.seen_together: set[tuple[str, ...]] = set()
        self.victims_from_s = 0.0

    def mend(self) -> None:
        self.seen_together.add(tuple(self.under_way))


@pytest.fixture
def strikes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[QuietWorld, Campaign]]:
    """Runs a campaign of faults that take 30 ms each."""
    for name, value in (("TICK_S", 0.002), ("PAUSE_S", (0.0, 0.004)), ("NO_VICTIM_PAUSE_S", 0.002)):
        monkeypatch.setattr(campaign, name, value)

    def run(names: list[str], *, calm: bool = False, lasts_s: float = 0.03, bound_s: float = 60.0):
        def make(name: str) -> Callable[[QuietWorld], Iterator[str | None]]:
            def act(world: QuietWorld) -> Iterator[str | None]:
                if time.monotonic() < world.victims_from_s:
                    raise NoVictimError
                ends_s = time.monotonic() + lasts_s
                world.under_way.append(name)
                yield "victim"
                yield NOTICED
                while time.monotonic() < ends_s:
                    yield None
                world.under_way.remove(name)

            return act

        for name in set(names):
            replaced = dataclasses.replace(FAULTS[name], act=make(name), bound_s=bound_s)
            monkeypatch.setitem(FAULTS, name, replaced)
        world = QuietWorld()
        world.victims_from_s = time.monotonic() + 0.05
        under_test = Campaign(world, names, calm=calm, patience=1.0, max_s=60.0, say=lambda _: None)
        under_test.run()
        return world, under_test

    return run


NAMES = ["rollout worker killed", "driver paused", "verifier worker killed", "object store filled"] * 8


def test_faults_overlap_three_at_most_and_all_strike_though_some_have_no_victim_at_first(strikes) -> None:
    world, ended = strikes(NAMES)
    assert Counter(strike.name for strike in ended.strikes) == Counter(NAMES)
    assert {len(together) for together in world.seen_together} >= {0, 1, 2}
    assert max(len(together) for together in world.seen_together) <= 3
    for strike in ended.strikes:
        assert strike.struck_s < strike.noticed_s < strike.recovered_s


def test_a_calm_campaign_strikes_one_at_a_time(strikes) -> None:
    world, ended = strikes(NAMES, calm=True)
    assert len(ended.strikes) == len(NAMES)
    assert max(len(together) for together in world.seen_together) == 1


def test_a_fault_that_needs_to_be_alone_is(strikes) -> None:
    names = [*NAMES, *["head lost"] * 8]
    Random(1).shuffle(names)
    world, ended = strikes(names)
    assert len(ended.strikes) == len(names)
    assert [together for together in world.seen_together if "head lost" in together] == [("head lost",)]


def test_a_fault_that_is_not_overcome_ends_the_campaign_and_is_told(strikes) -> None:
    _, ended = strikes(["driver paused", "driver paused"], calm=True, lasts_s=60.0, bound_s=0.1)
    rows = summarise(ended.strikes)
    assert (rows["driver paused"]["count"], rows["driver paused"]["not_recovered"]) == (1, 1)


def test_the_settings_of_the_chaos_run_are_valid() -> None:
    config = load_config(SETTINGS, ["model=m", "problems.train_path=t.jsonl"])
    assert config.train.max_staleness >= 1 and config.learner.ranks == 2


LEAVES_CHILDREN = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.chaos.processes import Family
family = Family()
orphan = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
family.spawn([sys.executable, "-c", orphan], environment={}, log=Path(sys.argv[1])).wait()
family.spawn(["sleep", "600"], environment={}, log=Path(sys.argv[1]))
time.sleep(0.5)
print(*(process.pid for process in family.descendants()))
print(family.end())
"""


def test_a_family_ends_what_its_children_left_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_CHILDREN, str(tmp_path / "log")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pids, left = done.stdout.splitlines()
    assert len(pids.split()) == 2 and left == "[]"
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.split())


PROBE = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], 5555), 0.5).recv(2).decode())
except TimeoutError:
    print("nothing")
"""
SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 5555))
print("up", flush=True)
while True:
    server.accept()[0].send(b"hi")
"""


def test_a_node_that_is_cut_off_answers_nobody_until_it_is_joined_again() -> None:
    why_not = why_not_separate()
    if why_not:
        assert not (os.environ.get("CI") == "true" and os.geteuid() == 0), why_not
        pytest.skip(why_not)
    python = [sys.executable, "-c"]
    with Network(["a", "b"], separate=True) as network:
        command = [*network.enter("a"), *python, SERVE]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdout.readline() == "up\n"

        def asked_from(place: list[str]) -> str:
            asking = [*place, *python, PROBE, network.address("a")]
            return subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip()

        try:
            assert [asked_from([]), asked_from(network.enter("b"))] == ["hi", "hi"]
            network.cut("a")
            assert [asked_from([]), asked_from(network.enter("b"))] == ["nothing", "nothing"]
            network.join("a")
            assert [asked_from([]), asked_from(network.enter("b"))] == ["hi", "hi"]
        finally:
            server.kill()
            server.communicate()
    assert network.head_address not in subprocess.check_output(["ip", "address"], text=True)
