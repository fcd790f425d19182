"""What is on disk is whole or absent, and says what was trained."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.arrow_forms import scored_from_batch
from cluster.leasing.ledger import Ledger
from cluster.run_directory.integrity import find_damage
from cluster.run_directory.record import RunRecord, read_state, step_of, write_atomically
from tests.shared.run_directories import record_trajectories
from tests.shared.tiny_model import make_group


@pytest.fixture
def record(tmp_path):
    return RunRecord(tmp_path / "run")


def write_checkpoint(record, step, *, keep=100):
    partial = record.begin_checkpoint(step)
    (partial / "model").mkdir()
    (partial / "model" / "weights").write_text(f"weights of {step}")
    return record.finish_checkpoint(step, {"version": step}, keep=keep)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_checkpoints_that_are_to_be_kept_outlive_newer_ones_until_they_are_not(record):
    record.kept_steps = {1}
    for step in (1, 2, 3, 4):
        write_checkpoint(record, step, keep=2)
    assert names(record.checkpoints_dir) == ["step-000001", "step-000003", "step-000004"]
    record.kept_steps = {3}
    record.drop_old(1)
    assert names(record.checkpoints_dir) == ["step-000003", "step-000004"]


def test_a_link_leads_to_the_best_checkpoint_also_where_the_directory_is_moved(record, tmp_path):
    for step in (1, 2):
        write_checkpoint(record, step)
        record.link_best(step)
    record.run_dir.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "best" / "model" / "weights").read_text() == "weights of 2"
    moved = RunRecord(tmp_path / "moved")
    moved.link_best(None)
    moved.link_best(None)
    assert not (tmp_path / "moved" / "best").is_symlink()


def fail(*_, **__):
    raise OSError("No space left on device")


# Trajectories


def test_a_step_on_disk_is_the_groups_that_were_trained_with_their_weights(record):
    groups = [make_group(number, samples=3, version=number) for number in (4, 7)]
    weights_BN = np.array([[0.1, -0.2, 1 / 3], [0.0, 1e-300, 2.5]])
    record_trajectories(record, 12, groups, weights_BN)
    table = pq.read_table(record.trajectories_dir / "step-000012.parquet")
    assert table["step"].to_pylist() == [12, 12]
    assert table["group"].to_pylist() == [4, 7]
    assert table["weights"].to_pylist() == weights_BN.tolist()
    [batch] = table.drop_columns(["weights", "step"]).to_batches()
    for ours, theirs in zip(groups, scored_from_batch(batch), strict=True):
        for name in ("token_ids", "logprobs", "versions", "offsets", "prompt_token_ids"):
            assert np.array_equal(getattr(ours.samples, name), getattr(theirs.samples, name))
        for name in ("scores", "rewards", "latencies_s"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.statuses == theirs.statuses and ours.samples.texts == theirs.samples.texts


def test_every_trained_token_keeps_its_own_logprob_and_version_in_the_file(record):
    [group] = groups = [make_group(0, samples=2, lengths=(3, 5))]
    record_trajectories(record, 1, groups, np.ones((1, 2)))
    [row] = pq.read_table(record.trajectories_dir / "step-000001.parquet").to_pylist()
    for sample, (start, end) in enumerate(
        zip(group.samples.offsets, group.samples.offsets[1:], strict=False)
    ):
        assert row["token_ids"][sample] == group.samples.token_ids[start:end].tolist()
        assert row["logprobs"][sample] == group.samples.logprobs[start:end].tolist()
        assert row["versions"][sample] == group.samples.versions[start:end].tolist()


def test_a_step_that_could_not_be_written_leaves_the_older_file_and_no_part_of_the_new(record, monkeypatch):
    groups = [make_group(0)]
    record_trajectories(record, 1, groups, np.full((1, 4), 1.0))
    monkeypatch.setattr(os, "replace", fail)  # the disk fills up before the rename
    for step in (1, 2):
        with pytest.raises(OSError):
            record_trajectories(record, step, groups, np.full((1, 4), 2.0))
    assert [name for name in names(record.trajectories_dir) if name.endswith(".parquet")] == [
        "step-000001.parquet"
    ]
    [row] = pq.read_table(record.trajectories_dir / "step-000001.parquet").to_pylist()
    assert row["weights"] == [1.0] * 4


# Checkpoints


def test_a_checkpoint_has_its_name_only_once_it_is_finished(record):
    partial = record.begin_checkpoint(5)
    (partial / "weights").write_text("w")
    assert record.checkpoints() == []
    final = record.finish_checkpoint(5, {"version": 5}, keep=1)
    assert record.checkpoints() == [final] and final.name == "step-000005"
    assert names(record.checkpoints_dir) == ["step-000005"]
    assert names(final) == ["manifest.json", "run_state.json", "weights"]
    assert (final / "weights").read_text() == "w" and read_state(final)["version"] == 5


def test_a_crash_while_a_checkpoint_is_written_leaves_only_those_before_it(record):
    before = write_checkpoint(record, 5)
    (record.begin_checkpoint(10) / "weights").write_text("half of the wei")
    again = RunRecord(record.run_dir)
    assert again.checkpoints() == [before]
    again.rewind(5)
    assert names(again.checkpoints_dir) == ["step-000005"]


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_failure_while_a_checkpoint_is_finished_leaves_only_those_before_it(record, monkeypatch, when):
    before = write_checkpoint(record, 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, when, fail)
        with pytest.raises(OSError):
            write_checkpoint(record, 10, keep=1)
    assert names(record.checkpoints_dir) == ["step-000005"] and read_state(before)["version"] == 5
    assert [path.name for path in [before, write_checkpoint(record, 10)]] == names(record.checkpoints_dir)


def test_what_a_crashed_attempt_left_is_not_part_of_the_next(record):
    (record.begin_checkpoint(5) / "old").write_text("x")
    assert names(record.begin_checkpoint(5)) == []


def test_the_same_step_written_again_replaces_the_checkpoint(record):
    write_checkpoint(record, 5)
    partial = record.begin_checkpoint(5)
    (partial / "other").write_text("x")
    final = record.finish_checkpoint(5, {"version": 5, "time": 2}, keep=2)
    assert names(record.checkpoints_dir) == ["step-000005"]
    assert names(final) == ["manifest.json", "other", "run_state.json"] and read_state(final)["time"] == 2


def test_only_the_newest_checkpoints_are_kept_oldest_first(record):
    for step in (2, 10, 100):
        write_checkpoint(record, step, keep=2)
    assert [path.name for path in record.checkpoints()] == ["step-000010", "step-000100"]
    write_checkpoint(record, 101, keep=1)
    assert names(record.checkpoints_dir) == ["step-000101"]


def test_the_ledger_of_a_checkpoint_restores(record):
    ledger = Ledger(num_problems=3, num_groups=6, seed=1)
    for _ in range(3):
        piece = ledger.lease("a", version=0, now_s=0.0)
        ledger.receive(piece, "a")
        ledger.commit(piece.group)
    ledger.train([0, 2])
    record.begin_checkpoint(1)
    final = record.finish_checkpoint(1, {"ledger": ledger.to_json()}, keep=1)
    assert Ledger.from_json(read_state(final)["ledger"]).to_json() == ledger.to_json()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"version": 5, "led', "Unterminated string"),
        (b"", "Expecting value"),
        (b"\x00\xff\xfe", "codec can't decode"),
        (None, "No such file"),
    ],
)
def test_a_damaged_state_file_is_named_in_one_line(record, content, cause):
    final = write_checkpoint(record, 5)
    file = final / "run_state.json"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_state(final)
    text = str(error.value)
    assert text.startswith(f"checkpoint {final} has no readable run_state.json (") and cause in text
    assert text.endswith("): use an older one") and "\n" not in text


# Resuming


def test_a_rewound_run_has_on_disk_what_it_had_at_that_step(record):
    for step in range(1, 5):
        record.append_metrics({"step": step, "loss": step / 2})
        record_trajectories(record, step, [make_group(step)], np.ones((1, 4)))
        write_checkpoint(record, step)
    for directory, name in ((record.trajectories_dir, "step-000003.partial"), (record.trajectories_dir, "step-000006.partial")):  # fmt: skip
        (directory / name).write_text("half")
    record.begin_checkpoint(6)
    record.rewind(2)
    assert names(record.trajectories_dir) == [f"step-00000{step}.parquet" for step in (1, 2)]
    assert names(record.checkpoints_dir) == [f"step-00000{step}" for step in (1, 2)]
    assert metrics_of(record) == [{"step": step, "loss": step / 2} for step in (1, 2)]
    record.append_metrics({"step": 3})
    assert [line["step"] for line in metrics_of(record)] == [1, 2, 3]


def write_for_ever(record, groups):
    """What a controller writes, step after step, from the newest checkpoint on."""
    step = max((step_of(path) for path in record.checkpoints()), default=0)
    while True:
        step += 1
        record.append_metrics({"step": step})
        record_trajectories(record, step, groups, np.ones((1, 4)))
        if step % 2 == 0:
            write_checkpoint(record, step, keep=2)


def test_a_run_killed_at_any_moment_has_whole_checkpoints_and_all_that_led_to_them(record):
    random_source = random.Random(0)
    groups, reached = [make_group(0)], []
    for _ in range(40):
        child = os.fork()
        if not child:
            try:
                write_for_ever(record, groups)
            finally:
                os._exit(1)
        time.sleep(random_source.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = record.checkpoints()
        assert [find_damage(path) for path in found] == [None] * len(found)
        step = max((read_state(path)["version"] for path in found), default=0)
        record.rewind(step)
        assert names(record.trajectories_dir) == [
            f"step-{number:06d}.parquet" for number in range(1, step + 1)
        ]
        assert names(record.checkpoints_dir) == [path.name for path in found]
        assert [line["step"] for line in metrics_of(record)] == list(range(1, step + 1))
        reached.append(step)
    assert reached == sorted(reached) and reached[-1] > 2, reached


def test_files_of_others_beside_the_trajectories_are_left_alone(record):
    """NFS leaves .nfs... where a reader still has what was removed."""
    for step in (1, 2, 3):
        record_trajectories(record, step, [make_group(step)], np.ones((1, 4)))
    others = (".nfs000000001", ".DS_Store", "notes.txt", "step-000003-copy.parquet")
    for name in others:
        (record.trajectories_dir / name).touch()
    (record.trajectories_dir / ".ipynb_checkpoints").mkdir()
    assert record.newest_step() == 3
    record.rewind(2)
    assert record.newest_step() == 2
    assert all((record.trajectories_dir / name).exists() for name in others)


def test_a_checkpoint_does_not_miss_trajectories_that_were_moved_away(record):
    record_trajectories(record, 1, [make_group(1)], np.ones((1, 4)))
    (record.trajectories_dir / "step-000001.parquet").unlink()
    write_checkpoint(record, 1)
    assert names(record.checkpoints_dir) == ["step-000001"]


def test_a_metrics_line_torn_by_a_crash_goes_and_the_next_starts_afresh(record):
    record.append_metrics({"step": 1})
    with (record.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    record.rewind(2)
    record.append_metrics({"step": 2})
    assert metrics_of(record) == [{"step": 1}, {"step": 2}]


def test_a_run_without_a_line_of_metrics_rewinds_too(record):
    record.rewind(0)
    assert names(record.run_dir) == ["checkpoints", "trajectories"]


def metrics_of(record):
    metrics = record.run_dir / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def test_a_small_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["run.json"]
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError):
        write_atomically(path, "newer")
    assert path.read_text() == "new"


def test_a_number_json_cannot_hold_is_null_in_the_metrics(tmp_path):
    record = RunRecord(tmp_path)
    record.append_metrics({"step": 1, "score": float("-inf"), "bon": float("nan"), "reward": 0.5})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 1, "score": null, "bon": null, "reward": 0.5}\n'
