"""The Ray shells of engine, verifier and learner: what tests of whole runs cannot see from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.environment import engine_environment
from actors.types import Lease, SampleGroup, samples_from_batch, scored_to_batch
from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import views
from actors.worker import RolloutFacts, RolloutWorker
from learner.config import LearnerConfig
from learner.objectives.config import ObjectiveConfig
from learner.worker import LearnerWorker
from tests.shared.engine import ENGINE
from tests.shared.tiny_model import score
from verifiers.config import VerifierConfig
from verifiers.countdown.puzzles import demonstrations
from verifiers.types import Problem
from verifiers.worker import VerifierWorker

PROMPT = (15, 13, 17, 12, 3, 34, 2)


def lease(group: int, prompt: tuple[int, ...] = PROMPT) -> Lease:
    return Lease(group=group, problem_id=f"p{group}", prompt_token_ids=prompt, seed=8 * group)


@pytest.fixture(scope="module")
def rollout(ray_cluster: str, tiny_model: Path) -> Iterator[Any]:
    worker = RolloutWorker.options(runtime_env={"env_vars": engine_environment(ENGINE)}).remote(
        "rollout-7", str(tiny_model), ENGINE
    )
    ray.get(worker.ready.remote(), timeout=120)
    yield worker
    ray.kill(worker)


@pytest.fixture(scope="module")
def learner(ray_cluster: str, tiny_model: Path) -> Iterator[Any]:
    worker = LearnerWorker.remote(str(tiny_model), LearnerConfig(warmup_steps=0), OBJECTIVE, 0.7, 0)
    yield worker
    ray.kill(worker)


OBJECTIVE = ObjectiveConfig(num_select=4)


def collect(worker: Any, num_groups: int, timeout_s: float = 30.0) -> tuple[list[SampleGroup], RolloutFacts]:
    """Poll until `num_groups` have come."""
    groups: list[SampleGroup] = []
    deadline = time.monotonic() + timeout_s
    while len(groups) < num_groups:
        assert time.monotonic() < deadline
        batch, facts = ray.get(worker.collect.remote(0.5), timeout=timeout_s)
        groups += samples_from_batch(batch)
    return groups, facts


def test_a_rollout_worker_returns_each_leased_group_once(rollout):
    leases = [lease(group) for group in range(3)]
    ray.get(rollout.submit.remote(leases), timeout=30)
    groups, facts = collect(rollout, 3)
    assert sorted(group.group for group in groups) == [0, 1, 2]
    for group in groups:
        assert group.worker == "rollout-7" and group.problem_id == f"p{group.group}"
        assert group.seed == 8 * group.group and tuple(group.prompt_token_ids) == PROMPT
        assert group.num_samples == ENGINE.samples_per_prompt
        assert set(group.versions) == {facts.version}
    assert facts.groups_in_flight == facts.num_unfinished == 0
    assert facts.num_leased == facts.num_sequences / groups[0].num_samples
    assert facts.capacity > 0


def test_texts_are_the_decoded_tokens_without_the_stop_token(rollout, tiny_model):
    from learner.sft import VOCABULARY

    ray.get(rollout.submit.remote([lease(10)]), timeout=30)
    ((group,), _) = collect(rollout, 1)
    for start, end, text in zip(group.offsets[:-1], group.offsets[1:], group.texts, strict=True):
        words = [VOCABULARY[token] for token in group.token_ids[start:end]]
        assert text.split() == [word for word in words if word not in ("<eos>", "<pad>")]


def test_a_lease_in_flight_is_not_started_twice(rollout):
    before = ray.get(rollout.collect.remote(0.0), timeout=30)[1]
    ray.get([rollout.submit.remote([lease(20)]), rollout.submit.remote([lease(20), lease(21)])], timeout=30)
    groups, after = collect(rollout, 2)
    late, facts = ray.get(rollout.collect.remote(0.5), timeout=30)
    assert sorted(group.group for group in groups) == [20, 21] and late.num_rows == 0
    assert after.num_sequences - before.num_sequences == 2 * ENGINE.samples_per_prompt
    assert facts.num_tokens - before.num_tokens == sum(len(group.token_ids) for group in groups)


def test_a_group_can_be_leased_again_after_it_was_collected(rollout):
    """As when its verdict failed; the samples are the same."""
    groups = []
    for _ in range(2):
        ray.get(rollout.submit.remote([lease(30)]), timeout=30)
        groups += collect(rollout, 1)[0]
    np.testing.assert_array_equal(groups[0].token_ids, groups[1].token_ids)
    np.testing.assert_array_equal(groups[0].logprobs, groups[1].logprobs)


@pytest.mark.parametrize("wait_s", [0.0, 0.4])
def test_an_idle_workers_collect_comes_back_empty_in_time(rollout, wait_s):
    started = time.monotonic()
    batch, facts = ray.get(rollout.collect.remote(wait_s), timeout=30)
    assert batch.num_rows == 0 and facts.groups_in_flight == 0
    assert wait_s <= time.monotonic() - started < wait_s + 0.4


def test_a_waiting_collect_returns_as_soon_as_a_group_is_there(rollout):
    waiting = rollout.collect.remote(20.0)
    started = time.monotonic()
    ray.get(rollout.submit.remote([lease(40)]), timeout=30)
    batch, _ = ray.get(waiting, timeout=30)
    assert batch.num_rows == 1 and time.monotonic() - started < 10


def test_a_prompt_that_does_not_fit_is_named_to_the_caller(rollout):
    ray.get(rollout.submit.remote([lease(50, prompt=(10,) * ENGINE.max_model_len)]), timeout=30)
    with pytest.raises(ValueError, match=r"vLLM refuses problem 'p50' \(group 50\)"):
        collect(rollout, 1)


def test_weights_go_from_learner_to_engine_through_the_object_store(rollout, learner):
    facts = ray.get(learner.ready.remote(), timeout=60)
    num_returns = 1 + len(facts.manifest.bucket_sizes)
    published, *buckets = learner.publish.options(num_returns=num_returns).remote()
    weights = ray.get(published, timeout=30)
    assert weights["fingerprint"] == param_fingerprint(views(facts.manifest, ray.get(buckets, timeout=30)))
    assert ray.get(rollout.ready.remote(), timeout=30)["fingerprint"] == weights["fingerprint"]

    ray.get(rollout.submit.remote([lease(60 + number) for number in range(4)]), timeout=30)
    groups = [
        score(group, np.linspace(0, 1, group.num_samples)[:: 1 - 2 * (group.group % 2)])
        for group in collect(rollout, 4)[0]
    ]
    version = groups[0].samples.oldest_version
    stepped, *buckets = learner.train_step.options(num_returns=num_returns).remote(scored_to_batch(groups))
    result = ray.get(stepped, timeout=60)
    assert result.version == 1 and result.parity_by_worker["rollout-7"].largest < 1e-4
    assert result.groups_B.tolist() == [60, 61, 62, 63]
    assert result.fingerprint != weights["fingerprint"]
    update = rollout.update_weights.remote(version + 1, facts.manifest, *buckets)
    assert ray.get(update, timeout=30) == {"version": version + 1, "fingerprint": result.fingerprint}
    ray.get(rollout.submit.remote([lease(70)]), timeout=30)
    ((group,), _) = collect(rollout, 1)
    assert set(group.versions) == {version + 1}


@pytest.mark.slow
def test_a_learner_becomes_the_one_that_wrote_the_checkpoint(learner, tiny_model, tmp_path):
    ray.get(learner.save.remote(str(tmp_path)), timeout=60)
    other = LearnerWorker.remote(str(tiny_model), LearnerConfig(warmup_steps=0), OBJECTIVE, 0.7, 1)
    version = ray.get(other.load.remote(str(tmp_path)), timeout=60)
    published = [worker.publish.options(num_returns=2).remote()[0] for worker in (learner, other)]
    ours, theirs = ray.get(published, timeout=30)
    assert ours == theirs and version == ours["version"]
    ray.kill(other)


def test_a_verifier_worker_judges_groups_in_the_order_of_their_completions(ray_cluster):
    worker = VerifierWorker.remote(VerifierConfig(reward="countdown"))
    prompt, completion = next(iter(demonstrations(1, 0, 0.0)))
    numbers, target = prompt.split(" = ")[0], prompt.split(" = ")[1].split()[0]
    problem = Problem(
        id="p",
        prompt=prompt,
        truth={"numbers": [int(number) for number in numbers.split()], "target": int(target)},
    )
    ray.get(worker.ready.remote(), timeout=60)
    items = [(5, problem, ["1 +", completion, ""]), (9, problem, [completion])]
    judged = ray.get(worker.judge.remote(items), timeout=30)
    assert [verdict.reward for verdict in judged["verdicts"][5]] == [0.0, 1.0, 0.0]
    assert [verdict.reward for verdict in judged["verdicts"][9]] == [1.0]
    assert judged["errors"] == {} and judged["num_restarts"] == 0
    assert judged["pid"] == ray.get(worker.place.remote(), timeout=30)["pid"]
    ray.kill(worker)


def test_a_verifier_worker_answers_while_it_judges_and_says_why_a_verdict_is_missing(
    ray_cluster, user_modules
):
    (user_modules / "worker_verifiers.py").write_text(
        "import time\n"
        "def judge(problem, completion):\n"
        "    time.sleep(float(completion))\n"
        "    return 1 / float(completion)\n"
    )
    worker = VerifierWorker.options(max_concurrency=2).remote(
        VerifierConfig(reward="worker_verifiers:judge", timeout_s=10)
    )
    problem = Problem(id="p", prompt="")
    ray.get(worker.ready.remote(), timeout=30)
    judging = worker.judge.remote([(1, problem, ["2"]), (2, problem, ["0", "0.1"])])
    started = time.monotonic()
    ray.get(worker.place.remote(), timeout=30)
    assert time.monotonic() - started < 1
    judged = ray.get(judging, timeout=30)
    assert judged["num_restarts"] == 0
    assert judged["verdicts"][1][0].reward == 0.5
    crashed, fine = judged["verdicts"][2]
    assert crashed.status == "crashed" and math.isnan(crashed.reward)
    assert fine.reward == 10.0
    assert "ZeroDivisionError" in judged["errors"][2] and set(judged["errors"]) == {2}
    ray.kill(worker)
