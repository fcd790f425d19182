"""Whether a checkpoint is still what was written: a manifest of its files, with their sizes and SHA-256.

It is for disks, networks and copies that lose bytes, not against somebody who changes both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

MANIFEST_FILE = "manifest.json"


def write_manifest(directory: Path) -> None:
    """List every file there is in the directory, with all its subdirectories."""
    files = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    (directory / MANIFEST_FILE).write_text(json.dumps({"files": files}, indent=1))


def find_damage(directory: Path) -> str | None:
    """What is wrong with the first file that is not as its manifest says; None where all are. Reads all of it.

    Sizes come first: they tell a truncated file without reading any. Files the manifest does not list
    are nobody's business.
    """
    try:
        files = json.loads((directory / MANIFEST_FILE).read_text())["files"]
        expected = {directory / name: (about["bytes"], about["sha256"]) for name, about in files.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read: {error!r}"
    try:
        for path, (size_bytes, _) in expected.items():
            if path.stat().st_size != size_bytes:
                return f"{path.relative_to(directory)} has {path.stat().st_size:,} bytes of {size_bytes:,}"
        for path, (_, sha256) in expected.items():
            if _sha256(path) != sha256:
                return f"{path.relative_to(directory)} has other contents than were written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(directory)} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
