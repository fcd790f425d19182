"""The Ray shells of engine, verifier and learner: what tests of whole runs cannot see from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from actors.arrow_forms import judgements_to_batch, samples_from_batch, samples_to_batch, scored_to_batch
from actors.environment import engine_environment
from actors.types import GroupFacts, Lease, Piece, SampleGroup, joined
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
from verifiers.worker import Candidates, VerifierWorker

PROMPT = (15, 13, 17, 12, 3, 34, 2)


def lease(group: int, prompt: tuple[int, ...] = PROMPT) -> Lease:
    piece = Piece(group, 0, ENGINE.samples_per_prompt)
    return Lease(piece=piece, problem_id=f"p{group}", prompt_token_ids=prompt, seed=8 * group)


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
        (about, facts), batch = ray.get(list(worker.collect.remote(0.5)), timeout=timeout_s)
        finished = samples_from_batch(batch)
        assert about == [GroupFacts.of(group) for group in finished]
        groups += finished
    return groups, facts


def test_a_rollout_worker_returns_each_leased_group_once(rollout):
    leases = [lease(group) for group in range(3)]
    ray.get(rollout.submit.remote(leases), timeout=30)
    groups, facts = collect(rollout, 3)
    assert sorted(group.group for group in groups) == [0, 1, 2]
    for group in groups:
        assert set(group.workers) == {"rollout-7"} and group.problem_id == f"p{group.group}"
        assert group.seed == 8 * group.group and tuple(group.prompt_token_ids) == PROMPT
        assert group.num_samples == ENGINE.samples_per_prompt
        assert set(group.versions) == {facts.version}
    assert facts.groups_in_flight == facts.num_unfinished == 0
    assert facts.num_leased == facts.num_sequences
    assert facts.capacity > 0


def test_texts_are_the_decoded_tokens_without_the_stop_token(rollout, tiny_model):
    from learner.sft import VOCABULARY

    ray.get(rollout.submit.remote([lease(10)]), timeout=30)
    ((group,), _) = collect(rollout, 1)
    for start, end, text in zip(group.offsets[:-1], group.offsets[1:], group.texts, strict=True):
        words = [VOCABULARY[token] for token in group.token_ids[start:end]]
        assert text.split() == [word for word in words if word not in ("<eos>", "<pad>")]


def test_a_lease_in_flight_is_not_started_twice(rollout):
    _, before = ray.get(rollout.collect.remote(0.0)[0], timeout=30)
    ray.get([rollout.submit.remote([lease(20)]), rollout.submit.remote([lease(20), lease(21)])], timeout=30)
    groups, after = collect(rollout, 2)
    late, facts = ray.get(rollout.collect.remote(0.5)[0], timeout=30)
    assert sorted(group.group for group in groups) == [20, 21] and late == []
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


def test_pieces_of_a_group_are_leased_and_returned_each_for_itself(rollout):
    whole = lease(35)
    ray.get(rollout.submit.remote([whole]), timeout=30)
    (group,), _ = collect(rollout, 1)
    parts = [replace(whole, piece=whole.piece._replace(start=a, stop=b)) for a, b in ((3, 8), (0, 3))]
    ray.get(rollout.submit.remote(parts), timeout=30)
    seen: dict[Piece, SampleGroup] = {}
    while len(seen) < 2:
        (about, _), batch = ray.get(list(rollout.collect.remote(0.5)), timeout=30)
        seen |= {facts.piece: piece for facts, piece in zip(about, samples_from_batch(batch), strict=True)}
    assert seen.keys() == {Piece(35, 0, 3), Piece(35, 3, 8)}
    again = joined([seen[piece] for piece in sorted(seen)])
    assert again.seed == group.seed and again.texts == group.texts and again.workers == group.workers
    for name in ("offsets", "token_ids", "logprobs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(group, name))


@pytest.mark.parametrize("wait_s", [0.0, 0.4])
def test_an_idle_workers_collect_comes_back_empty_in_time(rollout, wait_s):
    started = time.monotonic()
    (groups, facts), batch = ray.get(list(rollout.collect.remote(wait_s)), timeout=30)
    assert groups == [] and batch.num_rows == 0 and facts.groups_in_flight == 0
    assert wait_s <= time.monotonic() - started < wait_s + 0.4


def test_a_waiting_collect_returns_as_soon_as_a_group_is_there(rollout):
    waiting, _ = rollout.collect.remote(20.0)
    started = time.monotonic()
    ray.get(rollout.submit.remote([lease(40)]), timeout=30)
    groups, _ = ray.get(waiting, timeout=30)
    assert len(groups) == 1 and time.monotonic() - started < 10


def test_a_prompt_that_does_not_fit_is_named_to_the_caller(rollout):
    ray.get(rollout.submit.remote([lease(50, prompt=(10,) * ENGINE.max_model_len)]), timeout=30)
    with pytest.raises(ValueError, match=r"vLLM refuses problem 'p50' \(group 50\)"):
        collect(rollout, 1)


def test_groups_go_to_the_learner_and_to_its_file_and_weights_to_the_engine_through_the_object_store(
    rollout, learner, tmp_path
):
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
    # Rows of two batches, in any order.
    batches = [samples_to_batch([groups[place].samples for place in places]) for places in ((3, 0), (1, 2))]
    judged = [groups[place] for place in (0, 2, 3, 1)]
    of_judged = [group.samples.group for group in judged]
    places = [[(0, 1)], [(1, 1)], [(0, 0)], [(1, 0)]]
    ray.get(learner.fetch.remote(judgements_to_batch(judged, of_judged, places), *batches), timeout=60)
    numbers = [group.samples.group for group in groups]
    stepped, *buckets = learner.train_step.options(num_returns=num_returns).remote(numbers)
    result = ray.get(stepped, timeout=60)
    path = tmp_path / "step.parquet"
    ray.get(learner.write_trajectories.remote(str(path)), timeout=30)
    in_order = sorted(groups, key=lambda group: group.samples.group)
    assert pq.read_table(path).equals(
        pa.Table.from_batches([scored_to_batch(in_order)])
        .append_column("weights", pa.array(result.weights_BN.tolist(), pa.list_(pa.float64())))
        .append_column("step", pa.array([1] * 4, pa.int64()))
    )
    assert result.version == 1 and result.parity_by_worker["rollout-7"].largest < 1e-4
    assert result.groups_B.tolist() == [60, 61, 62, 63]
    assert result.fingerprint != weights["fingerprint"]
    update = rollout.update_weights.remote(version + 1, facts.manifest, *buckets)
    confirmed = ray.get(update, timeout=30)
    assert (confirmed["version"], confirmed["fingerprint"]) == (version + 1, result.fingerprint)
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


def texts_alone(*groups: list[str]) -> pa.RecordBatch:
    """All that a verifier worker reads of a batch."""
    return pa.record_batch({"texts": pa.array(groups, pa.list_(pa.string()))})


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
    items = [
        Candidates(group=5, problem=problem, places=((1, 1), (0, 0))),  # a divided group
        Candidates(group=9, problem=problem, places=((0, 0),), demonstration=completion),
    ]
    batches = [texts_alone(["1"]), texts_alone(["never read"], ["1 +", completion, ""])]
    judged = ray.get(worker.judge.remote(items, *batches), timeout=30)
    assert [verdict.reward for verdict in judged["verdicts"][5]] == [0.0, 1.0, 0.0, 0.0]
    assert [verdict.reward for verdict in judged["verdicts"][9]] == [0.0, 1.0]
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
    items = [Candidates(group=1 + row, problem=problem, places=((0, row),)) for row in range(2)]
    judging = worker.judge.remote(items, texts_alone(["2"], ["0", "0.1"]))
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
