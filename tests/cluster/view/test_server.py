"""The pages over HTTP: who gets in, what they show, and that nothing a run wrote is ever markup."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from cluster.view.library import Library
from cluster.view.server import CONTENT_POLICY, is_loopback, make_app
from tests.shared.viewed_runs import (
    a_group,
    facts,
    write_evaluation,
    write_held_out,
    write_tokenizer,
    write_viewed_run,
)
from verifiers.types import Problem

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</script><script>alert(1)</script>",
    "</pre></article><iframe src=//evil.example>",
    "{{ 7 * 191 }}{% include 'x' %}",
    "<!--<script>",
    "javascript:alert(1)",
    "\u202egnp.exe \x1b[31m \x00",
)
ELEMENTS = {
    "html", "head", "meta", "title", "link", "script", "body", "header", "a", "svg", "path", "span", "nav", "main", "h1", "h2",
    "p", "form", "label", "select", "option", "input", "button", "details", "summary", "div", "table", "thead", "tbody", "tr",
    "th", "td", "section", "article", "pre", "code", "i", "b", "dl", "dt", "dd", "figure", "figcaption", "meter", "img", "style",
}  # fmt: skip


class Markup(HTMLParser):
    """What a browser would make of a page: elements, attributes that run or load something, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.handlers, self.scripts, self.loaded, self.text = set(), [], [], [], ""
        self._in_script = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        attributes = dict(attrs)
        self.handlers += [name for name in attributes if name.startswith("on") or name == "style"]
        self.loaded += [attributes[name] for name in ("src", "href", "action") if attributes.get(name)]
        if tag == "script":
            self._in_script = attributes.get("type", "")
            if "src" not in attributes and attributes.get("type") != "application/json":
                self.scripts.append(attributes)

    def handle_endtag(self, tag):
        if tag == "script":
            self._in_script = None

    def handle_data(self, data):
        if self._in_script is None:
            self.text += data


@pytest.fixture
def hostile(tmp_path):
    """A run and its evaluation in which every text is an attack."""
    groups = [
        a_group(
            i,
            [0.0, 1.0],
            scores=[1.0, 0.0],
            texts=[attack, attack + "2"],
            problem_id=attack,
            answers=[attack, None],
        )
        for i, attack in enumerate(ATTACKS)
    ]
    about = {"git_commit": ATTACKS[0], "stage": "ended", "started": 1.0}
    run_dir = write_viewed_run(tmp_path / "run<b>&\"'", {1: groups, 2: groups}, about=about)
    write_tokenizer(run_dir, list(ATTACKS))
    with (run_dir / "controller.log").open("w") as log:
        log.writelines(f"2026-01-01 00:00:00,000 cluster.run.health {attack}\n" for attack in ATTACKS)
    problems = [Problem(id=attack, prompt=attack, difficulty=attack) for attack in ATTACKS]
    write_evaluation(run_dir / "evaluation", problems, {"base": groups, "trained": groups})
    write_held_out(run_dir, {0: [[0.0, 1.0]] * len(ATTACKS), 2: [[1.0, 1.0]] * len(ATTACKS)}, ATTACKS)
    return run_dir


def client_of(*paths, token=None):
    return TestClient(
        make_app(Library(paths, None), token), base_url="http://127.0.0.1:8300", follow_redirects=False
    )


def pages_of(run_dir):
    from urllib.parse import quote

    run = f"/run/{quote(run_dir.name, safe='')}"
    evaluation = f"/evaluation/{quote(run_dir.name + '.evaluation', safe='')}"
    return [
        "/", run, f"{run}/groups", f"{run}/groups?kind=disagree&sort=regret&problem=%3Cscript%3E", f"{run}/problems", f"{run}/verifier",
        *(f"{run}/group/1/{row}" for row in range(len(ATTACKS))), f"{run}/group/1/0/tokens?sample=0",
        *(f"{run}/{page}?id={quote(attack, safe='')}" for page in ("problem", "held-out") for attack in ATTACKS),
        evaluation, *(f"{evaluation}/problem/{index}" for index in range(len(ATTACKS))),
        "/run/%3Cscript%3Ealert(1)%3C%2Fscript%3E", f"{run}/groups?sort=%3Cscript%3E", f"{run}/group/9/9",
    ]  # fmt: skip


def test_no_page_has_an_element_a_handler_or_a_script_that_its_template_does_not(hostile):
    client = client_of(hostile)
    for page in pages_of(hostile):
        answer = client.get(page)
        assert answer.status_code in (200, 400, 404), (page, answer.text)
        found = Markup(answer.text)
        assert found.elements <= ELEMENTS, (page, found.elements - ELEMENTS)
        assert found.handlers == [] and found.scripts == [], page
        assert all(link.startswith(("/", "?")) and not link.startswith("//") for link in found.loaded), page
        assert "1337" not in answer.text, page


def test_the_attacks_are_shown_as_they_were_written(hostile):
    client = client_of(hostile)
    pages = pages_of(hostile)
    for row, attack in enumerate(ATTACKS):
        text = Markup(client.get(f"{pages[1]}/group/1/{row}").text).text
        assert attack in text.replace("\ufffd", "\x00")
    assert ATTACKS[0] in Markup(client.get(pages[1]).text).text  # an event


