"""SmolLM2-135M-Instruct, made once; BONFIRE_REAL_MODEL names one that is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.real_model import make_model
from tests.shared.paths import ROOT


@pytest.fixture(scope="session")
def real_model() -> Path:
    given = os.environ.get("BONFIRE_REAL_MODEL")
    if given:
        return Path(given).absolute()
    path = ROOT / "runs" / "smollm2"
    make_model(path)
    return path
