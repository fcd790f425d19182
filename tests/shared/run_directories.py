"""A run directory of a run that is under way."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from cluster.run_directory.record import RUN_FILE


def write_run(run_dir: Path, **facts: Any) -> Path:
    run_dir.mkdir(parents=True)
    about = {
        "name": run_dir.name, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time(),
        "local": True, "stage": "training", "stage_since": time.time(), "address": "127.0.0.1:1", "job": None,
    }  # fmt: skip
    (run_dir / RUN_FILE).write_text(json.dumps({**about, **facts}))
    return run_dir
