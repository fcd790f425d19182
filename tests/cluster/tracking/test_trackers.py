"""What each tracker was told is what the run has on disk, read back by the tracker's own library; and no trouble of a
tracker is the run's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.config.tracking import TrackingConfig
from cluster.tracking import libraries
from cluster.tracking.libraries import check_installed
from tests.shared.paths import ROOT
from tests.shared.tracked_runs import GROUPS, SAMPLES, TrackedRunDirectory, wait_for


def needs(module, extra):
    spec = importlib.util.find_spec(module)
    return pytest.mark.skipif(
        spec is None or spec.origin is None,
        reason=f"{module} is not installed: pip install -e '.[{extra}]'",
    )


needs_tensorboard = needs("tensorboard", "tensorboard")
needs_mlflow = needs("mlflow", "mlflow")


def record(run, name):
    """Ten steps: some are rewound and done again, and the last two belong to a resumed run; then a report.

    Evaluations of steps 0, 4 and 6; that of step 6 is made again.
    """
    with run.followed():
        run.do_evaluation(0, ended_step=0)
        for step in range(1, 6):
            run.do_step(step)
        run.wait_until_told(name, 5)
        run.do_evaluation(4, ended_step=5)  # whose step is past
        run.wait_until_told(name, 4, "held_out")
        for step in range(6, 8):
            run.do_step(step)
        run.wait_until_told(name, 7)
        run.do_evaluation(6, ended_step=7)
        run.wait_until_told(name, 6, "held_out")
        run.rewind(5)
        for step in range(6, 9):
            run.do_step(step)
        run.do_evaluation(6, ended_step=8)
    with run.followed(resumed_from=8):
        for step in range(9, 11):
            run.do_step(step)
        run.write_report()
    assert run.notes == []
    assert run.told(name)["dropped"] == 0 and run.told(name)["mark"]["step"] == 10
    assert not children_of_followers()


def children_of_followers():
    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "cluster.tracking.follower" in " ".join(process.cmdline())
    ]


ONCE = [(step, step / 100) for step in range(1, 11)]
OVERWRITTEN = [(step, step / 100 + (step in (6, 7))) for step in range(1, 11)]


def rounded(pairs):
    return [(step, round(value, 6)) for step, value in pairs]


# TensorBoard


def events_of(run_dir):
    """As TensorBoard itself loads them."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0, "images": 0}
    )
    events.Reload()
    return events


def scalars(events, tag):
    from tensorboard.util import tensor_util

    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)
    ]


def texts(events, tag):
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


@needs_tensorboard
def test_tensorboard_has_every_step_once_and_what_was_done_again_in_place_of_the_former(tmp_path):
    run = TrackedRunDirectory(tmp_path / "run", to=["tensorboard"])
    record(run, "tensorboard")
    events = events_of(run.run_dir)
    assert rounded(scalars(events, "train/reward")) == rounded(OVERWRITTEN)
    assert scalars(events, "time/step_s") == [(step, 0.5) for step in range(1, 11)]
    assert "train/score" not in events.Tags()["tensors"]  # never a finite number
    assert rounded(scalars(events, "evaluation/trained/pass_at_4")) == [(10, 0.8)]
    assert rounded(scalars(events, "evaluation/base/pass_at_1_high")) == [(10, 0.11)]
    assert rounded(scalars(events, "held_out/pass_at_4")) == [(0, 0.0), (4, 0.08), (6, 1.12)]
    assert rounded(scalars(events, "held_out/difference_pass_at_4_low")) == [(4, 0.07), (6, 1.11)]
    assert "[tracking]" in texts(events, "settings")[0]


@needs_tensorboard
def test_a_table_shows_the_picked_sample_first_and_what_was_asked(tmp_path):
    run = TrackedRunDirectory(tmp_path / "run", to=["tensorboard"], samples_per_example=2)
    record(run, "tensorboard")
    tables = texts(events_of(run.run_dir), "examples")
    assert list(tables) == [2, 4, 6, 8, 10]
    _, _, *lines = tables[4].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len(rows) == 2 * 2
    for place, group in enumerate(run.groups(4)[:2]):
        picked, other = rows[2 * place : 2 * place + 2]
        best = int(group.scores.argmax())
        number = group.samples.group
        assert picked[:5] == [
            "4",
            str(number),
            f"problem-{number}",
            f"What is {number}&#124;2?",
            f'{{"answer": {number}}}',
        ]
        assert (picked[5], picked[11], other[11]) == (str(best), "True", "False")
        assert picked[7] == f"{group.scores[best]:.4g}" and float(picked[9]) == best - 1.5
        assert int(other[5]) in {0, SAMPLES - 1}  # of the largest |weight|


