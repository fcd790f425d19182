"""What is looked at before anything is started."""

from __future__ import annotations

import json

import pytest

from cluster.config.schema import RunConfig
from cluster.run.preflight import check_context


@pytest.mark.parametrize(
    "settings",
    [{"max_position_embeddings": 64}, {"text_config": {"max_position_embeddings": 64}, "vision_config": {}}],
    ids=["a language model", "a multimodal model"],
)
def test_more_positions_than_the_model_has_are_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text(json.dumps(settings))

    def check(max_model_len: int) -> None:
        rollout = {"max_model_len": max_model_len, "max_tokens": 8}
        check_context(RunConfig.model_validate({"model": str(tmp_path), "rollout": rollout}))

    check(64)
    with pytest.raises(ValueError, match=r"rollout\.max_model_len = 65 is longer than the 64 positions of"):
        check(65)


def test_a_model_that_names_no_positions_has_as_many_as_are_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {}}))
    rollout = {"max_model_len": 100_000, "max_tokens": 8}
    check_context(RunConfig.model_validate({"model": str(tmp_path), "rollout": rollout}))


LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": LONG | {"original_max_position_embeddings": 64}},
        {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 64},
        {"text_config": {"rope_parameters": {"full": LONG | {"original_max_position_embeddings": 64}}}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "max_trained_positions": 64}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
    ],
    ids=["LongRoPE", "as Phi-3 has it", "by kind of layer", "dynamic", "dynamic, of the whole"],
)
def test_lengths_at_which_positions_depend_on_the_longest_of_a_pass_are_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 256} | settings))

    def check(max_model_len: int) -> None:
        rollout = {"max_model_len": max_model_len, "max_tokens": 8}
        check_context(RunConfig.model_validate({"model": str(tmp_path), "rollout": rollout}))

    check(64)
    with pytest.raises(ValueError, match=r"^rollout\.max_model_len = 65 is .* the? ?64 positions") as refusal:
        check(65)
    assert "\n" not in str(refusal.value)


def test_extensions_that_are_the_same_at_every_length_are_not_refused(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    settings = {"max_position_embeddings": 256, "rope_parameters": yarn}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    rollout = {"max_model_len": 256, "max_tokens": 8}
    check_context(RunConfig.model_validate({"model": str(tmp_path), "rollout": rollout}))
