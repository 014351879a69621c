"""Catalog: models and adapters, as views of an organisation's registry, which alone keeps them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finetune_core.exceptions import HubError, HubUnavailableError, VersionNotFoundError
from finetune_core.hub.bases import NAME as BASE
from finetune_core.hub.ports import Hub, Version
from finetune_core.types import Record
from finetune_service.exceptions import ConflictError, InvalidValueError, NotFoundError
from finetune_service.hub.versions import Versions

# Tags and params that registering and tracking give (finetune_core.hub.card).
WHOLE = "model_digest"
DATASET, DATASET_SOURCE = "dataset.path", "dataset.source"
SETTINGS = "training."


class ModelRecord(Record):
    """A whole model: a version that was trained as a whole, or a base that adapters are for.

    `ref` is `NAME@VERSION`; a base's `id` and `name` are what configs call it, and its `ref` is the
    newest version of it.
    """

    id: str
    name: str
    type: Literal["base", "fine-tuned"]
    origin: Literal["local", "remote"]
    created_at: int
    ref: str | None = None
    aliases: list[str] = Field(default_factory=list)


class AdapterRecord(Record):
    """An adapter: a version that needs its base model."""

    id: str
    model_id: str
    dataset: str | None
    created_at: int
    parameters: dict[str, Any]
    ref: str
    aliases: list[str]


class Catalog:
    """The models and adapters of an organisation.

    A version's id is `NAME@VERSION`. Where a name is asked for, `NAME` is its newest version and
    `NAME@ALIAS` the one that the alias points to.

    Args:
        hub: The organisation's.
        base_names: What the folders of base models are called, where people may not see those.
    """

    def __init__(self, hub: Hub, base_names: Mapping[str, str] | None = None) -> None:
        self._hub = hub
        self._base_names = base_names or {}
        self.versions = Versions(hub, self._base_names)

    def models(self, after: str | None = None) -> Iterator[ModelRecord]:
        """Whole models, the newest first, then the bases of everything.

        Raises:
            InvalidValueError: `after` is none of them.
        """
        versions = self._known()
        records = [_model(each) for each in versions if is_whole(each)]
        return iter(_behind(after, records + self._bases(versions), "Model"))

    def adapters(self, after: str | None = None) -> Iterator[AdapterRecord]:
        """Adapters, the newest first; they are looked at only as far as they are taken.

        Raises:
            InvalidValueError: `after` is none of them.
        """
        versions = [each for each in self._known() if is_adapter(each)]
        known = {each.ref: each for each in versions}
        if after is not None and after not in known:
            raise InvalidValueError(f"No such Adapter object: {after}", param="after")
        start = list(known).index(after) + 1 if after is not None else 0
        return map(self._adapter, versions[start:])

    def model(self, name: str) -> ModelRecord:
        """A whole model.

        Raises:
            NotFoundError: There is none of that name.
        """
        version = self._find(name)
        if version and version.is_base:
            return self._base(version)
        if version and is_whole(version):
            return _model(version)
        for base in self._bases(self._known()):
            if base.id == name:
                return base
        raise NotFoundError(f"there is no model {name}")

    def adapter(self, name: str) -> AdapterRecord:
        """An adapter.

        Raises:
            NotFoundError: There is none of that name.
        """
        version = self._find(name)
        if version is None or not is_adapter(version):
            raise NotFoundError(f"there is no adapter {name}")
        return self._adapter(version)

    def delete_model(self, name: str, *, force: bool = False) -> ModelRecord:
        """Deletes a whole model; raises as `delete_adapter`.

        A base is refused, forced or not, as long as there is something that was made of it.
        """
        record = self.model(name)
        if record.type == "base":
            self._delete_base(name, force)
        else:
            self._delete(name, self._gone(name, is_base=False), force)
        return record

    def delete_adapter(self, name: str, *, force: bool = False) -> AdapterRecord:
        """Deletes an adapter: one version by `NAME@VERSION`, all of a name by `NAME`.

        What is deleted is hidden, and can be brought back: `Versions.undelete`.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: An alias points there, and nobody said that this does not matter.
        """
        record = self.adapter(name)
        self._delete(name, self._gone(name, is_base=False), force)
        return record

    def _known(self, model_name: str | None = None) -> list[Version]:
        return [each for each in self._hub.versions(model_name) if not each.is_deleted]

    def _find(self, name: str) -> Version | None:
        try:
            return self.versions.find(name)
        except NotFoundError:
            return None
        except HubUnavailableError:
            raise
        except HubError:  # no name that could be
            return None

    def _gone(self, name: str, *, is_base: bool) -> list[Version]:
        """What goes with a name: one version by `NAME@VERSION`, all of them by `NAME`."""
        found = [self.versions.find(name)] if "@" in name else self._known(name)
        return [each for each in found if each.is_base is is_base]

    def _delete_base(self, name: str, force: bool) -> None:
        """Deletes one version of a base or all, as `_gone` says, or all of what configs call so."""
        known = self._known()
        if self._find(name):
            gone = self._gone(name, is_base=True)
        else:
            gone = [e for e in known if e.is_base and self._shown(e.tags[BASE]) == name]
        if not gone:  # it was registered before bases were
            raise ConflictError(f"{name} is the base of what is in the hub; delete that instead")
        self.versions.check_unused(gone, known)
        self._delete(name, gone, force)

    def _delete(self, name: str, gone: list[Version], force: bool) -> None:
        pointing = sorted(alias for each in gone for alias in each.aliases)
        if pointing and not force:
            raise ConflictError(
                f"{name} is what {' and '.join(pointing)} points to",
                hint="Move the alias first, or delete with force=true.",
            )
        try:
            for version in gone:
                self.versions.delete(version)
        except VersionNotFoundError:  # somebody has purged it in between
            raise NotFoundError(f"there is no {name}") from None

    def _adapter(self, version: Version) -> AdapterRecord:
        try:
            params = self._hub.params(version.run_id)
        except HubUnavailableError:
            raise
        except HubError:  # its run was deleted
            params = {}
        dataset = params.get(DATASET)
        if dataset and params.get(DATASET_SOURCE) == "local_file":
            dataset = Path(dataset).name
        return AdapterRecord(
            id=version.ref,
            model_id=self._shown(version.tags.get(BASE, "")),
            dataset=dataset,
            created_at=version.created_at,
            parameters={
                name.removeprefix(SETTINGS): _value(text)
                for name, text in params.items()
                if name.startswith(SETTINGS)
            },
            ref=version.ref,
            aliases=sorted(version.aliases),
        )

    def _bases(self, versions: list[Version]) -> list[ModelRecord]:
        """The bases, and what else versions were made of, each from when it was first used."""
        found = {each.tags[BASE]: each for each in versions if BASE in each.tags}
        # The versions are the newest first, and the last that is set stays.
        found |= {each.tags[BASE]: each for each in reversed(versions) if each.is_base}
        return [self._base(found[base]) for base in sorted(found)]

    def _base(self, version: Version) -> ModelRecord:
        """The base that a version is, or else was made of."""
        base, registered = version.tags[BASE], version.is_base
        return ModelRecord(
            id=self._shown(base),
            name=self._shown(base),
            type="base",
            origin="local" if os.path.isabs(base) or os.path.exists(base) else "remote",
            created_at=version.created_at,
            ref=version.ref if registered else None,
            aliases=sorted(version.aliases) if registered else [],
        )

    def _shown(self, base: str) -> str:
        return self._base_names.get(base, base)


def is_whole(version: Version) -> bool:
    """Whether a version is a whole model that was made of a base."""
    return WHOLE in version.tags


def is_adapter(version: Version) -> bool:
    """Whether a version is an adapter."""
    return not (version.is_base or is_whole(version))


def _model(version: Version) -> ModelRecord:
    return ModelRecord(
        id=version.ref,
        name=version.model_name,
        type="fine-tuned",
        origin="local",
        created_at=version.created_at,
        ref=version.ref,
        aliases=sorted(version.aliases),
    )


def _behind(after: str | None, records: list[ModelRecord], kind: str) -> list[ModelRecord]:
    if after is None:
        return records
    for number, each in enumerate(records):
        if each.id == after:
            return records[number + 1 :]
    raise InvalidValueError(f"No such {kind} object: {after}", param="after")


def _value(text: str) -> Any:
    """A param as it was before it became text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
