from __future__ import annotations

import stat

import pytest

from finetune_core.exceptions import InvalidConfigError
from finetune_service.stack.settings import kept_settings, load_settings


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("h")
    monkeypatch.setenv("FINETUNE_HOME", str(home))
    return home


def test_pools_are_divided_by_commas(monkeypatch):
    monkeypatch.setenv("FINETUNE_POOLS", "cpu, gpu-a")
    assert load_settings().pools == ["cpu", "gpu-a"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_API_PORT", "70000"),
        ("FINETUNE_POOLS", "a b"),
        ("FINETUNE_POOLS", ""),
        ("FINETUNE_WORKER_LIMIT", "0"),
        ("FINETUNE_HOME", "/" + "long/" * 20),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfigError, match=name):
        load_settings()


def test_a_secret_is_made_once_and_for_its_owner_alone(home):
    settings = load_settings()
    assert settings.secret("a") == load_settings().secret("a") != settings.secret("b")
    mode = stat.S_IMODE((home / "stack" / "secrets" / "a").stat().st_mode)
    assert mode == 0o600


def test_what_is_kept_is_what_was_told_and_for_its_owner_alone(home, monkeypatch):
    assert kept_settings() is None
    url = "postgresql://u:p@h/d"
    settings = load_settings(sqlite=True, api_port=1234, database_url=url)
    settings.keep()
    monkeypatch.setenv("FINETUNE_API_PORT", "4321")
    assert kept_settings() == settings
    assert stat.S_IMODE((home / "stack" / "settings.json").stat().st_mode) == 0o600


def test_no_password_is_shown_of_settings():
    assert "secret-word" not in repr(load_settings(database_url="postgresql://u:secret-word@h/d"))
