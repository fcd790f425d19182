"""Each row of docs/models.md measured, the engine included; `make models` also writes them."""

from __future__ import annotations

import os

import pytest

from tests.shared.architectures import ARCHITECTURES, save
from tests.shared.models_table import MODELS_PAGE, measure, rows_of, with_rows

pytestmark = pytest.mark.slow
FIGURES = {1, 5}
"""Cells of a row that have figures, which differ from one machine to another."""


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)
def test_a_row_says_what_is_measured(architecture, tmp_path):
    cells = measure(architecture, save(architecture, tmp_path / "base"), tmp_path)
    page = MODELS_PAGE.read_text()
    if os.environ.get("MODELS_PAGE") == "write":
        MODELS_PAGE.write_text(with_rows(page, {architecture.name: cells}))
        return
    written = rows_of(page)[architecture.name]
    assert len(cells) == len(written)
    for place, (ours, theirs) in enumerate(zip(cells, written, strict=True)):
        assert ours == theirs or place in FIGURES
