"""The learner's gang as the controller sees it, with real Ray actors that are really killed and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import ray
from ray.util import placement_group_table, remove_placement_group

from actors.types import ScoredGroup
from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import WeightManifest, views
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt, WorkerLost
from cluster.fleet.learning import LearnerHandle
from cluster.fleet.ranks import Ranks
from cluster.fleet.stored import SamplesLost
from learner.types import StepResult
from learner.worker import LearnerFacts, LearnerWorker
from tests.shared.stored_groups import in_store, lost_from_store
from tests.shared.tiny_model import make_group, model_path

pytestmark = pytest.mark.usefixtures("ray_cluster")
RUN_DIR = Path(tempfile.gettempdir())


def make_config(ranks: int = 2, *, step_timeout_s: float = 60.0, **learner: float) -> RunConfig:
    return parse_config(
        {
            "model": model_path(),
            "problems": {"num_train": 4},
            "verifier": {"reward": "countdown"},
            "rollout": {"samples_per_prompt": 4, "max_tokens": 8, "max_model_len": 64},
            "objective": {"num_select": 2},
            "learner": {"ranks": ranks, **learner},
            "train": {"step_timeout_s": step_timeout_s},
        }
    )


def is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@asynccontextmanager
async def started(config: RunConfig) -> AsyncIterator[tuple[LearnerHandle, Published]]:
    """A learner that is up; afterwards none of its processes and no reservation is left."""
    handle = LearnerHandle(config)
    try:
        yield handle, await handle.start(None, RUN_DIR)
    finally:
        await stopped(handle)


async def stopped(handle: LearnerHandle) -> None:
    handle.stop()
    deadline = time.monotonic() + 20
    while not all(is_dead(facts.pid) for facts in handle.ranks):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


@pytest.fixture(scope="module")
def gang() -> Iterator[LearnerHandle]:
    """Of two ranks, which the last test that takes it kills."""
    handle = LearnerHandle(make_config(2))
    asyncio.run(handle.start(None, RUN_DIR))
    yield handle
    asyncio.run(stopped(handle))


async def train(handle: LearnerHandle, groups: list[ScoredGroup]) -> tuple[StepResult, Published]:
    await handle.fetch(in_store(groups))
    return await handle.train_step([group.samples.group for group in groups])


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


@pytest.mark.slow
def test_a_gang_trains_publishes_resumes_and_refuses_like_one_process(tmp_path: Path) -> None:
    groups = [make_group(number) for number in range(3)]

    async def test() -> None:
        async with started(make_config(2)) as (two, first):
            assert len({facts.pid for facts in two.ranks}) == 2
            weights = dict(views(first.manifest, ray.get(first.buckets)))
            assert first.version == 0 and param_fingerprint(weights) == first.fingerprint
            step, second = await train(two, groups)
            assert step.version == second.version == 1 and step.fingerprint == second.fingerprint
            weights = dict(views(second.manifest, ray.get(second.buckets)))
            assert param_fingerprint(weights) == second.fingerprint != first.fingerprint
            await two.save(tmp_path)
            with pytest.raises(
                WorkerLost, match=r"learner rank \d failed while training a step: .*of one size"
            ):
                await train(two, [make_group(0), make_group(1, samples=3)])
        one = LearnerHandle(make_config(1))
        resumed = await one.start(tmp_path, RUN_DIR)
        assert (resumed.version, resumed.fingerprint) == (1, second.fingerprint)
        one.stop()

    run(test)


def test_samples_that_are_lost_before_a_rank_has_them_leave_no_trace_in_the_step(
    gang, tmp_path: Path
) -> None:
    groups = [make_group(number) for number in range(6)]

    async def stepped(handle: LearnerHandle, *, with_loss: bool) -> tuple[int, list[int]]:
        await handle.fetch(in_store(groups[:2]))
        await handle.begin_step([0, 1], num_groups=4)
        if with_loss:
            lost, there = lost_from_store(groups[2:4]), in_store(groups[4:])
            with pytest.raises(SamplesLost) as error:
                await handle.fetch([*there, *lost])
            assert all(group.stored.is_in(error.value.object_id) for group in lost)
        await handle.fetch(in_store(groups[4:]))
        step, _ = await handle.train_step([4, 5])
        return step.fingerprint, step.groups_B.tolist()

    async def test() -> None:
        await gang.save(tmp_path)
        seen = await stepped(gang, with_loss=True)
        ray.get([actor.load.remote(str(tmp_path)) for actor in gang._actors])
        assert seen == await stepped(gang, with_loss=False)
        assert seen[1] == [0, 1, 4, 5]

    run(test)


def test_a_rank_that_dies_in_a_step_is_named_and_the_others_are_ended(gang) -> None:
    async def test() -> None:
        await gang.fetch(in_store([make_group(0), make_group(1)]))
        os.kill(gang.ranks[1].pid, signal.SIGSTOP)  # rank 0 gets into the step and waits
        training = asyncio.create_task(gang.train_step([0, 1]))
        await asyncio.sleep(1.0)
        assert not training.done()
        os.kill(gang.ranks[1].pid, signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(WorkerLost, match=r"^learner rank 1 was lost while training a step: ActorDied"):
            await training
        assert time.monotonic() - killed < 15
        async with asyncio.timeout(20):
            while not is_dead(gang.ranks[0].pid):
                await asyncio.sleep(0.05)
        await stopped(gang)

    run(test)


@pytest.mark.slow
def test_a_learner_that_dies_while_it_waits_for_a_batch_is_missed_at_once() -> None:
    async def test() -> None:
        async with started(make_config(1)) as (handle, _):
            batch = asyncio.Event()
            asyncio.get_running_loop().call_later(2.5, batch.set)
            await handle.wait(batch)

            async def groups() -> None:
                while True:
                    group = asyncio.Event()
                    asyncio.get_running_loop().call_later(0.3, group.set)
                    await handle.wait(group)

            os.kill(handle.ranks[0].pid, signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises(WorkerLost, match="^learner was lost while waiting for a batch: ActorDied"):
                await asyncio.wait_for(groups(), 30)  # though groups come all the time
            assert time.monotonic() - killed < 15

    run(test)


@pytest.mark.slow
def test_a_rank_that_hangs_is_told_from_those_that_wait_for_it() -> None:
    async def test() -> None:
        async with started(make_config(2, step_timeout_s=8.0)) as (handle, _):
            await handle.fetch(in_store([make_group(0), make_group(1)]))
            os.kill(handle.ranks[1].pid, signal.SIGSTOP)
            with pytest.raises(WorkerLost, match=r"^learner rank 1 did not answer within 8 s while training"):
                await handle.train_step([0, 1])

    run(test)


def test_a_gang_for_which_there_is_no_room_ends_the_run_in_one_line() -> None:
    async def test() -> None:
        with pytest.raises(Halt, match=r"no room for learner.ranks = 3 of 9 CPU each within 1 s: add nodes"):
            await LearnerHandle(make_config(3, num_cpus=9, startup_timeout_s=1)).start(None, RUN_DIR)

    run(test)


def test_a_learner_that_does_not_see_the_run_directory_ends_the_run_at_its_start(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of_each_process = Path("/proc/self/cwd")

    async def test() -> None:
        handle = LearnerHandle(make_config(1))
        with pytest.raises(
            Halt, match=r"^learner, on the node \S+, does not see the directory /proc/self/cwd"
        ):
            await handle.start(None, of_each_process)
        handle.stop()

    run(test)
    assert not list(tmp_path.iterdir())


def test_room_that_a_killed_controller_had_reserved_is_free_for_the_next() -> None:
    async def test() -> None:
        config = make_config(2, num_cpus=5, startup_timeout_s=30)  # of 16
        earlier, later = (Ranks(LearnerWorker, config.learner, step_timeout_s=60) for _ in range(2))
        await earlier._reserve()  # and nobody gives it back
        placement = await later._reserve()
        remove_placement_group(placement)

    run(test)


def test_a_model_whose_sequences_cannot_share_a_row_is_told_of() -> None:
    handle = LearnerHandle(make_config(1))
    for packing, told in (("shared", False), ("packed", False), ("rows", True)):
        handle.ranks = [
            LearnerFacts(
                pid=1,
                node_id="",
                manifest=WeightManifest(entries=(), bucket_sizes=()),
                packing=packing,
            )
        ]
        assert bool(handle.note) == told
    assert (
        handle.note and "every sequence has a row of its own" in handle.note and model_path() in handle.note
    )
