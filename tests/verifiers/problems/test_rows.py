"""Rows from files and from the hub: every kind gives the same, and every fault is named by its place."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shared.paths import FIXTURES
from tests.shared.refusals import refusal
from verifiers.problems.rows import Row, read_files, read_hub

ROWS = [
    {"question": "a?", "n": 1, "tags": ["x", "y"]},
    {"question": "b\n?", "n": 2, "tags": []},
    {"question": "ç?", "n": None, "tags": ["z"]},
]
COMMIT, OTHER_COMMIT = "0123456789abcdef" * 2 + "01234567", "f" * 40


def read(*patterns: object) -> list[Row]:
    return list(read_files([str(pattern) for pattern in patterns], "problems.train_path"))


def message(*patterns: object) -> str:
    return refusal(lambda: read(*patterns))


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Path]:
    """The same rows in every kind of file."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    paths = {suffix: tmp_path / f"x{suffix}" for suffix in (".jsonl", ".jsonl.gz", ".json", ".parquet")}
    paths[".jsonl"].write_text(lines)
    paths[".jsonl.gz"].write_bytes(gzip.compress(lines.encode()))
    paths[".json"].write_text(json.dumps(ROWS, indent=1))
    pq.write_table(pa.Table.from_pylist(ROWS), paths[".parquet"], row_group_size=2)
    return paths


def test_every_kind_of_file_gives_the_same_fields(kinds: dict[str, Path]) -> None:
    for path in kinds.values():
        assert [row.fields for row in read(path)] == ROWS


def test_a_row_knows_its_line_or_its_number(kinds: dict[str, Path]) -> None:
    assert [row.where for row in read(kinds[".jsonl"])] == [f"{kinds['.jsonl']}:{n}" for n in (1, 2, 3)]
    for suffix in (".json", ".parquet"):
        assert [row.where for row in read(kinds[suffix])] == [f"{kinds[suffix]}, row {n}" for n in (1, 2, 3)]
        assert [row.key for row in read(kinds[suffix])] == [f"x{suffix}:{n}" for n in (1, 2, 3)]


def test_several_files_are_read_in_order_and_equal_names_are_told_apart_by_their_folders() -> None:
    algebra, counting = FIXTURES / "math/algebra", FIXTURES / "math/counting_and_probability"
    keys = ["algebra/1.json:1", "algebra/2.json:1", "counting_and_probability/1.json:1"]
    assert [row.key for row in read(FIXTURES / "math/*/*.json")] == keys
    assert [row.key for row in read(FIXTURES / "math/**")] == keys
    assert [row.key for row in read(counting / "1.json", algebra / "?.json")] == [keys[2], *keys[:2]]
    assert [row.key for row in read(algebra / "[12].json")] == ["1.json:1", "2.json:1"]


def test_a_name_that_only_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "x[1].jsonl"
    path.write_text('{"prompt": "p"}')
    assert [row.key for row in read(path)] == ["x[1].jsonl:1"]


