"""The task that makes a dataset of questions, gold SQL and databases, in a child process."""

from pathlib import Path
from time import perf_counter

from prefect import get_run_logger, task

from finetune_core import child
from finetune_core.config import PipelineConfig
from finetune_core.storage import finished
from finetune_core.text_to_sql.dataset import BuildRequest, SqlDataset
from finetune_core.text_to_sql.report import summary, table
from tasks.publish_table import publish_table
from tasks.stage import STAGE
from tasks.terminal import Terminal


@task(name="sql dataset", **STAGE)
def build_sql_dataset(organization: str, config: PipelineConfig, folder: Path) -> SqlDataset:
    """Questions and databases → rows of chat, and a ledger of the questions.

    Args:
        organization: Whose they are.
        config: The databases, and as its dataset the questions.
        folder: The job's. It gets the dataset; one that is there already is taken as it is.
    """
    request = BuildRequest(config=config, output=folder / "sql")
    start = perf_counter()
    with Terminal("dataset") as terminal:
        data = finished(request.output, SqlDataset) or child.run(
            "finetune_core.text_to_sql.dataset:build",
            request,
            SqlDataset,
            folder=folder / "logs",
            on_event=terminal,
        )
        data = data.model_copy(update={"seconds": perf_counter() - start})
        terminal.finished(summary(data), data.seconds)
    get_run_logger().info("dataset: %s", summary(data))
    publish_table(organization, f"text to SQL {folder.name}", table(data))
    return data
