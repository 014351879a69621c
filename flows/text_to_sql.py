"""The text-to-SQL flow: scan → serialise → dataset, then the finetune flow on it."""

from __future__ import annotations

from prefect import flow

from finetune_core.config import PipelineConfig
from finetune_core.hub.card import JobResult
from finetune_core.jobs import job_folder
from finetune_core.text_to_sql.dataset import SqlDataset
from finetune_core.types import Record, new_job_id
from flows.finetune import finetune
from flows.job import own_job_id
from tasks.build_sql_dataset import build_sql_dataset
from tasks.submit_job import submit_job


class TextToSqlResult(Record):
    """What came of it.

    Attributes:
        job_id: The job that learns from the dataset, or has learned.
        dataset: The dataset.
        finetuned: The job's records; none where a worker runs it.
    """

    job_id: str
    dataset: SqlDataset
    finetuned: JobResult | None = None


@flow(name="text_to_sql")
def text_to_sql(
    config: PipelineConfig,
    organization: str = "local",
    job_id: str | None = None,
    deployment: str | None = "finetune/cpu",
) -> TextToSqlResult:
    """Makes a dataset of a database and questions with gold SQL, and fine-tunes a model on it.

    The databases are only read. The model is measured by executing its queries beside the gold
    ones, and by that it faces the gate. With a deployment this flow only submits the job, which is
    a flow run like any other, and ends.

    Args:
        config: The base model, the questions as its dataset, the databases, and how to train.
        organization: Whose job it is: its files, its runs and its models lie apart.
        job_id: The id of a job that goes on where it stopped; a new job has none.
        deployment: The deployment that runs the job, as `flow/deployment`; none: it is run here.
    """
    job_id = job_id or own_job_id() or new_job_id()
    folder = job_folder(organization, config.training.output_dir, job_id)
    data = build_sql_dataset(organization, config, folder)
    job = data.config(config)
    found = TextToSqlResult(job_id=job_id, dataset=data)
    if deployment:
        submit_job(deployment, job, organization, job_id, ["text_to_sql"])
        return found
    return found.model_copy(update={"finetuned": finetune(job, organization, job_id)})
