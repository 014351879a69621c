"""Models, adapters and bases as views of a registry, in memory and on MLflow."""

from __future__ import annotations

import pytest

from finetune_core.config import Settings
from finetune_core.config.sections import ModelConfig
from finetune_core.hub.bases import register_by_hand
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import NewVersion
from finetune_service.exceptions import ConflictError, InvalidValueError, NotFoundError
from finetune_service.hub import Catalog


@pytest.fixture(params=["memory", "mlflow"])
def hub(request, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return MemoryHub() if request.param == "memory" else MlflowHub(Settings(), "local")


@pytest.fixture
def base(hub, tiny_base, tmp_path):
    return register_by_hand(hub, ModelConfig(name=str(tiny_base)), tmp_path / "base")


@pytest.fixture
def make(hub, base, tmp_path):
    """Registers something that was made of the base."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")

    def make(name, kind="adapter", **tags):
        facts = {
            "base_model": base.tags["base_model"],
            f"{kind}_digest": "0" * 64,
            "task": "causal",
        }
        new = NewVersion(name, "candidate", "lora", {**facts, "base_ref": base.ref, **tags}, "")
        return hub.register(hub.start_run("r", {}), tmp_path / "adapter", new)

    return make


@pytest.fixture
def catalog(hub, tiny_base):
    """As people see it who may not see where the operator keeps the models."""
    return Catalog(hub, {str(tiny_base): "tiny"})


def test_a_base_is_a_model_and_no_adapter(catalog, base, make):
    make("orders")
    make("whole", kind="model")
    whole, listed = catalog.models()
    assert (whole.id, whole.type) == ("whole@1", "fine-tuned")
    assert (listed.id, listed.name, listed.type, listed.origin) == ("tiny", "tiny", "base", "local")
    assert (listed.ref, listed.aliases) == (base.ref, [])
    assert listed.created_at == base.created_at
    assert [(each.id, each.model_id) for each in catalog.adapters()] == [("orders@1", "tiny")]
    for name in ("tiny", base.ref, base.model_name):
        assert catalog.model(name) == listed
        with pytest.raises(NotFoundError):
            catalog.adapter(name)


def test_a_bases_ref_is_its_newest_version(catalog, hub, base, tiny_base, tmp_path):
    model = ModelConfig(name=str(tiny_base))
    copy = register_by_hand(hub, model, tmp_path / "copy", copy=True)
    (listed,) = catalog.models()
    assert (listed.ref, copy.version) == (copy.ref, 2)
    assert catalog.model(base.ref).ref == base.ref


def test_pages_go_on_behind_a_base(catalog, make):
    first, second = make("orders"), make("orders")
    make("whole", kind="model")
    assert [each.id for each in catalog.models("whole@1")] == ["tiny"]
    assert list(catalog.models("tiny")) == []
    assert [each.id for each in catalog.adapters(second.ref)] == [first.ref]
    with pytest.raises(InvalidValueError):
        list(catalog.adapters("base.tiny_base@1"))


def test_a_base_of_before_bases_were_registered_is_listed_as_ever(catalog, make):
    make("orders", base_model="acme/old", base_ref="")
    assert {each.id: each.ref for each in catalog.models()} == {
        "acme/old": None,
        "tiny": "base.tiny_base@1",
    }
    with pytest.raises(ConflictError):
        catalog.delete_model("acme/old", force=True)
    assert {each.name for each in catalog.versions.tree()} == {
        "acme/old",
        "tiny (base.tiny_base@1)",
    }


@pytest.mark.parametrize("name", ["tiny", "base.tiny_base", "base.tiny_base@1"])
def test_a_base_is_deleted_once_nothing_points_to_it(catalog, hub, base, make, name):
    make("orders")
    make("orders")
    with pytest.raises(ConflictError, match=r"base.tiny_base@1 is the base of orders@2 and 1 more"):
        catalog.delete_model(name, force=True)
    catalog.delete_adapter("orders", force=True)
    assert catalog.delete_model(name).ref == base.ref
    assert list(catalog.models()) == []
    with pytest.raises(ConflictError, match="is the base of orders@"):  # one could be brought back
        catalog.versions.purge(base.ref)
    for number in (1, 2):
        catalog.versions.purge(f"orders@{number}")
    catalog.versions.purge(base.ref)
    assert hub.versions() == []


def test_what_was_deleted_comes_back(catalog, base):
    catalog.delete_model("tiny")
    assert catalog.versions.undelete(base.ref).ref == base.ref
    assert [each.id for each in catalog.models()] == ["tiny"]


def test_a_base_under_an_adapters_name_does_not_go_with_it(catalog, hub, base, make):
    """Nobody keeps a job from being called as a base is."""
    made = make(base.model_name)
    assert made.ref == "base.tiny_base@2"
    catalog.delete_adapter(base.model_name, force=True)
    assert [each.ref for each in catalog.models()] == [base.ref]


def test_the_tree_has_each_base_and_what_was_made_of_it(catalog, hub, make, tiny_base, tmp_path):
    make("orders")
    make("songs", kind="model", domain="music")
    register_by_hand(hub, ModelConfig(name=str(tiny_base)), tmp_path / "copy", copy=True)
    used, unused = catalog.versions.tree()
    assert (used.name, used.kind) == ("tiny (base.tiny_base@1)", "base")
    assert [(group.name, group.children[0].name) for group in used.children] == [
        ("any domain, causal", "orders@1 (candidate)"),
        ("music, causal", "songs@1 (candidate)"),
    ]
    assert (unused.name, unused.children) == ("tiny (base.tiny_base@2)", [])


def test_a_base_is_no_champion_but_all_else_can_be_asked(catalog, base, tmp_path):
    versions = catalog.versions
    with pytest.raises(ConflictError, match="no champion"):
        versions.promote(base.ref)
    assert versions.history(base.model_name) == []
    assert versions.verify(base.ref).verified
    folder = versions.download(base.ref, tmp_path / "fetched")
    assert {each.name for each in folder.iterdir()} == {"base.json", "README.md"}
