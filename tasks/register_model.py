"""The task that registers the adapter, as champion if it proves to be better."""

import shutil
from pathlib import Path

from prefect import task

from finetune_core.child import Emit
from finetune_core.config.sections import GateConfig
from finetune_core.evaluation.request import ChallengeRequest
from finetune_core.hub import open_hub, promotion
from finetune_core.hub.card import Card
from finetune_core.hub.gate import judge, write_gate
from finetune_core.hub.ports import Hub
from finetune_core.hub.registration import register
from finetune_core.hub.tracking import Tracking
from finetune_core.job_events import JobEvents
from finetune_core.storage import once
from finetune_core.types import CHAMPION, Challenge, GateReport, RegisteredVersion
from tasks.stage import STAGE, run_in_child, run_stage


@task(name="register", **STAGE)
def register_model(card: Card) -> RegisteredVersion:
    """Adapter, report and card → a version in the registry."""
    hub = open_hub(card.job.organization)

    def work(hear: Emit) -> RegisteredVersion:
        asked = card.config.registry.gate
        gate = prove(hub, card, asked, hear) if asked.enabled else None
        return register(hub, Tracking(hub, card.job), card, gate)

    version = run_stage(card.job, "register", work, _summary)
    if version.gate:
        JobEvents(card.job).judged(version.gate, version.ref)
    return version


def prove(hub: Hub, card: Card, gate: GateConfig, hear: Emit) -> GateReport:
    """Has the new version face the champion; what was found once stays found.

    Args:
        hub: The registry.
        card: What there is to say of the new one.
        gate: What is asked of it.
        hear: Is told of the progress.
    """
    config, job = card.config, card.job

    def work(folder: Path) -> GateReport:
        champion = promotion.find(hub, job.name, CHAMPION)
        copy = job.folder / "champion"
        shutil.rmtree(copy, ignore_errors=True)
        request = ChallengeRequest(
            tokens=card.tokens,
            chosen=card.chosen,
            model=config.model,
            method=config.training.method,
            evaluation=config.evaluation,
            sql=config.sql,
            output=job.folder / f"challenge-{champion.version if champion else 'base'}",
            report=card.report,
            champion=hub.download(champion, copy) if champion else None,
            gate=gate,
            tokenization=config.tokenization,
        )
        challenge = None
        if request.has_to_run:
            challenge = run_in_child(
                "finetune_core.evaluation.challenge:challenge",
                request,
                Challenge,
                final=request.output,
                job=job,
                hear=hear,
            )
        shutil.rmtree(copy, ignore_errors=True)
        number = champion.version if champion else None
        report = GateReport(folder=folder, verdict=judge(gate, card.report, challenge, number))
        write_gate(report, job.name)
        return report

    return once(job.folder / "gate", GateReport, work)


def _summary(version: RegisteredVersion) -> str:
    text = f"{version.ref} as {' and '.join(version.aliases)}"
    if version.gate and not version.gate.passed:
        text += f": {version.gate.reasons}"
    return text
