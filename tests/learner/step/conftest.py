"""The model that the tests of a step look at."""

from __future__ import annotations

import pytest

from learner.model.causal_lm import load_model
from tests.shared.tiny_model import model_path


@pytest.fixture(scope="module")
def policy():
    return load_model(model_path())
