"""Versions: what can be done with a registered version beside looking at it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_core.exceptions import OutputError, VersionNotFoundError
from finetune_core.hub import bases, promotion
from finetune_core.hub.lineage import CARD, Lineage, fetch_lineage
from finetune_core.hub.ports import BASE_REF, DELETED, Hub, Version
from finetune_core.hub.verification import Verification, verify
from finetune_core.storage import check_free
from finetune_core.types import Record
from finetune_service.exceptions import ConflictError, NotFoundError


class VersionRecord(Record):
    """A version, and the aliases that point to it."""

    ref: str
    aliases: list[str]
    created_at: int


class HistoryEntry(Record):
    """Something that happened to a version. `time` is seconds since 1970."""

    time: float
    ref: str
    what: str


class MetricRow(Record):
    """A metric of two versions, each on its own held-out rows."""

    metric: str
    first: float | None
    second: float | None
    first_interval: tuple[float, float] | None
    second_interval: tuple[float, float] | None


class VersionComparison(Record):
    """Two versions beside each other: their metrics, and in which settings they differ.

    `same_rows` is whether both were measured on the same rows; only then the metrics compare.
    """

    first: str
    second: str
    same_rows: bool
    metrics: list[MetricRow]
    settings: dict[str, tuple[Any, Any]]


class TreeNode(Record):
    """A base with what was made of it, by domain and task."""

    name: str
    kind: str
    children: list[TreeNode]


class Versions:
    """The registered versions of an organisation, each by `NAME@VERSION` or `NAME@ALIAS`.

    Args:
        hub: The organisation's.
        base_names: What the folders of base models are called, where people may not see those.
    """

    def __init__(self, hub: Hub, base_names: Mapping[str, str] | None = None) -> None:
        self._hub = hub
        self._base_names = base_names or {}

    def find(self, ref: str) -> Version:
        """A version that is not deleted; by a model's name alone, its newest.

        Raises:
            NotFoundError: There is none.
        """
        version = self._find(ref)
        if version.is_deleted:
            raise NotFoundError(
                f"{ref} is deleted",
                hint=f"`finetune-cli hub undelete {version.ref}` brings it back.",
            )
        return version

    def promote(self, ref: str) -> VersionRecord:
        """Makes a version the champion by hand, proof or not.

        Raises:
            ConflictError: It is a base.
        """
        version = self.find(ref)
        if version.is_base:
            raise ConflictError(f"{version.ref} is a base model, and those have no champion")
        promotion.promote(self._hub, version, "by hand")
        return _record(self.find(version.ref))

    def rollback(self, model_name: str) -> VersionRecord:
        """Makes the champion before this one the champion again; raises as `promotion.rollback`."""
        self.find(model_name)
        return _record(promotion.rollback(self._hub, model_name))

    def history(self, model_name: str) -> list[HistoryEntry]:
        """What happened to a model's versions, the last thing first."""
        self._find(model_name)
        return [HistoryEntry(**each._asdict()) for each in promotion.history(self._hub, model_name)]

    def delete(self, version: Version) -> None:
        """Hides a version until it is undeleted or purged, and forgets its aliases."""
        for alias in version.aliases:
            self._hub.drop_alias(version.model_name, alias)
        self._hub.tag(version, DELETED, str(int(time.time())))
        promotion.record(self._hub, version, "was deleted")

    def undelete(self, ref: str) -> VersionRecord:
        """Brings a deleted version back; its aliases are gone."""
        version = self._find(ref)
        if version.is_deleted:
            self._hub.tag(version, DELETED, None)
            promotion.record(self._hub, version, "was undeleted")
        return _record(self.find(version.ref))

    def purge(self, ref: str) -> None:
        """Forgets a deleted version for good.

        Raises:
            ConflictError: It is not deleted, or it is a base of something, deleted or not.
        """
        version = self._find(ref)
        if not version.is_deleted:
            raise ConflictError(f"{version.ref} is not deleted", hint="Delete it first.")
        self.check_unused([version], self._hub.versions())
        self._hub.delete(version.model_name, version.version)

    def check_unused(self, gone: list[Version], known: list[Version]) -> None:
        """Refuses to take a base away from what was made of it.

        Args:
            gone: What is to go.
            known: Those that may point there.

        Raises:
            ConflictError: One of them does.
        """
        for base in gone:
            if made := bases.made_of(base, known) if base.is_base else []:
                raise ConflictError(
                    f"{base.ref} is the base of {made[0].ref}"
                    + (f" and {len(made) - 1} more" if made[1:] else ""),
                    hint="Delete what was made of it first.",
                )

    def card(self, ref: str) -> Lineage:
        """A version's lineage card."""
        return fetch_lineage(self._hub, self.find(ref))

    def download(self, ref: str, output: Path) -> Path:
        """Fetches a version's files, and checks each against the card.

        Args:
            ref: The version.
            output: The folder that gets them; not there yet, or empty.

        Raises:
            OutputError: It is there.
            UnverifiedError: A file is not what the card says.
        """
        check_free(output)
        version = self.find(ref)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
            package = self._hub.download(version, Path(temporary) / "package")
            if (package / CARD).exists() or bases.is_copied(version):
                verify(version, package).insist()
            try:
                if output.exists():
                    output.rmdir()
                shutil.move(package, output)
            except OSError as error:
                raise OutputError(f"{output} cannot be written: {error.strerror}") from None
        return output

    def verify(self, ref: str) -> Verification:
        """Recomputes every digest of a version's card; raises as `verification.verify`."""
        version = self.find(ref)
        with tempfile.TemporaryDirectory() as temporary:
            return verify(version, self._hub.download(version, Path(temporary)))

    def compare(self, first: str, second: str) -> VersionComparison:
        """Two versions beside each other, by what their cards say."""
        versions = [self.find(name) for name in (first, second)]
        one, other = (fetch_lineage(self._hub, version) for version in versions)
        names = list(dict.fromkeys([*one.metrics, *other.metrics]))
        before, after = _flat(one.config), _flat(other.config)
        return VersionComparison(
            first=versions[0].ref,
            second=versions[1].ref,
            same_rows=one.data.measured_digest == other.data.measured_digest,
            metrics=[
                MetricRow(
                    metric=name,
                    first=one.metrics.get(name),
                    second=other.metrics.get(name),
                    first_interval=one.intervals.get(name),
                    second_interval=other.intervals.get(name),
                )
                for name in names
            ],
            settings={
                name: (before.get(name), after.get(name))
                for name in dict.fromkeys([*before, *after])
                if before.get(name) != after.get(name)
            },
        )

    def tree(self) -> list[TreeNode]:
        """The bases, each as it was registered, and what was made of it, by domain and task."""
        grown: dict[tuple[str, str], dict[str, list[Version]]] = {}
        for version in self._hub.versions():
            if version.is_deleted:
                continue
            ref = version.ref if version.is_base else version.tags.get(BASE_REF, "")
            groups = grown.setdefault((version.tags.get(bases.NAME, ""), ref), {})
            if not version.is_base:
                domain = version.tags.get("domain", "any domain")
                group = f"{domain}, {version.tags.get('task', '?')}"
                groups.setdefault(group, []).append(version)
        return [
            TreeNode(
                name=self._base_names.get(base, base) + (f" ({ref})" if ref else ""),
                kind="base",
                children=[
                    TreeNode(name=group, kind="task", children=[_leaf(each) for each in found])
                    for group, found in sorted(groups.items())
                ],
            )
            for (base, ref), groups in sorted(grown.items())
        ]

    def _find(self, ref: str) -> Version:
        model, at, number = ref.rpartition("@")
        try:
            if at:
                return self._hub.get(model, number)
            known = self._hub.versions(ref)
        except VersionNotFoundError:
            known = []
        if not known:
            raise NotFoundError(f"the hub has no {ref}")
        return next((each for each in known if not each.is_deleted), known[0])


def _record(version: Version) -> VersionRecord:
    return VersionRecord(
        ref=version.ref, aliases=sorted(version.aliases), created_at=version.created_at
    )


def _leaf(version: Version) -> TreeNode:
    kind = "model" if "model_digest" in version.tags else "adapter"
    aliases = f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""
    return TreeNode(name=f"{version.ref}{aliases}", kind=kind, children=[])


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """`section.field` → value, of sections in sections too."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[name] = value
    return found
