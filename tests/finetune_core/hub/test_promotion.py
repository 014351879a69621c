"""Champions come and go: by proof, by hand, and back."""

from __future__ import annotations

import pytest

from finetune_core.config import Settings
from finetune_core.exceptions import NoPreviousError
from finetune_core.hub import promotion
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import NewVersion


@pytest.fixture(params=["memory", "mlflow"])
def hub(request, tmp_path, monkeypatch):
    if request.param == "memory":
        return MemoryHub()
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return MlflowHub(Settings(), "local")


@pytest.fixture
def versions(hub, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    new = NewVersion("orders", "candidate", "lora", {}, "")
    return [hub.register(hub.start_run("r", {}), tmp_path / "adapter", new) for _ in range(3)]


def aliases(hub):
    return {
        alias: version.version for version in hub.versions("orders") for alias in version.aliases
    }


def test_a_new_champion_keeps_the_former_as_previous(hub, versions):
    assert promotion.promote(hub, versions[0], "first") is None
    former = promotion.promote(hub, versions[1], "better")
    assert former.version == 1
    assert aliases(hub) == {"candidate": 3, "champion": 2, "previous": 1}


def test_promoting_the_champion_again_changes_nothing(hub, versions):
    promotion.promote(hub, versions[0], "first")
    promotion.promote(hub, versions[1], "better")
    before = promotion.history(hub, "orders")
    promotion.promote(hub, versions[1], "better")
    assert aliases(hub) == {"candidate": 3, "champion": 2, "previous": 1}
    assert promotion.history(hub, "orders") == before


def test_a_promotion_that_was_killed_half_way_is_completed_by_another(hub, versions):
    promotion.promote(hub, versions[0], "first")
    hub.set_alias(versions[0], "previous")  # as far as it came
    assert aliases(hub)["champion"] == 1
    promotion.promote(hub, versions[1], "better")
    assert aliases(hub) == {"candidate": 3, "champion": 2, "previous": 1}


def test_a_challenger_that_is_promoted_is_none_any_more(hub, versions):
    promotion.promote(hub, versions[0], "first")
    promotion.refuse(hub, versions[1], "worse")
    assert aliases(hub)["challenger"] == 2
    promotion.promote(hub, versions[1], "by hand")
    assert "challenger" not in aliases(hub)


def test_a_rollback_restores_and_another_undoes_it(hub, versions):
    promotion.promote(hub, versions[0], "first")
    promotion.promote(hub, versions[1], "better")
    assert promotion.rollback(hub, "orders").version == 1
    assert aliases(hub) == {"candidate": 3, "champion": 1, "previous": 2}
    assert promotion.rollback(hub, "orders").version == 2
    assert aliases(hub) == {"candidate": 3, "champion": 2, "previous": 1}


def test_without_a_champion_before_there_is_nothing_to_roll_back_to(hub, versions):
    promotion.promote(hub, versions[0], "first")
    with pytest.raises(NoPreviousError):
        promotion.rollback(hub, "orders")


def test_the_history_tells_all_the_last_thing_first(hub, versions):
    promotion.promote(hub, versions[0], "first")
    promotion.refuse(hub, versions[1], "no better")
    promotion.promote(hub, versions[2], "better")
    promotion.rollback(hub, "orders")
    found = [(each.ref, each.what) for each in promotion.history(hub, "orders")]
    assert found == [
        ("orders@3", "was rolled back to orders@1"),
        ("orders@1", "became champion: rolled back"),
        ("orders@3", "became champion: better"),
        ("orders@2", "became challenger: no better"),
        ("orders@1", "became champion: first"),
    ]


def test_a_file_of_a_version_is_fetched_alone(hub, versions, tmp_path):
    file = hub.fetch(versions[0], "adapter_config.json", tmp_path / "fetched")
    assert file.read_text() == "{}"
    assert [each.name for each in file.parent.iterdir()] == ["adapter_config.json"]
