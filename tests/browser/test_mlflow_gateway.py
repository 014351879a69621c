"""A person compares two runs in MLflow's UI, with a key of the organisation and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.finetune_service.api import stock_client
from tests.finetune_service.api.mlflow_server import workspaces_server
from tests.finetune_service.api.server import served

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOWN = ("assistant/", "users/current")  # what the page asks for, and does without

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "home").mkdir()
    with (
        workspaces_server(folder / "mlflow") as environment,
        served(folder / "home", **environment) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def made(tracked):
    """The ids of what the stock client has made."""
    environment = {
        "MLFLOW_TRACKING_URI": f"{tracked.url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": tracked.key("acme"),
    }
    command = [sys.executable, Path(stock_client.__file__), "acme"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def open_page(tracked):
    """Opens a page of MLflow's UI as somebody with a key."""
    with playwright.sync_playwright() as play:
        # Chromium does not start as root otherwise.
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_page(key, where=""):
            context = browser.new_context(
                http_credentials={"username": "me", "password": key},
                viewport={"width": 1280, "height": 900},
            )
            page = context.new_page()
            page.wrong = []
            page.on("pageerror", lambda error: page.wrong.append(str(error)))
            page.on("response", lambda each: each.status >= 400 and page.wrong.append(each.url))
            page.goto(f"{tracked.url}/mlflow/{where}")
            return page

        yield open_page
        browser.close()


def test_two_runs_are_compared(tracked, made, open_page):
    query = {"runs": json.dumps(made["runs"]), "experiments": json.dumps([made["experiment"]])}
    page = open_page(tracked.key("acme"), f"#/compare-runs?{urlencode(query)}")
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=60_000)
    for name in ("first of acme", "second of acme"):
        page.get_by_text(name).first.wait_for()
    close = page.get_by_role("button", name="Close")
    if close.count():  # MLflow's assistant, which is not there
        close.first.click()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/mlflow_gateway.png")
    assert [each for each in page.wrong if not any(known in each for known in SHOWN)] == []


def test_a_stranger_sees_none_of_them(tracked, made, open_page):
    page = open_page(tracked.key("other"))
    with page.expect_response(lambda each: "experiments/search" in each.url) as listed:
        page.goto(f"{tracked.url}/mlflow/#/experiments")
    assert listed.value.status == 200
    assert "acme" not in listed.value.text()
    page.get_by_text("Experiments").first.wait_for()
    assert "of acme" not in page.inner_text("body")


def test_a_wrong_key_is_asked_for_again(tracked, open_page):
    page = open_page("sk-ft-wrong")
    assert "Incorrect API key" in page.inner_text("body")
