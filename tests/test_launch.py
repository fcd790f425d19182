"""Starting a private Ray cluster on a machine that may be too busy for it."""

import pytest

from cluster.launch import _start_private


def test_a_start_that_times_out_is_tried_again():
    calls = []

    def start():
        calls.append("start")
        if len(calls) == 1:
            raise Exception("The current node timed out during startup. This could happen because ...")  # noqa: TRY002  Ray does
        return "context"

    assert _start_private(start, lambda: calls.append("clean up")) == "context"
    assert calls == ["start", "clean up", "start"]


def test_a_second_failure_is_one_line_with_a_remedy():
    def start():
        raise Exception("The current node timed out during startup.\nsecond line")  # noqa: TRY002  Ray does

    with pytest.raises(RuntimeError) as error:
        _start_private(start, lambda: None)
    assert str(error.value) == (
        "Ray does not start on this machine, tried twice (The current node timed out during startup.): "
        "end other work and try again, or join a running cluster with --address"
    )


def test_an_interruption_is_no_failure():
    def start():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _start_private(start, lambda: None)
