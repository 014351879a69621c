"""The records of the keys file, and what a key looks like."""

from __future__ import annotations

import hashlib
import secrets

from pydantic import Field

from finetune_core.types import ID_ALPHABET, Record

PREFIX = "sk-ft-"
ID_LENGTH = 12


class Organization(Record):
    """An organisation: its name is its folder's, and its MLflow workspace's."""

    name: str
    created_at: int


class Key(Record):
    """What is kept of a key. The key itself is not: `digest` is its sha256."""

    id: str
    organization: str
    name: str
    digest: str
    created_at: int
    revoked_at: int | None = None


class NewKey(Record):
    """A key just made, with the secret that is shown once."""

    key: Key
    secret: str


class KeysFile(Record):
    """All that the keys file holds: organisations by name, keys by id."""

    organizations: dict[str, Organization] = Field(default_factory=dict)
    keys: dict[str, Key] = Field(default_factory=dict)


def new_secret() -> tuple[str, str]:
    """A new key's id and the whole key.

    The id stands in the key, so that one is looked up without comparing with all of them.
    """
    identifier = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
    return identifier, f"{PREFIX}{identifier}{secrets.token_urlsafe(32)}"


def id_of(secret: str) -> str:
    """The id that stands in a key."""
    return secret.removeprefix(PREFIX)[:ID_LENGTH]


def digest_of(secret: str) -> str:
    """The sha256 of a key.

    A fast hash is right here, and a slow one with a salt is not needed: those make guessing
    words dear, but of 256 random bits no guess hits. Each request is spared its milliseconds.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
