"""The pages in a real browser: charts are drawn, nothing else is asked for, nothing a run wrote is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from cluster.run_directory.record import RunRecord
from tests.cluster.view.test_server import ATTACKS
from tests.shared.run_directories import record_trajectories
from tests.shared.viewed_runs import (
    a_group,
    facts,
    write_evaluation,
    write_held_out,
    write_tokenizer,
    write_viewed_run,
)
from verifiers.types import Problem

REMEDY = "pip install playwright && apt-get install chromium (or: playwright install chromium)"
playwright = pytest.importorskip("playwright.sync_api", reason=f"no browser to test in: {REMEDY}")
pytestmark = pytest.mark.slow
WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as starter:
        known = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
        path = next(filter(None, known), None)
        try:
            found = starter.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser starts ({str(error).splitlines()[0]}): {REMEDY}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Thirty steps of a run that still goes on, in which every text is an attack."""
    directory = tmp_path_factory.mktemp("viewed") / "run"
    groups = {
        step: [
            a_group(
                step * 10 + i, [0.0, 1.0, 0.0, 0.0], scores=[0.2, 0.1, 0.0, 0.0], texts=[attack, attack + "2", "same", "same"],
                problem_id=attack, version=max(0, step - 2), lengths=[4, 3, 2, 2], logprob=-1.5,
            )
            for i, attack in enumerate(ATTACKS)
        ]
        for step in range(1, 31)
    }  # fmt: skip
    about = {"stage": "training", "pid": os.getpid(), "started": time.time()}
    write_viewed_run(directory, groups, about=about)
    write_tokenizer(directory, list(ATTACKS))
    (directory / "controller.log").write_text(f"2026-01-01 00:00:00,000 cluster.run.health {ATTACKS[1]}\n")
    problems = [Problem(id=attack, prompt=attack, difficulty=attack) for attack in ATTACKS]
    write_held_out(directory, {0: [[0, 0], [1, 0]], 10: [[1, 0], [1, 0]], 20: [[1, 1], [1, 0]]})
    write_evaluation(directory / "evaluation", problems, {"base": groups[1], "trained": groups[2]})
    return directory