def test_every_answer_carries_the_policy_also_a_refusal_and_a_file(hostile):
    client = client_of(hostile)
    for page in ("/", "/nowhere", "/static/view.js", "/api/curves?run=x", "/static/../server.py"):
        answer = client.get(page)
        assert answer.headers["content-security-policy"] == CONTENT_POLICY, page
        assert (
            answer.headers["x-content-type-options"] == "nosniff"
            and answer.headers["cache-control"] == "no-store"
        )
    assert "unsafe" not in CONTENT_POLICY and "http" not in CONTENT_POLICY


def test_numbers_of_the_charts_are_json_and_no_markup(hostile):
    client = client_of(hostile)
    answer = client.get("/api/curves", params={"run": hostile.name})
    assert answer.headers["content-type"] == "application/json"
    [run] = answer.json()["runs"]
    assert run["x"] == [1, 2] and run["mean"]["agreement"] == [0.0, 0.0]
    assert run["events"][0]["text"] == ATTACKS[0]
    data = Markup(client.get(f"{pages_of(hostile)[1]}/problem", params={"id": ATTACKS[0]}).text)
    assert data.scripts == []


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.1:8300", "", "[::2]:8300"]
)
def test_without_a_token_another_name_than_this_machines_is_refused(tmp_path, host):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}))
    for page in ("/", "/api/state", "/static/view.js"):
        answer = client.get(page, headers={"host": host})
        assert answer.status_code == 421 and "run" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8300", "localhost:8300", "LOCALHOST", "[::1]:8300"])
def test_this_machines_own_names_are_let_in(tmp_path, host):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}))
    assert client.get("/", headers={"host": host}).status_code == 200


def test_with_a_token_nothing_is_seen_without_it(tmp_path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}), token="sesame")
    for page in (
        "/",
        "/run/run",
        "/api/curves?run=run",
        "/static/view.js",
        "/?token=",
        "/?token=sesam",
        "/?token=%00é",
    ):
        answer = client.get(page)
        assert answer.status_code == 401 and "run</a>" not in answer.text, page
    client.cookies.set("bonfire_view", "wrong")
    assert client.get("/").status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(tmp_path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}), token="sesame")
    answer = client.get("/run/run?token=sesame")
    assert answer.status_code == 303 and answer.headers["location"] == "/run/run"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/run/run", headers={"host": "gpu-box:8300"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["//evil.example/", "///evil.example", "/\\evil.example", "/%5Cevil.example"]
)
def test_the_way_in_leads_to_no_other_host(tmp_path, path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}), token="sesame")
    answer = client.get(f"http://127.0.0.1:8300{path}?token=sesame")
    assert answer.status_code == 303
    assert answer.headers["location"][1] not in "/\\"


def test_nothing_can_be_written(tmp_path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/run/run").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2fserver.py", "/static/%2e%2e/server.py", "/run/..%2f..", "/run/%2e%2e/groups", "/run/run/group/-1/0",
        "/run/run/group/1/99999999999999999999", "/evaluation/run/picture/..%2frun.json", "/run/run%00/groups",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_what_is_shown(tmp_path, path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}))
    answer = client.get(path)
    assert answer.status_code == 404 and "import" not in answer.text


def test_a_wrong_query_is_one_line_on_a_page(tmp_path):
    client = client_of(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0])]}))
    answer = client.get("/run/run/groups?reward_min=much")
    assert answer.status_code == 400 and "reward_min = 'much' is no number" in html.unescape(answer.text)
    assert client.get("/api/curves?run=run&from=x").status_code == 400
    assert client.get("/run/run/group/1/0/tokens?sample=x").status_code == 400


def test_only_this_machine_is_a_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "gpu-box", "")))


def test_a_group_shows_its_samples_its_picks_and_what_is_not_on_disk(tmp_path):
    group = a_group(
        5, [0.0, 1.0, 0.0, 0.0], scores=[0.9, 0.1, 0.1, 0.1], texts=["wrong", "right", "same", "same"]
    )
    run_dir = write_viewed_run(tmp_path / "run", {1: [group]})
    text = Markup(client_of(run_dir).get("/run/run/group/1/0").text).text
    words = " ".join(text.split())
    assert "4 samples, 3 different texts" in words and "× 2" in words
    assert words.index("picked") < words.index("wrong") < words.index("right")
    assert "The learner's own are not" in words and "Its token ids: 0 1" in words


def test_a_page_of_a_running_run_changes_with_it(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0, 0.0])]})
    client = client_of(run_dir)
    before = client.get("/api/state?run=run").json()
    assert before["runs"]["run"]["steps"] == 1
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(facts(2)) + "\n")
    assert client.get("/api/state?run=run").json()["runs"]["run"]["steps"] == 2
    assert client.get("/api/curves?run=run").json()["runs"][0]["x"] == [1, 2]
    assert client.get("/api/curves?run=run&from=2&to=2").json()["runs"][0]["x"] == [2]


