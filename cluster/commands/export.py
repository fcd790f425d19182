"""`bonfire export`: what a run has made, for other programs."""

from __future__ import annotations

from pathlib import Path

from actors.model_files import CONFIG, base_of_adapter, is_adapter
from cluster.run_directory.record import finished_checkpoints


def export(source: Path, merged: Path) -> str:
    """Write the model that the adapter in `source` makes of its base model to `merged`; what was done, in a line."""
    adapter = find_adapter(source)
    from learner.model.export import export_merged  # it takes seconds to import torch

    dtype = export_merged(adapter, merged)
    return f"{merged}: {base_of_adapter(adapter)} with {adapter} merged into it, in {dtype}"


def find_adapter(source: Path) -> Path:
    """That of a run's newest checkpoint, of a checkpoint, or the directory itself.

    Raises ValueError for what has none.
    """
    checkpoints = finished_checkpoints(source)
    places = [checkpoints[-1] / "model"] if checkpoints else [source / "model", source]
    for place in places:
        if is_adapter(place):
            return place
        if (place / CONFIG).is_file():
            raise ValueError(f"{place} is a whole model already, with nothing to merge: use it as it is")
    raise ValueError(
        f"{source} has neither a checkpoint nor an adapter in it: give the directory of a run that was trained with "
        "[learner.lora], of one of its checkpoints, or of an adapter"
    )
