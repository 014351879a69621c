"""The hub for real: who becomes champion, what a card proves, and a version made again."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest

from finetune_core.hub import open_hub
from finetune_core.storage import digest_file
from tests.conftest import ROOT
from tests.finetune_service.api.server import served
from tests.integration.command import cli, finetune, invoke, write_config

NAME = "orders"
pytestmark = pytest.mark.timeout(600)  # four jobs, one after the other


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def rows(home):
    """The rows that all but one version learn from."""
    lines = (ROOT / "examples/data/train.jsonl").read_text().splitlines()
    file = home / "rows.jsonl"
    file.write_text("\n".join(lines[:96]))
    return file


def train(home, name, rows, **sections):
    data = {"path": str(rows), "max_samples": None}
    config = write_config(home / f"{name}.json", dataset=data, **sections)
    outcome = finetune("--config", config, "--name", NAME, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


@pytest.fixture(scope="module")
def shuffled(home, rows):
    """The rows with somebody else's answers: nothing can be learned from them."""
    known = [json.loads(line) for line in rows.open()]
    answers = [row["completion"] for row in known]
    random.Random(0).shuffle(answers)
    file = home / "shuffled.jsonl"
    lines = [json.dumps({**row, "completion": a}) for row, a in zip(known, answers, strict=True)]
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def contest(home, rows, shuffled):
    """Four versions: the first, the same again, a worse one and a better one."""
    first = train(home, "first", rows)
    same = train(home, "same", rows)
    cases = home / "cases.jsonl"
    cases.write_text('{"prompt": "Ein Brot, bitte.", "completion": "item: Brot"}\n')
    gate = {"regression_path": str(cases)}
    worse = train(home, "worse", shuffled, registry={"gate": gate})
    gate = {"general_path": "examples/data/validation.jsonl", "check_merge": True}
    better = train(home, "better", rows, training={"epochs": 6}, registry={"gate": gate})
    return first, same, worse, better


def asked(*words):
    outcome = invoke("hub", *words, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def aliases():
    return {each["ref"]: each["aliases"] for each in asked("list")["adapters"]}


def test_only_a_better_version_becomes_champion(contest):
    first, same, worse, better = contest
    assert first["aliases"] == ["candidate", "champion"]
    assert same["aliases"] == ["candidate", "challenger"]
    assert worse["aliases"] == ["candidate", "challenger"]
    assert better["aliases"] == ["candidate", "champion"]
    assert aliases() == {
        f"{NAME}@1": ["previous"],
        f"{NAME}@2": [],
        f"{NAME}@3": ["challenger"],
        f"{NAME}@4": ["candidate", "champion"],
    }


@pytest.mark.parametrize(
    ("number", "passed", "rival"), [(1, True, "its base"), (2, False, f"{NAME}@1"),
                                    (3, False, f"{NAME}@1"), (4, True, f"{NAME}@1")]
)  # fmt: skip
def test_each_version_has_a_report_of_its_gate(contest, tmp_path, number, passed, rival):
    hub = open_hub("local")
    report = hub.fetch(hub.get(NAME, number), "gate.md", tmp_path).read_text()
    assert f"against {rival}: **{'passed' if passed else 'not passed'}**" in report
    assert "| gain | " in report
    card = asked_card(number)
    assert all(each["passed"] for each in card["gate"]["checks"]) is passed


def asked_card(number):
    outcome = invoke("hub", "card", f"{NAME}@{number}")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_the_same_version_again_ties_and_a_tie_loses(contest):
    (check,) = asked_card(2)["gate"]["checks"]
    assert "(+0.0000, 95 % between +0.0000 and +0.0000)" in check["detail"]


def test_a_gate_measures_whatever_it_is_asked_to(contest):
    checks = {each["name"]: each for each in asked_card(3)["gate"]["checks"]}
    assert checks.keys() == {"gain", "regressions"}
    assert not checks["regressions"]["passed"]
    assert "1 of 1 regression cases are broken: row 1: " in checks["regressions"]["detail"]
    assert "instead of 'item: Brot'" in checks["regressions"]["detail"]
    checks = {each["name"]: each for each in asked_card(4)["gate"]["checks"]}
    assert checks.keys() == {"gain", "forgetting", "merge"}
    assert checks["merge"]["passed"]
    assert checks["forgetting"]["passed"]  # the general rows are those that it became better at
    card = asked_card(4)
    assert f"to {card['metrics']['loss']:.4f} " in checks["forgetting"]["detail"]


def test_an_event_says_which_way_it_went(contest, home):
    folder = home / "home/organizations/local/jobs" / contest[2]["job_id"]
    events = [json.loads(line) for line in (folder / "events.jsonl").open()]
    (said,) = [event for event in events if event.get("name") == "gate"]
    assert said["message"] == f"{NAME}@3 has not passed the gate"


def test_rollback_restores_the_champion_before_and_undoes_itself(contest):
    assert asked("rollback", NAME)["ref"] == f"{NAME}@1"
    assert aliases()[f"{NAME}@4"] == ["candidate", "previous"]
    assert asked("rollback", NAME)["ref"] == f"{NAME}@4"
    assert aliases()[f"{NAME}@1"] == ["previous"]
    what = [each["what"] for each in asked("history", NAME)["history"]]
    assert what[0] == f"was rolled back to {NAME}@4"
    assert what[-1].startswith("became champion: loss is surely better than the base's")


def test_versions_are_compared_by_their_cards(contest):
    found = asked("compare", f"{NAME}@1", f"{NAME}@4")
    assert found["settings"]["training.epochs"] == [2, 6]
    assert found["same_rows"]
    loss = next(each for each in found["metrics"] if each["metric"] == "loss")
    assert loss["first"] == contest[0]["metrics"]["loss"]
    assert loss["second"] == contest[3]["metrics"]["loss"]


def test_verify_finds_nothing_in_a_version_and_a_flipped_byte_in_a_damaged_one(contest, home):
    found = asked("verify", f"{NAME}@1")
    assert found["verified"]
    states = {each["what"]: each["state"] for each in found["findings"]}
    assert states["adapter_model.safetensors"] == states["card.json"] == states["dataset"] == "ok"
    artifacts = home / "home/organizations/local/mlflow/artifacts"
    (weights,) = [
        each
        for each in artifacts.rglob("adapter_model.safetensors")
        if json.loads((each.parent / "card.json").read_text())["job_id"] == contest[1]["job_id"]
    ]
    whole = weights.read_bytes()
    middle = len(whole) // 2
    weights.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    outcome = invoke("hub", "verify", f"{NAME}@2", "--json")
    weights.write_bytes(whole)
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout)["faults"] == ["adapter_model.safetensors: changed"]


