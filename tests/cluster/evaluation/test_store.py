"""What lies on disk of an evaluation: parts, finished cells, and what may fill the same directory."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.config.parse import parse_config
from cluster.evaluation.identity import sampling_identity, verdict_identity
from cluster.evaluation.store import Cell, EvalStore, read_problems, read_samples, read_settings, sample_files
from cluster.run_directory.fingerprint import fingerprint
from tests.shared.tiny_model import make_group
from verifiers.types import Problem

CELL = Cell(model="base", temperature=0.7)
PROBLEMS = [Problem(id=f"problem-{i}", prompt=f"prompt {i}", difficulty="easy") for i in range(40)]
IDENTITY = {"evaluation.seed": 1, "verifier.reward": "countdown"}
GROUPS = [make_group(i, samples=2, lengths=(1, 2)) for i in range(40)]


def open_store(path: Path, **changes: object) -> EvalStore:
    return EvalStore(path, {**IDENTITY, **changes}, PROBLEMS)


def test_samples_survive_the_process_part_by_part_and_end_as_one_file(tmp_path):
    order = np.random.default_rng(0).permutation(40)
    with open_store(tmp_path / "out") as store:
        for index in order[:35]:
            store.put(CELL, index, GROUPS[index])
    # The last three were in memory only: as after SIGKILL.
    with open_store(tmp_path / "out") as store:
        missing = store.missing(CELL)
        assert set(missing) == set(order[32:].tolist()) and sample_files(tmp_path / "out") == {}
        for index in missing[:4]:
            store.put(CELL, index, GROUPS[index])
        store.flush()
    with open_store(tmp_path / "out") as store:
        (last, *others) = store.missing(CELL)
        for index in (last, *others):
            store.put(CELL, index, GROUPS[index])
        store.finish(CELL)
        assert store.missing(CELL) == []
    assert [path.name for path in (tmp_path / "out" / "samples").iterdir()] == ["base@0.7.parquet"]
    groups = read_samples(sample_files(tmp_path / "out")[CELL])
    assert [group.samples.group for group in groups] == list(range(40))
    for group, original in zip(groups, GROUPS, strict=True):
        assert group.samples.problem_id == original.samples.problem_id
        np.testing.assert_array_equal(group.samples.logprobs, original.samples.logprobs)
        np.testing.assert_array_equal(group.rewards, original.rewards)


def test_a_kill_between_the_two_steps_of_finishing_is_mended(tmp_path):
    with open_store(tmp_path / "out") as store:
        for index, group in enumerate(GROUPS):
            store.put(CELL, index, group)
        store.flush()
        parts = tmp_path / "out" / "samples" / "base@0.7.parts"
        shutil.copytree(parts, tmp_path / "copy")
        store.finish(CELL)
    shutil.copytree(tmp_path / "copy", parts)
    (parts / "000009.partial").write_bytes(b"half a file")
    with open_store(tmp_path / "out") as store:
        assert store.missing(CELL) == []
        store.finish(CELL)
    assert not parts.exists() and len(read_samples(sample_files(tmp_path / "out")[CELL])) == 40


def test_a_part_that_was_damaged_and_deleted_is_made_anew_beside_the_others(tmp_path):
    with open_store(tmp_path / "out") as store:
        for index in range(35):
            store.put(CELL, index, GROUPS[index])
            if index in (3, 7):
                store.flush()
        store.flush()
    parts = tmp_path / "out" / "samples" / "base@0.7.parts"
    assert sorted(path.stem for path in parts.iterdir()) == ["000000", "000001", "000002"]
    (parts / "000001.parquet").unlink()
    with open_store(tmp_path / "out") as store:
        missing = store.missing(CELL)
        assert missing == [4, 5, 6, 7, 35, 36, 37, 38, 39]
        for index in missing:
            store.put(CELL, index, GROUPS[index])
        store.finish(CELL)
    assert len(read_samples(sample_files(tmp_path / "out")[CELL])) == 40


def test_problems_and_models_are_kept(tmp_path):
    with open_store(tmp_path / "out") as store:
        store.add_model("base", "/models/base", "aa")
        store.add_model("b", "/models/b", "bb")
    assert read_problems(tmp_path / "out") == PROBLEMS
    settings = read_settings(tmp_path / "out")
    assert settings["identity"] == IDENTITY
    assert list(settings["models"]) == ["base", "b"]
    with open_store(tmp_path / "out") as store:
        assert store.models["b"] == {"path": "/models/b", "fingerprint": "bb"}


def test_a_changed_setting_is_refused_in_one_line_that_names_it(tmp_path):
    open_store(tmp_path / "out").__exit__()
    for changes, text in [
        ({"evaluation.seed": 2}, "evaluation.seed = 1, the config says 2"),
        ({"verifier.timeout_s": 9}, "verifier.timeout_s = None, the config says 9"),
    ]:
        with pytest.raises(ValueError, match=text) as error:
            open_store(tmp_path / "out", **changes)
        assert "\n" not in str(error.value) and "--out" in str(error.value)
    assert read_settings(tmp_path / "out")["identity"] == IDENTITY


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    with open_store(tmp_path / "out") as store:
        for index, group in enumerate(GROUPS):
            store.put(CELL, index, group)
        part = tmp_path / "out" / "samples" / "base@0.7.parts" / "000000.parquet"
        whole = part.read_bytes()
        part.write_bytes(whole[:-100])
        with pytest.raises(ValueError, match=r"000000.parquet cannot be read .*delete it") as error:
            store.missing(CELL)
        assert "\n" not in str(error.value)
        part.write_bytes(whole)
        store.finish(CELL)
    file = sample_files(tmp_path / "out")[CELL]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"base@0.7.parquet cannot be read .*delete it"):
        read_samples(file)
    settings = tmp_path / "out" / "settings.json"
    for text in (settings.read_text()[:50], "{}", "[]"):
        settings.write_text(text)
        with pytest.raises(ValueError, match=r"settings.json is not the settings of an evaluation"):
            open_store(tmp_path / "out")


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    with open_store(tmp_path / "out") as store:
        store.add_model("base", "/models/base", "aa")
        store.add_model("base", "/moved/base", "aa")
        with pytest.raises(
            ValueError, match="samples of 'base' are of other weights than /models/base has now"
        ):
            store.add_model("base", "/models/base", "bb")


def test_starting_anew_keeps_what_is_still_valid_and_removes_the_rest(tmp_path):
    def reopen(**changes: object) -> EvalStore:
        return EvalStore(tmp_path / "out", {**IDENTITY, **changes}, PROBLEMS, start_anew=True)

    with reopen() as store:
        for name in ("base", "trained"):
            store.add_model(name, name, "aa")
            for index, group in enumerate(GROUPS):
                store.put(Cell(model=name, temperature=1.0), index, group)
            store.finish(Cell(model=name, temperature=1.0))
    with reopen() as store:
        store.add_model("base", "base", "aa")
        store.add_model("trained", "trained", "bb")
        assert len(store.missing(Cell(model="base", temperature=1.0))) == 0
        assert len(store.missing(Cell(model="trained", temperature=1.0))) == 40
    with reopen(**{"evaluation.seed": 2}) as store:
        assert len(store.missing(Cell(model="base", temperature=1.0))) == 40


def test_one_process_at_a_time_writes(tmp_path):
    with open_store(tmp_path / "out"), pytest.raises(ValueError, match="being written by another bonfire"):
        open_store(tmp_path / "out")
    open_store(tmp_path / "out").__exit__()


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def has_none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", has_none)
    with open_store(tmp_path / "out") as store:
        assert len(store.missing(CELL)) == 40


def test_what_a_call_leaves_that_dies_at_once_is_in_nobodys_way(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / "settings.json.partial").write_text('{"ident')
    with open_store(tmp_path) as store:
        assert store.missing(Cell(model="base", temperature=1.0))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no evaluation"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_label_names_a_cell():
    for cell in (CELL, Cell(model="a-b_c.1+x", temperature=1.0), Cell(model="m", temperature=1e-2)):
        assert Cell.from_label(cell.label) == cell
    assert CELL.label == "base@0.7"


def test_a_fingerprint_is_of_contents_and_not_of_place_or_time(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    weights = {"a": np.zeros((1500, 1000), np.float32)}  # above the size that is read whole
    save_file(weights, model / "model.safetensors")
    (model / "config.json").write_text("{}")
    first = fingerprint(model)
    shutil.copytree(model, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == first
    (model / "README.md").write_text("x")
    assert fingerprint(model) == first
    for change in ("weights", "config"):
        if change == "weights":
            save_file({"a": weights["a"] + np.float32(1e-30)}, model / "model.safetensors")
        else:
            (model / "config.json").write_text("{ }")
        second = fingerprint(model)
        assert second != first
        first = second


def test_what_a_verdict_depends_on_is_in_its_identity():
    config = parse_config({"model": "m", "evaluation": {}})
    before = verdict_identity(config, PROBLEMS)
    for verifier in ({"timeout_s": 9.0}, {"reward": "exact_match"}):
        other = parse_config({"model": "m", "evaluation": {}, "verifier": verifier})
        assert verdict_identity(other, PROBLEMS) != before
    same = parse_config({"model": "m", "verifier": {"workers": 3, "num_cpus": 1}})
    assert verdict_identity(same, PROBLEMS) == before
    truth = [Problem(id="problem-0", prompt="prompt 0", truth={"answer": 1}), *PROBLEMS[1:]]
    assert verdict_identity(config, truth) != before
    easier = [Problem(id=p.id, prompt=p.prompt, difficulty="hard") for p in PROBLEMS]
    assert verdict_identity(config, easier) == before
    assert sampling_identity(config, 64)["evaluation.samples_per_problem"] == 64


def test_a_model_that_judges_is_known_by_its_weights_wherever_it_is(tmp_path):
    def identity(model):
        judging = {"reward": "reward_model", "reward_model": {"model": str(model)}}
        return verdict_identity(parse_config({"model": "m", "evaluation": {}, "verifier": judging}), PROBLEMS)

    (tmp_path / "model").mkdir()
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "model" / "model.safetensors")
    before = identity(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    assert identity(tmp_path / "copy") == before != identity("organisation/model")
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "model" / "model.safetensors")
    assert identity(tmp_path / "model") != before