def test_a_file_that_is_no_file_of_rows_is_named_with_the_remedy(tmp_path: Path) -> None:
    text, damaged = tmp_path / "x.txt", tmp_path / "damaged.jsonl.gz"
    text.write_text("{}")
    damaged.write_bytes(gzip.compress(b'{"prompt": "p"}\n' * 1000)[:-20])
    assert message(text) == (
        f"problems.train_path = '{text}' is of no known kind: give a file that ends in .jsonl, .jsonl.gz, .json, "
        ".parquet"
    )
    assert message(tmp_path) == (
        f"problems.train_path = '{tmp_path}' is a directory: name its files, as in '{tmp_path}/*.jsonl'"
    )
    assert message(tmp_path / "*.parquet").startswith(
        f"problems.train_path = '{tmp_path}/*.parquet' matches no file"
    )
    assert message(damaged).startswith(f"problems.train_path = '{damaged}' is cut off or damaged after ")
    assert message(damaged).endswith(": copy or download it again")
    (tmp_path / "none.parquet").write_text("{}")
    assert message(tmp_path / "none.parquet").startswith(f"{tmp_path}/none.parquet: not Parquet (")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1}, 2]', "{path}, row 2: a int, not a JSON object: make each row one"),
        ('"text"', "{path}, row 1: a str, not a JSON object: make each row one"),
        (
            '{"a": 1}\n{"a": 2}',
            "{path}: not JSON (Extra data: line 2 column 1 (char 9)): make it a list of objects",
        ),
        ("[" * 100_000, "{path}: not JSON (maximum recursion depth exceeded"),
    ],
)
def test_json_of_another_shape_is_named_with_its_row(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert message(path).startswith(expected.replace("{path}", str(path)))


# The hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """GSM8K as the hub has it, on disk: a card, and a Parquet file for each split of each configuration.

    The network is switched off, and what a download would have left in the cache is put there by hand.
    """
    import datasets
    from huggingface_hub import constants

    directory = tmp_path_factory.mktemp("hub") / "gsm8k"
    rows = [json.loads(line) for line in (FIXTURES / "gsm8k.jsonl").read_text().splitlines()]
    for subset, marked in (("main", rows), ("socratic", [{**row, "question": "Q"} for row in rows])):
        (directory / subset).mkdir(parents=True)
        for split, part in (("train", marked[:2]), ("test", marked[2:])):
            pq.write_table(pa.Table.from_pylist(part), directory / subset / f"{split}-00000-of-00001.parquet")
    configs = "".join(
        f"- config_name: {subset}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {subset}/{split}-*\n" for split in ("train", "test"))
        for subset in ("main", "socratic")
    )
    (directory / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# GSM8K\n")
    patch = pytest.MonkeyPatch()
    cache = directory.parent / "cache"
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    list(read_hub(str(directory), "main", None, "train", "problems.train_split"))
    (built,) = [info.parent for info in cache.glob("gsm8k/main/0.0.0/*/dataset_info.json")]
    downloaded = cache / "openai___gsm8k" / "main" / "0.0.0" / COMMIT
    shutil.copytree(built, downloaded)
    yield directory
    patch.undo()


def hub_message(dataset: object, subset: str | None, revision: str | None, split: str) -> str:
    return refusal(lambda: list(read_hub(str(dataset), subset, revision, split, "problems.train_split")))


def test_a_split_of_a_subset_is_read_as_the_hub_lays_it_out(hub: Path) -> None:
    published = [json.loads(line) for line in (FIXTURES / "gsm8k.jsonl").read_text().splitlines()]
    train = list(read_hub(str(hub), "main", None, "train", "problems.train_split"))
    assert [row.fields for row in train] == published[:2]
    assert [row.where for row in train] == [f"{hub}/main train, row 1", f"{hub}/main train, row 2"]
    (test,) = read_hub(str(hub), "socratic", None, "test", "problems.test_split")
    assert test.fields == {**published[2], "question": "Q"} and test.key == "test:1"


def test_what_was_downloaded_once_is_read_without_a_network(hub: Path) -> None:
    for revision in (None, COMMIT):
        rows = list(read_hub("openai/gsm8k", "main", revision, "train", "problems.train_split"))
        assert [row.key for row in rows] == ["train:1", "train:2"]
        assert rows[0].fields["answer"].endswith("#### 18")


def test_another_revision_than_the_one_asked_for_is_not_taken_from_the_cache(hub: Path) -> None:
    assert hub_message("openai/gsm8k", "main", OTHER_COMMIT, "train").startswith(
        f"problems.revision = '{OTHER_COMMIT}' of 'openai/gsm8k/main' is not in the cache, which has "
    )


def test_a_data_set_that_cannot_be_reached_is_named_in_one_line_with_the_remedy(hub: Path) -> None:
    text = hub_message("openai/none", None, None, "train")
    assert text.startswith(
        "problems.dataset = 'openai/none' is neither a directory nor in the cache, and the hub cannot"
    )
    assert text.endswith("or copy its files and set problems.source = 'files'")


@pytest.mark.parametrize(
    ("subset", "split", "reason"),
    [
        ("none", "train", "BuilderConfig 'none' not found. Available: ['main', 'socratic']"),
        ("main", "dev", "Unknown split \"dev\". Should be one of ['train', 'test']."),
        (
            None,
            "train",
            "Config name is missing. Please pick one among the available configs: ['main', 'socratic']",
        ),
    ],
)
def test_a_wrong_subset_or_split_is_answered_with_those_there_are(
    hub: Path, subset: str | None, split: str, reason: str
) -> None:
    text = hub_message(hub, subset, None, split)
    assert f"cannot be loaded ({reason}" in text
    assert text.endswith(
        "correct problems.dataset, problems.subset, problems.revision or problems.train_split"
    )


def test_a_directory_has_no_revision(hub: Path) -> None:
    assert hub_message(hub, "main", "v1", "train").startswith("problems.revision = 'v1' has no effect: ")


# Files that are not what their name says


TEXT = '{"prompt": "é?", "answer": "2"}\n{"prompt": "1+1 €?", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("cp1252", "WINDOWS-1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_another_encoding_is_named_with_a_command_that_converts_it(
    tmp_path: Path, encoding: str, named: str, suffix: str
) -> None:
    content = (
        TEXT
        if suffix != ".json"
        else json.dumps([json.loads(line) for line in TEXT.splitlines()], ensure_ascii=False)
    )
    path = tmp_path / f"my rows{suffix}"
    raw = content.encode(encoding)
    # A gzip by its name, and one that is none.
    path.write_bytes(gzip.compress(raw) if suffix == ".jsonl.gz" or encoding == "utf-16-be" else raw)
    text = message(path)
    assert f"iconv -f {named} -t UTF-8" in text
    subprocess.run(text.partition("convert it with: ")[2], shell=True, check=True)
    (converted,) = tmp_path.glob("my rows.utf8.*")
    assert [row.fields["prompt"] for row in read(converted)] == ["é?", "1+1 €?"]


def test_a_gzip_is_read_whatever_its_name(tmp_path: Path) -> None:
    for name, content in [("x.jsonl", gzip.compress(TEXT.encode())), ("y.jsonl.gz", TEXT.encode())]:
        (tmp_path / name).write_bytes(content)
        assert [row.fields["prompt"] for row in read(tmp_path / name)] == ["é?", "1+1 €?"]


@pytest.mark.parametrize(
    ("head", "cure"),
    [
        (b"PAR1\x15\x04\xff", "it is Parquet: name it .parquet"),
        (b"PK\x03\x04\x14\x00", "it is a zip archive: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "fetch it with git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page: download the file itself"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_of_another_kind_is_told_by_its_first_bytes(
    tmp_path: Path, head: bytes, cure: str, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet" and head.startswith(b"PAR1"):
        cure = "convert it, or correct its name"
    path.write_bytes(head)
    assert message(path).startswith(f"{path}: ") and message(path).endswith(cure)


def test_a_gzip_that_is_cut_off_or_damaged_says_to_copy_it_again(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.jsonl.gz", gzip.compress(b'{"prompt": "p"}\n' * 1000, mtime=0)
    for content in (whole[:-20], whole[:5], whole[:-8] + b"\0" * 8):
        path.write_bytes(content)
        assert message(path).endswith("copy or download it again")


def test_a_pipe_or_a_device_is_refused_and_never_opened(tmp_path: Path) -> None:
    pipe, device = tmp_path / "pipe.jsonl", tmp_path / "zero.parquet"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    assert message(pipe).startswith(f"problems.train_path = '{pipe}' is a named pipe, not a regular file")
    assert message(device).startswith(f"problems.train_path = '{device}' is a device, not a regular file")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("{}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    assert message(path).endswith("make it readable for this user")


def test_a_zero_in_a_line_does_not_make_it_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "a\x00b"}\n')
    assert "not JSON (Invalid control character" in message(path)


def test_a_map_of_parquet_is_an_object(tmp_path: Path) -> None:
    table = pa.table({"info": pa.array([[("answer", "2")]], type=pa.map_(pa.string(), pa.string()))})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [row.fields for row in read(tmp_path / "x.parquet")] == [{"info": {"answer": "2"}}]
