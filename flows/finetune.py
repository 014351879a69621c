"""The main flow: sanitize → tokenize → train → checkpoint → evaluate → register."""

from __future__ import annotations

from prefect import flow

from finetune_core.config import PipelineConfig
from finetune_core.hub.card import Card, JobResult
from finetune_core.hub.gate import check_gate
from flows.job import running_job
from tasks.choose_checkpoint import choose_checkpoint
from tasks.evaluate_model import evaluate_model
from tasks.register_model import register_model
from tasks.sanitize_data import sanitize_data
from tasks.tokenize_data import tokenize_data
from tasks.train_model import train_model


@flow(name="finetune")
def finetune(
    config: PipelineConfig,
    organization: str = "local",
    job_id: str | None = None,
    force: bool = False,
) -> JobResult:
    """Fine-tunes a model, compares it with its base and registers it.

    Args:
        config: The base model, the data and how to train.
        organization: Whose job it is: its files, its runs and its models lie apart.
        job_id: The id of a job that goes on where it stopped; a new job has none.
        force: Go on also from a checkpoint of other data or settings.

    Returns:
        The records of all stages.
    """
    with running_job(config, organization, job_id) as running:
        job = running.job
        check_gate(config.registry.gate)
        clean = sanitize_data(job, config)
        tokens = tokenize_data(job, config, clean)
        trained = train_model(job, config, tokens, force)
        chosen = choose_checkpoint(job, trained)
        report = evaluate_model(job, config, tokens, chosen)
        card = Card(
            job=job,
            config=config,
            clean=clean,
            tokens=tokens,
            trained=trained,
            chosen=chosen,
            report=report,
        )
        running.result = JobResult(**dict(card), registered=register_model(card))
    return running.result


if __name__ == "__main__":
    from flows.command import main

    main()
