"""A real run grows and shrinks while it trains, and still trains every group exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RpcError

from cluster.config.parse import parse_config
from cluster.fleet import elastic
from cluster.fleet.handles import WorkerHandle
from cluster.fleet.slots import MAX_FAILED_STARTS, Slot, Slots
from tests.shared.live_run import (
    GROUPS,
    SAMPLES,
    both_sample,
    scrape,
    staleness,
    trained_groups,
    trajectories,
)

NONSENSE: list[dict[str, Any]] = [
    {},
    {"rollout": 0},
    {"verifier": 1.5},
    {"rollout": 2, "verifier": -1},
    {"rollout": 100_000},
]


def have(facts: dict[str, Any], *counts: int) -> bool:
    """As many rollout and verifier workers."""
    return (len(facts["rollout_workers"]), len(facts["verifier_workers"])) == counts


@pytest.fixture(scope="module")
def scaled(start, make_config, tmp_path_factory) -> dict[str, Any]:
    """What was seen of an asynchronous run that had 1, 2 and 1 workers of each role."""
    run_dir = tmp_path_factory.mktemp("scaled")
    config = make_config(
        train={"steps": 100_000, "max_staleness": 1, "checkpoint_every": 1000, "keep_checkpoints": 1}
    )
    seen: dict[str, Any] = {"run_dir": run_dir}
    with start(config, run_dir) as run:
        seen["one"] = run.wait_for(lambda facts: facts["step"] >= 5)
        for nonsense in NONSENSE:
            with pytest.raises(ValueError) as refused:
                run.scale(**nonsense)
            seen.setdefault("refused", []).append(str(refused.value).splitlines()[-1])
        seen["answer"] = run.scale(rollout=2, verifier=2)
        seen["two"] = run.wait_for(
            lambda facts: (
                both_sample(facts) and all("verifiers" in v["startup_s"] for v in facts["verifier_workers"])
            )
        )
        seen["metrics"] = scrape(run.wait_for(lambda facts: facts["step"] >= seen["two"]["step"] + 10))
        run.scale(rollout=1, verifier=1)
        seen["back"] = run.wait_for(lambda facts: have(facts, 1, 1))
        run.wait_for(lambda facts: facts["step"] >= seen["back"]["step"] + 5)
        run.stop()
        with pytest.raises(ValueError, match="the run is ending: it takes no more workers"):
            run.scale(rollout=2)
        seen["end"] = run.finish()
    return seen


@pytest.mark.slow
def test_workers_are_added_and_removed_while_the_run_trains(scaled):
    assert have(scaled["one"], 1, 1) and have(scaled["two"], 2, 2) and have(scaled["back"], 1, 1)
    assert scaled["answer"] == scaled["two"]["targets"] == {"rollout": 2, "verifier": 2}
    assert scaled["end"]["targets"] == {"rollout": 1, "verifier": 1}
    assert [worker["name"] for worker in scaled["back"]["rollout_workers"]] == [
        "rollout-0"
    ]  # the newest left
    assert scaled["end"]["decisions"] == [
        f"{role} {change}: asked for by command"
        for change in ("1 -> 2", "2 -> 1")
        for role in ("rollout", "verifier")
    ]
    assert scaled["end"]["stage"] == "stopped"


@pytest.mark.slow
def test_no_group_is_lost_or_trained_twice_by_that(scaled):
    trained = trained_groups(scaled["run_dir"])
    assert len(trained) == len(set(trained)) == scaled["end"]["step"] * GROUPS
    counts = scaled["end"]["groups"]
    assert max(trained) < counts["trained"] + counts["leased"] + counts["buffered"] + 2 * GROUPS
    assert max(staleness(scaled["run_dir"])) <= 1


@pytest.mark.slow
def test_the_newcomer_serves_the_newest_weights_before_its_first_lease(scaled):
    rows = [row for rows in trajectories(scaled["run_dir"]).values() for row in rows]
    versions = {
        version
        for row in rows
        for worker, sample in zip(row["workers"], row["versions"], strict=True)
        if worker == "rollout-1"
        for version in sample
    }
    assert min(versions) >= scaled["one"]["step"]  # it began with the model's own weights, version 0
    assert {worker for row in rows for worker in row["workers"]} == {"rollout-0", "rollout-1"}


@pytest.mark.slow
def test_who_leaves_in_order_is_neither_replaced_nor_a_failure(scaled):
    assert scaled["end"]["restarts"] == {"rollout": 0, "verifier": 0}
    log = (scaled["run_dir"] / "controller.log").read_text()
    assert "rollout-1 has left\n" in log and "verifier-1 has left\n" in log
    assert "leased again" not in log  # it finished its groups


@pytest.mark.slow
def test_what_a_newcomers_start_was_spent_on_is_on_record(scaled):
    newcomer = next(worker for worker in scaled["two"]["rollout_workers"] if worker["name"] == "rollout-1")
    assert list(newcomer["startup_s"]) == ["placed", "engine", "weights", "first_group"]
    assert all(seconds > 0 for seconds in newcomer["startup_s"].values())
    metrics = scaled["metrics"]
    for phase, seconds in newcomer["startup_s"].items():
        assert metrics[f"bonfire_cluster_startup_seconds{{{phase}}}{{rollout-1}}"] == seconds
    assert metrics["bonfire_workers_target{rollout}"] == 2
    assert metrics["bonfire_scaling_decisions_total{up}{manual}{rollout}"] == 1


@pytest.mark.slow
def test_nonsense_is_refused_in_one_line_and_changes_nothing(scaled):
    assert scaled["refused"] == [
        "ValueError: scale names no number of workers: give rollout, verifier, or both",
        "ValueError: rollout = 0 is no number of workers: give a whole number from 1 on",
        "ValueError: verifier = 1.5 is no number of workers: give a whole number from 1 on",
        "ValueError: verifier = -1 is no number of workers: give a whole number from 1 on",
        "ValueError: rollout = 100000 is more than the 1,000 workers that one controller leads",
    ]
    assert len(scaled["end"]["decisions"]) == 4


@pytest.mark.slow
def test_a_synchronous_run_shares_its_steps_among_the_workers_there_are(start, make_config, tmp_path):
    config = make_config(train={"steps": 100_000, "checkpoint_every": 1000})
    with start(config, tmp_path) as run:
        run.wait_for(lambda facts: facts["step"] >= 3)
        run.scale(rollout=2)
        two = run.wait_for(both_sample)
        run.wait_for(lambda facts: facts["step"] >= two["step"] + 5)
        run.scale(rollout=1)
        one = run.wait_for(lambda facts: have(facts, 1, 1))
        run.wait_for(lambda facts: facts["step"] >= one["step"] + 3)
        run.stop()
        end = run.finish()
    assert trained_groups(tmp_path) == list(range(end["step"] * GROUPS))
    assert set(staleness(tmp_path)) == {0}
    shares = {
        step: [worker for row in rows for worker in row["workers"]].count("rollout-0")
        for step, rows in trajectories(tmp_path).items()
    }
    assert shares[1] == shares[end["step"]] == GROUPS * SAMPLES
    assert shares[two["step"] + 2] == GROUPS * SAMPLES // 2
    assert end["restarts"] == {"rollout": 0, "verifier": 0}


@pytest.mark.slow
def test_a_newcomer_that_never_starts_does_not_end_a_run_that_others_serve(
    start, make_config, user_modules, tmp_path
):
    # A verifier would be up sooner than it can be killed.
    (user_modules / "late_verifiers.py").write_text(
        "import time\nfrom loop_verifiers import slow\ntime.sleep(1.0)\n"
    )
    config = make_config(
        verifier={"reward": "late_verifiers:slow"},
        train={"steps": 100_000, "max_staleness": 1, "checkpoint_every": 1000},
    )
    with start(config, tmp_path) as run:
        run.wait_for(lambda facts: facts["step"] >= 3)
        for role in ("rollout", "verifier"):
            run.scale(**{role: 2})
            killed: set[str] = set()
            while len(killed) < MAX_FAILED_STARTS:
                seen = run.wait_for(lambda facts: newcomers(facts, role, killed) or is_up(facts, role))  # noqa: B023
                assert not is_up(seen, role), "it was up before it could be killed"
                [newcomer] = newcomers(seen, role, killed)
                os.kill(newcomer["pid"], signal.SIGKILL)
                killed.add(newcomer["name"])
        paused = run.wait_for(lambda facts: sum(facts["restarts"].values()) >= 2 * MAX_FAILED_STARTS)
        run.wait_for(lambda facts: facts["step"] >= paused["step"] + 5)
        whole = run.wait_for(lambda facts: is_up(facts, "rollout") and is_up(facts, "verifier"))
        run.stop()
        end = run.finish()
    assert whole["restarts"] == {"rollout": MAX_FAILED_STARTS, "verifier": MAX_FAILED_STARTS}
    assert trained_groups(tmp_path) == list(range(end["step"] * GROUPS))


def newcomers(facts: dict[str, Any], role: str, killed: set[str]) -> list[dict[str, Any]]:
    """With a process, and still starting."""
    return [
        worker
        for worker in facts[f"{role}_workers"]
        if worker["pid"] and len(worker["startup_s"]) == 1 and worker["name"] not in killed
    ]


def is_up(facts: dict[str, Any], role: str) -> bool:
    return sum(len(worker["startup_s"]) >= 2 for worker in facts[f"{role}_workers"]) == 2


@pytest.mark.parametrize("head", ["answers", "is away", "hangs"])
def test_a_run_that_ends_asks_for_no_nodes_and_says_so_when_nobody_heard(head, monkeypatch):
    heard: list[Any] = []
    notes: list[str] = []
    over = threading.Event()

    def request_nodes(bundles: list[Any]) -> None:
        if not bundles and head == "is away":
            raise RpcError("no connection")
        if not bundles and head == "hangs":
            over.wait(60)
        heard.append(bundles)

    async def end() -> None:
        fleet = SimpleNamespace(
            slots=SimpleNamespace(num_failing=0), workers={}, serving=[], queue_depth=0, busy_s=0.0
        )
        config = parse_config({"model": "m", "rollout": {"num_cpus": 2}, "verifier": {"num_cpus": 0.5}})
        run = elastic.Elastic(
            config, fleet, fleet, waited_s=lambda: 0.0, note=notes.append, on_decision=lambda _: None
        ).run()
        task = asyncio.create_task(run)
        while not heard:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        over.set()

    monkeypatch.setattr(elastic, "request_nodes", request_nodes)
    monkeypatch.setattr(elastic, "draining_nodes", dict)
    monkeypatch.setattr(elastic, "LAST_REQUEST_TIMEOUT_S", 0.1 if head == "hangs" else 60.0)
    asyncio.run(end())
    assert heard[0] == [{"CPU": 2.0}, {"CPU": 0.5}, {"CPU": 1.0}]
    assert heard[1:] == ([] if head == "is away" else [[]])
    assert len(notes) == (head != "answers") and all("did not hear" in note for note in notes)


@pytest.mark.parametrize(
    ("meanwhile", "num_slots"),
    [
        ("nothing", 2),
        ("there is no room", 1),
        ("it answers", 1),
        ("it is asked to leave", 0),
        ("nobody wants one", 1),
    ],
)
def test_a_silent_worker_is_given_one_stand_in_where_there_is_room_and_it_still_needs_one(
    meanwhile, num_slots, monkeypatch
):
    notes: list[str] = []
    num_looks = threading.Semaphore(0)

    async def follow() -> None:
        slots_there: list[Slot] = []

        async def tend(slot: Slot) -> None:
            slots_there.append(slot)
            await slot.unless_leaving(asyncio.sleep(3600))
            slots_there.remove(slot)

        fleet = SimpleNamespace(slots=Slots(tend, leave_within_s=None), workers={}, serving=[])
        nobody = SimpleNamespace(slots=SimpleNamespace(num_failing=0), workers={}, queue_depth=0)
        loop = asyncio.get_running_loop()
        fleet.slots.start(1)
        await asyncio.sleep(0)
        worker = WorkerHandle(name="rollout-0", actor=None, slot=slots_there[0])
        fleet.workers["rollout-0"] = worker
        worker.silent.set()

        def has_room(needed: Any, *, without: Any) -> bool:
            assert needed == {"CPU": 1.0} and set(without) == {"a draining node"}
            if meanwhile == "it answers":
                loop.call_soon_threadsafe(worker.silent.clear)
            if meanwhile == "it is asked to leave":
                loop.call_soon_threadsafe(fleet.slots.resize, 0)
            return meanwhile != "there is no room"

        def draining_nodes() -> dict[str, float | None]:
            num_looks.release()
            return {"a draining node": None}

        monkeypatch.setattr(elastic, "has_room", has_room)
        monkeypatch.setattr(elastic, "draining_nodes", draining_nodes)
        monkeypatch.setattr(elastic, "request_nodes", lambda bundles: None)
        monkeypatch.setattr(elastic, "LOOK_S", 0.01)
        run = elastic.Elastic(
            parse_config({"model": "m", "train": {"stand_ins": meanwhile != "nobody wants one"}}), fleet, nobody,
            waited_s=lambda: 0.0, note=notes.append, on_decision=lambda _: None,
        ).run()  # fmt: skip
        task = asyncio.create_task(run)
        for _ in range(5):  # it is looked at again and again
            assert await asyncio.to_thread(num_looks.acquire, timeout=20)
        assert not task.done()
        assert len(slots_there) == num_slots
        assert fleet.slots.size == min(num_slots, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await fleet.slots.stop()

    asyncio.run(follow())
    assert notes == (
        ["another rollout worker starts, while rollout-0 does not answer"] if meanwhile == "nothing" else []
    )
