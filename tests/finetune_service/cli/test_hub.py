"""finetune-cli hub over the local registry."""

from __future__ import annotations

import json

import pytest

from finetune_core.hub import open_hub
from finetune_core.hub.ports import NewVersion
from tests.integration.command import invoke


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    hub = open_hub("local")
    tags = {"base_model": "acme/tiny", "adapter_digest": "0" * 64}
    new = NewVersion("orders", "candidate", "lora", tags, "")
    hub.register(hub.start_run("r", {}), tmp_path / "adapter", new)
    return lambda *words: invoke("hub", *words)


def test_what_is_registered_is_listed_shown_and_deleted(run):
    listed = json.loads(run("list", "--json").stdout)
    assert [each["id"] for each in listed["adapters"]] == ["orders@1"]
    assert [each["id"] for each in listed["models"]] == ["acme/tiny"]
    assert "orders@1" in run("list").stdout
    assert json.loads(run("get", "orders@candidate", "--json").stdout) == listed["adapters"][0]
    assert "acme/tiny" in run("get", "orders").stdout
    refused = run("delete", "orders@1")
    assert refused.exit_code == 2
    assert "candidate" in refused.output
    assert json.loads(run("delete", "orders", "--force", "--json").stdout)["deleted"]
    assert run("get", "orders").exit_code == 2


def test_a_base_is_registered_by_hand_and_its_copy_loads(run, tiny_base, tmp_path):
    registered = json.loads(run("register", "examples/tiny_base", "--json").stdout)
    assert (registered["name"], registered["type"]) == ("examples/tiny_base", "base")
    assert registered["ref"] == "base.tiny_base@1"
    listed = json.loads(run("list", "--json").stdout)
    assert registered in listed["models"]
    assert [each["id"] for each in listed["adapters"]] == ["orders@1"]
    said = run("register", "examples/tiny_base", "--copy").stdout
    assert said == "examples/tiny_base is base.tiny_base@2\n"
    assert run("register", "examples/tiny_base", "--copy").stdout == said
    shown = run("list").stdout
    assert "base model" in shown
    assert "…" not in shown  # nothing is left out
    got = json.loads(run("download", "base.tiny_base@2", tmp_path / "got", "--json").stdout)
    assert {each.name for each in tiny_base.iterdir()} < set(got["files"])
    for each in tiny_base.iterdir():
        assert (tmp_path / "got" / each.name).read_bytes() == each.read_bytes()
    assert json.loads(run("verify", "base.tiny_base@2", "--json").stdout)["verified"]


@pytest.mark.parametrize("model", ["acme/nobody-s", "examples"])
def test_what_is_no_model_is_not_registered(run, model):
    refused = run("register", model, "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"]["error"] == "ModelNotFoundError"


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("hub card REF", "has no card.json"),
        ("hub compare orders@1 REF", "has no card.json"),
        ("hub promote REF", "is a base model"),
        ("hub rollback base.tiny_base", "no champion of base.tiny_base"),
        ("hub reproduce REF", "there is no card.json"),
        ("combine REF REF", "is no adapter"),
        ("retrain base.tiny_base", "no version of base.tiny_base has a card"),
        ("export REF out --format vllm", "is registered by reference"),
    ],
)
def test_a_base_is_refused_in_a_line_where_it_has_no_place(run, words, refusal):
    assert run("register", "examples/tiny_base").exit_code == 0
    outcome = invoke(*words.replace("REF", "base.tiny_base@1").split())
    assert outcome.exit_code in (1, 2)
    assert refusal in outcome.output
