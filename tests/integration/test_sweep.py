"""finetune-cli sweep: trials that share what they can, one run above them, one gate behind them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_core.config import Settings
from finetune_core.hub import promotion
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import PARENT_RUN
from finetune_core.sweep.sweep import sweep_folder
from tests.conftest import ROOT
from tests.integration.command import write_config

RATE, RANK = "training.learning_rate", "lora.lora_rank"
COMPARED = {"loss", "perplexity", "token_accuracy", "exact_match"}


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finetune_service.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, seconds: float = 280, **environment: str) -> Any:
    process = start(*arguments, "--json", **environment)
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return json.loads(out)


def small_config(folder: Path, samples: int = 48, **sections: dict[str, Any]) -> Path:
    """48 rows in 3 steps, 24 rows held out, hardly any answers."""
    rows = (ROOT / "examples/data/validation.jsonl").read_text().splitlines(keepends=True)[:24]
    held_out = folder / "validation.jsonl"
    held_out.write_text("".join(rows))
    return write_config(
        folder / "config.json",
        dataset={"max_samples": samples, "validation_path": str(held_out)},
        training={"epochs": 1, **sections.pop("training", {})},
        evaluation={"num_samples": 4, "generation_max_length": 4, "metrics": ["exact_match"]},
        **sections,
    )


def tracked(hub: MlflowHub, parent: str) -> dict[int, Any]:
    """The runs of the trials below a sweep's run, by their numbers."""
    experiment = hub._experiment_id()
    found = hub._client.search_runs([experiment], f"tags.`{PARENT_RUN}` = '{parent}'")
    return {int(each.data.tags["trial"]): each for each in found}


def artifacts(hub: MlflowHub, run_id: str) -> set[str]:
    return {each.path for each in hub._client.list_artifacts(run_id)}


