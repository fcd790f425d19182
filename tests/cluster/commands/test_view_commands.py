"""`bonfire view` as a process: its address, its token, and what it refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from cluster.commands.cli import cli
from tests.shared.paths import ROOT
from tests.shared.viewed_runs import a_group, write_viewed_run

CODE = "from cluster.commands.cli import main; main()"


@pytest.fixture
def run_dir(tmp_path):
    return write_viewed_run(tmp_path / "runs" / "mine", {1: [a_group(0, [1.0, 0.0])]})


@contextmanager
def viewing(*arguments, cwd):
    command = [sys.executable, "-c", CODE, "view", "--port", "0", "--no-cache", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert errors == ""


def get(address):
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(address, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("arguments", [(), ("mine",), ("runs/mine",), ("runs",)])
def test_runs_are_found_without_an_argument_by_name_and_by_path(run_dir, arguments):
    with viewing(*arguments, cwd=run_dir.parent.parent) as address:
        assert address.startswith("http://127.0.0.1:") and "token" not in address
        assert "/run/mine" in get(address)


def test_elsewhere_than_on_this_machine_it_has_a_token_without_being_asked(run_dir):
    with viewing("mine", "--host", "0.0.0.0", cwd=run_dir.parent.parent) as address:
        place, token = address.split("?token=")
        assert len(token) > 20
        place = place.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(place)
        assert "/run/mine" in get(f"{place}?token={token}")


def test_a_token_of_ones_own_is_needed_on_this_machine_too(run_dir):
    with viewing("mine", "--token", "sesame", cwd=run_dir.parent.parent) as address:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(address.split("?")[0])
        assert "/run/mine" in get(address)


@pytest.mark.parametrize("token", ["", "a b", "a;b", "a&b", "naïve"])
def test_a_token_that_no_address_can_hold_is_refused(run_dir, token):
    result = CliRunner().invoke(cli, ["view", str(run_dir), "--token", token, "--no-cache"])
    assert result.exit_code == 1 and "--token may have letters" in str(result.exception)


def test_a_port_that_is_taken_is_named(run_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["view", str(run_dir), "--port", port, "--no-cache"])
    assert result.exit_code == 1 and isinstance(result.exception, ValueError)
    assert f"--port {port} cannot be listened at" in str(result.exception) and "\n" not in str(
        result.exception
    )


def test_a_directory_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in ((["odd"], "there is no directory odd"), ([], "there is no directory runs")):
        result = CliRunner().invoke(cli, ["view", *arguments])
        assert result.exit_code == 1 and message in str(result.exception)
