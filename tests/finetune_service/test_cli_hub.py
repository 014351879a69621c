"""finetune-cli hub over the local registry."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from finetune_core.hub import open_hub
from finetune_core.hub.ports import NewVersion
from finetune_service.cli.hub import hub as app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    hub = open_hub("local")
    tags = {"base_model": "acme/tiny", "adapter_digest": "0" * 64}
    new = NewVersion("orders", "candidate", "lora", tags, "")
    hub.register(hub.start_run("r", {}), tmp_path / "adapter", new)
    return lambda *words: CliRunner().invoke(app, words)


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