def test_what_is_downloaded_is_checked(contest, tmp_path):
    found = asked("download", f"{NAME}@champion", tmp_path / "package")
    assert {"adapter_model.safetensors", "card.json", "README.md"} <= set(found["files"])
    again = invoke("hub", "download", f"{NAME}@1", tmp_path / "package")
    assert again.exit_code == 2


def test_the_tree_has_the_base_and_what_was_made_of_it(contest):
    (base,) = asked("tree")["tree"]
    assert base["name"] == "examples/tiny_base (base.tiny_base@1)"
    (group,) = base["children"]
    assert [each["name"] for each in group["children"]][-1] == f"{NAME}@1 (previous)"


def test_every_version_points_to_its_base_which_is_registered_once(contest):
    (base,) = asked("list")["models"]
    assert (base["id"], base["type"]) == ("examples/tiny_base", "base")
    assert base["ref"] == "base.tiny_base@1"
    versions = open_hub("local").versions(NAME)
    assert {each.tags["base_ref"] for each in versions} == {base["ref"]}
    registered = open_hub("local").get("base.tiny_base", 1)
    assert registered.tags["base_digest"] == asked_card(4)["base"]["digest"]
    assert asked("verify", base["ref"])["verified"]
    refused = invoke("hub", "delete", base["ref"], "--force")
    assert refused.exit_code == 2
    assert f"is the base of {NAME}@" in refused.output


def test_what_is_deleted_comes_back_until_it_is_purged(contest):
    refused = invoke("hub", "delete", f"{NAME}@4")
    assert refused.exit_code == 2
    assert "champion" in refused.output
    assert invoke("hub", "delete", f"{NAME}@2").exit_code == 0
    assert f"{NAME}@2" not in aliases()
    assert invoke("hub", "get", f"{NAME}@2").exit_code == 2
    assert invoke("hub", "purge", f"{NAME}@1").exit_code == 2  # it is not deleted
    assert asked("undelete", f"{NAME}@2")["ref"] == f"{NAME}@2"
    assert f"{NAME}@2" in aliases()
    assert invoke("hub", "delete", f"{NAME}@2").exit_code == 0
    assert asked("purge", f"{NAME}@2")["purged"]
    assert invoke("hub", "undelete", f"{NAME}@2").exit_code == 2


