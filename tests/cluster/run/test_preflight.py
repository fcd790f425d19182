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