def events(folder: Path, job_id: str) -> list[str]:
    file = Settings().organization_folder("local") / "jobs" / job_id / "events.jsonl"
    return [json.loads(line)["name"] for line in file.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A home of this module's own: what other modules have cached would be found there."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def swept(folder, prefect_server):
    return run(
        "sweep", "--config", small_config(folder), "--name", "pair", "--sampler", "grid",
        "--set", f"{RATE}=1e-4,1e-3", "--metric", "loss", **prefect_server,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hub(swept):
    return MlflowHub(Settings(), "local")


@pytest.mark.slow
def test_rows_and_tokens_are_made_once_and_the_best_trial_becomes_champion(swept, hub):
    first, second = swept["trials"]
    assert (first["values"], second["values"]) == ({RATE: 1e-4}, {RATE: 1e-3})
    assert (first["cached"], second["cached"]) == ([], ["sanitize", "tokenize"])
    assert [each["state"] for each in swept["trials"]] == ["completed"] * 2
    assert second["value"] == second["metrics"]["loss"] < first["value"]
    assert swept["best"] == 1
    registered = swept["registered"]
    assert registered["gate"]["checks"][0]["passed"]
    champion = hub.get("pair", promotion.CHAMPION)
    assert champion.version == registered["version"] == second["version"] == 2
    assert set(champion.aliases) == {"trial", "candidate", "champion"}
    assert hub.get("pair", 1).aliases == []  # trials move no alias but their own
    assert [each.what.partition(":")[0] for each in promotion.history(hub, "pair")] == [
        "became champion"
    ]


@pytest.mark.slow
def test_the_trials_runs_lie_below_the_sweeps_which_has_table_picture_and_space(swept, hub):
    parent = hub._client.get_run(swept["run_id"])
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "sweep pair")
    assert parent.data.tags["best"] == "pair@2"
    assert parent.data.params[f"space.{RATE}"] == "[0.0001, 0.001]"
    assert artifacts(hub, swept["run_id"]) == {
        "config.yaml",
        "sweep.json",
        "sweep.png",
        "trials.json",
        "trials.md",
    }
    trials = tracked(hub, swept["run_id"])
    assert set(trials) == {0, 1}
    for number, each in trials.items():
        assert (each.info.status, each.info.run_name) == ("FINISHED", f"trial {number}")
        assert set(each.data.metrics) >= COMPARED
        assert each.data.params[RATE] == str(swept["trials"][number]["values"][RATE])
    assert trials[1].data.metrics["gate_passed"] == 1.0
    assert "gate_passed" not in trials[0].data.metrics


@pytest.mark.slow
def test_a_finished_sweep_that_is_asked_for_again_says_the_same_and_does_nothing(
    swept, hub, prefect_server
):
    before = {each.ref: each.aliases for each in hub.versions("pair")}
    again = run("sweep", "--resume", swept["sweep_id"], **prefect_server)
    assert {**again, "duration_s": 0} == {**swept, "duration_s": 0}
    assert {each.ref: each.aliases for each in hub.versions("pair")} == before


@pytest.mark.slow
def test_registered_versions_are_measured_on_any_rows_and_the_table_is_kept(
    swept, hub, folder, prefect_server
):
    told = run(
        "evaluate", "-m", "pair@1", "-m", "pair@champion", "-m", "examples/tiny_base",
        "-d", folder / "validation.jsonl", "--metrics", "loss",
        **prefect_server,
    )  # fmt: skip
    assert told["models"] == ["pair@1", "pair@2", "examples/tiny_base"]
    assert told["ranking"] == ["pair@2", "pair@1", "examples/tiny_base"]
    for number, ref in enumerate(("pair@1", "pair@2")):  # the same rows as the job's own
        loss = told["results"][ref]["metrics"]["loss"]
        assert loss == pytest.approx(swept["trials"][number]["metrics"]["loss"], abs=1e-4)
    (found,) = hub._client.search_runs(
        [hub._experiment_id()], "attributes.run_name = 'evaluate_registered'"
    )
    assert (found.info.status, found.data.tags["best_model"]) == ("FINISHED", "pair@2")
    assert artifacts(hub, found.info.run_id) == {"comparison.json", "comparison.md"}
    path = hub._client.download_artifacts(found.info.run_id, "comparison.md", str(folder))
    assert "| 1 | pair@2 | " in Path(path).read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--set", "training.rate=1e-4"), "space.training.rate: is not a setting"),
        (("--set", f"{RATE}=1e-4..1e-3", "--sampler", "grid"), "a grid has lists of values"),
        ((), "space"),
        (("--resume", "sweep-none"), "there is no sweep sweep-none"),
    ],
)
def test_wrong_input_ends_with_code_2_and_says_what_to_mend(folder, arguments, problem):
    process = start("sweep", "--config", small_config(folder), *arguments, "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert err.startswith("error: ")
    assert problem in err
    assert json.loads(out)["status"] == "failed"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_of_eight_that_is_killed_goes_on_and_stops_what_begins_badly(folder):
    arguments = [
        # Rows that no test before this one has had in the cache.
        "--config", small_config(folder, samples=47, training={"eval_steps": 1}),
        "--name", "eight", "--sampler", "grid",
        "--set", f"{RATE}=1e-3,5e-4,1e-4,1e-6", "--set", f"{RANK}=4,16",
    ]  # fmt: skip
    process = start("sweep", *arguments, "--json")
    sweeps = Settings().organization_folder("local") / "sweeps"
    known = {each.name for each in sweeps.glob("*")}
    hub = MlflowHub(Settings(), "local")
    wait_for(lambda: len(hub.versions("eight")) == 2, process)
    (sweep_id,) = {each.name for each in sweeps.glob("*")} - known
    wait_for(lambda: trained(hub) >= 3, process)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.send_signal(signal.SIGKILL)
    process.communicate()
    told = run("sweep", "--resume", sweep_id, seconds=800)
    trials = told["trials"]
    assert [tuple(each["values"].values()) for each in trials] == [
        (rate, rank) for rate in (1e-3, 5e-4, 1e-4, 1e-6) for rank in (4, 16)
    ]
    assert [each["cached"] for each in trials] == [[], *[["sanitize", "tokenize"]] * 7]
    completed = [each["number"] for each in trials if each["state"] == "completed"]
    pruned = [each["number"] for each in trials if each["state"] == "pruned"]
    assert completed[:4] == [0, 1, 2, 3]
    assert {6, 7} <= set(pruned)  # a rate of 1e-6 learns nothing
    assert len(completed) + len(pruned) == 8
    for number in (0, 1):
        assert events(folder, trials[number]["job_id"]).count("began") == 1
        assert "resumed" not in events(folder, trials[number]["job_id"])
    assert "resumed" in events(folder, trials[2]["job_id"])
    assert len(hub.versions("eight")) == len(completed)  # none was registered twice
    runs = tracked(hub, told["run_id"])
    assert set(runs) == set(range(8))
    for number in completed:
        assert runs[number].info.status == "FINISHED"
        assert set(runs[number].data.metrics) >= COMPARED
    for number in pruned:
        assert runs[number].info.status == "KILLED"
        assert "median" in runs[number].data.tags["pruned"]
        assert "valid_loss" in runs[number].data.metrics
    losses = {each["number"]: each["value"] for each in trials if each["value"] is not None}
    assert told["best"] == min(losses, key=lambda number: losses[number])
    champion = hub.get("eight", promotion.CHAMPION)
    assert champion.version == trials[told["best"]]["version"] == told["registered"]["version"]
    assert (sweep_folder("local", sweep_id) / "sweep.png").stat().st_size > 10_000


def trained(hub: MlflowHub) -> int:
    """How many trials have said something of their training."""
    found = hub._client.search_runs([hub._experiment_id()], "tags.trial != ''")
    mine = [each for each in found if each.data.params.get("registry.model_name") == "eight"]
    return sum("train_loss" in each.data.metrics for each in mine)


def wait_for(happened: Any, process: subprocess.Popen[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def workers(prefect_server, mlflow_server, tmp_path):
    """A pool with a worker of two places, to which finetune is deployed."""
    environment = {**prefect_server, **mlflow_server, "FINETUNE_SOURCE": str(ROOT)}
    environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "FINETUNE_HOME": str(tmp_path / "home")}

    def prefect(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True,
        )  # fmt: skip

    prefect("work-pool", "create", "cpu", "--type", "process")
    prefect("deploy", "--name", "finetune/cpu")
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--limit", "2"],
        cwd=ROOT, env={**os.environ, **environment}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield environment
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_run_the_trials_two_at_a_time_and_a_bad_one_is_cancelled(workers, folder):
    space = folder / "space.json"
    tries = {"sampler": "grid", "space": {RATE: [1e-3, 9e-4, 1e-6]}, "prune_after_trials": 2}
    space.write_text(json.dumps(tries))
    config = small_config(folder, training={"epochs": 2})
    told = run(
        "sweep", "--config", config, "--space", space, "--name", "far",
        "--deployment", "finetune/cpu", "--parallel", 2, seconds=800, **workers,
    )  # fmt: skip
    assert [each["state"] for each in told["trials"]] == ["completed", "completed", "pruned"]
    assert [bool(each["cached"]) for each in told["trials"]] == [False, True, True]
    assert told["registered"]["aliases"] == ["candidate", "champion"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", workers["MLFLOW_TRACKING_URI"])
        hub = MlflowHub(Settings(), "local")
        runs = tracked(hub, told["run_id"])
    assert {number: each.info.status for number, each in runs.items()} == {
        0: "FINISHED",
        1: "FINISHED",
        2: "KILLED",
    }
    assert "pruned" in runs[2].data.tags
