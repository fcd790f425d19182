"""Rows of problems, one after the other, from files or from the Hugging Face hub; each knows its place."""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from verifiers.problems.config import ProblemsConfig
from verifiers.problems.file_kinds import check_regular, not_utf8, open_binary, what_else, why_not_utf8

Split = Literal["train", "test"]

MAX_REASON_CHARS = 200
"""Of another library's message, which may list everything that a data set has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row as it was stored."""

    where: str
    """For messages: `data/train.jsonl:17`, or `data/train.parquet, row 17`. Counted from 1."""
    key: str
    """Identifies the row in its split where no field does: `train.jsonl:17`."""
    fields: dict[str, Any]


def read_rows(config: ProblemsConfig, split: Split) -> Iterator[Row]:
    """The rows that the config names for the split, in stored order; source is `files` or `hub`.

    Raises ValueError, in one line, for a split that is not set, and for what cannot be read.
    """
    kind = "path" if config.source == "files" else "split"
    setting = f"problems.{split}_{kind}"
    place = getattr(config, f"{split}_{kind}")
    if place is None:
        or_fraction = " or problems.test_fraction" if split == "test" else ""
        raise ValueError(f"{setting} is not set, and the {split} problems are needed: set it{or_fraction}")
    if config.source == "files":
        return read_files(place, setting)
    assert config.dataset is not None
    return read_hub(config.dataset, config.subset, config.revision, place, setting)


def read_files(patterns: Sequence[str], setting: str) -> Iterator[Row]:
    """Rows of all files, in the order of the patterns, and of the names that one pattern stands for."""
    paths = [path for pattern in patterns for path in _expand(pattern, setting)]
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    for path in paths:
        name = path.absolute().relative_to(common)
        reader = _reader(path, setting)
        num_read = 0
        try:
            check_regular(path, setting)
            for number, where, fields in reader(path):
                num_read += 1
                yield Row(where=where, key=f"{name}:{number}", fields=fields)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{setting} = {str(path)!r} is cut off or damaged after {num_read} rows ({_one_line(error)}): copy or "
                "download it again"
            ) from error
        except OSError as error:
            raise ValueError(
                f"{setting} = {str(path)!r} cannot be read ({error.strerror or error}, in {Path.cwd()}): "
                f"{_CURES.get(type(error), 'copy it to another disk')}"
            ) from error


def read_hub(
    dataset: str, subset: str | None, revision: str | None, split: str, setting: str
) -> Iterator[Row]:
    """Rows of one split of a data set of the hub, or of a directory laid out like one.

    The `datasets` library keeps what it downloaded; without a network it reads that, and at once where
    HF_HUB_OFFLINE=1 tells it that there is none. It runs no code of the data set.
    """
    import datasets

    name = f"{dataset}/{subset}" if subset else dataset
    if revision is not None and Path(dataset).is_dir():
        raise ValueError(
            f"problems.revision = {revision!r} has no effect: problems.dataset = {dataset!r} is a directory; remove it"
        )
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(dataset, name=subset, split=split, revision=revision)
    except ConnectionError as error:
        raise ValueError(
            f"problems.dataset = {dataset!r} is neither a directory nor in the cache, and the hub cannot be reached "
            f"({_one_line(error)}): correct the name, load it once where there is a network, or copy its files "
            "and set problems.source = 'files'"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"problems.dataset = {name!r}, {setting} = {split!r} cannot be loaded ({_one_line(error)}): "
            f"correct problems.dataset, problems.subset, problems.revision or {setting}"
        ) from error
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        # Without a network the library takes the newest revision in its cache, whichever was asked for.
        other = [file["filename"] for file in rows.cache_files if revision not in file["filename"]]
        if other:
            raise ValueError(
                f"problems.revision = {revision!r} of {name!r} is not in the cache, which has {other[0]}: load it once "
                "where there is a network, or leave the revision out"
            )
    for number, fields in enumerate(rows, start=1):
        yield Row(where=f"{name} {split}, row {number}", key=f"{split}:{number}", fields=fields)


_CURES: dict[type[OSError], str] = {
    FileNotFoundError: "correct the path",
    NotADirectoryError: "correct the path",
    IsADirectoryError: "name the files in it",
    PermissionError: "make it readable for this user",
}

_Place = tuple[int, str, dict[str, Any]]
"""Number, place for messages, fields."""


def _read_json_lines(path: Path) -> Iterator[_Place]:
    """Blank lines are skipped, and counted."""
    with open_binary(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                remedy = "put one JSON object on each line"
                raise ValueError(_why_no_json(path, where, error, remedy)) from error
            yield number, where, _object(fields, where)


def _read_json(path: Path) -> Iterator[_Place]:
    try:
        with open_binary(path) as file:
            content = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        remedy = "make it a list of objects, or name it .jsonl if it has one on each line"
        raise ValueError(_why_no_json(path, str(path), error, remedy)) from error
    for number, fields in enumerate(content if isinstance(content, list) else [content], start=1):
        where = f"{path}, row {number}"
        yield number, where, _object(fields, where)


def _why_no_json(path: Path, where: str, error: Exception, remedy: str) -> str:
    """In one line: the file may be another kind, or in another encoding; else the place and the remedy."""
    if other := why_not_utf8(path):
        return other
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(path, where, error)
    return f"{where}: not JSON ({error}): {remedy}"


def _read_parquet(path: Path) -> Iterator[_Place]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                for fields in batch.to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    yield number, f"{path}, row {number}", fields
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if number:
            what = f"cut off, damaged or not readable after {number} rows"
            raise ValueError(f"{path}: {what} ({_one_line(error)}): copy it again, or convert it") from error
        other = None if (seems := what_else(path)) and "Parquet: name" in seems else seems
        raise ValueError(
            other or f"{path}: not Parquet ({_one_line(error)}): convert it, or correct its name"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[_Place]]] = {
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _reader(path: Path, setting: str) -> Callable[[Path], Iterator[_Place]]:
    for suffix, reader in _READERS.items():
        if path.name.endswith(suffix):
            return reader
    raise ValueError(
        f"{setting} = {str(path)!r} is of no known kind: give a file that ends in {', '.join(_READERS)}"
    )


def _expand(pattern: str, setting: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        raise ValueError(
            f"{setting} = {pattern!r} is a directory: name its files, as in {str(path / '*.jsonl')!r}"
        )
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if not Path(match).is_dir())
    if not found:
        raise ValueError(f"{setting} = {pattern!r} matches no file (in {Path.cwd()}): correct the pattern")
    return found


def _object(fields: Any, where: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise ValueError(  # noqa: TRY004  a fault of the file, like the others
            f"{where}: a {type(fields).__name__}, not a JSON object: make each row one"
        )
    return fields


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or repr(error)
    return text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]}..."
