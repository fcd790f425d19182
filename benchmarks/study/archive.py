"""All measured policies of a study as one small Parquet file, a row per policy, and back."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_directory.record import write_atomically, write_table_atomically

ABOUT = b"about"


def write(table: pa.Table, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """As small as can be, whole or not at all; `about` goes with the table as plain values."""
    if about:
        table = table.replace_schema_metadata({ABOUT: json.dumps(about).encode()})
    write_table_atomically(path, table, compression_level=19)


def pack(results: Path, archive: Path, about: Mapping[str, Any] | None = None) -> None:
    """The JSON files in `results`."""
    rows = [{"file": path.name, **json.loads(path.read_text())} for path in sorted(results.glob("*.json"))]
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows])
    for index, column in enumerate(table.schema):
        table = table.set_column(index, column.name, table[column.name].cast(_small(column.type)))
    write(table, archive, about)


def unpack(archive: Path, results: Path, *, but_not: Collection[str] = ()) -> None:
    """Files that are there are replaced, `but_not` those."""
    results.mkdir(parents=True, exist_ok=True)
    for row in pq.read_table(archive).to_pylist():
        name = row.pop("file")
        if name not in but_not:
            known = {column: value for column, value in row.items() if value is not None}
            write_atomically(results / name, json.dumps(known))


@contextmanager
def alone(archive: Path) -> Iterator[None]:
    """No other process that asks for it is in such a block of the same archive."""
    with archive.with_name(f".{archive.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def about(archive: Path) -> dict[str, Any]:
    """What was written with its table; empty where nothing was."""
    return dict(json.loads((pq.read_schema(archive).metadata or {}).get(ABOUT, b"{}")))


@cache
def fingerprint(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def claim(directory: Path, identity: Mapping[str, object]) -> None:
    """Write down whose results the directory holds. Raises ValueError where they are another study's; what it does not say
    is taken as this one's.
    """
    path = directory / "identity.json"
    theirs = json.loads(path.read_text()) if path.exists() else {}
    check_identity(identity, {**identity, **theirs}, directory, "--out")
    write_atomically(path, json.dumps(identity, indent=1) + "\n")


def check_identity(
    ours: Mapping[str, object], theirs: Mapping[str, object], holder: Path, option: str
) -> None:
    """Raises ValueError where `holder` holds results of another study: `theirs` is its identity, which may lack arms."""
    for name, value in ours.items():
        known = theirs.get(name)
        if name == "arms" and isinstance(value, dict) and isinstance(known, dict):
            value = {arm: settings for arm, settings in value.items() if arm in known}
        if known != value:
            raise ValueError(
                f"{holder} holds a study with {name} = {theirs.get(name)}, and this one has {name} = {value}: "
                f"give another with {option}, or go on with what that one was begun with"
            )


def _small(kind: pa.DataType) -> pa.DataType:
    """Counts in 16 bits, and in lists what is measured in 32."""
    if not pa.types.is_list(kind):
        return kind
    if pa.types.is_list(kind.value_type):
        return pa.list_(_small(kind.value_type))
    return pa.list_(pa.float32() if pa.types.is_floating(kind.value_type) else pa.int16())