@needs_tensorboard
def test_a_follower_that_was_killed_leaves_nothing_out_and_nothing_twice(tmp_path):
    run = TrackedRunDirectory(tmp_path / "run", to=["tensorboard"])
    with run.followed():
        run.do_step(1)
        run.wait_until_told("tensorboard", 1)
        [pid] = children_of_followers()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: run.notes)
        run.do_step(2)
    assert run.notes == [f"tracking: its process is gone (pid {pid}); the run goes on without"]
    with run.followed(resumed_from=2):
        run.do_step(3)
    assert rounded(scalars(events_of(run.run_dir), "train/reward")) == rounded(ONCE[:3])


# The others


def wandb_records(path):
    """Of W&B's file of a run: a header of 7 bytes, then LevelDB's log of its own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(message)
            message = b""


@needs("wandb", "wandb")
def test_wandb_has_every_step_once_and_a_resumed_run_is_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = TrackedRunDirectory(tmp_path / "run", to=["wandb"], project="countdown")
    record(run, "wandb")
    files = sorted((run.run_dir / "wandb").glob("offline-run-*/*.wandb"))
    records = [one for path in files for one in wandb_records(path)]
    runs = [one.run for one in records if one.HasField("run")]
    assert {(one.run_id, one.project, one.display_name) for one in runs} == {
        (run.told("wandb")["known_as"], "countdown", "run")
    }
    steps = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.HasField("history")
    ]
    rewards = [(step["_step"], step["train/reward"]) for step in steps if "train/reward" in step]
    assert rounded(rewards) == rounded(ONCE)
    evaluated = [step for step in steps if "held_out/pass_at_4" in step]
    assert rounded((step["held_out/step"], step["held_out/pass_at_4"]) for step in evaluated) == [
        (0, 0.0), (4, 0.08), (6, 0.12),
    ]  # fmt: skip
    done_s = {line["step"]: line["time"] for line in run.lines()}
    early = [step for step in steps if step["_step"] < 6 and step not in evaluated]
    assert len(early) >= 4 and all(abs(step["_timestamp"] - done_s[step["_step"]]) < 1 for step in early)
    assert [step["_step"] for step in steps if any(key.startswith("examples") for key in step)] == [
        2, 4, 6, 8, 10,
    ]  # fmt: skip
    summaries = {
        item.key: json.loads(item.value_json)
        for one in records
        if one.HasField("summary")
        for item in one.summary.update
    }
    assert summaries["evaluation/trained/pass_at_4"] == 0.8
    config = {item.key: item.value_json for one in runs for item in one.config.update}
    assert config["train.groups_per_step"] == "32"


@needs("trackio", "trackio")
def test_trackio_has_every_step_once_and_a_resumed_run_is_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = TrackedRunDirectory(tmp_path / "run", to=["trackio"], project="countdown")
    record(run, "trackio")
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
        "print(json.dumps([S.get_runs('countdown'), S.get_logs('countdown', 'run')]))"
    )
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    runs, logs = json.loads(read.stdout.splitlines()[-1])
    assert len(runs) == 1
    assert rounded((log["step"], log["train/reward"]) for log in logs if "train/reward" in log) == rounded(
        ONCE
    )
    tables = {log["step"]: log["examples"]["_value"] for log in logs if "examples" in log}
    assert list(tables) == [2, 4, 6, 8, 10] and len(tables[2]) == 2 * SAMPLES
    assert tables[2][0]["picked"] is True and tables[2][0]["group"] == 2 * GROUPS
    evaluated = [(log["step"], log["held_out/pass_at_4"]) for log in logs if "held_out/pass_at_4" in log]
    assert rounded(evaluated) == [(0, 0.0), (4, 0.08), (6, 0.12)]
    [report] = [log for log in logs if "evaluation/trained/pass_at_4" in log]
    assert report["evaluation/trained/pass_at_4"] == 0.8


MLFLOW_SERVER = os.environ.get("BONFIRE_MLFLOW")


@pytest.fixture
def mlflow_server(tmp_path):
    """Address of a server of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                MLFLOW_SERVER, "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
                f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db", f"--artifacts-destination={tmp_path}/artifacts",
            ],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: is_up("127.0.0.1", port), timeout_s=180)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(host, port):
    with socket.socket() as one:
        return one.connect_ex((host, port)) == 0


def check_mlflow(run):
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("countdown")
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name) == (run.told("mlflow")["known_as"], "run")
    assert found.info.status == "FINISHED" and found.data.params["train.groups_per_step"] == "32"
    history = client.get_metric_history(found.info.run_id, "train/reward")
    assert rounded(sorted((one.step, one.value) for one in history)) == rounded(ONCE)
    assert found.data.metrics["evaluation/trained/pass_at_4"] == 0.8
    history = client.get_metric_history(found.info.run_id, "held_out/pass_at_4")
    assert rounded(sorted((one.step, one.value) for one in history)) == [(0, 0.0), (4, 0.08), (6, 0.12)]
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {
        "config.toml",
        "examples",
        "report.json",
    }
    path = client.download_artifacts(found.info.run_id, "examples/step-000002.json")
    table = json.loads(Path(path).read_text())
    assert len(table["data"]) == 2 * SAMPLES and table["columns"][0] == "step"


