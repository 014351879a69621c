"""A person starts a job by the form of Prefect's UI, in a real browser."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.types import TrainingMethod
from finetune_service.stack.supervision import wait_until
from tests.integration.stack import stack

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def running():
    with stack() as running:
        running.addresses = running.json("up")
        yield running


@pytest.fixture
def page(running):
    with playwright.sync_playwright() as play:
        # Chromium does not start as root otherwise.
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.foreign = []
        page.on("request", lambda request: _note_foreign(page, request.url))
        password = (running.home / "stack" / "secrets" / "prefect-password").read_text()
        page.goto(f"{running.addresses['prefect']}/login")
        page.locator("input[type=password]").fill(f"admin:{password}")
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard")
        yield page
        browser.close()


def _note_foreign(page, url):
    if not re.match(r"(https?://(127\.0\.0\.1|localhost)[:/]|data:|blob:)", url):
        page.foreign.append(url)


def field(page, *labels):
    """The field of a label, inside of the boxes of the labels before it."""
    found = page.locator("form, main").last
    for label in labels:
        name = f"[normalize-space()='{label}' or normalize-space()='{label} (Optional)']"
        box = "ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
        label_of = "descendant::span[contains(@class, 'schema-form-property__label')]"
        found = found.locator(f"xpath={label_of}{name}/{box}").first
    return found


def test_the_form_shows_the_config_and_starts_a_job_that_completes(running, page):
    with running.prefect() as prefect:
        deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}
        page.goto(f"{running.addresses['prefect']}/deployments/deployment/{deployed['cpu']}/run")
        page.get_by_role("heading", name="Parameters").wait_for()

        # sections are boxes, in the config's order
        labels = page.locator(".schema-form-property__label").all_inner_texts()
        plain = [label.removesuffix(" (Optional)") for label in labels]
        sections = [name.title() for name in PipelineConfig.model_fields]
        assert [label for label in plain if label in sections] == sections
        # descriptions and ranges are there to read, enums are choices
        rank = field(page, "Lora", "Lora Rank")
        assert "The rank of the update. (4 to 64)" in rank.inner_text()
        method = field(page, "Training", "Method")
        # A click on its text opens and shuts it at once: a fault of this UI in Prefect 3.8.8.
        method.locator(".p-select-button__icon").click()
        options = page.locator(".p-select-option")
        options.first.wait_for()
        assert set(options.all_inner_texts()) == {method.value for method in TrainingMethod}
        options.get_by_text("instruction_tuning").click()

        field(page, "Dataset", "Path").locator("textarea").fill("examples/data/train.jsonl")
        samples = field(page, "Dataset", "Max Samples")
        samples.get_by_text("int", exact=True).click()
        samples.locator("input[type=number]").fill("96")
        field(page, "Training", "Epochs").locator("input[type=number]").fill("1")
        field(page, "Evaluation", "Num Samples").locator("input[type=number]").fill("8")
        if folder := os.environ.get("SCREENSHOTS"):
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=f"{folder}/prefect_form.png")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(re.compile(r"/(runs|flow-runs)/|/deployments/deployment/[^/]+(\?|$)"))

        def runs():
            return prefect._post("/flow_runs/filter")

        assert wait_until(lambda: len(runs()) == 1, 30)
        assert wait_until(lambda: runs()[0]["state_type"] in ("COMPLETED", "FAILED"), 180)
        (run,) = runs()
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
        config = run["parameters"]["config"]
        assert config["dataset"]["max_samples"] == 96
        assert config["training"]["method"] == "instruction_tuning"
        page.goto(f"{running.addresses['prefect']}/runs/flow-run/{run['id']}")
        page.get_by_text("Completed").first.wait_for()
    assert not page.foreign


def test_a_value_out_of_its_range_is_refused_with_the_field_named(running, page):
    with running.prefect() as prefect:
        deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}
    page.goto(f"{running.addresses['prefect']}/deployments/deployment/{deployed['cpu']}/run")
    page.get_by_role("heading", name="Parameters").wait_for()
    field(page, "Dataset", "Path").locator("textarea").fill("examples/data/train.jsonl")
    field(page, "Lora", "Lora Rank").locator("input[type=number]").fill("9999")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("9999 is greater than the maximum of 64").first.wait_for()
