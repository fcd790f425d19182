"""The truth of a problem is shown only while it is what the run asked."""

from __future__ import annotations

import json

from cluster.run_directory.problem_list import digest, write_problem_list
from cluster.view.truths import TrainingTruths
from verifiers.types import Problem


def files(tmp_path, *rows):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "problems": {
            "source": "files",
            "train_path": [str(path)],
            "id_field": "id",
            "prompt_field": "question",
        }
    }


def checkpoint(run_dir, *problems):
    place = run_dir / "checkpoints" / "step-000001"
    place.mkdir(parents=True)
    write_problem_list(place, {problem.id: digest(problem, imitated=False) for problem in problems})


ROW = {"id": "a", "question": "1+1?", "answer": "2"}
PROBLEM = Problem(id="a", prompt="1+1?", truth={"answer": "2"})


def test_a_problem_with_the_digest_of_the_checkpoint_is_shown(tmp_path):
    checkpoint(tmp_path, PROBLEM)
    truth = TrainingTruths(tmp_path, files(tmp_path, ROW)).of("a")
    assert (truth.prompt, dict(truth.values), truth.note) == ("1+1?", {"answer": "2"}, "")


def test_a_problem_whose_truth_has_changed_since_is_not_shown(tmp_path):
    checkpoint(tmp_path, PROBLEM)
    truth = TrainingTruths(tmp_path, files(tmp_path, {**ROW, "answer": "3"})).of("a")
    assert truth.values is None and truth.note == "not shown: the problem has changed since the run asked it"


def test_without_a_checkpoint_the_reader_is_told_that_nothing_was_compared(tmp_path):
    truth = TrainingTruths(tmp_path, files(tmp_path, ROW)).of("a")
    assert dict(truth.values) == {"answer": "2"} and "compared with nothing" in truth.note


def test_a_problem_that_is_gone_is_said(tmp_path):
    assert "not among those" in TrainingTruths(tmp_path, files(tmp_path, ROW)).of("b").note


def test_files_that_are_gone_are_named(tmp_path):
    settings = files(tmp_path, ROW)
    (tmp_path / "train.jsonl").unlink()
    note = TrainingTruths(tmp_path, settings).of("a").note
    assert (
        note.startswith("the problems cannot be read where the run's settings say: ")
        and "train.jsonl" in note
    )


def test_the_hub_is_never_asked(tmp_path):
    settings = {
        "problems": {"source": "hub", "dataset": "openai/gsm8k", "train_split": "train", "format": "gsm8k"}
    }
    note = TrainingTruths(tmp_path, settings).of("a").note
    assert (
        note == "not on disk: the problems come from a data set of the hub, and these pages ask no other host"
    )


def test_settings_that_are_none_are_said(tmp_path):
    assert "cannot be read" in TrainingTruths(tmp_path, {"problems": {"source": "odd"}}).of("a").note