def test_a_version_is_made_again_from_its_card_to_the_byte(contest):
    outcome = cli("hub", "reproduce", f"{NAME}@1", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["identical"]
    assert found["registered"] == found["reproduced"]
    assert found["registered"].keys() == {"adapter_model.safetensors"}
    assert found["differences"] == []
    assert f"{NAME}@5" not in aliases()  # nothing is registered


def test_what_a_version_was_made_of_must_be_there(contest, shuffled):
    hidden = shuffled.with_suffix(".away")
    shutil.move(shuffled, hidden)
    outcome = cli("hub", "reproduce", f"{NAME}@3")
    shutil.move(hidden, shuffled)
    assert outcome.returncode == 2
    assert "the dataset is not here" in outcome.stderr


def test_the_same_is_asked_over_the_api(contest, home, tmp_path, monkeypatch):
    local = asked("history", NAME)
    with served(home / "home") as api:
        monkeypatch.setenv("FINETUNE_API_URL", api.url)
        monkeypatch.setenv("FINETUNE_API_KEY", api.key("local"))
        assert asked("history", NAME) == local
        assert asked("verify", f"{NAME}@1")["verified"]
        card = asked_card(1)
        assert card["metrics"] == contest[0]["metrics"]
        assert str(home) not in json.dumps(card)
        assert asked("compare", f"{NAME}@1", f"{NAME}@4")["settings"]["training.epochs"] == [2, 6]
        found = asked("download", f"{NAME}@1", tmp_path / "package")
        assert digest_file(tmp_path / "package/adapter_model.safetensors") in card["files"].values()
        assert "card.json" in found["files"]
        assert asked("tree")["tree"]


def retrain(*words):
    outcome = cli("retrain", NAME, *words, "--json")
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_unchanged_data_is_not_trained_on_again(contest):
    found = retrain()
    assert found["skipped"] == f"nothing has changed since {NAME}@4"
    assert found["changes"] == {"added": 0, "removed": 0, "kept": 256}
    assert found["job_id"] is None


@pytest.mark.slow
def test_new_rows_are_counted_trained_on_and_judged(contest, rows, home):
    known = rows.read_text().splitlines()
    more = (ROOT / "examples/data/train.jsonl").read_text().splitlines()[96:144]
    rows.write_text("\n".join(known[4:] + more))
    found = retrain("--min-drift", "0.9")
    assert found["changes"] == {"added": 48, "removed": 4, "kept": 252}
    assert found["skipped"].endswith(f"have changed since {NAME}@4, less than 90.0%")
    found = retrain()
    assert found["job_id"]
    ledger = home / "home/organizations/local/retrainings" / NAME / "changes.parquet"
    removed = [each["row"] for each in pq.read_table(ledger).to_pylist()
               if each["change"] == "removed"]  # fmt: skip
    assert removed == [1, 2, 3, 4]
    (version, *_) = asked("list")["adapters"]
    assert version["ref"] == f"{NAME}@5"
    gate = asked_card(5)["gate"]
    assert gate["incumbent"] == 4
    passed = all(check["passed"] for check in gate["checks"])
    assert version["aliases"] == ["candidate", "champion" if passed else "challenger"]


@pytest.mark.slow
def test_a_model_that_nobody_knows_needs_a_config_to_be_trained_anew(contest):
    outcome = cli("retrain", "nobody")
    assert outcome.returncode == 2
    assert "no version of nobody" in outcome.stderr


@pytest.mark.slow
def test_two_adapters_become_one_which_the_gate_judges(contest):
    outcome = cli("combine", f"{NAME}@1", f"{NAME}@4", "--way", "ties", "--name", "mixed", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["model_name"] == "mixed"
    assert found["gate"]["incumbent"] is None  # the first of its name: compared with the base
    outcome = invoke("hub", "card", "mixed@1")
    card = json.loads(outcome.stdout)
    assert card["combined"] == [f"{NAME}@1", f"{NAME}@4"]
    assert card["trained_tokens"] == 0
    assert card["metrics"]["loss"] < card["base_metrics"]["loss"]
    assert asked("verify", "mixed@1")["verified"]
    refused = cli("hub", "reproduce", "mixed@1")
    assert refused.returncode == 2
    assert "was not trained, but combined" in refused.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((f"{NAME}@1",), "needs two or more"),
        ((f"{NAME}@1", NAME), "is not NAME@VERSION"),
        ((f"{NAME}@1", f"{NAME}@4", "-w", "1"), "needs 2, one an adapter"),
        ((f"{NAME}@1", f"{NAME}@4", "--density", "0"), "must be above 0"),
    ],
)
def test_what_cannot_be_combined_is_said(words, problem):
    outcome = invoke("combine", *words)
    assert outcome.exit_code == 2
    assert problem in outcome.output