def test_two_answers_stand_beside_each_other(tmp_path):
    problems = [Problem(id="a", prompt="1+1?"), Problem(id="b", prompt="2+2?")]
    base = [a_group(0, [0.0, 0.0], texts=["one", "three"]), a_group(1, [1.0, 0.0])]
    trained = [a_group(0, [1.0, 1.0], texts=["two", "2"]), a_group(1, [1.0, 0.0])]
    groups = {
        name: [
            a_group(i, g.rewards, texts=g.samples.texts, problem_id=problems[i].id)
            for i, g in enumerate(made)
        ]
        for name, made in (("base", base), ("trained", trained))
    }
    client = client_of(write_evaluation(tmp_path / "eval", problems, groups))
    listed = Markup(client.get("/evaluation/eval").text).text
    assert "a.0001.00+1.00b.500.500+.000" in listed  # the problem that gained most is first
    words = " ".join(Markup(client.get("/evaluation/eval/problem/0").text).text.split())
    assert "base@1 0 of 2 right" in words and "trained@1 2 of 2 right" in words
    assert client.get("/evaluation/eval/problem/7").status_code == 404
    assert client.get("/evaluation/eval?a=odd").status_code == 400
    assert client.get("/evaluation/eval/picture/pass_at_k.svg").headers["content-type"] == "image/svg+xml"
    assert client.get("/evaluation/eval/picture/settings.json").status_code == 404
    chart = client.get("/api/curves?evaluation=eval").json()["runs"][0]["held_out"]
    assert [cell["mean"] for cell in chart["metrics"][0]["cells"]] == [[0.25, 0.5], [0.75, 1.0]]


def test_the_command_needs_neither_ray_nor_torch_nor_vllm():
    import subprocess
    import sys

    code = (
        "import sys, cluster.view.server, cluster.view.standalone, cluster.commands.cli\n"
        "sys.exit(str([name for name in ('ray', 'torch', 'vllm', 'transformers', 'matplotlib') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "[]"


def everything(name):
    run = f"/run/{name}"
    return [
        "/",
        run,
        *(f"{run}/{page}" for page in ("groups", "problems", "verifier")),
        f"/api/curves?run={name}",
    ]


@pytest.mark.parametrize("kept", ["metrics.jsonl", "run.json"])
def test_of_a_run_that_has_little_yet_every_page_is_there(tmp_path, kept):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / kept).write_text(
        json.dumps(facts(1)) + "\n" if kept == "metrics.jsonl" else '{"stage": "starting"}'
    )
    client = client_of(run_dir)
    for page in everything("run"):
        assert client.get(page).status_code == 200, page


def test_of_a_run_with_damaged_files_every_page_is_there_and_names_what_cannot_be_read(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(0, [1.0, 0.0])], 2: [a_group(1, [1.0, 0.0])]})
    (run_dir / "trajectories" / "step-000002.parquet").write_bytes(b"PAR1 half of it")
    (run_dir / "config.toml").write_text("= 1")
    (run_dir / "run.json").write_text("[")
    client = client_of(run_dir)
    for page in everything("run"):
        assert client.get(page).status_code == 200, page
    assert "step-000002.parquet cannot be read" in client.get("/run/run/groups").text
    assert client.get("/run/run/group/1/0").status_code == 200
    answer = client.get("/run/run/group/2/0")
    assert answer.status_code == 500 and "step-000002.parquet cannot be read" in answer.text


def test_an_evaluation_that_is_still_sampled_shows_what_is_finished(tmp_path):
    problems = [Problem(id="a", prompt="1+1?"), Problem(id="b", prompt="2+2?")]
    samples = [a_group(i, [1.0, 0.0], problem_id=problem.id) for i, problem in enumerate(problems)]
    directory = write_evaluation(tmp_path / "eval", problems, {"base": samples})
    for name in ("report.json", "results.parquet"):
        (directory / name).unlink()
    (directory / "samples" / "trained@1.parts").mkdir()
    client = client_of(directory)
    words = " ".join(Markup(client.get("/evaluation/eval").text).text.split())
    assert "Not finished, and left out: trained@1" in words and "There is no report yet" in words
    assert client.get("/evaluation/eval/problem/1").status_code == 200
    (directory / "samples" / "base@1.parquet").unlink()
    assert client.get("/evaluation/eval").status_code == 200
    assert client.get("/evaluation/eval/problem/1").status_code == 404
    assert "not finished" in client.get("/").text


def test_a_resume_that_does_steps_again_is_followed(tmp_path):
    from cluster.run_directory.record import RunRecord

    run_dir = write_viewed_run(tmp_path / "run", {step: [a_group(step, [0.0, 0.0])] for step in (1, 2, 3)})
    client = client_of(run_dir)
    assert client.get("/run/run/group/3/0").status_code == 200
    RunRecord(run_dir).rewind(1)
    assert client.get("/run/run/group/3/0").status_code == 404
    assert client.get("/api/curves?run=run").json()["runs"][0]["x"] == [1]
    assert "1 of 1 groups" in client.get("/run/run/groups").text
