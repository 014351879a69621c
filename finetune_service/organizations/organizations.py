"""Organizations: who may use this installation, kept in one file under FINETUNE_HOME."""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from finetune_core.exceptions import DamagedFolderError, Fault, InvalidConfigError
from finetune_core.storage import write_json
from finetune_service.exceptions import ConflictError, NotFoundError
from finetune_service.organizations.keys import (
    Key,
    KeysFile,
    NewKey,
    Organization,
    digest_of,
    id_of,
    new_secret,
)

# What is a folder's name here and a workspace's in MLflow must be good for both.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])")
RESERVED = {"api", "ajax-api", "default", "static-files", "workspaces"}
NO_DIGEST = "0" * 64

Stamp = tuple[int, int, int]


class Organizations:
    """The organisations of an installation and their keys.

    Any number of processes may use the same home: changes are made one at a time and are whole or
    not there, and each process reads the file again when it has changed. So a revoked key is
    refused from the next request on, in all of them.

    Args:
        home: `FINETUNE_HOME`.
    """

    def __init__(self, home: Path) -> None:
        self._path = home.expanduser().absolute() / "keys.json"
        self._lock = FileLock(self._path.with_suffix(".lock"), mode=0o600)
        self._known: tuple[Stamp | None, KeysFile] = (None, KeysFile())

    def create(self, name: str) -> Organization:
        """Makes an organisation.

        Raises:
            InvalidConfigError: The name cannot be that of a folder and a workspace.
            ConflictError: There is one of that name.
        """
        if not NAME.fullmatch(name) or name in RESERVED:
            problem = (
                "must be 2 to 63 lower-case letters, digits and dashes, with no dash at either "
                f"end, and none of {', '.join(sorted(RESERVED))} (got {name!r})"
            )
            raise InvalidConfigError([Fault("organization", problem)])
        organization = Organization(name=name, created_at=int(time.time()))
        with self._changing() as file:
            if name in file.organizations:
                raise ConflictError(f"there is an organisation {name} already")
            file.organizations[name] = organization
        return organization

    def list(self) -> tuple[Organization, ...]:
        """The organisations, by name."""
        return tuple(sorted(self._read().organizations.values(), key=lambda each: each.name))

    def create_key(self, organization: str, name: str = "") -> NewKey:
        """Makes a key of an organisation. Its secret is in the answer and nowhere else.

        Raises:
            NotFoundError: There is no such organisation.
        """
        identifier, secret = new_secret()
        key = Key(
            id=identifier,
            organization=organization,
            name=name,
            digest=digest_of(secret),
            created_at=int(time.time()),
        )
        with self._changing() as file:
            _check_known(file, organization)
            file.keys[identifier] = key
        return NewKey(key=key, secret=secret)

    def keys(self, organization: str | None = None) -> tuple[Key, ...]:
        """The keys of one organisation or of all, the oldest first, revoked ones too.

        Raises:
            NotFoundError: There is no such organisation.
        """
        file = self._read()
        if organization is not None:
            _check_known(file, organization)
        keys = (key for key in file.keys.values() if organization in (None, key.organization))
        return tuple(sorted(keys, key=lambda key: (key.created_at, key.id)))

    def revoke_key(self, key_id: str) -> Key:
        """Refuses a key from now on. To revoke one again does no harm.

        Args:
            key_id: The key's id, as `keys` lists it; or the whole key.

        Raises:
            NotFoundError: There is no such key.
        """
        key_id = id_of(key_id)
        with self._changing() as file:
            key = file.keys.get(key_id)
            if key is None:
                raise NotFoundError(f"there is no key {key_id}")
            if key.revoked_at is None:
                key = key.model_copy(update={"revoked_at": int(time.time())})
                file.keys[key_id] = key
        return key

    def authenticate(self, secret: str) -> Key | None:
        """The key that a caller has shown, or nothing where it is none or a revoked one."""
        key = self._read().keys.get(id_of(secret))
        # An unknown id is compared too, so that it takes as long as a wrong secret.
        same = hmac.compare_digest(digest_of(secret), key.digest if key else NO_DIGEST)
        return key if key and same and key.revoked_at is None else None

    @contextmanager
    def _changing(self) -> Iterator[KeysFile]:
        """Gives the file's content, and writes it back when the block ends well."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock:
            file = self._read().model_copy(deep=True)
            yield file
            # Written with nobody else's eyes on it from the first byte on.
            before = os.umask(0o077)
            try:
                write_json(self._path, file.model_dump(mode="json"))
            finally:
                os.umask(before)

    def _read(self) -> KeysFile:
        """The file as it is now. It is never written in place, so a change has a new inode."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return KeysFile()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        known, file = self._known
        if stamp != known:
            try:
                file = KeysFile.model_validate_json(self._path.read_bytes())
            except ValueError as error:
                raise DamagedFolderError(f"{self._path} cannot be read: {error}") from None
            self._known = (stamp, file)
        return file


def _check_known(file: KeysFile, organization: str) -> None:
    if organization not in file.organizations:
        raise NotFoundError(
            f"there is no organisation {organization}",
            hint=f"Make it: finetune-cli org create {organization}",
        )
