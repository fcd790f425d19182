"""Evaluations on disk: what a resumed run keeps of them, and what it makes again."""

from __future__ import annotations

import json

from cluster.run_directory.held_out import HeldOutRecord, read_held_out
from tests.shared.judgements import judged


def row(step, ended_step=None):
    return {
        "step": step,
        "ended_step": step if ended_step is None else ended_step,
        "estimates": {"pass@1": {"mean": step / 100, "low": 0.0, "high": 1.0}},
        "differences": {},
    }


def write(run_dir, *rows):
    record = HeldOutRecord(run_dir, step=0)
    for one in rows:
        record.add(one, {3: ("p3", judged([1.0, 0.0], [0.5, float("-inf")], ["a", None]))})
    return record


def test_what_is_written_is_read_back_and_by_problem(tmp_path):
    record = write(tmp_path, row(0), row(25))
    assert read_held_out(tmp_path) == [row(0), row(25)] == record.rows
    [(index, (problem_id, judgement))] = record.judgements(25).items()
    assert (index, problem_id) == (3, "p3") and judgement.answers == ("a", None)
    assert judgement.rewards.tolist() == [1.0, 0.0] and judgement.scores.tolist() == [0.5, float("-inf")]
    assert record.judgements(7) == {}


def test_a_resumed_run_makes_again_the_evaluation_of_its_step_and_those_that_were_not_over(tmp_path):
    write(tmp_path, row(0), row(25, 26), row(50, 52), row(75))
    kept = {
        step: [one["step"] for one in HeldOutRecord(copy(tmp_path, step), step=step).rows]
        for step in (0, 25, 26, 50, 51, 52, 75, 76)
    }
    assert kept == {
        0: [], 25: [0], 26: [0, 25], 50: [0, 25], 51: [0, 25], 52: [0, 25, 50], 75: [0, 25, 50], 76: [0, 25, 50, 75],
    }  # fmt: skip
    for step, steps in kept.items():
        directory = tmp_path / f"at-{step}"
        assert [one["step"] for one in read_held_out(directory)] == steps
        files = sorted(path.name for path in (directory / "held_out").iterdir())
        assert files == [f"step-{one:06d}.parquet" for one in steps]


def copy(run_dir, step):
    directory = run_dir / f"at-{step}"
    (directory / "held_out").mkdir(parents=True)
    (directory / "held_out.jsonl").write_bytes((run_dir / "held_out.jsonl").read_bytes())
    for path in (run_dir / "held_out").iterdir():
        (directory / "held_out" / path.name).write_bytes(path.read_bytes())
    return directory


def test_a_damaged_line_is_left_out_and_the_rest_is_read(tmp_path):
    write(tmp_path, row(0))
    text = (tmp_path / "held_out.jsonl").read_text()
    (tmp_path / "held_out.jsonl").write_text(text + '{"step": 5}\n' + json.dumps(row(9)) + '\n{"st')
    assert read_held_out(tmp_path) == [row(0), row(9)]
    assert read_held_out(tmp_path / "none") == []
