"""All measured policies of a study as one small Parquet file, a row per policy, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_directory.record import write_atomically


def pack(results: Path, archive: Path) -> None:
    rows = [{"file": path.name, **json.loads(path.read_text())} for path in sorted(results.glob("*.json"))]
    table = pa.Table.from_pylist(rows)
    for index, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            table = table.set_column(index, column.name, table[column.name].cast(pa.list_(pa.int16())))
    pq.write_table(table, archive, compression="zstd", compression_level=19)


def unpack(archive: Path, results: Path) -> None:
    results.mkdir(parents=True, exist_ok=True)
    for row in pq.read_table(archive).to_pylist():
        write_atomically(results / row.pop("file"), json.dumps(row))