@needs_mlflow
@pytest.mark.skipif(
    not MLFLOW_SERVER,
    reason="no server of MLflow: `pip install mlflow` into an environment of its own, BONFIRE_MLFLOW=ITS/bin/mlflow",
)
def test_mlflows_server_has_every_step_once_and_a_resumed_run_is_the_same_one(
    tmp_path, monkeypatch, mlflow_server
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run = TrackedRunDirectory(tmp_path / "run", to=["mlflow"], project="countdown")
    record(run, "mlflow")
    check_mlflow(run)


@needs_mlflow
def test_mlflows_files_have_every_step_once_and_a_resumed_run_is_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = TrackedRunDirectory(tmp_path / "run", to=["mlflow"], project="countdown")
    record(run, "mlflow")
    check_mlflow(run)


# Trouble


@needs_mlflow
@needs_tensorboard
def test_a_tracker_that_hangs_takes_neither_the_others_nor_the_end_of_the_run(tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and nobody answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = TrackedRunDirectory(tmp_path / "run", to=["mlflow", "tensorboard"], flush_s=1.0)
        with run.followed():
            for step in range(1, 5):
                run.do_step(step)
            run.wait_until_told("tensorboard", 4)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 30  # MLflow's own patience is minutes
    assert not children_of_followers()
    assert rounded(scalars(events_of(run.run_dir), "train/reward")) == rounded(ONCE[:4])
    [note] = run.notes
    assert note == (
        "tracking: mlflow has not taken all within tracking.flush_s = 1 (steps up to 0 are there); --resume tells it "
        "the rest"
    )


@needs_mlflow
def test_a_tracker_that_fails_is_said_once_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://else")
    run = TrackedRunDirectory(tmp_path / "run", to=["mlflow"], flush_s=2.0)
    with run.followed():
        run.do_step(1)
        wait_for(lambda: run.notes)
    failing, unfinished = run.notes
    assert failing.startswith("tracking: mlflow fails (begin: ") and failing.endswith(
        "tracking.log has the rest"
    )
    assert "has not taken all" in unfinished
    assert "Traceback" in (run.run_dir / "tracking.log").read_text()


@needs_tensorboard
def test_a_piece_that_a_tracker_refuses_is_dropped_and_counted_while_the_rest_arrives(tmp_path):
    run = TrackedRunDirectory(tmp_path / "run", to=["tensorboard"], flush_s=30.0)
    with run.followed():
        for step in range(1, 4):
            run.do_step(step)
        run.wait_until_told("tensorboard", 3)
        (run.run_dir / "trajectories" / "step-000004.parquet").write_text("no Parquet")
        run.record.append_metrics({"step": 4, "version": 4, "time": time.time(), "reward": 0.04})
    assert run.notes[0].startswith("tracking: tensorboard fails (the table of step 4: ")
    assert run.notes[1] == "tracking: tensorboard did not take 1 steps, tables or reports"
    assert rounded(scalars(events_of(run.run_dir), "train/reward")) == rounded(ONCE[:4])


@needs_tensorboard
def test_the_trackers_end_with_a_driver_that_was_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from tests.shared.tracked_runs import TrackedRunDirectory\n"
        "run = TrackedRunDirectory(Path(sys.argv[1]), to=['tensorboard'])\n"
        "with run.followed():\n"
        "    run.do_step(1); run.wait_until_told('tensorboard', 1); run.do_step(2); print('up', flush=True); time.sleep(600)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout.readline() == "up\n"
    [follower] = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    psutil.wait_procs([follower], timeout=30)
    assert not follower.is_running()
    assert rounded(scalars(events_of(tmp_path / "run"), "train/reward")) == rounded(ONCE[:2])


def test_a_run_without_trackers_starts_no_process_and_writes_nothing(tmp_path):
    run = TrackedRunDirectory(tmp_path / "run", to=[])
    with run.followed():
        run.do_step(1)
        assert not children_of_followers()
    assert not list(run.run_dir.glob("track*"))


# Before a run


def test_a_missing_library_is_one_line_with_what_to_install(monkeypatch):
    monkeypatch.setitem(libraries.MODULES, "wandb", "no_such_library")
    with pytest.raises(ValueError) as error:
        check_installed(TrackingConfig(to=("wandb",)))
    assert str(error.value) == (
        "tracking.to names 'wandb', whose library is not installed: pip install -e '.[wandb]', or leave it out"
    )


@needs_mlflow
def test_mlflow_without_an_address_is_one_line(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        ValueError, match=r"^tracking.to names 'mlflow', and MLFLOW_TRACKING_URI is not set: set it"
    ):
        check_installed(TrackingConfig(to=("mlflow",)))


def test_a_tracker_named_twice_is_refused():
    with pytest.raises(ValueError, match="names a tracker twice"):
        TrackingConfig(to=("wandb", "wandb"))


def test_the_follower_has_neither_torch_nor_ray():
    code = "import sys, cluster.tracking.follower; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
