"""Organisations and keys: made, shown once, compared, revoked in every process at once."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from finetune_core.exceptions import InvalidConfigError
from finetune_service.cli import app
from finetune_service.exceptions import ConflictError, NotFoundError
from finetune_service.organizations import Organizations


@pytest.fixture
def organizations(tmp_path) -> Organizations:
    made = Organizations(tmp_path)
    made.create("acme")
    return made


def test_a_key_speaks_for_its_organisation(organizations):
    made = organizations.create_key("acme", "laptop")
    assert made.secret.startswith("sk-ft-")
    assert organizations.authenticate(made.secret) == made.key
    assert [key.name for key in organizations.keys("acme")] == ["laptop"]


@pytest.mark.parametrize("change", ["", "sk-ft-", "x", "another end", "\udcff", "a cut"])
def test_what_is_no_key_is_refused(organizations, change):
    secret = organizations.create_key("acme").secret
    shown = {"another end": f"{secret[:-1]}!", "a cut": secret[:-1]}.get(change, change)
    assert organizations.authenticate(shown) is None


def test_the_file_holds_no_key_and_is_its_owners_alone(organizations, tmp_path):
    secret = organizations.create_key("acme").secret
    file = tmp_path / "keys.json"
    assert secret not in file.read_text()
    assert secret[-43:] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_revoked_key_is_refused_by_who_had_read_it_before(organizations, tmp_path):
    other = Organizations(tmp_path)
    made = organizations.create_key("acme")
    assert other.authenticate(made.secret)
    revoked = organizations.revoke_key(made.key.id)
    assert other.authenticate(made.secret) is None
    assert organizations.revoke_key(made.key.id) == revoked
    assert organizations.revoke_key(made.secret) == revoked


def test_changes_of_many_at_once_are_all_kept(organizations, tmp_path):
    makers = [
        threading.Thread(target=Organizations(tmp_path).create_key, args=("acme", str(number)))
        for number in range(16)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(int(key.name) for key in organizations.keys("acme")) == list(range(16))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "Acme",
        "a_b",
        "-ab",
        "ab-",
        "../x",
        "a/b",
        "a b",
        "x" * 64,
        "api",
        "default",
        "ab\n",
    ],
)
def test_a_name_must_do_as_a_folder_and_a_workspace(organizations, name):
    with pytest.raises(InvalidConfigError, match="lower-case"):
        organizations.create(name)


def test_what_is_not_there_and_what_is(organizations):
    with pytest.raises(ConflictError, match="acme already"):
        organizations.create("acme")
    with pytest.raises(NotFoundError, match="org create nobody"):
        organizations.create_key("nobody")
    with pytest.raises(NotFoundError, match="no organisation nobody"):
        organizations.keys("nobody")
    with pytest.raises(NotFoundError, match="no key"):
        organizations.revoke_key("000000000000")


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))

    def run(*arguments: str) -> dict:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        return {"code": done.exit_code, **json.loads(done.stdout)}

    assert run("org", "create", "acme")["name"] == "acme"
    assert run("org", "create", "acme")["error"]["error"] == "ConflictError"
    assert [each["name"] for each in run("org", "list")["organizations"]] == ["acme"]
    made = run("key", "create", "acme", "--name", "laptop")
    assert Organizations(tmp_path).authenticate(made["key"])
    (listed,) = run("key", "list", "acme")["keys"]
    assert listed["id"] == made["id"]
    assert not {"key", "digest"} & set(listed)
    assert run("key", "revoke", made["id"])["revoked_at"]
    assert run("key", "revoke", "nix")["code"] == 2
    assert Organizations(tmp_path).authenticate(made["key"]) is None
    shown = CliRunner().invoke(app, ["key", "list"]).stdout
    assert "laptop" in shown
    assert made["key"] not in shown
