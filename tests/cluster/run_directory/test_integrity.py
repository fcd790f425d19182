"""A checkpoint that is not what was written is found before anything starts, set aside, and the one before is used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.run_directory.checkpoints import usable_checkpoint
from cluster.run_directory.integrity import MANIFEST_FILE, find_damage
from cluster.run_directory.record import RunRecord, finished_checkpoints

FILES = (
    "run_state.json",
    "learner.json",
    "optimizer.safetensors",
    "model/config.json",
    "model/model.safetensors",
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 5 and 10."""
    record = RunRecord(tmp_path / "run")
    for step in (5, 10):
        partial = record.begin_checkpoint(step)
        (partial / "model").mkdir()
        for name in FILES[1:]:
            (partial / name).write_bytes(f"{name} of {step} ".encode() * 50)
        record.finish_checkpoint(step, {"version": step}, keep=5)
    return record.run_dir


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "step-000010"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "first byte flipped": lambda path: flip(path, 0),
    "last byte flipped": lambda path: flip(path, -1),
    "last byte cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "missing": Path.unlink,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


def test_what_was_written_is_whole(run_dir):
    told: list[str] = []
    assert usable_checkpoint(run_dir, told.append) == newest(run_dir) and told == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_to_any_file_is_found_and_the_checkpoint_before_it_used(run_dir, name, damage):
    DAMAGES[damage](newest(run_dir) / name)
    told: list[str] = []
    assert usable_checkpoint(run_dir, told.append) == run_dir / "checkpoints" / "step-000005"
    [line] = told
    assert line.startswith(f"checkpoint {newest(run_dir)} is damaged (") and Path(name).name in line
    assert line.endswith("): it is kept as step-000010.damaged, the run goes on from step-000005")
    assert "\n" not in line


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "longer"])
def test_a_damaged_manifest_is_a_damaged_checkpoint(run_dir, damage):
    DAMAGES[damage](newest(run_dir) / MANIFEST_FILE)
    told: list[str] = []
    assert usable_checkpoint(run_dir, told.append) == run_dir / "checkpoints" / "step-000005"
    assert MANIFEST_FILE in told[0]


def test_no_flipped_byte_anywhere_in_a_file_passes(run_dir):
    path = newest(run_dir) / "learner.json"
    for position in range(path.stat().st_size):
        flip(path, position)
        assert find_damage(newest(run_dir)) == "learner.json has other contents than were written"
        flip(path, position)
    assert find_damage(newest(run_dir)) is None


def test_an_empty_directory_is_no_checkpoint_to_go_on_from(run_dir):
    shutil.rmtree(newest(run_dir))
    newest(run_dir).mkdir()
    told: list[str] = []
    assert usable_checkpoint(run_dir, told.append) == run_dir / "checkpoints" / "step-000005"
    assert "no readable run_state.json" in told[0]


def test_a_damaged_checkpoint_is_kept_and_never_again_taken_for_the_newest(run_dir):
    flip(newest(run_dir) / "learner.json", 3)
    content = (newest(run_dir) / "learner.json").read_bytes()
    used = usable_checkpoint(run_dir, print)
    RunRecord(run_dir).rewind(5)
    assert finished_checkpoints(run_dir) == [used]
    assert (run_dir / "checkpoints/step-000010.damaged/learner.json").read_bytes() == content
    told: list[str] = []
    assert usable_checkpoint(run_dir, told.append) == used and told == []


def test_a_step_damaged_twice_is_kept_twice(run_dir):
    for _ in range(2):
        record = RunRecord(run_dir)
        record.begin_checkpoint(10)
        record.finish_checkpoint(10, {"version": 10}, keep=5)
        flip(newest(run_dir) / "run_state.json", 0)
        usable_checkpoint(run_dir, print)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        "step-000005", "step-000010-2.damaged", "step-000010.damaged",
    ]  # fmt: skip
    assert [path.name for path in finished_checkpoints(run_dir)] == ["step-000005"]


def test_without_any_that_is_whole_one_line_names_each_and_nothing_is_renamed(run_dir):
    for checkpoint in finished_checkpoints(run_dir):
        (checkpoint / "model/model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        usable_checkpoint(run_dir, print)
    text = str(error.value)
    assert text.startswith(
        f"{run_dir / 'checkpoints'} has no checkpoint that can be used (step-000010: model/model."
    )
    assert "step-000005: model/model.safetensors has 0 bytes of 1,450" in text and "\n" not in text
    assert text.endswith("bring one back from a copy, or begin anew with another run_dir")
    assert [path.name for path in finished_checkpoints(run_dir)] == ["step-000005", "step-000010"]


def test_a_run_that_has_written_no_checkpoint_yet_goes_on_from_the_beginning(tmp_path):
    RunRecord(tmp_path).begin_checkpoint(5)
    assert usable_checkpoint(tmp_path, print) is None


def test_a_checkpoint_of_before_there_were_manifests_is_used(run_dir):
    (newest(run_dir) / MANIFEST_FILE).unlink()
    (newest(run_dir) / "run_state.json").write_text('{"version": 10}')
    assert usable_checkpoint(run_dir, print) == newest(run_dir)


def test_checkpoints_are_ordered_by_their_step_not_by_their_name(tmp_path):
    for name in ("step-1000000", "step-999999", "step-000005.damaged", "step-000007.partial", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in finished_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
