"""Register: adapter, report and card → a version in the registry, champion if it proved so."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_core.data.changes import write_digests
from finetune_core.hub import promotion
from finetune_core.hub.bases import register_base
from finetune_core.hub.card import Card, write_card
from finetune_core.hub.lineage import CARD, ROWS, read_lineage, trace, write_lineage
from finetune_core.hub.ports import BASE_REF, Hub, NewVersion, Version
from finetune_core.hub.serving import write_mlmodel
from finetune_core.hub.signing import sign
from finetune_core.hub.tracking import Tracking
from finetune_core.storage import MANIFEST, RECORD, digest_file, is_whole, new_folder
from finetune_core.types import CHALLENGER, CHAMPION, GateReport, RegisteredVersion, Verdict

GATE = "gate.md"


def register(
    hub: Hub, tracking: Tracking, card: Card, gate: GateReport | None = None
) -> RegisteredVersion:
    """Registers a job's adapter; registering it again gives the version that it has.

    The base that it points to is registered first, where it is not yet.

    Args:
        hub: The registry.
        tracking: The job's; what the hub has missed so far is told first.
        card: What there is to say of the adapter.
        gate: Whether it may become the champion; without, nobody becomes that.

    Raises:
        HubUnavailableError: The hub is away.
    """
    tracking.insist()
    tracking.tell_config(card.config)
    tracking.tell_data(card.config, card.clean, card.tokens)
    if card.trained:
        tracking.tell_training(card.trained)
    tracking.tell_report(card.report)
    if gate:
        tracking.tell_gate(gate)
    name = card.job.name
    folder = card.job.folder / "package"
    if not is_whole(folder):
        with new_folder(folder) as temporary:
            _pack(card, gate, name, temporary)
    run_id = tracking.run_id()
    registry = card.config.registry
    base = register_base(hub, run_id, read_lineage(folder).base, card.job.folder / "base")
    tags = {**card.tags, "card_digest": digest_file(folder / CARD), BASE_REF: base.ref}
    if registry.domain:
        tags["domain"] = registry.domain
    new = NewVersion(
        model_name=name,
        alias=registry.alias,
        model_type=card.config.training.method.value,
        tags=tags,
        description=card.description,
    )
    version = hub.register(run_id, folder, new)
    aliases = [registry.alias]
    if gate:
        aliases.append(place(hub, version, gate.verdict))
    return RegisteredVersion(
        folder=folder,
        model_name=version.model_name,
        version=version.version,
        aliases=aliases,
        uri=version.uri,
        run_id=run_id,
        gate=gate.verdict if gate else None,
    )


def place(hub: Hub, version: Version, verdict: Verdict) -> str:
    """Makes a version champion or challenger, as the gate says, and gives the alias."""
    champion = promotion.find(hub, version.model_name, CHAMPION)
    now = champion.version if champion else None
    if not verdict.passed:
        promotion.refuse(hub, version, verdict.reasons)
        return CHALLENGER
    if now not in (verdict.incumbent, version.version):
        # Another job was faster: this one has proved nothing against that one's model.
        promotion.refuse(hub, version, f"version {now} became champion while it was compared")
        return CHALLENGER
    promotion.promote(hub, version, verdict.checks[0].detail)
    return CHAMPION


def _pack(card: Card, gate: GateReport | None, name: str, folder: Path) -> None:
    for file in card.chosen.folder.iterdir():
        if file.name not in (MANIFEST, RECORD):
            shutil.copy2(file, folder)
    write_card(card, name, folder / "README.md")
    shutil.copy2(card.report.markdown, folder / "evaluation.md")
    shutil.copy2(card.job.folder / "config.yaml", folder / "config.yaml")
    if gate:
        shutil.copy2(gate.markdown, folder / GATE)
    write_digests(card.clean, folder / ROWS)
    write_mlmodel(folder)
    write_lineage(trace(card, gate, name, folder), folder)
    sign(folder)
