"""What a file is by its first bytes, where its name says something else, and the cure for it."""

from __future__ import annotations

import gzip
import shlex
import stat
from contextlib import closing
from pathlib import Path
from typing import IO, cast

GZIP_MAGIC = b"\x1f\x8b"
_MAGIC = {
    b"PAR1": "Parquet: name it .parquet",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: decompress it with zstd -d",
    b"BZh": "compressed with bzip2: decompress it with bunzip2",
    b"\xfd7zXZ": "compressed with xz: decompress it with unxz",
    b"ARROW1": "Arrow: convert it to Parquet",
    b"version https://git-lfs": "a git-lfs pointer and not the file itself: fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_TYPES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: Path, setting: str) -> None:
    """Raises ValueError for what gives rows without an end, or never any: a pipe, a device. OSError if it is not there."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind in _TYPES:
        raise ValueError(
            f"{setting} = {str(path)!r} is {_TYPES[kind]}, not a regular file: write its rows into one, and name "
            "that"
        )


def open_binary(path: Path) -> closing[IO[bytes]]:
    """The file's bytes, decompressed if it is a gzip, whatever its name."""
    return closing(cast(IO[bytes], gzip.open(path)) if _is_gzip(path) else path.open("rb"))


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def what_else(path: Path) -> str | None:
    """What a file is that its name does not say, and the cure, by its first bytes; None: they tell nothing."""
    with open_binary(path) as file:
        head = file.read(64)
    return next((f"{path}: it is {what}" for magic, what in _MAGIC.items() if head.startswith(magic)), None)


def why_not_utf8(path: Path) -> str | None:
    """What to do with a file of which the text cannot be read, from its first bytes; None: it looks like UTF-8."""
    if other := what_else(path):
        return other
    with open_binary(path) as file:
        head = file.read(64)
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if (
        encoding is None and head[:2].strip(b"{[ \n\t\r") == b"\0"
    ):  # two bytes a letter, and the first is JSON's
        encoding = "UTF-16BE" if head.startswith(b"\0") else "UTF-16LE"
    return None if encoding is None else _convert(path, encoding, f"its encoding is {encoding}, not UTF-8")


def not_utf8(path: Path, where: str, error: UnicodeDecodeError) -> str:
    """The message for a line that is not UTF-8 in a file that begins as if it were."""
    byte = error.object[error.start]
    what = f"byte 0x{byte:02x} is not UTF-8; the encoding may be windows-1252"
    return _convert(path, "WINDOWS-1252", what, where)


def _convert(path: Path, encoding: str, what: str, where: str = "") -> str:
    plain = path.name.removesuffix(".gz")
    stem, _, suffix = plain.rpartition(".")
    new = path.with_name(f"{stem}.utf8.{suffix}")
    source, target = shlex.quote(str(path)), shlex.quote(str(new))
    read = (
        f"gzip -dc < {source} | iconv -f {encoding} -t UTF-8"
        if _is_gzip(path)
        else (f"iconv -f {encoding} -t UTF-8 {source}")
    )
    return f"{where or path}: {what}: convert it with: {read} > {target}"
