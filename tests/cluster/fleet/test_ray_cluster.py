"""Ray as a command starts or joins it."""

from __future__ import annotations

import os

import pytest

from cluster.fleet.ray_cluster import quiet_stderr, set_ray_environment


def test_a_token_file_that_is_not_there_is_named_before_ray_starts(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN_PATH = '.*/token' is no file: "):
        set_ray_environment(local=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    set_ray_environment(local=False)


def test_what_ray_writes_while_a_cluster_is_joined_is_not_shown(capfd):
    with quiet_stderr():
        os.write(2, b"gcs_client.cc: Failed to get cluster ID")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
