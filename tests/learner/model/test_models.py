"""Each architecture of docs/models.md on the learner's side: every claim of its row but for the engine's."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from actors.model_files import StoredShape, stored_shapes
from learner.model.fit import check_architecture, check_weights
from tests.shared.architectures import ARCHITECTURES, Architecture, save
from tests.shared.models_table import (
    MODELS_PAGE,
    check_names,
    check_packing,
    check_training,
    make_learner,
    rows_of,
)

by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory):
    @cache
    def directory_of(architecture: Architecture) -> Path:
        return save(architecture, tmp_path_factory.mktemp("model"))

    return directory_of


@by_architecture
def test_packed_sequences_have_the_log_probs_of_single_ones(architecture, directory_of):
    check_packing(architecture, directory_of(architecture))


@by_architecture
def test_a_step_trains_every_parameter_and_is_published_as_a_checkpoint_has_it(
    architecture, directory_of, tmp_path
):
    learner = make_learner(directory_of(architecture))
    check_training(learner)
    check_names(learner, directory_of(architecture), tmp_path)


@by_architecture
def test_the_files_of_every_architecture_fit_its_config(architecture, directory_of):
    directory = directory_of(architecture)
    config = check_architecture(directory, architecture.name)
    stored = stored_shapes(directory)
    check_weights(config, stored, directory)
    name = max(stored, key=lambda name: stored[name].shape)
    with pytest.raises(ValueError, match=re.escape(f"{name!r} has the shape [1]")):
        check_weights(config, stored | {name: StoredShape(dtype="F32", shape=(1,))}, directory)


def test_the_page_lists_exactly_these_architectures():
    assert list(rows_of(MODELS_PAGE.read_text())) == [one.name for one in ARCHITECTURES]
