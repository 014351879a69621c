"""The task that has a sweep's best trial, registered already, face the gate."""

from time import perf_counter

from prefect import task

from finetune_core.config.sections import RegistryConfig
from finetune_core.hub import open_hub
from finetune_core.hub.card import Card
from finetune_core.hub.registration import place
from finetune_core.hub.tracking import Tracking
from finetune_core.job_events import JobEvents
from finetune_core.types import RegisteredVersion
from tasks.register_model import prove
from tasks.stage import STAGE
from tasks.terminal import Terminal


@task(name="judge", **STAGE)
def judge_trial(card: Card, number: int, registry: RegistryConfig) -> RegisteredVersion:
    """A registered trial → champion or challenger, as a job's version would be.

    Args:
        card: What the trial's job has left.
        number: Its registered version.
        registry: The sweep's: the alias and the gate that the trials were kept from.
    """
    start = perf_counter()
    job, hub = card.job, open_hub(card.job.organization)
    version = hub.get(job.name, number)
    aliases, verdict = [registry.alias], None
    with Terminal("judge") as terminal:
        hub.set_alias(version, registry.alias)
        if registry.gate.enabled:
            gate = prove(hub, card, registry.gate, terminal)
            Tracking(hub, job).tell_gate(gate)
            aliases.append(place(hub, version, gate.verdict))
            verdict = gate.verdict
            JobEvents(job).judged(verdict, version.ref)
        terminal.finished(f"{version.ref} as {' and '.join(aliases)}", perf_counter() - start)
    return RegisteredVersion(
        folder=job.folder / "package",
        model_name=version.model_name,
        version=version.version,
        aliases=aliases,
        uri=version.uri,
        run_id=version.run_id,
        gate=verdict,
        seconds=perf_counter() - start,
    )