@pytest.fixture(scope="module")
def address(run_dir, tmp_path_factory):
    """Of `bonfire view` on the run and on a second one."""
    other = write_viewed_run(
        run_dir.parent / "other", {1: [a_group(0, [1.0, 0.0])], 2: [a_group(1, [1.0, 0.0])]}
    )
    code = "from cluster.commands.cli import main; main()"
    command = [sys.executable, "-c", code, "view", str(run_dir), str(other), "--port", "0", "--no-cache"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield server.stdout.readline().split()[0].rstrip("/")
    server.terminate()
    server.wait(20)


class Watched:
    """A page that notes every request, error, and attempt to say something."""

    def __init__(self, browser, width=1280, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.faults, self.requests = [], []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, address):
        self.page.goto(address)
        self.page.wait_for_load_state("networkidle")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


PAGES = (
    "/", "/run/run", "/run/run/groups", "/run/run/groups?kind=disagree&sort=regret", "/run/run/group/3/0", "/run/run/group/3/7",
    "/run/run/problems", "/run/run/problem?id=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "/run/run/held-out?id=h1", "/run/run/verifier",
    "/evaluation/run.evaluation", "/evaluation/run.evaluation/problem/1",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_fits_asks_no_other_host_and_runs_nothing_of_the_run(browser, address, width, scheme):
    with Watched(browser, width, scheme) as watched:
        for path in PAGES:
            watched.open(address + path)
            assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert watched.page.locator("img[src=x], iframe, svg[onload]").count() == 0, path
        assert watched.faults == []
        assert {url.startswith(address + "/") for url in watched.requests} == {True}


def contrast(page, selector):
    """WCAG's ratio of an element's ink to the page's or its own ground."""
    return page.evaluate(
        """selector => {
            const light = (text) => {
                const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
                    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const element = document.querySelector(selector);
            let ground = element;
            while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
            const values = [light(getComputedStyle(element).color), light(getComputedStyle(ground).backgroundColor)].sort();
            return (values[1] + 0.05) / (values[0] + 0.05);
        }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(browser, address, scheme):
    with Watched(browser, scheme=scheme) as watched:
        watched.open(f"{address}/run/run/group/3/0")
        for selector in ("main", ".quiet", "pre", "i", ".badge.pick", ".facts a", "nav a", ".up", ".down"):
            assert contrast(watched.page, selector) >= 4.5, selector


def test_charts_are_drawn_with_their_numbers(browser, address):
    with Watched(browser) as watched:
        watched.open(f"{address}/run/run")
        watched.page.wait_for_selector(".chart canvas")
        titles = watched.page.locator(".chart h3").all_inner_texts()
        assert titles[:4] == ["Best-of-N reward", "Held out", "Held out, less the base", "Held out: pass@k"]
        meanwhile = watched.page.locator(".chart").nth(1).inner_text()
        assert "pass@1" in meanwhile and "pass@2" in meanwhile and "0.75" in meanwhile
        assert "Agreement of score and reward" in titles and "Staleness" not in titles  # not in these metrics
        first = watched.page.locator(".chart").first
        assert "Best-of-2" in first.inner_text() and "0.6" in first.inner_text()
        drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
        assert watched.page.locator("canvas").first.evaluate(drawn)


def test_dragging_looks_closer_and_the_button_goes_back(browser, address):
    with Watched(browser) as watched:
        watched.open(f"{address}/run/run")
        plot = watched.page.locator(".chart .u-over").first
        box = plot.bounding_box()
        watched.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
        watched.page.mouse.down()
        watched.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40, steps=4)
        watched.page.mouse.up()
        watched.page.wait_for_selector(".chart .reset")
        assert [url for url in watched.requests if "from=" in url and "to=" in url]
        watched.page.locator(".chart .reset").first.click()
        watched.page.wait_for_selector(".chart .reset", state="detached")
        assert watched.faults == []


def test_two_runs_stand_in_the_same_charts(browser, address):
    with Watched(browser) as watched:
        watched.open(f"{address}/")
        watched.page.wait_for_selector(".chart canvas")
        legend = watched.page.locator(".chart").first.locator(".legend-row button").all_inner_texts()
        assert sorted(text.split()[0] for text in legend) == ["other", "run"]
        watched.page.get_by_label("show other").uncheck()
        watched.page.get_by_role("button", name="Show the chosen side by side").click()
        watched.page.wait_for_selector(".chart canvas")
        assert watched.page.url == f"{address}/?run=run"
        assert watched.page.locator("[data-charts]").get_attribute("data-charts") == '["run"]'


def test_tokens_are_coloured_by_chance_and_by_version(browser, address):
    with Watched(browser) as watched:
        watched.open(f"{address}/run/run/group/3/0")
        watched.page.locator("[data-tokens]").first.click()
        token = watched.page.locator(".t").first
        token.wait_for()
        assert watched.page.locator(".t").count() == 4
        assert token.inner_text() == ATTACKS[0] and "c4" in token.get_attribute("class")  # exp(-1.5) = .22
        by_chance = token.evaluate("t => getComputedStyle(t).backgroundColor")
        watched.page.get_by_label("version").check()
        assert token.evaluate("t => getComputedStyle(t).backgroundColor") != by_chance
        watched.page.locator("[data-tokens]").first.click()
        assert watched.page.locator(".t").count() == 0
        assert watched.faults == []


def test_arrow_keys_go_through_the_list(browser, address):
    with Watched(browser) as watched:
        watched.open(f"{address}/run/run/groups?sort=step&order=asc")
        watched.page.locator("tbody a").first.click()
        watched.page.wait_for_url("**/group/1/0?**")
        watched.page.keyboard.press("ArrowRight")
        watched.page.wait_for_url("**/group/1/1?**")
        watched.page.keyboard.press("ArrowLeft")
        watched.page.wait_for_url("**/group/1/0?**")


def test_a_page_follows_its_run(browser, address, run_dir):
    with Watched(browser) as watched:
        watched.open(f"{address}/run/run")
        watched.page.wait_for_selector(".chart canvas")
        assert "30 of 3" in watched.page.locator("[data-live=facts]").inner_text()
        time.sleep(3.5)  # its first look at the state
        record_trajectories(RunRecord(run_dir), 31, [a_group(310, [1.0, 0.0, 0.0, 0.0])], np.zeros((1, 4)))
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(facts(31, bon=0.987)) + "\n")
        live, chart = watched.page.locator("[data-live=facts]"), watched.page.locator(".chart").first
        playwright.expect(live).to_contain_text("31 of 3", timeout=20_000)
        playwright.expect(chart).to_contain_text("0.987", timeout=20_000)
        assert watched.faults == []


def test_the_report_is_whole_without_a_server(browser, run_dir, tmp_path):
    path = tmp_path / "report.html"
    code = "from cluster.commands.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, "report", str(run_dir), "--out", str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with Watched(browser, 390, "dark") as watched:
        watched.open(path.as_uri())
        watched.page.wait_for_selector(".chart canvas")
        assert watched.requests == [path.as_uri()] and watched.faults == []
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert watched.page.locator("img, iframe").count() == 0
