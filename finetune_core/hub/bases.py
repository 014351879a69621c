"""Bases: the models that adapters are for, registered by reference, so that those can point there.

A base's version says what the base is called, of which revision it is, and the sha256 over its
config and weights; the weights stay where they are, unless a person asks for a copy. It has no
alias: none is better than another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import InputError, ModelNotFoundError
from finetune_core.hub import promotion
from finetune_core.hub.lineage import BaseModelFacts, trace_base
from finetune_core.hub.ports import BASE_DIGEST, BASE_REF, DELETED, Hub, NewVersion, Version
from finetune_core.models.source import (
    SMALL_FILES,
    WEIGHTS,
    digest_tokenizer,
    fetch_model,
    find_model,
)
from finetune_core.storage import digest_file, digest_json, write_json
from finetune_core.types import Record

FACTS, README = "base.json", "README.md"
PREFIX, LONGEST = "base.", 128  # of a registered model's name
NAME, REVISION, COPIED = "base_model", "revision", "copied"  # tags
RUN_TAG = "registers"  # of a run that was made to register a base, and which
COPIED_FILES = (*SMALL_FILES, *WEIGHTS, "*.index.json")


class BaseFacts(Record):
    """What `base.json` says. `architectures` and the like are not known of a base that is away."""

    schema_version: int = 1
    name: str
    revision: str | None
    digest: str
    tokenizer_digest: str | None
    model_type: str | None
    architectures: list[str]
    copied: bool

    @property
    def model(self) -> ModelConfig:
        """What a config calls it."""
        return ModelConfig(name=self.name, revision=self.revision)


def base_name(name: str) -> str:
    """The registered model's name of a base that configs call so: `base.` and a slug.

    Args:
        name: A folder, of which only its own name counts, or an id on the hub.
    """
    called = Path(name).resolve().name if Path(name).is_dir() else name
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", called.replace("/", "--")) or "model"
    return f"{PREFIX}{slug}"[:LONGEST]


def register_base(
    hub: Hub, run_id: str, base: BaseModelFacts, folder: Path, *, copy: bool = False
) -> Version:
    """Registers a base, or gives the version that it has; one that was deleted comes back.

    Args:
        hub: The registry.
        run_id: The run that registers it.
        base: What it is.
        folder: Gets the version's files where it is a new one; written anew where it is there.
        copy: Whether its files are to be in the registry. Of a base that is there by reference,
            that makes a new version: those that point to the old one keep what they point to.

    Raises:
        ModelNotFoundError: It is to be copied and is not here.
        HubUnavailableError: The hub is away.
    """
    name, tags = base_name(base.name), _tags(base, copy)
    known = _same(hub, name, tags)
    if not known:
        folder.mkdir(parents=True, exist_ok=True)
        _write(base, folder, copy)
        new = NewVersion(
            model_name=name,
            alias=None,
            model_type="base",
            tags={**tags, "card_digest": digest_file(folder / FACTS)},
            description=f"the base model {base.name}" + ("" if copy else ", by reference"),
        )
        version = hub.register(run_id, folder, new)
        known = _same(hub, name, tags) or [version]
    # Two jobs may have registered it at once. Both see the one that came first, whose number is
    # lower, and a job takes back what it has registered itself, in a later attempt if need be.
    first, *others = known
    for version in others:
        if version.run_id == run_id:
            hub.delete(name, version.version)
    if first.is_deleted:
        hub.tag(first, DELETED, None)
        promotion.record(hub, first, "was undeleted: it is used again")
    return hub.get(name, first.version)


def register_by_hand(hub: Hub, model: ModelConfig, folder: Path, *, copy: bool = False) -> Version:
    """Registers a base that no job has used yet; its weights are fetched, as their digest is asked.

    Args:
        hub: The registry.
        model: Names the base.
        folder: As in `register_base`.
        copy: As in `register_base`.

    Raises:
        ModelNotFoundError: There is no such model, or it has no weights.
        HubUnavailableError: The hub is away.
    """
    fetch_model(model)
    base = trace_base(model)
    name, tags = base_name(base.name), _tags(base, copy)
    if _same(hub, name, tags):  # no run is needed
        return register_base(hub, "", base, folder, copy=copy)
    what = digest_json([name, tags])  # the run of a process that was killed goes on
    run_id = hub.find_run(RUN_TAG, what) or hub.start_run(f"register {name}", {RUN_TAG: what})
    try:
        version = register_base(hub, run_id, base, folder, copy=copy)
    except BaseException:
        hub.end_run(run_id, "FAILED")
        raise
    hub.end_run(run_id, "FINISHED")
    return version


def read_facts(package: Path) -> BaseFacts:
    """What the files of a base's version say that it is."""
    return BaseFacts.model_validate(json.loads((package / FACTS).read_text()))


def is_copied(version: Version) -> bool:
    """Whether the registry has a base's files."""
    return COPIED in version.tags


def check_loads(version: Version) -> Version:
    """Refuses a base of which the registry has a reference only, and gives any other version.

    Raises:
        ModelNotFoundError: It is one.
    """
    if version.is_base and not is_copied(version):
        raise ModelNotFoundError(
            f"{version.ref} is registered by reference: the hub has none of its files",
            hint="Name the model itself, or `finetune-cli hub register` it with --copy.",
        )
    return version


def made_of(base: Version, versions: Iterable[Version]) -> list[Version]:
    """Those of some versions that point to a base."""
    return [each for each in versions if each.tags.get(BASE_REF) == base.ref]


def _same(hub: Hub, name: str, tags: dict[str, str]) -> list[Version]:
    """The versions of a base as it is, the first first, deleted ones last; of a copy, copies."""
    wanted = {REVISION: None, **tags}
    found = [
        each
        for each in hub.versions(name)
        if all(each.tags.get(tag) == value for tag, value in wanted.items())
    ]
    return sorted(found, key=lambda each: (each.is_deleted, each.version))


def _tags(base: BaseModelFacts, copy: bool) -> dict[str, str]:
    tags = {NAME: base.name, BASE_DIGEST: base.digest}
    if base.revision:
        tags[REVISION] = base.revision
    return tags | {COPIED: "true"} if copy else tags


def _write(base: BaseModelFacts, folder: Path, copy: bool) -> None:
    model = ModelConfig(name=base.name, revision=base.revision)
    source, tokenizer, config = None, None, {}
    try:
        source = find_model(model)
        tokenizer = digest_tokenizer(source)
        config = json.loads((source / "config.json").read_text())
    except (InputError, OSError, ValueError):
        # A job that goes on registers what it was trained on, wherever that is by now.
        if copy:
            raise
    facts = BaseFacts(
        name=base.name,
        revision=base.revision,
        digest=base.digest,
        tokenizer_digest=tokenizer,
        model_type=config.get("model_type"),
        architectures=config.get("architectures") or [],
        copied=copy,
    )
    write_json(folder / FACTS, facts.model_dump(mode="json"))
    (folder / README).write_text(_readme(facts))
    if copy and source:
        for file in sorted({each for name in COPIED_FILES for each in source.glob(name)}):
            link = folder / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.absolute())  # the hub copies what it leads to


def _readme(facts: BaseFacts) -> str:
    kind = ", ".join(facts.architectures) or facts.model_type or "a model"
    where = "Its files are here." if facts.copied else "Its files stay where they are, not here."
    lines = [
        f"# {facts.name}",
        "",
        f"A base model ({kind}), registered so that what is made of it can point to it. {where}",
        "",
        f"- revision: {facts.revision or 'none'}",
        f"- sha256 over config and weights: {facts.digest}",
        "",
    ]
    return "\n".join(lines)
