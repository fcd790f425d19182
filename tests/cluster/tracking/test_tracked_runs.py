"""`bonfire train` with trackers, and a run that goes on: one run for each of them."""

from __future__ import annotations

import json

import pytest

from tests.cluster.tracking.test_trackers import events_of, needs_tensorboard, scalars
from tests.shared.runs import finished, make_project

pytestmark = [pytest.mark.slow, needs_tensorboard]


def test_a_run_and_its_resumption_are_one_run_to_the_tracker(tmp_path, tiny_model):
    project = make_project(
        tmp_path / "project",
        tiny_model,
        train={"steps": 4, "checkpoint_every": 2},
        problems={"num_train": 10, "num_test": 4},
        tracking={"to": ["tensorboard"], "examples_every": 2},
        evaluation={"samples_per_problem": 8},
    )
    code, _, err = finished(project, "train", "tiny.toml")
    assert code == 0, err
    code, out, err = finished(project, "train", "--resume", "run", "train.steps=6")
    assert code == 0, err
    run_dir = project / "run"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    events = events_of(run_dir)
    assert scalars(events, "train/reward") == [
        (line["step"], pytest.approx(line["reward"], rel=1e-6)) for line in lines
    ]
    numbers = {name for line in lines for name, value in line.items() if isinstance(value, int | float)}
    shown = {tag.partition("/")[2] for tag in events.Tags()["tensors"]}
    assert numbers - {"step", "version", "time"} <= shown
    assert [event.step for event in events.Tensors("examples")] == [2, 4, 6]
    assert [step for step, _ in scalars(events, "evaluation/trained/pass_at_8")] == [4, 6]
    assert [event.step for event in events.Tensors("report")] == [4, 6]  # the picture
    assert "tracking:" not in out
