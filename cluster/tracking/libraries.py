"""Whether the trackers' libraries are there, found out before a run begins."""

from __future__ import annotations

import importlib.util
import os

from cluster.config.tracking import TrackerName, TrackingConfig

MODULES: dict[TrackerName, str] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
MLFLOW_URI = "MLFLOW_TRACKING_URI"


def check_installed(config: TrackingConfig) -> None:
    """Raises ValueError, a line for each tracker that cannot begin, with what to do."""
    faults = [
        f"tracking.to names {name!r}, whose library is not installed: pip install -e '.[{name}]', or leave it out"
        for name in config.to
        if not _is_installed(MODULES[name])
    ]
    if "mlflow" in config.to and not os.environ.get(MLFLOW_URI):
        faults.append(
            f"tracking.to names 'mlflow', and {MLFLOW_URI} is not set: set it to the server's address, such as "
            "http://127.0.0.1:5000 of `mlflow server`, or leave it out"
        )
    if faults:
        raise ValueError("\n".join(faults))


def _is_installed(module: str) -> bool:
    """A folder of that name in the working directory, as W&B leaves one, is no library."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None
