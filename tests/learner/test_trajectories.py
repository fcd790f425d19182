"""What a step was trained on is written by the learner, from the groups that it has passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.arrow_forms import scored_to_batch
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from learner.trajectories import write_trajectories
from tests.shared.tiny_model import demonstrate, make_group, model_path


def test_the_file_of_a_step_has_its_groups_in_order_whichever_part_they_were_in(tmp_path: Path) -> None:
    groups = [make_group(number) for number in range(5)]
    learner = Learner(model_path(), LearnerConfig(), ObjectiveConfig(num_select=2), 1.0, seed=0)
    learner.begin_step([groups[3], groups[1]], num_groups=4)
    step = learner.train_step([groups[2], groups[0]])
    learner.begin_step([groups[4]], num_groups=4)  # of the next step
    learner.write_trajectories(tmp_path / "step.parquet")
    expected = (
        pa.Table.from_batches([scored_to_batch(groups[:4])])
        .append_column("weights", pa.array(step.weights_BN.tolist(), pa.list_(pa.float64())))
        .append_column("step", pa.array([1] * 4, pa.int64()))
    )
    table = pq.read_table(tmp_path / "step.parquet")
    assert table.equals(expected) and np.abs(step.weights_BN).max() > 0


def test_the_columns_of_the_file_are_those_that_others_read(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "file", 7, [demonstrate(make_group(0))], np.ones((1, 4)))
    found = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "file")}
    assert {name: kind.replace("element", "item") for name, kind in found.items()} == {
        "group": "int64",
        "problem_id": "string",
        "workers": "list<item: string>",
        "seed": "int64",
        "prompt_token_ids": "list<item: int32>",
        "token_ids": "list<item: list<item: int32>>",
        "logprobs": "list<item: list<item: float>>",
        "versions": "list<item: list<item: int32>>",
        "texts": "list<item: string>",
        "finish_reasons": "list<item: string>",
        "scores": "list<item: double>",
        "rewards": "list<item: double>",
        "statuses": "list<item: string>",
        "answers": "list<item: string>",
        "latencies_s": "list<item: float>",
        "demonstration_token_ids": "list<item: int32>",
        "demonstration_score": "double",
        "weights": "list<item: double>",
        "step": "int64",
    }


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    learner = Learner(model_path(), LearnerConfig(), ObjectiveConfig(num_select=2), 1.0, seed=0)
    learner.train_step([make_group(0)])
    with pytest.raises(OSError):
        learner.write_trajectories(tmp_path / "nowhere" / "step.parquet")
    learner.write_trajectories(tmp_path / "step.parquet")
    assert pq.read_table(tmp_path / "step.parquet")["group"].to_pylist() == [0]
