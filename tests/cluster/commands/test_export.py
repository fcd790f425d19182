"""`bonfire export` and what an evaluation makes of an adapter, without engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from actors.weights.fingerprint import param_fingerprint
from cluster.commands.export import export
from cluster.evaluation.evaluation import enter_model
from cluster.evaluation.store import EvalStore
from cluster.run.preflight import check_model
from tests.shared.learners import make_learner
from tests.shared.refusals import refusal
from tests.shared.tiny_model import make_group


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[int]]:
    """A run directory with checkpoints of two steps, and the fingerprints that were published."""
    run_dir = tmp_path_factory.mktemp("run")
    learner = make_learner(lora={"rank": 2}, learning_rate=1e-2, warmup_steps=0)
    fingerprints = []
    for step in range(2):
        learner.train_step([make_group(step, version=step)])
        learner.save(run_dir / "checkpoints" / f"step-{step + 1:06d}")
        fingerprints.append(learner.published.fingerprint)
    return run_dir, fingerprints


def fingerprint(directory: Path) -> int:
    return param_fingerprint(AutoModelForCausalLM.from_pretrained(directory).named_parameters())


def test_a_run_gives_its_newest_checkpoint_and_a_checkpoint_or_an_adapter_itself(run, tmp_path):
    run_dir, (first, second) = run
    assert first != second
    line = export(run_dir, tmp_path / "newest")
    assert "step-000002/model merged into it, in float32" in line and "\n" not in line
    export(run_dir / "checkpoints/step-000001", tmp_path / "of a checkpoint")
    export(run_dir / "checkpoints/step-000001/model", tmp_path / "of an adapter")
    assert fingerprint(tmp_path / "newest") == second
    assert fingerprint(tmp_path / "of a checkpoint") == fingerprint(tmp_path / "of an adapter") == first


def test_a_base_model_that_is_gone_is_named_with_the_adapter_it_is_missed_by(run, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(run[0] / "checkpoints/step-000001/model", adapter)
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "gone")}))
    told = refusal(lambda: export(adapter, tmp_path / "out"))
    assert told == (
        f"the adapter {adapter} is of the base model {tmp_path / 'gone'}, which is not there: bring it back, or set "
        f"base_model_name_or_path in {file} to where it is now"
    )
    file.write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    assert "has no base_model_name_or_path" in refusal(lambda: export(adapter, tmp_path / "out"))


def test_what_has_no_adapter_is_refused_in_one_line(run, tmp_path):
    make_learner().save(tmp_path / "whole")
    out = tmp_path / "out"
    assert refusal(lambda: export(tmp_path / "whole", out)) == (
        f"{tmp_path / 'whole' / 'model'} is a whole model already, with nothing to merge: use it as it is"
    )
    (tmp_path / "empty").mkdir()
    assert refusal(lambda: export(tmp_path / "empty", out)).startswith(
        f"{tmp_path / 'empty'} has neither a checkpoint nor an adapter in it: give the directory of a run"
    )
    out.mkdir()
    assert refusal(lambda: export(run[0], out)) == f"{out} exists: name a new directory, or remove it"


def test_an_adapter_is_refused_where_a_model_is_wanted_with_the_command_that_makes_one(run):
    adapter = str(run[0] / "checkpoints/step-000001/model")
    assert refusal(lambda: check_model(adapter)) == (
        f"model = {adapter!r} is an adapter, not a model: merge it with its base model first: bonfire export {adapter} "
        "--merged DIR"
    )


def test_an_evaluation_merges_an_adapter_once_and_knows_its_weights(run, tmp_path):
    run_dir, fingerprints = run
    adapters = [str(run_dir / f"checkpoints/step-00000{step}/model") for step in (1, 2)]
    with EvalStore(tmp_path / "out", {"problems": "none"}, []) as store:
        enter_model(store, "trained", adapters[0])
        merged = Path(store.models["trained"]["path"])
        assert merged.is_relative_to(tmp_path / "out") and fingerprint(merged) == fingerprints[0]
        written = (merged / "model.safetensors").stat().st_mtime_ns
        enter_model(store, "trained", adapters[0])
        enter_model(store, "trained", str(merged))
        assert (merged / "model.safetensors").stat().st_mtime_ns == written
        assert "samples of 'trained' are of other weights" in refusal(
            lambda: enter_model(store, "trained", adapters[1])
        )
        copy = shutil.copytree(adapters[0], tmp_path / "copy")
        enter_model(store, "trained", str(copy))
